"""What the bundled data holds beside pictures of their own: pairs of emoji, and clips that are made of emoji.

python scripts/quickstart_more.py               # of the emoji in eval/bundled/data, into it
python scripts/quickstart_more.py --data DIR

Two runs write the same bytes. The clips are no recordings: each is one bundled emoji that drifts, turns and grows over white.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

EMOJI, CLIPS = "wds_quickstart_emoji_test", "quickstart_emoji_clips"
SEED = 0
PAIRS, CLIP_CLASSES, CLIP_FRAMES, CLIP_PIXELS = 240, 32, 12, 64
MILLISECONDS, QUALITY = 125, 60

Row = dict[str, str]


def read_rows(folder: Path) -> list[Row]:
    """The emoji's table, in the tar's order."""
    with (folder / "test" / "samples.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pairs(rows: Sequence[Row]) -> Iterator[dict[str, object]]:
    """Two emoji whose names differ in one word ("red heart", "blue heart"), each emoji once; the group is the first's category."""
    left = {row["key"]: row for row in rows if len(row["name"].split()) > 1}
    for row in rows:
        if left.pop(row["key"], None) is None:
            continue
        other = next((one for one in left.values() if differ_in_one(row["name"], one["name"])), None)
        if other is not None:
            del left[other["key"]]
            both = [row, other]
            yield {
                "id": f"{row['key']}/{other['key']}",
                "images": [one["key"] for one in both],
                "captions": [one["caption"] for one in both],
                "group": row["category"],
            }


def differ_in_one(name: str, other: str) -> bool:
    """Whether two names have as many words, all but one of which are the same."""
    words, others = name.split(), other.split()
    return len(words) == len(others) and sum(a != b for a, b in zip(words, others, strict=True)) == 1


def read_pictures(folder: Path) -> dict[str, Image.Image]:
    """{key: picture}."""
    with tarfile.open(folder / "test" / "0.tar") as tar:
        files = {Path(member.name).stem: tar.extractfile(member) for member in tar if member.isfile()}
        return {key: Image.open(io.BytesIO(file.read())).convert("RGB") for key, file in files.items() if file}


def clip(emoji: Image.Image, rng: np.random.Generator) -> list[Image.Image]:
    """Frames in which an emoji drifts along a line, turns by up to 25 degrees and grows or shrinks."""
    start, end = rng.uniform(0, CLIP_PIXELS - emoji.width, size=(2, 2))
    turn, sizes = rng.uniform(-25, 25, size=2), rng.uniform(0.75, 1.0, size=2)
    frames = []
    for share in np.linspace(0, 1, CLIP_FRAMES):
        side = round(emoji.width * float(sizes[0] + share * (sizes[1] - sizes[0])))
        angle = float(turn[0] + share * (turn[1] - turn[0]))
        moved = emoji.resize((side, side), Image.Resampling.LANCZOS)
        moved = moved.rotate(angle, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
        frame = Image.new("RGB", (CLIP_PIXELS, CLIP_PIXELS), (255, 255, 255))
        frame.paste(moved, tuple(int(v) for v in np.rint(start + share * (end - start))))
        frames.append(frame)
    return frames


def write(data: Path) -> None:
    """Writes pairs.jsonl beside the emoji's other questions, and the folder of clips anew."""
    folder = data / EMOJI
    rows = read_rows(folder)
    rng, every = np.random.default_rng(SEED), list(pairs(rows))
    kept = [every[i] for i in sorted(rng.choice(len(every), PAIRS, replace=False))]
    lines = "".join(f"{json.dumps(one)}\n" for one in kept)
    (folder / "test" / "pairs.jsonl").write_text(lines, encoding="utf-8")
    shutil.rmtree(data / CLIPS, ignore_errors=True)
    plain = [row for row in rows if re.fullmatch("[a-z]+( [a-z]+)*", row["name"])]
    pictures = read_pictures(folder)
    for i in sorted(rng.choice(len(plain), CLIP_CLASSES, replace=False)):
        target = data / CLIPS / plain[i]["name"].replace(" ", "_") / f"{plain[i]['key']}.webp"
        target.parent.mkdir(parents=True)
        first, *rest = clip(pictures[plain[i]["key"]], rng)
        first.save(
            target,
            save_all=True,
            append_images=rest,
            duration=MILLISECONDS,
            quality=QUALITY,
            method=6,
            minimize_size=True,
        )


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "eval" / "bundled" / "data")
    write(parser.parse_args().data)


if __name__ == "__main__":
    main()
