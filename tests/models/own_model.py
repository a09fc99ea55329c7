"""A custom model in files of a test's own, which may change: it goes by a picture's colour and a text's first colour."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data_faults.colours import write_picture

MODEL = """
import torch
from torch import nn
from own_helper import order
from tests.data_faults.colours import ColourModel

class Own(ColourModel):
    def __init__(self, flip=False, table=None):
        super().__init__()
        self.flip = flip
        self.table = table
    def encode_image(self, images):
        rows = super().encode_image(images)
        rows = torch.cat([rows[:, :4].flip(1), rows[:, 4:]], dim=1) if self.flip else rows
        return order(rows, self.table)
"""
HELPER = """
from pathlib import Path
SHIFT = 0
def order(rows, table):
    shift = SHIFT if table is None else int(Path(table).read_text())
    return rows.roll(shift, dims=1)
"""


class Bench:
    """A folder with pictures of four classes, the model's modules, and runs of `clipeval` over them."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = place
        for colour in ("red", "green", "blue", "yellow"):
            for number in range(3):
                write_picture(place / "pictures" / colour / f"{number}.png", colour)
        self.modules: tuple[str, ...] = ("own_model", "own_helper")
        self.write("own_model", MODEL)
        self.write("own_helper", HELPER)
        monkeypatch.syspath_prepend(str(place / "code"))
        for name in self.modules:
            monkeypatch.delitem(sys.modules, name, raising=False)
        self.monkeypatch = monkeypatch

    def write(self, module: str, content: str) -> Path:
        path = self.place / "code" / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return path

    def words(self, *more: str, out: str = "run") -> list[str]:
        common = ["task=folder", f"task.data.path={self.place / 'pictures'}", f"cache.root={self.place / 'cache'}"]
        model = ["model=custom", "model._target_=own_model.Own"]
        location = [f"out={self.place / out}"] if out else []
        return [
            *common,
            *([] if any(w.startswith("model=") for w in more) else model),
            "runtime.workers=0",
            *location,
            *more,
        ]

    def record(self, out: str = "run") -> dict[str, Any]:
        import json

        content: dict[str, Any] = json.loads((self.place / out / "records" / "folder.json").read_text())
        return content

    def score(self, *more: str, out: str = "run") -> float:
        """acc1 of a run; it must succeed."""
        from clipeval.cli.main import main

        assert main(["run", *self.words(*more, out=out)]) == 0
        value: float = self.record(out)["metrics"]["acc1"]
        return value

    def embeddings(self) -> int:
        """Files of image embeddings that are kept."""
        return len(list((self.place / "cache" / "images").glob("*/*.npy")))
