"""Models: `resolve` a config to a handle, ask the handle what it is, `load` it to an encoder.

>>> handle = resolve({"name": "ViT-B-32-256", "pretrained": "datacomp_s34b_b86k"}, cache_root)
>>> with handle.load("cuda", "bf16") as encoder:
...     images = encoder.encode_images(batch)              # float32 [B, D], unit length, on the GPU
...     texts = encoder.encode_texts(["a photo of a cat."])
"""

from __future__ import annotations

from clipeval.models.custom import from_memory
from clipeval.models.encoder import Encoder
from clipeval.models.handle import ModelHandle
from clipeval.models.precision import PRECISIONS, image_precision, pick_device, text_precision
from clipeval.models.resolve import resolve

__all__ = [
    "PRECISIONS",
    "Encoder",
    "ModelHandle",
    "from_memory",
    "image_precision",
    "pick_device",
    "resolve",
    "text_precision",
]
