"""clipeval against clip_benchmark from PyPI: the same data, the same weights, both sides in one call.

    python scripts/benchmark.py                              # every row, 5 rounds each
    python scripts/benchmark.py --rows decode,retrieval      # some of them
    python scripts/benchmark.py --rows heads --repeats 7

Makes .venv-baseline, or --environment FOLDER (scripts/clip_benchmark_env), and what it measures on; prints the table, and
writes it after each row, with the machine's description, to results/benchmarks/<date>-<machine>.md and .json. Rows measured
later on the same day and machine are added to the same file. Each figure is the median of the rounds, with the least and the
most; a ratio is the median of the rounds' own ratios. Where the target is an amount and no ratio (miniature, retrieval), the
other side runs once. Start-up of Python and its packages is left out of both sides, except in the row `startup`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from clipeval.results.provenance import provenance  # noqa: E402
from scripts import benchmark_rows as rows  # noqa: E402
from scripts.benchmark_feed import feed  # noqa: E402
from scripts.benchmark_gpu import gpu  # noqa: E402
from scripts.benchmark_pixels import pixels  # noqa: E402
from scripts.benchmark_precision import precision  # noqa: E402
from scripts.benchmark_rows import Bench, Result, Size  # noqa: E402
from scripts.benchmark_startup import startup  # noqa: E402
from scripts.benchmark_worker import Side, WorkerDied  # noqa: E402

ROWS: dict[str, Callable[[Bench], Iterator[Result]]] = {
    "heads": rows.heads,
    "decode": rows.decode,
    "pixels": pixels,
    "feed": feed,
    "miniature": rows.miniature,
    "end_to_end": rows.end_to_end,
    "rescore": rows.rescore,
    "retrieval": rows.retrieval,
    "winogavil": rows.winogavil,
    "precision": precision,
    "startup": startup,
    "memory": rows.memory,
    "gpu": gpu,
}


def measure(
    name: str, repeats: int, cache: Path, size: Size, baseline: Path | None, say: Callable[[str], None]
) -> list[Result]:
    """Measures a row; without a baseline (its environment's Python), our side alone."""
    say(name)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        # Processes of the row's own, so that the peak of their memory is too.
        ours = Side(Path(sys.executable), "scripts.benchmark_ours", Path(folder) / "ours.log")
        their = Side(baseline, "scripts.benchmark_theirs", Path(folder) / "theirs.log") if baseline else None
        try:
            for result in ROWS[name](Bench(cache, Path(folder), repeats, size, ours, their, say)):
                results.append(result)
                say(line(result))
        finally:
            ours.close()
            if their is not None:
                their.close()
    return results


def line(result: Result) -> str:
    """A row of the Markdown table."""
    low = f"at least {result.target:.3g}x" if result.target is not None else ""
    reach = f"at most {result.at_most:g} {result.unit}" if result.at_most is not None else low
    met = {True: "yes", False: "**no**", None: ""}[result.met]
    ratio = (
        f"{median(result.ratios):.3g}x ({min(result.ratios):.3g} to {max(result.ratios):.3g})" if result.ratios else ""
    )
    planned_tasks = (
        result.work,
        _figure(result.theirs),
        _figure(result.ours),
        result.unit,
        ratio,
        reach,
        met,
        "; ".join(result.notes),
    )
    return "| " + " | ".join(planned_tasks) + " |"


def _figure(values: Sequence[float] | None) -> str:
    if not values:
        return ""
    middle = f"{median(values):,.3g}" if median(values) < 1000 else f"{median(values):,.0f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.3g} to {max(values):,.3g})"


def write(folder: Path, measured: Sequence[Result], about: dict[str, Any]) -> Path:
    """Adds results to the day's file: rows measured again replace those that stand."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = re.sub(r"[^a-z0-9]+", "-", str(about["hardware"]["cpu"]).lower()).strip("-")[:40]
    path = folder / f"{about['created'][:10]}-{machine}-{about['hardware']['cores']}-cores.json"
    before = json.loads(path.read_text())["results"] if path.exists() else []
    again = {result.row for result in measured}
    fresh = [{**asdict(r), "met": r.met, "about": about} for r in measured]
    order = list(ROWS)
    results = sorted([r for r in before if r["row"] not in again] + fresh, key=lambda r: order.index(r["row"]))
    path.write_text(json.dumps({"schema": 1, "results": results}, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(results))
    return path.with_suffix(".md")


def page(results: Sequence[dict[str, Any]]) -> str:
    """The Markdown page of all results of a file."""
    about = results[-1]["about"]
    hardware, packages = about["hardware"], about["packages"]
    names = ("torch", "torchvision", "open_clip_torch", "numpy", "pillow")
    parts = [
        f"# {about['created'][:10]}: {hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB",
        f"Python {about['python']}, {', '.join(f'{n} {packages[n]}' for n in names if n in packages)}; there: {about['baseline']}.",
        "Median (least to most) of the rounds; a ratio is the median of the rounds' own. Commands, commits and load at the time:",
        "\n".join(
            f"- `{w['command']}`: {', '.join(dict.fromkeys(r['row'] for r in results if r['about'] == w))}"
            f" (commit {str(w['code']['commit'])[:10]}{', dirty' if w['code']['dirty'] else ''}; load {w['load']})"
            for w in _distinct([r["about"] for r in results])
        ),
        "\n".join(
            [
                "| work | there | clipeval | unit | ratio | to reach | reached | notes |",
                "|---|---|---|---|---|---|---|---|",
                *(line(Result(**{k: v for k, v in r.items() if k not in ("met", "about")})) for r in results),
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _distinct(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for place, item in enumerate(items) if item not in items[:place]]


def _install(environment: Path) -> str:
    """Sees that clip_benchmark is there, with the packages of this very Python; what it is, in words."""
    command = [ROOT / "scripts" / "clip_benchmark_env", environment.resolve()]
    variables = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=variables).stdout.strip()


def main(words: Sequence[str] | None = None) -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--repeats", type=int, default=5, help="rounds a row")
    parser.add_argument("--images", type=int, help="photographs in the shard of rescore")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "benchmark", help="what is measured on")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "benchmarks")
    parser.add_argument(
        "--environment", type=Path, default=ROOT / ".venv-baseline", help="where clip_benchmark is installed"
    )
    parser.add_argument("--no-baseline", action="store_true", help="our side alone; what needs both is left out")
    arguments = parser.parse_args(words)
    names = [name for name in arguments.rows.split(",") if name]
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        parser.error(f"unknown row {unknown[0]!r}; there are {', '.join(ROWS)}")
    baseline = "none"
    if not arguments.no_baseline:
        try:
            baseline = _install(arguments.environment)
        except subprocess.CalledProcessError as problem:  # which has said why
            print(f"benchmark: {problem.cmd[0]} ended with status {problem.returncode}", file=sys.stderr)
            return 1
    size = Size() if arguments.images is None else replace(Size(), images=arguments.images)
    about = {
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": " ".join(["python scripts/benchmark.py", *(sys.argv[1:] if words is None else words)]),
        "baseline": baseline,
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
        **{k: v for k, v in provenance().items() if k != "hostname"},
    }
    python = None if arguments.no_baseline else arguments.environment / "bin" / "python"
    results: list[Result] = []
    for name in names:
        try:
            results += measure(name, arguments.repeats, arguments.cache, size, python, print)
        except WorkerDied as problem:
            print(f"benchmark: {problem}", file=sys.stderr)
            return 1
        if results:  # no row, where a GPU is asked for and there is none
            print(write(arguments.output, results, about), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
