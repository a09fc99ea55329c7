"""Raw sources of the bundled model and data: fetching, reading, naming and splitting. Shared by two scripts:

python scripts/make_quickstart_data.py --cache /tmp/quickstart
python scripts/train_quickstart.py --cache /tmp/quickstart

Emoji come from npm packages (`npm pack`), Fashion-MNIST from the Debian package dataset-fashion-mnist, the digits from
scikit-learn. What is trained on and what is tested on is decided here, and only here.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 0
EMOJI_VERSION = "16.0.0"
TRAIN_VENDOR, TEST_VENDOR = "twitter", "google"
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")

FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
DIGIT_CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TONES = ("yellow", "light", "medium-light", "medium", "medium-dark", "dark")
GENDERS = ("person", "man", "woman")

TEMPLATES = {
    "fashion": (
        "a photo of a {c}.",
        "a picture of a {c}.",
        "a grayscale photo of a {c}.",
        "a {c}, a piece of clothing.",
    ),
    "digits": ("a photo of the digit {c}.", "the number {c}.", "a handwritten {c}.", "a picture of the number {c}."),
    "emoji": ("an emoji of {c}.", "the {c} emoji.", "a picture of {c}.", "a drawing of {c}."),
    "category": ("an emoji from the category {c}.", "an emoji of {c}.", "a picture of {c}."),
    "tone": ("a person with {c} skin tone.", "an emoji with {c} skin tone.", "{c} skin tone."),
    "gender": ("an emoji of a {c}.", "a picture of a {c}.", "a {c}."),
}

_TONE_CODES = {"1F3FB": 1, "1F3FC": 2, "1F3FD": 3, "1F3FE": 4, "1F3FF": 5}
_STOP_WORDS = frozenset({"and", "the", "with", "for", "from", "left", "right", "sign", "symbol", "button"})


@dataclass(frozen=True)
class Emoji:
    """One emoji picture of one vendor. `tone` is 0 where no skin tone is set; `gender` and `concept` are None for all
    but the person emoji that exist as a man and as a woman."""

    key: str
    base: str
    name: str
    short_names: tuple[str, ...]
    category: str
    subcategory: str
    tone: int
    toned: bool
    gender: int | None
    concept: str | None
    path: Path

    @property
    def words(self) -> tuple[str, ...]:
        """The name's own words, the subcategory's words and the short names: what a cue may be."""
        words = re.findall(r"[a-z]{3,}", f"{self.name} {self.subcategory}")
        return tuple(sorted({word for word in words if word not in _STOP_WORDS}))


def fetch_emoji(vendor: str, cache: Path) -> Path:
    """Unpack emoji-datasource-<vendor>'s index and 64-pixel pictures below `cache`; return the folder."""
    folder = cache / f"emoji-{vendor}"
    if (folder / "emoji.json").is_file():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / f"emoji-datasource-{vendor}-{EMOJI_VERSION}.tgz"
    if not archive.is_file():
        subprocess.run(["npm", "pack", f"emoji-datasource-{vendor}@{EMOJI_VERSION}"], cwd=cache, check=True)
    with tarfile.open(archive) as tar:
        pictures = f"package/img/{vendor}/64/"
        members = [m for m in tar.getmembers() if m.name.startswith(pictures)]
        tar.extractall(folder, members, filter="data")
        # The index is written last: its presence means that the pictures are complete.
        index = tar.extractfile("package/emoji.json")
        assert index is not None
        (folder / "emoji.json").write_bytes(index.read())
    return folder


def read_emoji(vendor: str, cache: Path) -> list[Emoji]:
    """Every emoji with a picture by `vendor`: the base ones, then those in one skin tone, in the index's order."""
    folder = fetch_emoji(vendor, cache)
    rows = [r for r in json.loads((folder / "emoji.json").read_text()) if r["category"] != "Component"]
    rows = [r for r in rows if r[f"has_img_{vendor}"]]
    repeated = {name for name, count in Counter(r["name"].lower() for r in rows).items() if count > 1}
    people = _people(rows)
    emoji: list[Emoji] = []
    for row in rows:
        name = row["name"].lower()
        if name in repeated:
            name = row["short_name"].replace("_", " ").replace("-", " ")
        variants = row.get("skin_variations", {})
        gender, concept = people.get(row["unified"], (None, None))
        for codes, image in [("", row), *variants.items()]:
            tones = set(codes.split("-")) if codes else set()
            if len(tones) > 1 or not image[f"has_img_{vendor}"]:
                continue  # couples in two skin tones
            emoji.append(
                Emoji(
                    key=Path(image["image"]).stem,
                    base=Path(row["image"]).stem,
                    name=name,
                    short_names=tuple(s.replace("_", " ").replace("-", " ") for s in row["short_names"]),
                    category=row["category"],
                    subcategory=row["subcategory"],
                    tone=_TONE_CODES[tones.pop()] if tones else 0,
                    toned=bool(variants),
                    gender=gender,
                    concept=concept,
                    path=folder / "package" / "img" / vendor / "64" / image["image"],
                )
            )
    return sorted(emoji, key=lambda e: e.tone > 0)  # stable


def _people(rows: list[dict]) -> dict[str, tuple[int, str]]:
    """unified -> (gender, concept) for emoji that exist as person, man and woman, each in five skin tones."""
    groups: dict[str, dict[int, dict]] = {}
    for row in rows:
        if "1F3FB" not in row.get("skin_variations", {}):
            continue
        codes = row["unified"].split("-")
        if codes[0] in ("1F9D1", "1F468", "1F469") and len(codes) > 2:
            gender, group = ("1F9D1", "1F468", "1F469").index(codes[0]), "-".join(codes[2:])
        elif "2642" in codes or "2640" in codes:
            gender, group = (1 if "2642" in codes else 2), "-".join([codes[0], *codes[4:]])
        else:
            gender, group = 0, row["unified"]
        groups.setdefault(group, {})[gender] = row
    people: dict[str, tuple[int, str]] = {}
    for group in groups.values():
        if len(group) < 3:
            continue
        man, person = group[1]["name"].lower(), group[0]["name"].lower()
        concept = re.sub(r"\bman\b:? ?", "", man).strip() if re.search(r"\bman\b", man) else person
        people.update({row["unified"]: (gender, concept) for gender, row in group.items()})
    return people


def on_white(path: Path) -> Image.Image:
    """The picture as RGB, its transparent part white."""
    picture = Image.open(path).convert("RGBA")
    sheet = Image.new("RGBA", picture.size, "white")
    sheet.alpha_composite(picture)
    return sheet.convert("RGB")


def read_fashion(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Fashion-MNIST's `part` (train or t10k): images [N, 28, 28] and labels [N], both uint8."""
    images = gzip.decompress((FASHION_FOLDER / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((FASHION_FOLDER / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


def read_digits(part: str) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits, our `part` (train, or test: a quarter, stratified): images [N, 8, 8] uint8, labels [N]."""
    digits = load_digits()
    train, test = train_test_split(
        np.arange(len(digits.target)), test_size=0.25, random_state=SEED, stratify=digits.target
    )
    chosen = np.sort({"train": train, "test": test}[part])
    return (digits.images[chosen] * (255 / 16)).round().astype(np.uint8), digits.target[chosen]


def balanced(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `per_class` samples of each class, shuffled."""
    picks = [rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in np.unique(labels)]
    return rng.permutation(np.concatenate(picks))
