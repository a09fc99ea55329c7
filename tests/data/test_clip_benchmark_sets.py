"""Miniatures of clip_benchmark's sets, written by its own exporter, through the command line, against its own evaluation."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from clip_benchmark import webdataset_builder as exporter
from clip_benchmark.datasets.builder import build_wds_dataset, dataset_collection, image_captions_collate_fn
from clip_benchmark.datasets.sugar_crepe import SugarCrepe
from clip_benchmark.metrics import image_caption_selection as ics
from clip_benchmark.metrics import zeroshot_classification as zsc
from clip_benchmark.metrics import zeroshot_retrieval as zsr
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from clipeval.cli.main import main
from scripts.tiny_model import write_tiny_model
from tests.tasks.fakes import allow_numpy_2_4

pytestmark = pytest.mark.filterwarnings("ignore:WebDataset")

PARTS = [name.split("/")[1] for name in dataset_collection["sugar_crepe"]]
CLASSES = ["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"]
TEMPLATES = ["a photo of a {c} looking face.", "a photo of a face looking {c}."]


class Exported(list):  # what the exporter takes: pairs of encoded image and label, with class names and templates
    classes: Sequence[str] = ()
    templates: Sequence[str] = ()


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def theirs(name: str) -> tuple[Any, Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
    model, _, transform = open_clip.create_model_and_transforms(name)
    return model.eval(), transform, open_clip.get_tokenizer(name)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter always starts eight workers, and clip_benchmark 1.6.2 stumbles over numpy 2.4."""

    def loader(*args: Any, **options: Any) -> Any:
        return DataLoader(*args, **{**options, "num_workers": 0})

    data = SimpleNamespace(DataLoader=loader)
    monkeypatch.setattr(exporter, "torch", SimpleNamespace(Tensor=torch.Tensor, utils=SimpleNamespace(data=data)))
    allow_numpy_2_4(monkeypatch)


def pictures(count: int, seed: int, mode: str = "RGB") -> list[bytes]:
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        buffer = io.BytesIO()
        picture = Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).convert(mode)
        picture.save(buffer, "WEBP" if mode == "RGB" else "PNG", lossless=True)
        made.append(buffer.getvalue())
    return made


def run(root: Path, name: str, *words: str) -> dict[str, dict[str, Any]]:
    """Runs and gives the records by task."""
    common = [f"data.root={root}", f"out={root / 'run'}", f"cache.root={root / 'cache'}", "runtime.workers=0"]
    assert main(["run", "model=open_clip", f"model.name={name}", "runtime.device=cpu", *common, *words]) == 0
    return {p.stem: json.loads(p.read_text()) for p in (root / "run" / "records").glob("*.json")}


def wds(folder: Path, transform: Any, batch: int = 8) -> Any:
    dataset = build_wds_dataset("x", transform, data_dir=str(folder))
    loader = DataLoader(dataset.batched(batch), batch_size=None, num_workers=0)
    loader.dataset.classes, loader.dataset.templates = dataset.classes, dataset.templates
    return loader


@pytest.mark.parametrize(
    ("task", "folder"),
    [
        ("fer2013", "wds_fer2013"),
        ("dmlab", "wds_vtab-dmlab"),
        ("dsprites_label_x_position", "wds_vtab-dsprites_label_x_position"),
        ("voc2007_multilabel", "wds_voc2007_multilabel"),
    ],
)
def test_classification_as_exported(task: str, folder: str, tmp_path: Path, name: str, theirs: Any) -> None:
    """The folder has train beside test, as the hub's repositories have."""
    model, transform, tokenizer = theirs
    multilabel = task == "voc2007_multilabel"
    rng = np.random.default_rng(1)
    for split, seed, count in (("test", 2, 30), ("train", 3, 10)):
        labels = rng.integers(0, 2, (count, 7)) if multilabel else rng.integers(0, 7, count)
        pairs = [
            (p, torch.as_tensor(y) if multilabel else int(y))
            for p, y in zip(pictures(count, seed), labels, strict=True)
        ]
        data = Exported(pairs)
        data.classes, data.templates = CLASSES, TEMPLATES
        exporter.convert_dataset(
            data, split, str(tmp_path / folder), multilabel=multilabel, max_count=16, verbose=False
        )
    record = run(tmp_path, name, "suite=none", f"task={task}")[task]
    loader = wds(tmp_path / folder, transform)
    expected = zsc.evaluate(model, loader, tokenizer, CLASSES, TEMPLATES, "cpu", amp=False, verbose=False)
    assert record["samples"] == 30
    assert {key: record["metrics"][key] for key in expected} == pytest.approx(expected, abs=1e-6)
    assert any("30 samples, where the full set has" in flag for flag in record["flags"])


