"""Zero-shot evaluation while a model is trained: `ZeroShotCallback(suite="imagenet", every=1000)` for three trainers.

    from clipeval.callbacks.lightning import ZeroShotCallback      # a callback of Lightning's Trainer
    from clipeval.callbacks.huggingface import ZeroShotCallback    # a callback of transformers' Trainer
    from clipeval.callbacks.open_clip import ZeroShotCallback      # with callback.attached(): open_clip_train.main.main(…)

A loop of one's own calls `clipeval.callbacks.zero_shot.ZeroShot` or `clipeval.evaluate` itself.
"""
