"""The record of one cell (a model on a task): schema 1, a JSON file that vouches for itself.

| field | what it holds |
|---|---|
| schema | 1; a reader refuses any other |
| task, key, name | the id in the config (and the file's stem), DataComp's key, the name to print |
| protocol, group | the kind of task; the report's group that it counts in |
| model | slug, name, pretrained; identity: digests of what else the scores depend on, such as the tokenizer |
| metric, chance | the main metric's name and what guessing scores on it; null for a task outside the average |
| metrics, intervals | every metric's value, and its 95% interval as [low, high]; null where undefined |
| ties | rule (`clipeval.tasks.ties`), count (answers that hang on the order of equal scores), ranges ({metric: [low, high]}) |
| samples, classes | what was scored; null where it is not known |
| flags | warnings that every table shows (another number of samples than published, say) |
| notes | footnotes about the task itself (a known quirk, say) |
| prompts | the prompts' name, digest and number of templates; counts: see `COUNTS` |
| fingerprint | six digests and their own, see `fingerprint.py` |
| predictions | the Parquet file's path in the run folder, its SHA-256, its rows |
| imported | for a result that another program computed: form, file, line, sha256, at, dataset, language, settings; else absent |
| timings, options | seconds by stage; what cannot change a score (workers, batch size, device) |
| created, run | UTC time; the code's commit and whether it was dirty |
| digest | SHA-256 of the canonical JSON of all the above |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import write_atomically
from clipeval.results import safe_json
from clipeval.results.fingerprint import Fingerprint
from clipeval.results.json_io import digest, digest_parsed, dumps, to_jsonable
from clipeval.results.uncertainty import Interval

SCHEMA = 1
COUNTS = "number of prompts of each class"
"""What `prompts.counts` is a digest of, where classes have prompts of their own."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class DamagedRecord(ClipevalError):  # noqa: N818 - what it is, in the words of its users
    """A record, or the predictions beside it, that is not what was written. The cell counts as missing."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} is damaged: {reason}; it counts as missing, and the next `clipeval run` makes it again"
        )
        self.path = path
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of one model on one task. The fields are those of the file."""

    task: str
    key: str
    name: str
    protocol: str
    group: str
    model: Mapping[str, Any]
    metric: str | None
    chance: float | None
    metrics: Mapping[str, float | None]
    intervals: Mapping[str, Interval | None]
    samples: int | None
    classes: int | None
    fingerprint: Fingerprint
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    prompts: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    predictions: Mapping[str, Any] | None = None
    imported: Mapping[str, Any] | None = None
    ties: Mapping[str, Any] | None = None

    @property
    def identity(self) -> Mapping[str, str]:
        """Digests of what the scores depend on beside the fingerprint: {in words: digest}; of earlier versions empty."""
        counts = self.prompts.get("counts")
        return {**(self.model.get("identity") or {}), **({} if counts is None else {COUNTS: counts})}

    @property
    def value(self) -> float | None:
        """The main metric's value."""
        return None if self.metric is None else self.metrics.get(self.metric)

    @property
    def interval(self) -> Interval | None:
        """The main metric's 95% interval."""
        return None if self.metric is None else self.intervals.get(self.metric)

    def to_json(self) -> dict[str, Any]:
        """The file's content, its digest included."""
        content: dict[str, Any] = to_jsonable(
            {
                "schema": SCHEMA,
                "task": self.task,
                "key": self.key,
                "name": self.name,
                "protocol": self.protocol,
                "group": self.group,
                "model": self.model,
                "metric": self.metric,
                "chance": self.chance,
                "metrics": self.metrics,
                "intervals": self.intervals,
                "samples": self.samples,
                "classes": self.classes,
                # Absent from what an earlier version or another program computed.
                **({} if self.ties is None else {"ties": self.ties}),
                "flags": self.flags,
                "notes": self.notes,
                "prompts": self.prompts,
                "fingerprint": self.fingerprint.to_json(),
                "predictions": self.predictions,
                # Absent from what was computed, whose files are as they were before anything could be imported.
                **({} if self.imported is None else {"imported": self.imported}),
                "timings": self.timings,
                "options": self.options,
                "created": self.created,
                "run": self.run,
            }
        )
        for name, pair in content["intervals"].items():
            # Half an interval says nothing.
            if pair is not None and None in pair:
                content["intervals"][name] = None
        return {**content, "digest": digest(content)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Record:
        """Reads what `to_json` wrote, its digest unverified.

        Raises:
            KeyError: a field is missing.
            TypeError: a field is of another type; it is named.
        """
        _check_types(content)
        intervals = {name: None if pair is None else (pair[0], pair[1]) for name, pair in content["intervals"].items()}
        apart = ("intervals", "fingerprint", "flags", "notes", "imported", "ties")
        same = [f.name for f in fields(cls) if f.name not in apart]
        return cls(
            **{name: visible(content[name]) if name in SHOWN else content[name] for name in same},
            intervals=intervals,
            fingerprint=Fingerprint.from_json(content["fingerprint"]),
            flags=tuple(visible(content["flags"])),
            notes=tuple(visible(content["notes"])),
            imported=content.get("imported"),
            ties=content.get("ties"),
        )


SHOWN = ("key", "name", "protocol", "group", "model", "metric", "created")
"""Fields that tables print."""


def visible(value: Any) -> Any:
    """A value whose texts hold no control characters but line breaks and tabs: others are spelled out, as `\\x1b`.

    A terminal takes an escape sequence in somebody else's name of a task for a command.
    """
    if isinstance(value, str):
        return _CONTROL.sub(lambda names: f"\\x{ord(names[0]):02x}", value)
    if isinstance(value, Mapping):
        return {visible(key): visible(item) for key, item in value.items()}
    return [visible(item) for item in value] if isinstance(value, list) else value


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_number, value))


