"""Make the bundled evaluation data, eval/bundled/data, from its public sources.

apt-get install dataset-fashion-mnist
python scripts/make_quickstart_data.py --cache /tmp/quickstart --out eval/bundled/data

Two runs write the same bytes. Needs npm for the emoji; see scripts/quickstart_sources.py for what is held out.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import quickstart_more
import quickstart_sources as sources
from PIL import Image
from quickstart_sources import Emoji

FASHION_PER_CLASS = 200
DIGITS_TRAIN_PER_CLASS = 16
ASSOCIATIONS, SELECTIONS, PAIR_SELECTIONS = 160, 200, 50
EMOJI_PIXELS = 48
TAR_BLOCK = 512

Member = tuple[str, bytes]


def write_tar(path: Path, members: Iterable[Member]) -> None:
    """A reproducible tar that ends right after its two closing blocks (Python's own pads to 10 KiB)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.write(info.tobuf(tarfile.USTAR_FORMAT))
            file.write(content + bytes(-len(content) % TAR_BLOCK))
        file.write(bytes(2 * TAR_BLOCK))
    (path.parent / "nshards.txt").write_text("1\n")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """One line each, UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV with `header`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def encode(image: Image.Image, **options: object) -> bytes:
    """The image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def encode_lossless(pixels: np.ndarray) -> Member:
    """(extension, bytes): WebP or PNG, whichever is smaller; both give back the same pixels."""
    image = Image.fromarray(pixels)
    webp = encode(image.convert("RGB"), format="WEBP", lossless=True, quality=100, method=6)
    png = encode(image, format="PNG", optimize=True)
    return ("webp", webp) if len(webp) < len(png) else ("png", png)


def encode_emoji(path: Path) -> bytes:
    """WebP of the picture on white, at the best of four qualities that fits one tar block, else at the lowest."""
    image = sources.on_white(path).resize((EMOJI_PIXELS, EMOJI_PIXELS), Image.Resampling.LANCZOS)
    for quality in (80, 65, 50, 40):
        content = encode(image, format="WEBP", quality=quality, method=6)
        if len(content) <= TAR_BLOCK:
            break
    return content


def labelled(images: np.ndarray, labels: np.ndarray) -> Iterable[Member]:
    """An image and a .cls member for each sample."""
    for i, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        extension, content = encode_lossless(pixels)
        yield f"s{i:05d}.{extension}", content
        yield f"s{i:05d}.cls", str(label).encode()


def make_fashion(folder: Path) -> None:
    """A class-balanced part of Fashion-MNIST's test part. Labels lie in samples.csv: a .cls member takes 1,024 bytes."""
    images, labels = sources.read_fashion("t10k")
    chosen = sources.balanced(labels, FASHION_PER_CLASS, np.random.default_rng(sources.SEED))
    pictures = [encode_lossless(pixels) for pixels in images[chosen]]
    keys = [f"s{i:05d}" for i in range(len(chosen))]
    write_tar(
        folder / "test" / "0.tar", ((f"{key}.{end}", data) for key, (end, data) in zip(keys, pictures, strict=True))
    )
    names = [sources.FASHION_CLASSES[label] for label in labels[chosen]]
    write_table(folder / "test" / "samples.csv", ("key", "label"), zip(keys, names, strict=True))
    write_lines(folder / "classnames.txt", sources.FASHION_CLASSES)
    write_lines(folder / "zeroshot_classification_templates.txt", sources.TEMPLATES["fashion"])


def make_digits(folder: Path) -> None:
    """The held-out digits, and for few-shot probes some that the model was trained on."""
    write_tar(folder / "test" / "0.tar", labelled(*sources.read_digits("test")))
    images, labels = sources.read_digits("train")
    chosen = sources.balanced(labels, DIGITS_TRAIN_PER_CLASS, np.random.default_rng(sources.SEED))
    write_tar(folder / "train" / "0.tar", labelled(images[chosen], labels[chosen]))
    write_lines(folder / "classnames.txt", sources.DIGIT_CLASSES)
    write_lines(folder / "zeroshot_classification_templates.txt", sources.TEMPLATES["digits"])


def make_emoji(folder: Path, emoji: Sequence[Emoji]) -> None:
    """The base emoji: names, categories, captions; cues with associations; captions with hard negatives."""
    write_tar(folder / "test" / "0.tar", ((f"{e.key}.webp", encode_emoji(e.path)) for e in emoji))
    write_table(
        folder / "test" / "samples.csv",
        ("key", "name", "category", "keywords", "caption"),
        ((e.key, e.name, e.category.lower(), "|".join(keywords(e)), f"an emoji of {e.name}.") for e in emoji),
    )
    write_lines(folder / "zeroshot_classification_templates.txt", sources.TEMPLATES["emoji"])
    rng = np.random.default_rng(sources.SEED)
    write_lines(folder / "test" / "instances.jsonl", map(json.dumps, associations(emoji, rng)))
    write_lines(folder / "test" / "selections.jsonl", map(json.dumps, selections(emoji, rng)))


def keywords(emoji: Emoji) -> list[str]:
    """Short names and words, each once."""
    return list(dict.fromkeys([*emoji.short_names, *emoji.words]))


def associations(emoji: Sequence[Emoji], rng: np.random.Generator) -> Iterable[dict]:
    """A cue, 5, 6, 10 or 12 candidates, and which of them (2 to 5) the cue's word belongs to; a cue at most thrice."""
    by_word: dict[str, list[Emoji]] = {}
    for e in emoji:
        for word in e.words:
            by_word.setdefault(word, []).append(e)
    cues = sorted(word for word, members in by_word.items() if 4 <= len(members) <= 80)
    order = np.concatenate([rng.permutation(len(cues)) for _ in range(3)])[:ASSOCIATIONS]
    for i, cue_index in enumerate(order):
        cue = cues[cue_index]
        candidates = (5, 6, 10, 12)[i % 4]
        count = int(rng.integers(2, min(5, len(by_word[cue]), candidates // 2) + 1))
        others = [e for e in emoji if cue not in keywords(e) and cue not in e.name]
        right = [e.key for e in rng.permutation(np.array(by_word[cue], dtype=object))[:count]]
        wrong = [others[j].key for j in rng.choice(len(others), candidates - count, replace=False)]
        shuffled = [str(key) for key in rng.permutation(right + wrong)]
        yield {"id": f"a{i:03d}", "cue": cue, "candidates": shuffled, "associations": right}


def selections(emoji: Sequence[Emoji], rng: np.random.Generator) -> Iterable[dict]:
    """An image, its caption and that of another emoji of its subcategory; then such pairs with both images."""
    groups: dict[str, list[Emoji]] = {}
    for e in emoji:
        groups.setdefault(e.subcategory, []).append(e)
    eligible = [e for e in emoji if len(groups[e.subcategory]) > 1]
    for i, j in enumerate(rng.choice(len(eligible), SELECTIONS + PAIR_SELECTIONS, replace=False)):
        right = eligible[j]
        group = [e for e in groups[right.subcategory] if e is not right]
        pair = [right, group[int(rng.integers(len(group)))]]
        images = pair[:1] if i < SELECTIONS else pair
        yield {
            "id": f"s{i:03d}",
            "images": [e.key for e in images],
            "captions": [f"an emoji of {e.name}." for e in pair],
        }


def make_people(folder: Path, emoji: Sequence[Emoji]) -> None:
    """Person emoji in every gender and skin tone. Those that only face the other way are left out."""
    people = [e for e in emoji if e.concept is not None and "facing right" not in e.concept]
    people.sort(key=lambda e: (e.concept, e.gender, e.tone))
    write_tar(folder / "test" / "0.tar", ((f"{e.key}.webp", encode_emoji(e.path)) for e in people))
    rows = ((e.key, e.concept, e.tone, e.gender) for e in people)
    write_table(folder / "test" / "samples.csv", ("key", "name", "tone", "gender"), rows)
    names = {"tone": sources.TONES, "gender": sources.GENDERS}
    (folder / "test" / "metadata.json").write_text(json.dumps(names, indent=2) + "\n")
    write_lines(folder / "zeroshot_classification_templates.txt", sources.TEMPLATES["emoji"])


def main() -> None:
    """Write the folders anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="where fetched packages are kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "eval" / "bundled" / "data")
    args = parser.parse_args()
    emoji = sources.read_emoji(sources.TEST_VENDOR, args.cache)
    shutil.rmtree(args.out, ignore_errors=True)
    make_fashion(args.out / "wds_quickstart_fashion_mnist_test")
    make_digits(args.out / "wds_quickstart_digits_test")
    make_emoji(args.out / "wds_quickstart_emoji_test", [e for e in emoji if e.tone == 0])
    make_people(args.out / "wds_quickstart_emoji_people_test", emoji)
    quickstart_more.write(args.out)
    for folder in sorted(args.out.iterdir()):
        print(folder.name, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    main()
