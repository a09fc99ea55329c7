"""Where the images, labels and captions of a task come from: one reader for each layout, one shape for all of them."""

from eval.data.images import Images
from eval.data.split import DataConfig, Split, open_split

__all__ = ["DataConfig", "Images", "Split", "open_split"]
