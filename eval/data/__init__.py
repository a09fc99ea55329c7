"""Where the images, labels and captions of a task come from: one reader for each layout, one shape for all of them."""

from clipeval.data.config import DataConfig
from clipeval.data.images import Images
from clipeval.data.split import Split, open_split

__all__ = ["DataConfig", "Images", "Split", "open_split"]
