"""Inputs with nothing unusual about them: one for each reader, so that the others differ from these in one thing."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from tests.data_faults.case import Case, Scored
from tests.data_faults.colours import picture, write_picture

THREE = ("blue", "green", "red")


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A tar with these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def own_size(number: int, i: int) -> tuple[int, int]:
    """A size of its own for each picture of a set: no two of them are of the same bytes."""
    return 12 + number, 12 + i


def folder(place: Path, classes: Sequence[str] = THREE) -> list[str]:
    """Four pictures to each class, one of them of another colour: acc1 0.75."""
    for number, name in enumerate(classes):
        for i in range(4):
            colour = classes[(number + (i == 3)) % len(classes)]
            write_picture(place / "data" / name / f"{i}.png", colour, size=own_size(number, i))
    return ["task=folder", f"task.data.path={place / 'data'}"]


def table(place: Path) -> list[str]:
    """Pictures with captions in a CSV: each caption names its picture's colour, but for one that names no colour."""
    for name in THREE:
        write_picture(place / "data" / f"{name}.png", name)
    rows = [f"{name}.png,a {name} picture" for name in THREE]
    (place / "data" / "captions.csv").write_text("\n".join(["image,caption", *rows]) + "\n")
    return ["task=captions", f"task.data.path={place / 'data' / 'captions.csv'}"]


def shards(place: Path) -> list[str]:
    """A folder like DataComp's, two shards, acc1 0.75."""
    for shard in range(2):
        members = {}
        for number, name in enumerate(THREE):
            for i in (2 * shard, 2 * shard + 1):
                key = f"{name}{i}"
                members[f"{key}.png"] = picture(THREE[(number + (i == 3)) % 3], size=own_size(number, i))
                members[f"{key}.cls"] = str(number).encode()
        write_tar(place / "data" / "test" / f"{shard}.tar", members)
    (place / "data" / "test" / "nshards.txt").write_text("2")
    (place / "data" / "classnames.txt").write_text("\n".join(THREE))
    (place / "data" / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.")
    return ["task=webdataset", f"task.data.path={place / 'data'}"]


def parquet(place: Path) -> list[str]:
    """A parquet file as `datasets` writes it, labels by name, acc1 0.75."""
    import datasets

    rows = [(picture(THREE[(n + (i == 3)) % 3], size=own_size(n, i)), THREE[n]) for n in range(3) for i in range(4)]
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": encoded, "path": None} for encoded, _ in rows], "label": [label for _, label in rows]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(THREE))}),
    )
    (place / "data").mkdir(parents=True)
    table.to_parquet(str(place / "data" / "test.parquet"))
    return ["task=hf_dataset", f"task.data.path={place / 'data' / 'test.parquet'}"]


def language_captions(place: Path) -> list[str]:
    """A folder of pictures with a caption file for a language."""
    for name in THREE:
        write_picture(place / "data" / "pictures" / f"{name}.png", name)
    content = {"image_paths": [f"{n}.png" for n in THREE], "annotations": [f"ein Bild, {n}" for n in THREE]}
    (place / "data" / "de.json").write_text(json.dumps(content))
    return [
        "task=captions",
        "task.data.kind=captions",
        f"task.data.path={place / 'data'}",
        "task.data.captions='{language}.json'",
        "task.data.language=de",
    ]


def samples_table(place: Path) -> list[str]:
    """Shards with `samples.csv` beside them, labels from a column."""
    words = shards(place)
    rows = [(f"{name}{i}", name) for name in THREE for i in range(4)]
    pd.DataFrame(rows, columns=["key", "colour"]).to_csv(place / "data" / "test" / "samples.csv", index=False)
    return [*words, "task.data.label=colour"]


ACC = Scored({"acc1": 0.75, "mean_per_class_recall": 0.75}, samples=12, classnames=THREE)
RECALL = Scored({"mean_recall@1": 1.0, "image_retrieval_recall@1": 1.0}, samples=3)

CASES = [
    Case("folder: plain", folder, ACC),
    Case("table: plain", table, RECALL),
    Case("shards: plain", shards, ACC),
    Case("parquet: plain", parquet, ACC),
    Case("captions: plain", language_captions, RECALL),
    Case("shards with samples.csv: plain", samples_table, ACC),
]
