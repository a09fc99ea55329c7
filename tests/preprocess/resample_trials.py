"""Random pictures through both resizes: Pillow's own, and the integer arithmetic of `clipeval.preprocess.packed`.

python -m tests.preprocess.resample_trials 5000        # about 3 minutes; ends with 1 at the first value that differs
"""

from __future__ import annotations

import io
import sys
import warnings
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from clipeval.preprocess import packed
from clipeval.preprocess.resample import vertical_first
from clipeval.preprocess.transforms import Preprocess

SIZES = (
    *((n, n) for n in (160, 192, 224, 240, 248, 256, 280, 288, 320, 336, 378, 384, 392, 448, 512)),
    *((224, 160), (32, 48), (7, 7), (64, 64), (1, 5)),
)
"""Every size that open_clip's and Hugging Face's CLIP-like models ask for, and some that none does."""
MODES = ("RGB", "RGB", "RGB", "L", "L", "P", "RGBA", "LA", "CMYK", "1", "I;16", "YCbCr")


class Trial(NamedTuple):
    """One picture and what it is resized to."""

    preprocess: Preprocess
    data: bytes
    convert: str
    what: str
    vertical: bool


def draw(rng: np.random.Generator) -> Trial:
    """A picture of noise, smooth or not, of any shape, for any preprocessing."""
    size = SIZES[rng.integers(len(SIZES))]
    how = "bicubic" if rng.random() < 0.6 else "bilinear"
    mode = str(rng.choice(["shortest", "shortest", "squash", "longest"]))
    preprocess = Preprocess(size, interpolation=how, resize_mode=mode, fill_color=int(rng.choice([0, 0, 127])))
    width = int(rng.choice([rng.integers(1, 40), rng.integers(40, 500), size[1], 3]))
    tall = rng.uniform(50, 150) if rng.random() < 0.1 else rng.uniform(1, 4)
    height = int(rng.choice([rng.integers(1, 500), width * tall, size[0]]))
    height = max(1, min(height, 200_000 // width))
    noise = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    if rng.random() < 0.3:  # black and white alone, where sums are the largest
        noise = np.where(noise < 128, 0, 255).astype(np.uint8)
    kind = str(rng.choice(MODES))
    image = Image.fromarray(noise, "RGBA")
    image = image.convert("L").convert("I").convert("I;16") if kind == "I;16" else image.convert(kind)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if kind in ("CMYK", "YCbCr") else "PNG")
    convert = "as_decoded" if rng.random() < 0.3 else "rgb_first"
    turned = kind in ("L", "RGB") and vertical_first(height, width, *preprocess.resized(height, width))
    what = f"{kind} {width}x{height}, {convert}, {preprocess.describe()}"
    return Trial(preprocess, buffer.getvalue(), convert, what, turned)


def differs(trial: Trial, capacity: int = 4 << 20) -> int:
    """How many values of a picture differ; both refuse it or none does."""
    preprocess = trial.preprocess
    block = np.empty(max(capacity, packed.least_bytes(preprocess, 1)), dtype=np.uint8)
    packer = packed.Packer(preprocess, block, 1)
    refused = ""
    try:
        wanted = preprocess.pixels(trial.data, trial.convert)  # type: ignore[arg-type]
    except ValueError as problem:
        refused = str(problem)
    try:
        packer.add(trial.data, trial.convert)  # type: ignore[arg-type]
    except ValueError as problem:
        assert refused == str(problem) and packer.count == 0
        return 0
    assert not refused
    whole = torch.from_numpy(block)
    got = packed.resize(whole[: packer.used], packed.descriptors(whole, 1), preprocess)
    return int((got[0] != wanted).sum())


def main(count: int) -> int:
    """Tries `count` pictures."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Pillow's, of palettes with transparency
    rng = np.random.default_rng(0)
    kinds: Counter[str] = Counter()
    values = 0
    for number in range(count):
        trial = draw(rng)
        if bad := differs(trial):
            print(f"picture {number}, {trial.what}: {bad} values differ")
            return 1
        values += int(np.prod(trial.preprocess.shape))
        kinds[f"{trial.preprocess.resize_mode}, {trial.preprocess.interpolation}"] += 1
        kinds["columns first"] += trial.vertical
    print(f"{count:,} pictures, {values:,} values, all identical: {dict(kinds)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000))