def test_retrieval_as_exported(tmp_path: Path, name: str, theirs: Any) -> None:
    """Flickr8k from its only copy; Flickr30k and DataComp's Flickr over clip_benchmark's one, embedded once for both."""
    model, transform, tokenizer = theirs
    for folder, seed in (("wds_flickr8k", 4), ("wds_flickr30k", 5)):
        captions = [[f"{folder} picture {i} caption {k}" for k in range(5)] for i in range(20)]
        data = Exported(zip(pictures(20, seed), captions, strict=True))
        exporter.convert_retrieval_dataset(data, "test", str(tmp_path / folder), max_count=12, verbose=False)
    words = [f"+task@tasks.{task}={task}" for task in ("flickr8k", "flickr30k", "flickr")]
    records = run(tmp_path, name, "suite=none", *words, "data.source=clip_benchmark")
    for task, folder in (("flickr8k", "wds_flickr8k"), ("flickr30k", "wds_flickr30k"), ("flickr", "wds_flickr30k")):
        loader = wds(tmp_path / folder, transform)
        expected = zsr.evaluate(model, loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
        assert {key: records[task]["metrics"][key] for key in expected} == pytest.approx(expected, abs=1e-6)
    assert records["flickr30k"]["metric"] == "image_retrieval_recall@5"
    assert records["flickr30k"]["metrics"] == records["flickr"]["metrics"]


@pytest.fixture
def crepe(tmp_path: Path) -> Path:
    """SugarCrepe's seven files over 12 images of val2017, each part with some of them, some twice."""
    images, rng = tmp_path / "val2017", np.random.default_rng(6)
    images.mkdir()
    (tmp_path / "json").mkdir()
    for i, content in enumerate(pictures(12, 7)):
        Image.open(io.BytesIO(content)).convert("L" if i == 3 else "RGB").save(images / f"{i:012d}.jpg")
    for part in PARTS:
        items = {
            str(2 * k): {
                "filename": f"{i:012d}.jpg",
                "caption": f"{part} right {k}",
                "negative_caption": f"{part} wrong {k}",
            }
            for k, i in enumerate(rng.integers(0, 12, 24))
        }
        (tmp_path / "json" / f"{part}.json").write_text(json.dumps(items))
    return tmp_path


def test_sugar_crepe_from_its_own_files(
    crepe: Path, name: str, theirs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seven tasks, twelve images: each is embedded once. Every score is clip_benchmark's, to the last instance."""
    model, transform, tokenizer = theirs
    images, annotations = crepe / "val2017", crepe / "json"
    out = crepe / "data" / "wds_sugar_crepe"
    assert main(["convert", "sugar_crepe", *(f"--images={images} --json={annotations} --out={out}".split())]) == 0
    records = run(crepe / "data", name, "suite=sugar_crepe")
    assert "7 tasks, 12 images and" in capsys.readouterr().err
    for part in PARTS:
        dataset = SugarCrepe(str(images), str(annotations / f"{part}.json"), transform)
        check_selection(crepe / "data", records, f"sugar_crepe_{part}", dataset, model, tokenizer)


def test_sugar_crepe_as_exported(crepe: Path, name: str, theirs: Any) -> None:
    """clip_benchmark_export_wds --dataset sugar_crepe/<part> --retrieval: a folder for each part, two captions an image."""
    model, transform, tokenizer = theirs
    for part in PARTS[:2]:
        dataset = SugarCrepe(
            str(crepe / "val2017"), str(crepe / "json" / f"{part}.json"), exporter.PIL_to_bytes("webp")
        )
        folder = crepe / "data" / f"wds_sugar_crepe-{part}"
        exporter.convert_retrieval_dataset(dataset, "test", str(folder), max_count=10, verbose=False)
    words = [f"+task@tasks.{t}={t}" for t in (f"sugar_crepe_{part}" for part in PARTS[:2])]
    records = run(crepe / "data", name, "suite=none", *words, "data.source=clip_benchmark")
    for part in PARTS[:2]:
        expected = ics.evaluate(
            model, wds(crepe / "data" / f"wds_sugar_crepe-{part}", transform), tokenizer, "cpu", amp=False
        )
        assert records[f"sugar_crepe_{part}"]["metrics"] == pytest.approx(expected, abs=1e-6)
        assert records[f"sugar_crepe_{part}"]["samples"] == 24


class Pairs(Dataset):
    """clip_benchmark's WinoGround over rows that are already here (its own constructor goes to the hub)."""

    def __init__(self, rows: Any, transform: Any) -> None:
        self.rows, self.transform = rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, list[str]]:
        row = self.rows[i]
        images = torch.stack([self.transform(row["image_0"]), self.transform(row["image_1"])])
        return images, [row["caption_0"], row["caption_1"]]


def test_winoground_from_its_rows(tmp_path: Path, name: str, theirs: Any) -> None:
    """With transparent and palette images, where resizing before the conversion to RGB gives other pixels than after."""
    model, transform, tokenizer = theirs
    left, right = pictures(30, 8, "RGBA"), [*pictures(15, 9), *pictures(15, 10, "P")]
    table = [
        {
            "id": i,
            "image_0": {"bytes": left[i], "path": None},
            "image_1": {"bytes": right[i], "path": None},
            "caption_0": f"a dog {i} chases a cat",
            "caption_1": f"a cat {i} chases a dog",
        }
        for i in range(30)
    ]
    rows = datasets.Dataset.from_list(table)
    rows = rows.cast_column("image_0", datasets.Image()).cast_column("image_1", datasets.Image())
    rows.to_parquet(tmp_path / "test-0.parquet")
    out = tmp_path / "data" / "wds_winoground"
    assert main(["convert", "winoground", "--rows", str(tmp_path / "test-0.parquet"), "--out", str(out)]) == 0
    records = run(tmp_path / "data", name, "suite=none", "task=winoground")
    assert records["winoground"]["metric"] == "acc"
    check_selection(tmp_path / "data", records, "winoground", Pairs(rows, transform), model, tokenizer)


def check_selection(root: Path, records: Any, task: str, dataset: Any, model: Any, tokenizer: Any) -> None:
    """The metrics, and each instance's two answers, exactly: clip_benchmark's evaluate is called for one instance at a time."""
    loader = functools.partial(DataLoader, collate_fn=image_captions_collate_fn)
    expected = ics.evaluate(model, loader(dataset, batch_size=8), tokenizer, "cpu", amp=False)
    assert records[task]["metrics"] == pytest.approx(expected, abs=1e-6)
    frame = pd.read_parquet(root / "run" / "predictions" / f"{task}.parquet")
    for batch, row in zip(loader(dataset, batch_size=1), frame.itertuples(), strict=True):
        one = ics.evaluate(model, [batch], tokenizer, "cpu", amp=False)
        assert (row.text_correct, row.image_correct) == (one["text_acc"] == 1, one["image_acc"] == 1)
    assert 0 < expected["text_acc"] < 1  # else the comparison would say little
