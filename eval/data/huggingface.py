"""A data set in Hugging Face's form: parquet files on disk, or a repository of the hub, read with `datasets`."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from clipeval.configs.errors import ClipevalError, first_line, nearest
from clipeval.data.account import Account, is_litter
from clipeval.data.config import DataConfig
from clipeval.data.depth import HEAD, flag_deep, is_deep
from clipeval.data.imagenet import accepted_text
from clipeval.data.images import digest_of
from clipeval.data.known_columns import SPLIT, beside_predictions, rows_of_split, with_columns
from clipeval.data.labels import classes_of, given_names
from clipeval.data.lock import check_lock
from clipeval.data.same_pictures import contents_from
from clipeval.data.splits import choose_files, same_split
from clipeval.data.text_table import CSV_ENDINGS, JSON_ENDINGS
from clipeval.data.values import Unusable, cell, encoded_image, has_column, is_null, texts_of
from clipeval.results import safe_json
from clipeval.tasks.base import Samples
from clipeval.tasks.relabelled import ACCEPTED

GROUPS = 2
"""Row groups whose images a process keeps."""
_PLAIN = ("int64", "int32", "string", "bool")


@dataclass
class ParquetImages:
    """Images that are cells of parquet files: bytes, paths relative to the file, structures of both, or lists of one.

    Attributes:
        files: the parquet files, in order.
        column: the image's column, or a path into it.
        rows: int64 [N, 3]: for each image its file, row group and row in the group.
        numbers: int64 [N], its row in the whole set.
        contents: uint64 [N], equal for equal pictures.
    """

    files: Sequence[str]
    column: str
    rows: np.ndarray
    numbers: np.ndarray
    source: str
    digest: str = ""
    contents: np.ndarray | None = None
    _kept: OrderedDict[tuple[int, int], pa.ChunkedArray] = field(default_factory=OrderedDict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, position: int) -> bytes:
        file, group, row = map(int, self.rows[position])
        if (file, group) not in self._kept:
            while len(self._kept) >= GROUPS:
                self._kept.popitem(last=False)
            with pq.ParquetFile(self.files[file]) as opened:
                self._kept[file, group] = opened.read_row_group(
                    group, columns=[_head(self.column, opened.schema_arrow.names)]
                )
        content = self._kept[file, group].slice(row, 1).to_pylist()[0]
        return encoded_image(cell(content, self.column), Path(self.files[file]).parent)

    def location(self, position: int) -> str:
        return f"{self.source}, row {int(self.numbers[position])}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "contents": None}


@dataclass
class RowImages:
    """Images that are cells of a set that `datasets` loaded from the hub, which every worker shares."""

    rows: Any
    column: str
    numbers: np.ndarray
    source: str
    digest: str = ""
    contents: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, position: int) -> bytes:
        return encoded_image(cell(self.rows[int(self.numbers[position])], self.column), Path())

    def location(self, position: int) -> str:
        return f"{self.source}, row {int(self.numbers[position])}"


def read(
    config: DataConfig, location: Path, split: str, cache: Path | None, account: Account
) -> tuple[ParquetImages | RowImages, Samples]:
    """Reads rows with an image column and a label or caption column.

    `path` is a parquet file, or a folder of them whose names say their splits as `datasets` has it. Without it, `hub` is what
    `clipeval download` fetched below `data.root`, or else is loaded by `datasets` from the hub or its own cache.

    Raises:
        ClipevalError: files, columns or cells are not what they must be; `data.on_error=skip` leaves out rows.
    """
    if location.exists():
        return from_parquet(config, location, split, account)
    return _from_hub(config, split, account)


def from_parquet(
    config: DataConfig, location: Path, split: str, account: Account, by_names: bool = False
) -> tuple[ParquetImages, Samples]:
    """`read` of files. `by_names`: columns are known and the column `split` is heeded as by `clipeval.data.table`."""
    files = parquet_files(location, split, account)
    check_lock(location, files)
    source = str(location)
    tables, places = [], []
    features: dict[str, Any] = {}
    for number, path in enumerate(files):
        try:
            with pq.ParquetFile(path) as opened:
                schema = opened.schema_arrow
                if by_names:
                    config = with_columns(config, schema.names, str(path), account)
                _check_columns(config, schema.names, str(path))
                others = _beside_images(config, schema.names)
                tables.append(opened.read(columns=others) if others else pa.table({}))
                features = features or _features(schema)
                for group in range(opened.num_row_groups):
                    count = opened.metadata.row_group(group).num_rows
                    places.append(np.column_stack([np.full(count, number), np.full(count, group), np.arange(count)]))
        except (pa.ArrowException, OSError, ValueError) as problem:
            if isinstance(problem, ClipevalError):
                raise
            if path.suffix.lower() in (*CSV_ENDINGS, *JSON_ENDINGS):
                task = "captions" if config.caption else "labels"
                raise ClipevalError(
                    f"{path} is a table of text, and this task reads parquet. Such tables are read by task={task} "
                    f"task.data.path={path}."
                ) from None
            raise ClipevalError(
                f"{path} is no parquet file that can be read: {first_line(problem).rstrip('.')}."
            ) from None
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowInvalid as problem:
        raise ClipevalError(
            f"{source}: the files of the split differ in their columns: {str(problem).splitlines()[0]}."
        ) from None
    rows = np.concatenate(places).astype(np.int64) if places else np.zeros((0, 3), dtype=np.int64)
    numbers = np.arange(len(rows))
    if by_names and SPLIT in table.column_names and config.label != SPLIT:
        where = [f"{source}, row {number}" for number in numbers]
        numbers = np.array(rows_of_split(table[SPLIT].to_pylist(), where, split, source, account), dtype=np.int64)
        rows, table = rows[numbers], table.take(pa.array(numbers))
    images = ParquetImages([str(path) for path in files], config.image, rows, numbers, source)
    kept, images.digest, images.contents = _usable(images, _cells(table, config), config, source, account)
    images.rows, images.numbers = images.rows[kept], images.numbers[kept]
    plain = {name: str(table.schema.field(name).type) for name in table.column_names}
    return images, _samples(config, location, table.take(pa.array(kept)), plain, features, images, account)


def _from_hub(config: DataConfig, split: str, account: Account) -> tuple[RowImages, Samples]:
    import datasets

    source = config.hub or str(config.path)
    try:
        rows = datasets.load_dataset(source, split=split, revision=config.revision)
    except (FileNotFoundError, ValueError, ConnectionError, OSError) as problem:
        raise ClipevalError(
            f"{source}: neither a path on this machine nor a data set that can be loaded from the hub ({problem})."
        ) from None
    _check_columns(config, rows.column_names, source)
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    others = _beside_images(config, rows.column_names)
    table = rows.select_columns(others).with_format("arrow")[:] if others else pa.table({})
    images = RowImages(rows, config.image, np.arange(len(rows)), source)
    kept, images.digest, images.contents = _usable(images, _cells(table, config), config, source, account)
    images.numbers = images.numbers[kept]
    plain = {n: getattr(rows.features[n], "dtype", "") for n in table.column_names}
    features = {n: {"names": getattr(rows.features[n], "names", None)} for n in table.column_names}
    return images, _samples(config, Path(source), table.take(pa.array(kept)), plain, features, images, account)


def parquet_files(location: Path, split: str, account: Account) -> list[Path]:
    """The parquet files of a split, in the order of their names.

    Raises:
        ClipevalError: there are none, or it cannot be told which are meant.
    """
    if location.is_file():
        return [location]
    files = {}
    for path in sorted(location.rglob("*.parquet")):
        name = path.relative_to(location).as_posix()
        if is_litter(name):
            account.ignore(name)
        else:
            files[name] = path
    if not files:
        hint = "task.data.path names a parquet file, a folder of them, or a hub id."
        if next(location.rglob("*.arrow"), None):
            hint = "It was written by save_to_disk: write it with Dataset.to_parquet, and name that file."
        raise ClipevalError(f"{location} holds no parquet file; {hint}")
    declared = _declared(location, files)
    if declared:
        chosen = next((files for name, files in declared.items() if same_split(split, name)), None)
        if chosen is None:
            raise ClipevalError(
                f"{location}/README.md declares the splits {', '.join(declared)}, and none called {split!r}. Choose one with "
                f"task.splits=[{list(declared)[-1]}]."
            )
        return [files[name] for name in chosen]
    return [files[name] for name in choose_files(list(files), split, str(location))]


class _Alias(yaml.YAMLError):
    """The text refers to a part of itself."""


class _WithoutAliases(yaml.SafeLoader):
    """Plain values only, each as large as its text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise _Alias
        return super().compose_node(parent, index)


