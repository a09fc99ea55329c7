"""From a picture's file to the pixels that a model was trained on."""

from __future__ import annotations

from clipeval.preprocess.quick_imports import postpone

postpone()
