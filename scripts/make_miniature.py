"""A miniature of DataComp's 40 data folders: the real layout, names, class counts and metadata fields, with made-up pictures.

    python scripts/make_miniature.py /tmp/miniature                 # 40 folders of about 50 pictures each
    clipeval run suite=datacomp data.root=/tmp/miniature
    python scripts/make_miniature.py /tmp/whole --whole --size 24   # as many pictures as the real sets have: 2 GB

Pictures are of mixed codecs (webp, png, jpg, jpeg) and modes (L, RGBA, P, CMYK, RGB), in one to three shards a set; one
set's metadata has a value more than it has names, and CLEVR Distance's fourth class name is blank, as in the real ones.
The pictures say nothing, so scores are those of chance; they are for tests of the whole and for timing.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

FACTS = Path(__file__).with_name("datacomp_tasks.csv")
GROUPS = {"region": 6, "year": 16, "slide": 50, "hospital": 5, "income_ds": 4, "race": 7, "race_binary": 2, "age": 9}
"""Values that each metadata field takes; others take 10."""
FACES = {
    "race": ["black", "white", "indian", "latino", "middle eastern", "southeast asian", "east asian"],
    "gender": ["male", "female"],
    "age": ["0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"],
    "toxic": [*(f"person {i}" for i in range(14)), "animal", "gorilla", "chimpanzee", "orangutan", "thief", "criminal"],
}
CODECS = (
    ("webp", "RGB"),
    ("png", "RGBA"),
    ("jpg", "RGB"),
    ("jpeg", "L"),
    ("png", "P"),
    ("jpg", "CMYK"),
    ("webp", "RGBA"),
)
CUES = ("Zebra", "owl", "umbrella", "Hour", "ice", "tree", "apple")


@dataclass(frozen=True)
class Fact:
    """A row of the table of facts."""

    key: str
    protocol: str
    classes: int
    folder: str
    fields: tuple[str, ...]
    samples: int


def facts() -> list[Fact]:
    """The 40 tasks of the table of facts."""
    with FACTS.open(newline="") as file:
        return [
            Fact(
                key=r["key"],
                protocol=r["protocol"],
                classes=int(r["classes"] or 0),
                folder=r["folder"],
                fields=tuple(r["metadata_fields"].split()),
                samples=int(r["samples"]),
            )
            for r in csv.DictReader(file)
        ]


def write_miniature(
    root: Path, samples: int = 50, size: int = 64, seed: int = 0, most_templates: int = 80
) -> list[Fact]:
    """Writes every folder under `root`.

    Args:
        root: the data root to make.
        samples: pictures in each set, about.
        size: the pictures' longer side, about.
        seed: of labels and pictures.
        most_templates: leaves out templates of the sets that have more.
    """
    rng = np.random.default_rng(seed)
    rows = facts()
    for number, fact in enumerate(rows):
        write_set(root / fact.folder, fact, samples + number % 7, size, 1 + number % 3, rng, most_templates)
    return rows


def write_whole(root: Path, size: int = 24, seed: int = 0) -> list[Fact]:
    """Writes every folder with as many samples as the real set has, over and over the same 70 pictures."""
    rng = np.random.default_rng(seed)
    rows = facts()
    for fact in rows:
        write_set(root / fact.folder, fact, fact.samples, size, 1 + fact.samples // 20_000, rng, distinct=70)
    return rows


def write_set(
    folder: Path,
    fact: Fact,
    samples: int,
    size: int,
    shards: int,
    rng: np.random.Generator,
    most_templates: int = 80,
    distinct: int | None = None,
) -> None:
    """Writes one folder of the layout that DataComp's download script writes."""
    test = folder / "test"
    test.mkdir(parents=True)
    (test / "nshards.txt").write_text(f"{shards}\n")
    if fact.protocol in ("retrieval", "association"):
        (folder / "dataset_type.txt").write_text(fact.protocol + "\n")
    else:
        most = None if fact.protocol == "attributes" else most_templates
        (folder / "classnames.txt").write_text("".join(f"{name}\n" for name in class_names(fact)))
        (folder / "zeroshot_classification_templates.txt").write_text("".join(f"{t}\n" for t in templates(fact)[:most]))
    members = list(_samples(fact, samples, size, rng, distinct))
    for shard in range(shards):
        with tarfile.open(test / f"{shard}.tar", "w") as tar:
            for key, parts in (
                members[shard::shards] if fact.protocol == "association" else _block(members, shard, shards)
            ):
                for extension, data in parts.items():
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    if fact.protocol == "association":
        keys = [key for key, _ in members]
        lines = (json.dumps(q) for q in _questions(keys, rng))
        (test / "instances.jsonl").write_text("".join(f"{line}\n" for line in lines))