def _declared(location: Path, known: dict[str, Path]) -> dict[str, list[str]]:
    """{split: files} as the front matter of the folder's README.md declares them; empty where it does not."""
    card = location / "README.md"
    text = card.read_text("utf-8", errors="replace") if card.is_file() else ""
    parts = text.split("---", 2)
    if not text.startswith("---") or len(parts) < 3:
        return {}
    try:
        configs = (yaml.load(parts[1], _WithoutAliases) or {}).get("configs") or []
        files = [entry["data_files"] for entry in configs if isinstance(entry.get("data_files"), list)]
        if len(configs) > 1:
            names = ", ".join(str(entry.get("config_name")) for entry in configs)
            raise ClipevalError(
                f"{card} declares several data sets ({names}); give the folder of one in task.data.path."
            )
        entries = {
            str(e["split"]): [e["path"]] if isinstance(e["path"], str) else list(e["path"]) for e in (files or [[]])[0]
        }
    except _Alias:
        raise ClipevalError(
            f"{card}: its front matter uses YAML aliases (&name, *name), which are not followed, for a few lines of them can stand "
            "for any amount of memory. Write its `configs` out, or give one parquet file in task.data.path."
        ) from None
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, RecursionError):
        return {}
    matched = {split: [n for n in known if any(fnmatch(n, p) for p in patterns)] for split, patterns in entries.items()}
    return {split: names for split, names in matched.items() if names}