def _or_null(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or kind(value)


def _all_of(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _each(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(kind, value.values()))


def _any(value: Any) -> bool:
    return True


TYPES: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("task", "key", "name", "protocol", "group", "created"), _text),
    "metric": _or_null(_text),
    **dict.fromkeys(("chance", "samples", "classes"), _or_null(_number)),
    "metrics": _each(_or_null(_number)),
    "intervals": _each(_or_null(_pair)),
    **dict.fromkeys(("flags", "notes"), _all_of(_text)),
    **dict.fromkeys(("model", "prompts", "options", "run"), _each(_any)),
    "timings": _each(_number),
    "fingerprint": _each(_text),
    **dict.fromkeys(("predictions", "imported"), _or_null(_each(_any))),
}
"""What each field of a record's file holds: a file of somebody else's may hold anything under any name."""


def _check_types(content: Mapping[str, Any]) -> None:
    for name, fits in TYPES.items():
        if name in content and not fits(content[name]):
            raise TypeError(f"{name}={str(content[name])[:80]}")
    names = (content.get("prompts") or {}).get("classnames")
    if names is not None and not _all_of(_text)(names):
        raise TypeError(f"prompts.classnames={str(names)[:80]}")
    if content.get("imported") is not None and not {"form", "file"} <= content["imported"].keys():
        raise TypeError("imported has no form and file")


def write_record(path: Path, record: Record) -> None:
    """Writes one record, atomically."""
    write_atomically(path, dumps(record.to_json()))


def read_record(path: Path) -> Record:
    """Reads one record; raises as `read_content` does."""
    return read_content(path)[0]


def read_content(path: Path) -> tuple[Record, dict[str, Any]]:
    """Reads one record, and what its file holds besides the digest.

    Raises:
        FileNotFoundError: there is none.
        DamagedRecord: it cannot be read, is not what was written, or is another task's.
        ClipevalError: another schema wrote it.
    """
    try:
        data = safe_json.read(path)
    except ValueError as error:
        raise DamagedRecord(path, f"it is not JSON ({error})") from error
    if not isinstance(data, dict):
        raise DamagedRecord(path, f"it holds a {type(data).__name__}, not an object")
    check_schema(path, data)
    stored = data.pop("digest", None)
    try:
        digest = digest_parsed(data)
    except ValueError as error:
        raise DamagedRecord(path, f"it is not JSON ({error})") from error
    if stored != digest:
        raise DamagedRecord(path, "its content does not match its digest")
    if data.get("task") != path.stem:  # the name of the task becomes the names of files
        raise DamagedRecord(path, f"it is the record of a task {data.get('task')!r}")
    try:
        return Record.from_json(data), data
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise DamagedRecord(path, f"a field is missing or of another type ({error!r})") from error


def check_schema(path: Path, data: Mapping[str, Any]) -> None:
    """Raises ClipevalError when `data`, read from `path`, was written under another schema."""
    if data.get("schema") != SCHEMA:
        raise ClipevalError(
            f"{path} has schema {data.get('schema')!r}, and this clipeval reads schema {SCHEMA}: "
            "use the clipeval that wrote it, or choose another folder with out="
        )
