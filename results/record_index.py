"""What reports have read of a run folder, so that the next one reads only what changed.

    records/.index     the digest of what follows, a line; {task: [stamp, record without its class names]}

A record is written whole, under a new inode: its stamp (size, times, inode) changes with it. The index only saves time. Where
it is missing, damaged or cannot be written, the records are read; runs and `clipeval verify` never look at it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from clipeval.results import safe_json
from clipeval.results.inside import inside
from clipeval.results.records import SCHEMA, DamagedRecord, Record, read_content
from clipeval.results.stamp import SETTLED, stamp

NAME = ".index"
log = logging.getLogger(__name__)


def read_slim(records: Path, damaged: list[DamagedRecord]) -> dict[str, Record]:
    """Every record of a folder, without `prompts["classnames"]`, by task; from the index where it still holds.

    Args:
        records: the folder of record files.
        damaged: gets what is damaged.

    Raises:
        ClipevalError: another schema wrote a record, or one is a link out of the run folder.
    """
    known, slim, kept = _read_index(records), {}, {}
    for task, seen in sorted(_stamps(records).items()):
        entry = known.get(task)
        record = _known_record(entry, task, seen)
        if record is not None:
            kept[task], slim[task] = entry, record
            continue
        try:
            record, content = read_content(inside(records.parent, f"{records.name}/{task}.json"))
        except FileNotFoundError:
            continue  # removed meanwhile
        except DamagedRecord as problem:
            damaged.append(problem)
            continue
        prompts = {name: value for name, value in record.prompts.items() if name != "classnames"}
        slim[task] = replace(record, prompts=prompts)
        if time.time() - seen[1] / 1e9 > SETTLED:
            kept[task] = [seen, {**content, "prompts": prompts}]
    if kept != known:
        _write_index(records, kept)
    return slim


def _known_record(entry: Any, task: str, stamp: list[int]) -> Record | None:
    """An entry's record; None where the file has changed, or the index came with the folder and holds something else."""
    try:
        seen, content = entry
        return Record.from_json(content) if seen == stamp and content["task"] == task else None
    except (KeyError, TypeError, IndexError, AttributeError, ValueError):
        return None


def _stamps(records: Path) -> dict[str, list[int]]:
    """Size, times and inode of each record file: taken before it is read, so that a later change shows."""
    try:
        with os.scandir(records) as entries:
            names = [e for e in entries if e.name.endswith(".json") and not e.name.startswith(".")]
            about = [(entry.name.removesuffix(".json"), entry.stat()) for entry in names]
    except FileNotFoundError:
        return {}
    return {task: list(stamp(stat)) for task, stat in about}


def _read_index(records: Path) -> dict[str, Any]:
    try:
        digest, _, content = safe_json.read_bytes(records / NAME).partition(b"\n")
        known = safe_json.parse(content) if digest.decode("ascii", "replace") == _digest(content) else {}
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _digest(content: bytes) -> str:
    """Of the content and of what a record is in this release: an index of another one is as good as none."""
    form = f"{SCHEMA} {[field.name for field in fields(Record)]}"
    return hashlib.sha256(form.encode() + content).hexdigest()


def _write_index(records: Path, kept: dict[str, Any]) -> None:
    """Whole, by a rename, though not durably: it is not worth waiting for a disk."""
    content = json.dumps(kept, separators=(",", ":")).encode()
    temporary = records / f"{NAME}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.write_bytes(_digest(content).encode() + b"\n" + content)
        os.replace(temporary, records / NAME)
    except OSError as problem:  # another's folder, or a full disk: the next report reads the records again
        log.debug("no index in %s: %s", records, problem)
        _remove(temporary)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as problem:
        log.debug("%s stays: %s", path, problem)
