"""The record of one cell (a model on a task): schema 1, a JSON file that vouches for itself.

| field | what it holds |
|---|---|
| schema | 1; a reader refuses any other |
| task, key, name | the id in the config (and the file's stem), DataComp's key, the name to print |
| protocol, group | the kind of task; the report's group that it counts in |
| model | slug, name, pretrained; identity: digests of what else the scores depend on, such as the tokenizer |
| metric, chance | the main metric's name and what guessing scores on it; null for a task outside the average |
| metrics, intervals | every metric's value, and its 95% interval as [low, high]; null where undefined |
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

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from configs.errors import ClipevalError
from results.canonical import digest, digest_parsed, plain, pretty, write_atomically
from results.fingerprint import Fingerprint

SCHEMA = 1
COUNTS = "number of prompts of each class"
"""What `prompts.counts` is a digest of, where classes have prompts of their own."""

Interval = tuple[float, float]


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
        content: dict[str, Any] = plain(
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
        """Reads what `to_json` wrote, its digest unverified. Raises KeyError for a field that is missing."""
        intervals = {name: None if pair is None else (pair[0], pair[1]) for name, pair in content["intervals"].items()}
        apart = ("intervals", "fingerprint", "flags", "notes", "imported")
        same = [f.name for f in fields(cls) if f.name not in apart]
        return cls(
            **{name: content[name] for name in same},
            intervals=intervals,
            fingerprint=Fingerprint.from_json(content["fingerprint"]),
            flags=tuple(content["flags"]),
            notes=tuple(content["notes"]),
            imported=content.get("imported"),
        )


def write_record(path: Path, record: Record) -> None:
    """Writes one record, atomically."""
    write_atomically(path, pretty(record.to_json()))


def read_record(path: Path) -> Record:
    """Reads one record; raises as `read_content` does."""
    return read_content(path)[0]


def read_content(path: Path) -> tuple[Record, dict[str, Any]]:
    """Reads one record, and what its file holds besides the digest.

    Raises:
        FileNotFoundError: there is none.
        DamagedRecord: it cannot be read, or is not what was written.
        ClipevalError: another schema wrote it.
    """
    content = path.read_bytes()
    try:
        data = json.loads(content)
    except ValueError as error:
        raise DamagedRecord(path, f"it is not JSON ({error})") from error
    if not isinstance(data, dict):
        raise DamagedRecord(path, f"it holds a {type(data).__name__}, not an object")
    check_schema(path, data)
    stored = data.pop("digest", None)
    try:
        found = digest_parsed(data)
    except ValueError as error:
        raise DamagedRecord(path, f"it is not JSON ({error})") from error
    if stored != found:
        raise DamagedRecord(path, "its content does not match its digest")
    try:
        return Record.from_json(data), data
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DamagedRecord(path, f"a field is missing or of another type ({error!r})") from error


def check_schema(path: Path, data: Mapping[str, Any]) -> None:
    """Raises ClipevalError when `data`, read from `path`, was written under another schema."""
    if data.get("schema") != SCHEMA:
        raise ClipevalError(
            f"{path} has schema {data.get('schema')!r}, and this clipeval reads schema {SCHEMA}: "
            "use the clipeval that wrote it, or choose another folder with out="
        )