def _check_columns(config: DataConfig, names: Sequence[str], location: str) -> None:
    for column in filter(None, (config.image, config.caption, config.label, config.accepted)):
        if not has_column(names, column):
            raise ClipevalError(f"{location}: {nearest('column', column, names)}")


def _head(column: str, names: Sequence[str]) -> str:
    return column if column in names else column.partition(".")[0]


def _answers(config: DataConfig, names: Sequence[str]) -> set[str]:
    """The columns that labels and captions lie in."""
    return {_head(column, names) for column in (config.label, config.caption, config.accepted) if column is not None}


def _beside_images(config: DataConfig, names: Sequence[str]) -> list[str]:
    """All columns but the images', unless a label or a caption lies in the same structure."""
    used = _answers(config, names)
    return [name for name in names if name != _head(config.image, names) or name in used]


def _features(schema: Any) -> dict[str, Any]:
    """What `datasets` wrote of the columns; empty where it did not."""
    try:
        features = safe_json.parse((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _cells(table: Any, config: DataConfig) -> Iterator[dict[str, Any]]:
    """The columns of labels and captions, a row at a time."""
    used = _answers(config, table.column_names)
    chosen = table.select([name for name in table.column_names if name in used])
    for batch in chosen.to_batches():
        yield from batch.to_pylist()


def _usable(
    images: ParquetImages | RowImages,
    cells: Iterator[dict[str, Any]],
    config: DataConfig,
    source: str,
    account: Account,
) -> tuple[np.ndarray, str, np.ndarray]:
    """The rows that can be scored, int64; the digest of their images; and what tells these apart, uint64."""
    kept, digests, deep = [], [], list[str]()
    for number in range(len(images)):
        content = next(cells, {})
        column: str | None = config.image
        try:
            data = images.read(number)
            column = config.label
            if column is not None and is_null(value := cell(content, column)):
                raise Unusable(f"the label is {'empty' if isinstance(value, str) else 'null'}")
            column = config.caption
            if column is not None:
                texts_of(cell(content, column), "the caption")
        except Unusable as problem:
            account.unusable(f"{source}, row {number}, column {column!r}", str(problem))
            continue
        kept.append(number)
        digests.append(hashlib.sha256(data).digest())
        if is_deep(data[:HEAD], lambda data=data: data):  # type: ignore[misc]
            deep.append(f"row {number}")
    flag_deep(deep, account)
    return np.array(kept, dtype=np.int64), digest_of(*digests), contents_from(digests)


def _samples(
    config: DataConfig,
    location: Path,
    table: Any,
    plain: dict[str, str],
    features: dict[str, Any],
    images: ParquetImages | RowImages,
    account: Account,
) -> Samples:
    labels = captions = None
    classnames: list[str] = []
    rows = list(_cells(table, config))
    accepted: list[str] = []
    if config.accepted is not None:
        known = given_names(config, location) or ()
        lists = [cell(row, config.accepted) for row in rows]
        accepted = [accepted_text(v, images.location(i), len(known)) for i, v in enumerate(lists)]
        if not all(accepted):
            raise ClipevalError(f"{images.location(accepted.index(''))}: no class is accepted.")
        labels, classnames = np.array([int(v[0]) for v in lists], dtype=np.int64), list(known)
    elif config.label is not None:
        declared = (features.get(config.label) or {}).get("names") or ()
        places = [f"{images.location(i)}, column {config.label!r}" for i in range(len(images))]
        labels, classnames = classes_of(
            [cell(r, config.label) for r in rows], config, declared, location, places, account
        )
    if config.caption is not None:
        captions = [texts_of(cell(row, config.caption), "the caption") for row in rows]
    answers = config.label, config.caption, config.accepted
    used = {*answers, *(str(column).partition(".")[0] for column in answers)}
    names = [name for name in table.column_names if name not in used and plain.get(name) in _PLAIN]
    columns = {name: table[name].to_pylist() for name in names}
    metadata = beside_predictions(pd.DataFrame(columns, index=range(len(images))))
    if accepted:
        metadata[ACCEPTED] = accepted
    keys = [f"{number:08d}" for number in images.numbers]
    return Samples(keys=keys, labels=labels, captions=captions, metadata=metadata, classnames=classnames)
