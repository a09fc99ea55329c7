"""Composed retrieval as MTEB computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from clipeval.tasks.image_retrieval import ImageRetrieval


@dataclass(frozen=True)
class RawImageRetrieval(ImageRetrieval):
    """`ImageRetrieval` of a picture and a text that are added as long as the model makes them, as MTEB's wrappers of CLIP models do
    (mteb/models/model_implementations/clip_models.py, openclip_models.py, siglip_models.py); what is compared is a cosine.
    """

    protocol: ClassVar[str] = "raw_image_retrieval"
    output: ClassVar[str] = "raw"
    text_output: ClassVar[str] = "raw"

    def _directions(self, rows: torch.Tensor) -> torch.Tensor:
        return F.normalize(rows, dim=-1)
