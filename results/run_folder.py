"""A run folder: what one model made of its tasks, on disk, in files that any number of processes may write.

run.json                    what ran: schema, model, config, packages, code, hardware, tasks
records/<task>.json         one for each task, written last, atomically (.index: what reports have read of them)
predictions/<task>.parquet  one row a sample
eval_results.jsonl          derived from the records, as DataComp writes it
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import write_atomically
from clipeval.results import mirror, parquet, safe_json
from clipeval.results.datacomp_lines import jsonl
from clipeval.results.inside import inside
from clipeval.results.json_io import dumps, to_jsonable
from clipeval.results.records import SCHEMA, DamagedRecord, Record, check_schema, read_record, write_record

TASK_FIELDS = ("key", "name", "protocol", "metric", "chance", "group")

_NOT_IN_A_NAME = re.compile(r"[/\\\x00-\x1f\x7f]")

ATTEMPTS = 100
"""How often a writer tries to have the last word. Each retry means that another process wrote in between."""


def _attempts() -> Iterator[int]:
    """Numbers of attempts, with a wait in between that grows and differs: writers in step would never let each other end."""
    for number in range(ATTEMPTS):
        if number:
            time.sleep(random.uniform(0, min(0.002 * number, 0.1)))
        yield number


def _misshapen(run: Mapping[str, Any]) -> str:
    """The first part of run.json that should be an object and is not; empty where all are, or are not there."""
    config = run.get("config")
    parts = {name: run.get(name) for name in ("model", "config", "code", "packages", "hardware", "tasks")}
    parts["config.tasks"] = config.get("tasks") if isinstance(config, Mapping) else None
    for table in ("tasks", "config.tasks"):
        specs = parts[table]
        for task, spec in specs.items() if isinstance(specs, Mapping) else ():
            parts[f"{table}.{task}"] = {} if spec is None else spec
            parts[f"{table}.{task}.data"] = spec.get("data") if isinstance(spec, Mapping) else None
    return next((name for name, part in parts.items() if not (part is None or isinstance(part, Mapping))), "")


class RunFolder:
    """The files of one run. Making one touches nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.name

    @property
    def place(self) -> str:
        """What to call it: its path, or the address that it is kept at (`clipeval.results.mirror`)."""
        return mirror.place(self.path)

    def run(self) -> dict[str, Any] | None:
        """What `run.json` holds; None where there is none.

        Raises:
            DamagedRecord: it is not JSON.
            ClipevalError: another schema wrote it.
        """
        path = self.file("run.json")
        try:
            data = safe_json.read(path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DamagedRecord(path, f"it is not JSON ({error})") from error
        if not isinstance(data, dict):
            raise DamagedRecord(path, f"it holds a {type(data).__name__}, not an object")
        check_schema(path, data)
        wrong = _misshapen(data)
        if wrong:
            raise DamagedRecord(path, f"{wrong} is no object")
        return data

    def file(self, name: str) -> Path:
        """The path of a file of the folder, to read or to write. ClipevalError where a link leads out of the folder."""
        return inside(self.path, name)

    def write_run(self, info: Mapping[str, Any], opened: Iterable[str] = ()) -> None:
        """Writes `run.json`, adding `schema`, `created` and `tasks`.

        `tasks` says what the whole run is to hold: the tasks of `info["config"]["tasks"]`, after those that other jobs
        of an array announced in the same folder. The config kept has the tasks of all of them. `skipped`, {task: why}, is
        of all of them too, less what this process has `opened`.
        """
        config = info.get("config") or {}
        announced = {
            task: {name: spec.get(name) for name in TASK_FIELDS}
            for task, spec in (info.get("tasks") or config.get("tasks") or {}).items()
        }
        created = info.get("created") or now()
        skips, opened = to_jsonable(info.get("skipped") or {}), set(opened)
        kept = mirror.of(self.path)
        for _ in _attempts():
            if kept is not None:
                kept.fetch("run.json")
            try:
                before = self.run() or {}
            except DamagedRecord:
                before = {}
            tasks = {**before.get("tasks", {}), **to_jsonable(announced)}
            merged = {
                **info,
                "config": {
                    **config,
                    "tasks": {**((before.get("config") or {}).get("tasks") or {}), **(config.get("tasks") or {})},
                },
            }
            skipped = {
                t: why for t, why in {**before.get("skipped", {}), **skips}.items() if t in tasks and t not in opened
            }
            merged = {**merged, "skipped": skipped} if skipped else {k: v for k, v in merged.items() if k != "skipped"}
            content = to_jsonable({"schema": SCHEMA, **merged, "tasks": tasks, "created": created})
            write_atomically(self.file("run.json"), dumps(content))
            if kept is not None:
                kept.send("run.json")
                kept.fetch("run.json")
            after = self.run() or {}
            known = after.get("skipped", {}).keys()
            if tasks.keys() <= after.get("tasks", {}).keys() and skips.keys() <= known and not opened & known:
                return
        raise ClipevalError(
            f"{self.place}/run.json could not be written: other processes keep writing it; run this job again"
        )

    def names(self, tasks: Iterable[str]) -> bool:
        """Whether `run.json`, as it stands where the folder is kept, says of all these tasks that the run is to hold them."""
        kept = mirror.of(self.path)
        if kept is not None and not kept.lost:
            kept.fetch("run.json")
        try:
            return set(tasks) <= ((self.run() or {}).get("tasks") or {}).keys()
        except DamagedRecord:
            return False

    def slug(self) -> str | None:
        """The slug of the model whose folder this is; None where `run.json` does not say."""
        try:
            return ((self.run() or {}).get("model") or {}).get("slug")
        except DamagedRecord:
            return None

    def check(self, weights: str, slug: str | None = None) -> None:
        """Whether this folder may hold records of a model with these weights.

        Raises:
            ClipevalError: it holds another model's, computed or imported, or was written under another schema.
        """
        try:
            run = self.run()
        except DamagedRecord:
            run = None
        model = (run or {}).get("model") or {}
        if not model.get("weights"):
            records = self.records(damaged=[])
            imported = next((r.model for r in records if r.imported is not None), {})
            if slug and imported and imported.get("slug") != slug:
                raise ClipevalError(
                    f"{self.place} holds imported results of {imported.get('slug')}, not of {slug}: give this run a folder "
                    "of its own with out="
                )
            computed = next((r for r in records if r.imported is None), None)
            model = {**computed.model, "weights": computed.fingerprint.weights} if computed else {}
        theirs = model.get("weights")
        if theirs and theirs != weights:
            mine = f"of {slug} ({weights[:8]})" if slug else weights[:8]
            raise ClipevalError(
                f"{self.place} holds results of {model.get('slug', 'another model')}, whose weights are {theirs[:8]}, "
                f"not {mine}: give this run a folder of its own with out=, or remove that one"
            )

    def skipped(self) -> dict[str, str]:
        """{task: why} of the tasks that the last run left out, for their data could not be opened.

        A record of one of them was computed earlier, from data that cannot be compared now: nothing shows it.
        """
        try:
            run = self.run() or {}
        except DamagedRecord:
            return {}
        reasons = run.get("skipped")
        return {str(task): str(why) for task, why in reasons.items()} if isinstance(reasons, Mapping) else {}

    def tasks(self) -> list[str]:
        """The ids that have a record file, sorted."""
        files = self.file("records").glob("*.json")
        return sorted(path.stem for path in files if not path.name.startswith("."))

    def record(self, task: str, *, verify: bool = True) -> Record | None:
        """One task's record; None where there is none.

        Args:
            task: the id in the config.
            verify: whether to read the predictions too and compare their digest.

        Raises:
            DamagedRecord: the record, or its predictions file, is not what was written.
            ClipevalError: another schema wrote it.
        """
        path = self._record_path(task)
        try:
            record = read_record(path)
        except FileNotFoundError:
            return None
        while verify and record.imported is None:
            try:
                self._verify(record)
                break
            except DamagedRecord:
                # Another process may have been between writing the predictions and writing the record.
                again = read_record(path)
                if again.predictions == record.predictions:
                    raise
                record = again
        return record

    def records(self, *, verify: bool = False, damaged: list[DamagedRecord] | None = None) -> list[Record]:
        """Every record, in the suite's order. Damaged ones are appended to `damaged` if it is given, else raised."""
        records = []
        for task in self._ordered(self.tasks()):
            try:
                record = self.record(task, verify=verify)
            except DamagedRecord as error:
                if damaged is None:
                    raise
                damaged.append(error)
                continue
            if record is not None:
                records.append(record)
        return records

    def predictions(self, record: Record) -> pd.DataFrame:
        """A record's predictions, verified.

        Raises:
            DamagedRecord: the file is missing, or is not the one that the record was written with.
            ClipevalError: the record was imported, and there are none.
        """
        if record.imported is not None:
            raise ClipevalError(f"{self._record_path(record.task)} was imported: it has no predictions")
        path, content = self._verify(record)
        try:
            return parquet.decode(content, record.predictions.get("rows") if record.predictions else None)
        except (OSError, ValueError) as error:
            raise DamagedRecord(path, f"it cannot be read as Parquet ({error})") from error

    def write(self, record: Record, predictions: pd.DataFrame) -> Record:
        """Writes a cell: predictions first, the record last. Returns the record as written.

        Any number of processes may write the same cell. Each ends only when what lies on the disk agrees with itself,
        and the last one to write sees what everyone else left, so that what is left agrees.
        """
        path = self._record_path(record.task)
        content = parquet.encode(predictions)
        name = f"predictions/{record.task}.parquet"
        record = dataclasses.replace(
            record,
            created=record.created or now(),
            predictions={"file": name, "sha256": hashlib.sha256(content).hexdigest(), "rows": len(predictions)},
        )
        for _ in _attempts():
            write_atomically(self.file(name), content)
            write_record(path, record)
            try:
                self._verify(read_record(path))
            except (DamagedRecord, FileNotFoundError):
                continue
            if self._sent(record.task):
                return record
        raise self._crowded(record.task)

    def add_imported(self, record: Record) -> Record:
        """Writes a record that another program computed; it has no predictions. One that was imported before may go.

        Raises:
            ClipevalError: the task has a record that was computed.
        """
        path = self._record_path(record.task)
        try:
            before = read_record(path)
        except (FileNotFoundError, DamagedRecord):
            before = None
        if before is not None and before.imported is None:
            raise ClipevalError(
                f"{path} was computed, and an imported result never takes its place: import into another folder with out="
            )
        record = dataclasses.replace(record, created=record.created or now())
        write_record(path, record)
        self._sent(record.task)
        return record

    def amend(self, record: Record) -> Record:
        """Writes a record alone: for what needs no new predictions, another main metric say."""
        self._verify(record)
        for _ in _attempts():
            write_record(self._record_path(record.task), record)
            if self._sent(record.task):
                return record
        raise self._crowded(record.task)

    def deliver(self) -> None:
        """Sends what an earlier run wrote, and did not send to the address that this folder is kept at, if it is."""
        if (kept := mirror.of(self.path)) is not None:
            kept.deliver()

    def _sent(self, task: str) -> bool:
        """Sends a task to where this folder is kept, if anywhere; whether all is well there."""
        kept = mirror.of(self.path)
        return kept is None or kept.send_task(task)

    def _crowded(self, task: str) -> ClipevalError:
        path = f"{self.place}/records/{task}.json"
        return ClipevalError(
            f"{path} could not be written: other processes keep writing other predictions there; run this job again"
        )

    def rebuild_eval_results(self) -> None:
        """Writes `eval_results.jsonl` anew from the records: DataComp's lines, in the suite's order."""
        kept = mirror.of(self.path)
        if kept is not None and kept.lost:  # which the run says already
            kept = None
        for _ in _attempts():
            if kept is not None:
                kept.pull()  # the records of other machines
            content = self._lines()
            write_atomically(self.file("eval_results.jsonl"), content)
            if kept is not None:
                kept.send("eval_results.jsonl")
                kept.pull()
            again = self._lines()
            # Another job may have added a record after ours were read, and have written its lines before ours.
            if content == again:
                return

    def _lines(self) -> bytes:
        return jsonl(self.records(damaged=[]), (self.run() or {}).get("tasks", {}), self.skipped())

    def _record_path(self, task: str) -> Path:
        if not task or task.startswith(".") or _NOT_IN_A_NAME.search(task):
            raise ClipevalError(
                f"a task's id is the name of its file, and {task!r} cannot be one: use letters, digits, - and _"
            )
        return self.file(f"records/{task}.json")

    def _verify(self, record: Record) -> tuple[Path, bytes]:
        """The predictions file of a record and its bytes, once their digest is known to be the record's."""
        if record.predictions is None:
            raise DamagedRecord(self._record_path(record.task), "it names no predictions file")
        name = f"predictions/{record.task}.parquet"
        if record.predictions.get("file") != name:
            reason = f"it names {record.predictions.get('file')!r} as its predictions, which lie in {name}"
            raise DamagedRecord(self._record_path(record.task), reason)
        path = self.file(name)
        if path.exists() and not path.is_file():  # a pipe would never end
            raise DamagedRecord(path, "it is no plain file")
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise DamagedRecord(path, "it is missing, and a record speaks of it") from error
        if hashlib.sha256(content).hexdigest() != record.predictions.get("sha256"):
            raise DamagedRecord(path, "its content does not match the digest in its record")
        return path, content

    def _ordered(self, tasks: Iterable[str]) -> list[str]:
        """The suite's order, then the alphabet's."""
        try:
            planned = list((self.run() or {}).get("tasks", {}))
        except DamagedRecord:
            planned = []
        place = {task: index for index, task in enumerate(planned)}
        return sorted(tasks, key=lambda task: (place.get(task, len(place)), task))


def now() -> str:
    """The time as records write it: UTC to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
