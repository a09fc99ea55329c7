"""How an evaluation runs: a config becomes a run folder. Read it from top to bottom; nothing here calls upwards.

evaluation   Evaluation: opens a config, plans it, runs it, writes records    the way in
plan         opens every task: what is to be done, and why; task_config makes the Task
features     FeatureSpec: what a task needs embedded; FeatureStores: what of it is there
runner       one model or many over one image stream
stream       decoded images through the encoder, in order
scoring      ScoringQueue: a task is scored once its embeddings are there
Below it: `clipeval.decoding` has images decoded in other processes, `clipeval.stores` keeps embeddings and pixels by content.

An image, from shard to table cell:
    decoding/decoders:_Decoder.__getitem__ → data/images:FileImages.read → preprocess/transforms:pixels → _decode → _resize
    → decoders:Decoders.__iter__ → stream:ImageStream.embed → _Batches.add → _send → transforms:normalise → stream:_encode
    → models/encoder:encode → encode_images → stream:_land → runner:embed_images → store_batch → stores/embeddings:put → _save
    → scoring:submit_ready → _score → _embedded → embeddings:finish → tasks/base:score → classification:answers → statistics
    → evaluation:write_record → results/run_folder:write → results/runs:load → results/sheet → the table's cell

A prompt:
    plan:open_task → tasks/classification:prompts → tasks/zero_shot:class_prompts → runner:start → stores/embeddings:missing
    → runner:embed_texts → models/encoder:encode_texts → models/texts:__call__ → models/prefixes:__call__ → embeddings:put
    → scoring:_score → embeddings:rows → tasks/zero_shot:zero_shot_classifier
"""
