"""A set of noisy colours, a class each, as DataComp's folders have it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.test_data import write_tar


def write_colours(place: Path, counts: Mapping[str, int], classes: int) -> Path:
    """Colours that a random encoder can tell apart: of each split so many images, the classes by turns."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (classes, 3))
    for split, count in counts.items():
        members = []
        for i in range(count):
            pixels = np.clip(colours[i % classes] + rng.integers(-40, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "png")
            members += [(f"{split}{i:03d}.png", buffer.getvalue()), (f"{split}{i:03d}.cls", str(i % classes).encode())]
        write_tar(place / split / "0.tar", members)
        (place / split / "nshards.txt").write_text("1\n")
    (place / "classnames.txt").write_text("".join(f"colour {i}\n" for i in range(classes)))
    return place
