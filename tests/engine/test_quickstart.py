"""The bundled default against open_clip alone: its transform, its encoder, its head. Nothing of ours computes the oracle."""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from clipeval.cli.main import main

BUNDLED = Path(__file__).parents[2] / "eval" / "bundled"
SETS = {
    "quickstart_fashion_mnist": ("wds_quickstart_fashion_mnist_test", "label"),
    "quickstart_digits": ("wds_quickstart_digits_test", None),
    "quickstart_emoji_name": ("wds_quickstart_emoji_test", "name"),
    "quickstart_emoji_category": ("wds_quickstart_emoji_test", "category"),
}


@pytest.fixture(scope="module")
def run(quickstart: Path) -> Path:
    """The default run, as a new user starts it, in folders of its own."""
    return quickstart


@pytest.fixture(scope="module")
def theirs() -> tuple[torch.nn.Module, object, object]:
    name = f"local-dir:{BUNDLED / 'model'}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    return model.eval(), transform, open_clip.get_tokenizer(name)


def read_set(folder: Path, column: str | None) -> tuple[list[str], list[Image.Image], list[int], list[str], list[str]]:
    """Keys, pictures, labels, class names and templates by tarfile, csv and Pillow alone."""
    pictures: dict[str, Image.Image] = {}
    labels: dict[str, int] = {}
    for shard in range(int((folder / "test" / "nshards.txt").read_text())):
        with tarfile.open(folder / "test" / f"{shard}.tar") as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                data = tar.extractfile(member).read()  # type: ignore[union-attr]
                if extension == "cls":
                    labels[key] = int(data)
                else:
                    pictures[key] = Image.open(io.BytesIO(data)).convert("RGB")
    listed = folder / "classnames.txt"
    names = listed.read_text().splitlines() if listed.exists() else []
    if column is not None:
        with (folder / "test" / "samples.csv").open(newline="", encoding="utf-8") as file:
            values = {row["key"]: row[column] for row in csv.DictReader(file)}
        names = names or sorted(set(values.values()))
        labels = {key: names.index(value) for key, value in values.items()}
    templates = (folder / "zeroshot_classification_templates.txt").read_text().splitlines()
    return list(pictures), list(pictures.values()), [labels[k] for k in pictures], names, templates


@pytest.mark.parametrize("task", SETS)
def test_same_predictions_for_every_sample(run: Path, theirs: tuple, task: str) -> None:
    model, transform, tokenizer = theirs
    folder, column = SETS[task]
    keys, pictures, labels, names, templates = read_set(BUNDLED / "data" / folder, column)
    if column == "category":  # the one of these tasks that does not ask its folder's templates
        prompts = BUNDLED.parents[1] / "configs" / "prompts" / "emoji_category.yaml"
        templates = yaml.safe_load(prompts.read_text())["templates"]
    functions = [lambda c, t=t: t.replace("{c}", c) for t in templates]
    with torch.inference_mode():
        head = open_clip.build_zero_shot_classifier(model, tokenizer, names, functions, device="cpu")
        batches = [torch.stack([transform(p) for p in pictures[i : i + 64]]) for i in range(0, len(pictures), 64)]
        images = torch.cat([model.encode_image(b, normalize=True) for b in batches])
    logits = 100 * images @ head
    ours = pd.read_parquet(run / "run" / "predictions" / f"{task}.parquet")
    assert ours["key"].tolist() == keys
    assert ours["label"].tolist() == labels
    best = logits.max(dim=1).values
    chosen = logits[torch.arange(len(keys)), torch.from_numpy(ours["prediction"].to_numpy(dtype=np.int64))]
    different = ours["prediction"].to_numpy() != logits.argmax(dim=1).numpy()
    assert different.sum() == 0 or float((best - chosen)[different].max()) < 1e-4, "only exact ties may fall otherwise"
    assert different.sum() <= 2
    np.testing.assert_allclose(ours["score_1"], best.numpy(), atol=2e-3)


def test_embeddings_within_1e_5(run: Path, theirs: tuple) -> None:
    model, transform, _ = theirs
    _, pictures, *_ = read_set(BUNDLED / "data" / "wds_quickstart_digits_test", None)
    with torch.inference_mode():
        images = model.encode_image(torch.stack([transform(p) for p in pictures]), normalize=True).numpy()
    stored = [np.load(path) for path in (run / "cache" / "images").glob("*/*.npy")]
    matching = [rows for rows in stored if rows.shape == images.shape and np.abs(rows - images).max() < 1e-5]
    assert len(matching) == 1


def test_it_knows_what_it_should(run: Path) -> None:
    """The aims of the bundled model; chance is 0.1, 0.1 and 0.0005."""
    frame = {p.stem: pd.read_parquet(p) for p in (run / "run" / "predictions").glob("*.parquet")}
    accuracy = {task: float((frame[task]["label"] == frame[task]["prediction"]).mean()) for task in SETS}
    assert accuracy["quickstart_fashion_mnist"] >= 0.80
    assert accuracy["quickstart_digits"] >= 0.90
    assert accuracy["quickstart_emoji_name"] >= 0.20


def test_running_again_reuses_everything(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in (run / "run" / "records").glob("*.json")}
    assert main(["run", f"out={run / 'run'}", f"cache.root={run / 'cache'}"]) == 0
    assert "nothing to compute" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in (run / "run" / "records").glob("*.json")} == before
