"""Pictures with a caption file for each language: what clip_benchmark leaves behind of its multilingual retrieval sets.

    <folder>/<captions file>          such as xtd10-de.json; `data.captions` names it, {language} standing for the language
    <folder>/**/<picture>             the pictures, once for all languages; or shards in <folder>/test/, as DataComp's sets

A caption file is clip_benchmark's JSON ({"image_paths": [...], "annotations": [...]}), JSON lines or CSV with columns image and
caption, or Crossmodal-3600's own captions.jsonl. It may speak of some of the pictures only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from clipeval.configs.errors import ClipevalError
from clipeval.data import webdataset
from clipeval.data.account import Account
from clipeval.data.config import DataConfig
from clipeval.data.depth import deep_files, flag_deep
from clipeval.data.images import FileImages
from clipeval.data.pictures import find_pictures, whole_files
from clipeval.data.shards import plain_tar, shard_paths
from clipeval.data.split import read_text
from clipeval.data.tar_index import index_tars
from clipeval.data.text_table import read_table
from clipeval.data.values import Unusable, text_of, texts_of
from clipeval.results import safe_json
from clipeval.results.stamp import stamp
from clipeval.tasks.base import Samples


def read(
    config: DataConfig, location: Path, split: str, cache: Path | None, account: Account
) -> tuple[FileImages, Samples]:
    """Reads one language; the images are all of the folder's, `Samples.positions` says which of them have captions.

    Raises:
        ClipevalError: the set is not here, no language is chosen, a file is missing, or a caption's picture is.
    """
    if not isinstance(config.captions, str) or not config.captions:
        raise ClipevalError(
            f"{location}: data.captions must name the caption file, such as 'captions-{{language}}.jsonl'."
        )
    if config.page and not location.exists():
        raise ClipevalError(f"{location} does not exist. {config.cure}")
    if "{language}" in config.captions and not config.language:
        raise ClipevalError(
            f"{location} holds captions in several languages; choose with language=…: {', '.join(config.languages) or 'de'}"
        )
    path = location / config.captions.replace("{language}", config.language or "")
    pairs = _pairs(path, config.language or "", config, account)
    images = _images(location, split, cache, account)
    place = _places(images.keys)
    gathered: dict[int, list[str]] = {}
    for name, caption, where in pairs:
        image = place.get(_stem(name))
        if image is None:
            account.unusable(where, f"{name!r} is not among the {len(images)} pictures of {location}")
        else:
            gathered.setdefault(image, []).append(caption)
    if not gathered:
        raise ClipevalError(f"{path} holds no caption.")
    positions = np.array(sorted(gathered), dtype=np.int64)
    samples = Samples(
        keys=[images.keys[i] for i in positions],
        captions=[gathered[int(i)] for i in positions],
        metadata=pd.DataFrame(index=range(len(positions))),
        positions=positions,
    )
    return images, samples


def _images(location: Path, split: str, cache: Path | None, account: Account) -> FileImages:
    if (location / split).is_dir() and any((location / split).glob("*.tar*")):
        shards = [plain_tar(path, cache, account) for path in shard_paths(location, split, account)]
        return webdataset.shard_images(shards, index_tars(shards, cache))
    if not location.is_dir():
        raise ClipevalError(f"{location} does not exist: the folder of the pictures and caption files was expected.")
    paths = find_pictures(location, Account())  # the caption files lie there, too: what is no picture is none of ours
    if not paths:
        raise ClipevalError(f"{location} holds no picture that Pillow opens.")
    flag_deep(deep_files(paths, [path.name for path in paths]), account)
    return _whole(tuple((path, *stamp(path.stat())) for path in paths), location)


@lru_cache(maxsize=4)  # each language asks for them, and their digest reads every byte
def _whole(files: tuple[tuple[Path, int, int, int, int], ...], location: Path) -> FileImages:
    paths = [path for path, *_ in files]
    return whole_files(paths, [str(path.relative_to(location)) for path in paths])


def _places(keys: Sequence[str]) -> dict[str, int]:
    """{name without folder and ending: position}."""
    index = {_stem(key): i for i, key in enumerate(keys)}
    if len(index) < len(keys):
        twice = next(key for i, key in enumerate(keys) if index[_stem(key)] != i)
        raise ClipevalError(f"two pictures are called {_stem(twice)!r}; captions name pictures without their folders.")
    return index


def _stem(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).stem


def _pairs(path: Path, language: str, config: DataConfig, account: Account) -> list[tuple[str, str, str]]:
    """(picture, caption, where), one each; of Crossmodal-3600 the first caption, as clip_benchmark takes it."""
    if path.suffix == ".json":
        try:
            content = safe_json.parse(read_text(path))
            both = list(zip(content["image_paths"], content["annotations"], strict=True))
        except (KeyError, TypeError, ValueError) as problem:
            raise ClipevalError(
                f"{path}: expected clip_benchmark's JSON, lists image_paths and annotations of one length ({problem})."
            ) from None
        pairs: list[tuple[str, str, str]] = []
        for number, (name, caption) in enumerate(both, 1):
            location = f"{path}, entry {number}"
            try:
                pairs.append((text_of(name, "the picture's name"), text_of(caption, "the caption"), location))
            except Unusable as problem:
                account.unusable(location, str(problem))
        return pairs
    if not path.is_file():
        raise ClipevalError(f"{path} is missing: the captions in {language or 'this language'}.")
    table = read_table(
        path, [] if path.suffix == ".jsonl" else ["image", "caption"], account, config.sep, config.encoding
    )
    pairs = []
    for number, row in enumerate(table.rows):
        try:
            pairs += [(*pair, table.location(number)) for pair in _row(row, language, table.location(number))]
        except Unusable as problem:
            account.unusable(table.location(number), str(problem))
    return pairs


def _row(row: Mapping[str, Any], language: str, location: str) -> list[tuple[str, str]]:
    if "image/key" in row and isinstance(row.get(language), dict):
        captions = row[language].get("caption") or []
        return [(f"{row['image/key']}.jpg", text_of(captions[0], "the caption"))] if captions else []
    if "image" not in row or "caption" not in row:
        raise ClipevalError(f"{location}: expected image and caption, got {', '.join(map(str, row))}.")
    name = text_of(row["image"], "column 'image': the picture's name")
    return [(name, caption) for caption in texts_of(row["caption"], "column 'caption': the caption")]
