"""The row `startup`: what one waits for before and around the work, beside `import torch` and `import open_clip`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from scripts import benchmark_data
from scripts.benchmark_process import clipeval, ran
from scripts.benchmark_rows import Bench, Result

ROUNDS = 3


@dataclass(frozen=True)
class _Command:
    """A command, the status with which it is to end, and the most that it may take of `import torch`."""

    words: list[str]
    share: float
    status: int = 0


def startup(bench: Bench) -> Iterator[Result]:
    """Whole commands, in processes of their own, in rounds with the two imports."""
    model, root = benchmark_data.tiny_checkpoint(bench.cache), benchmark_data.miniature(bench.cache)
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
        words = ["suite=datacomp", f"data.root={root}", "model=open_clip", f"model.name={model}"]
        words += [f"cache.root={folder}/cache"]
        done = [*words, f"out={folder}/run"]
        whole = clipeval(["run", *done], memory=False)
        results = f"{folder}/run/eval_results.jsonl"
        commands = {
            "clipeval run suite=datacmp, a wrong word": _Command(["run", "suite=datacmp"], 0.8, 1),
            "clipeval run tasks.mnist.metrik=acc5, a wrong key": _Command(
                ["run", *done, "tasks.mnist.metrik=acc5"], 0.8, 1
            ),
            "clipeval download suite=datacmp": _Command(["download", "suite=datacmp"], 0.8, 1),
            "clipeval verify of no run": _Command(["verify", f"{folder}/none"], 0.8, 1),
            "clipeval status": _Command(["status", f"{folder}/run"], 0.8),
            "clipeval report": _Command(["report", f"{folder}/run"], 0.8),
            "clipeval plan, all done": _Command(["plan", *done], 1.6),
            "clipeval run, nothing to do": _Command(["run", *done], 1.6),
            "clipeval import of 40 results": _Command(["import", results, f"out={folder}/imported", *words[2:4]], 1.6),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        imports: dict[str, list[float]] = {name: [] for name in ("torch", "open_clip")}
        runs: list[float] = []
        decoding: list[float] = []
        for number in range(min(ROUNDS, bench.repeats)):
            for package, values in imports.items():
                values.append(ran([sys.executable, "-c", f"import {package}"], memory=False).seconds)
            for name, command in commands.items():
                times[name].append(clipeval(command.words, command.status, memory=False).seconds)
            again = clipeval(["run", *words, f"out={folder}/again-{number}", "cache.features=false"], memory=False)
            runs.append(again.seconds)
            decoding.append(again.decoding or again.seconds)
            bench.say(f"  {number + 1}")
        yield Result("startup", "clipeval run, 40 miniature sets, nothing cached", "s", [whole.seconds], at_most=12.0)
        yield Result("startup", "the same, the model's facts cached", "s", runs, at_most=12.0)
        yield _beside("clipeval run: until the first decoder runs", decoding, "open_clip", imports, 1.2)
        for name, values in times.items():
            yield _beside(name, values, "torch", imports, commands[name].share)


def _beside(work: str, values: list[float], package: str, imports: dict[str, list[float]], share: float) -> Result:
    """A result whose target is a share of the time of an import in the same round."""
    theirs = imports[package]
    ratios = [other / value for other, value in zip(theirs, values, strict=True)]
    notes = [f"the other side: `import {package}`; to take at most {share:g} of its time"]
    return Result("startup", work, "s", values, theirs, ratios, target=1 / share, notes=notes)