def class_names(fact: Fact) -> list[str]:
    """As many class names as the real set has; ImageNet's are the real ones, duplicates and all."""
    if fact.protocol == "attributes":
        return [f"{objective}:{name}" for objective, names in FACES.items() for name in names]
    if fact.classes == 1000:
        from open_clip import IMAGENET_CLASSNAMES

        return list(IMAGENET_CLASSNAMES)
    names = [f"kind {i} of {fact.key.rsplit('/', 1)[-1].replace('_', ' ')}" for i in range(fact.classes)]
    if fact.key.endswith("clevr_closest_object_distance"):
        names[3] = ""
    if fact.key.endswith("iwildcam"):
        names[7] = names[3]
    return names


def templates(fact: Fact) -> list[str]:
    """ImageNet's 80 templates for the sets of 1,000 classes, a few for the others."""
    if fact.protocol == "attributes":
        return [f"{o}:{t}" for o in FACES for t in ("a photo of a {c}.", "a face of a {c}.")]
    if fact.classes == 1000:
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return [template("{c}") for template in OPENAI_IMAGENET_TEMPLATES]
    return ["a photo of {c}.", "a {c} in the wild.", "a drawing of a {c}."]


def picture(index: int, size: int, rng: np.random.Generator) -> tuple[str, bytes]:
    """An encoded picture and its extension: noise over a gradient, of the codec and mode that `index` chooses."""
    extension, mode = CODECS[index % len(CODECS)]
    height, width = size - (index * 3) % (size // 3), size - (index * 5) % (size // 2)
    ramp = np.linspace(0, 120, width)[None, :, None] + np.linspace(0, 80, height)[:, None, None]
    pixels = (ramp + rng.integers(0, 56, (height, width, 3))).astype(np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)))
    buffer = io.BytesIO()
    image.save(buffer, {"jpg": "jpeg"}.get(extension, extension), quality=90)
    return extension, buffer.getvalue()


def _samples(
    fact: Fact, count: int, size: int, rng: np.random.Generator, distinct: int | None
) -> Iterator[tuple[str, dict[str, bytes]]]:
    known = [picture(i, size, rng) for i in range(distinct or 0)]
    for i in range(count):
        extension, data = known[i % len(known)] if known else picture(i, size, rng)
        parts = {extension: data}
        if fact.protocol == "retrieval":
            captions = [f"caption {j} of picture {i}, {fact.key[-5:]}" for j in range(5 + (i % 11 == 0))]
            parts["txt"] = "\n".join(captions).encode()
        elif fact.protocol == "classification":
            label = int(rng.integers(fact.classes))
            parts["cls"] = str(label).encode()
            if fact.fields:
                parts["npy"] = _array(
                    [*(_value(f, label, rng) for f in fact.fields), *([9] if "fmow" in fact.key else [])]
                )
        elif fact.protocol == "attributes":
            values = {f: int(rng.integers(len(FACES[f]))) for f in fact.fields if f != "race_binary"}
            values["race_binary"] = int(values["race"] != 1)
            parts["cls"] = b"0"
            parts["npy"] = _array([values[f] for f in fact.fields])
        yield f"s{i:07d}", parts


def _value(field: str, label: int, rng: np.random.Generator) -> int:
    return label if field == "y" else int(rng.integers(GROUPS.get(field, 10)))


def _array(values: list[int]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values, dtype=np.int64))
    return buffer.getvalue()


def _block(members: list[tuple[str, dict[str, bytes]]], shard: int, shards: int) -> list[tuple[str, dict[str, bytes]]]:
    edges = [round(len(members) * i / shards) for i in range(shards + 1)]
    return members[edges[shard] : edges[shard + 1]]


def _questions(keys: list[str], rng: np.random.Generator) -> Iterator[dict[str, object]]:
    for number in range(3 * len(keys)):
        size = (5, 6, 10, 12)[number % 4]
        candidates = [keys[i] for i in rng.choice(len(keys), size, replace=False)]
        right = sorted(candidates[: int(rng.integers(2, 6))])
        rng.shuffle(candidates)
        yield {"id": number, "cue": CUES[number % len(CUES)], "candidates": candidates, "associations": right}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--whole", action="store_true", help="as many samples as the real sets have")
    arguments = parser.parse_args()
    if arguments.whole:
        written = write_whole(arguments.root, arguments.size)
    else:
        written = write_miniature(arguments.root, arguments.samples, arguments.size)
    print(f"{len(written)} folders in {arguments.root}")


if __name__ == "__main__":
    main()
