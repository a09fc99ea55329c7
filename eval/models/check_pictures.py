"""Sixty of the bundled pictures with their captions: things that any model of pictures and English texts tells apart."""

from __future__ import annotations

import csv
import tarfile
from functools import lru_cache
from pathlib import Path

import clipeval

_NAMES = """
hot dog; hot pepper; tomato; grapes; watermelon; lemon; banana; pineapple; red apple; cherries; strawberry; hamburger;
slice of pizza; french fries; doughnut; beer mug; birthday cake; croissant; broccoli; carrot; palm tree; cactus; rose;
sunflower; mushroom; tiger; snail; snake; elephant; octopus; fish; turtle; penguin; pig face; frog face; panda face;
spider; crab; owl; butterfly; guitar; violin; top hat; crown; eyeglasses; necktie; jeans; key; hammer; camera;
television; rainbow; volcano; rocket; helicopter; bus; police car; christmas tree; basketball and hoop; soccer ball
"""


@lru_cache(maxsize=1)
def captioned_pictures() -> tuple[tuple[str, bytes], ...]:
    """(caption, encoded picture) of each, in a fixed order."""
    names = [name.strip() for name in _NAMES.replace("\n", " ").split(";")]
    folder = Path(str(clipeval.__file__)).resolve().parent / "bundled" / "data" / "wds_quickstart_emoji_test" / "test"
    with (folder / "samples.csv").open(newline="", encoding="utf-8") as table:
        rows = {row["name"]: row for row in csv.DictReader(table)}
    found = []
    with tarfile.open(folder / "0.tar") as shard:
        members = {member.name.partition(".")[0]: member for member in shard}
        for name in names:
            picture = shard.extractfile(members[rows[name]["key"]])
            assert picture is not None
            found.append((rows[name]["caption"], picture.read()))
    return tuple(found)
