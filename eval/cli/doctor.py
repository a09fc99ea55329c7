"""`clipeval doctor`: what of this machine and installation clipeval would stumble over, each with what to do about it.

Its output is what a bug report should hold: it names no token, and asks no network.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from clipeval.cluster.slurm import ask

GOOD, NOTE, BAD = "ok", "note", "problem"
LEAST_DISK = 5 * 10**9
"""Bytes: less than that and the cache of a large suite or a model's weights may not fit."""
TIMEOUT = 20.0
MARKS = {GOOD: ("ok", "green"), NOTE: ("note", "yellow"), BAD: ("PROBLEM", "bold red")}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        state: ok; note: something that not everybody needs is missing; problem: runs will fail or be wrong.
        value: what was seen.
        fix: what to do; empty where nothing is to be done.
    """

    name: str
    state: str
    value: str
    fix: str = ""


def add_doctor(commands: Any) -> None:
    """Adds `doctor` to the command line."""
    text = "check Python, packages, devices, Java, Slurm, disks, cache, hub token and CPU quota; status 1 for a problem"
    sub = commands.add_parser("doctor", help=text, description=text)
    sub.add_argument("--json", action="store_true", help="in place of the table, a list of checks as JSON")
    sub.set_defaults(command=_doctor, overrides=False)


def _doctor(arguments: argparse.Namespace, rest: list[str]) -> int:
    results = checks()
    if arguments.json:
        from clipeval.cli.terminal import print_json

        print_json([asdict(check) for check in results])
    else:
        _print(results)
    return 1 if any(check.state == BAD for check in results) else 0


def _print(results: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    for check in results:
        word, style = MARKS[check.state]
        text = Text(check.value)
        if check.fix:
            text.append(f"\n-> {check.fix}", style="yellow" if check.state == NOTE else "bold red")
        table.add_row(check.name, Text(word, style=style), text)
    Console(highlight=False).print(table)
    problems = sum(check.state == BAD for check in results)
    notes = sum(check.state == NOTE for check in results)
    print(f"{len(results)} checks: {problems} problems, {notes} notes")


def checks() -> list[Check]:
    """All checks, in the order they are printed. One that fails in an unforeseen way says so, and the others go on."""
    results: list[Check] = []
    parts = (
        _code,
        _python,
        _packages,
        _torch,
        _driver,
        _cores,
        _memory,
        _files,
        _java,
        _slurm,
        _disks,
        _data,
        _hub,
        _text,
    )
    for part in parts:
        try:
            results += part()
        except Exception as problem:  # noqa: BLE001  (a doctor that dies of what it should report helps nobody)
            results.append(
                Check(part.__name__.strip("_"), BAD, f"{type(problem).__name__}: {problem}", "report this to clipeval")
            )
    return results


def _code() -> Iterator[Check]:
    from clipeval.results.provenance import code

    code_state = code()
    commit = (
        f", commit {code_state['commit'][:12]}{' and changes' if code_state['dirty'] else ''}"
        if code_state["commit"]
        else ""
    )
    yield Check("clipeval", GOOD, f"{code_state['version']}{commit}, in {Path(__file__).resolve().parents[1]}")


def _python() -> Iterator[Check]:
    yield Check("Python", GOOD, f"{platform.python_version()}, {sys.executable}, {platform.platform()}")


def _packages() -> Iterator[Check]:
    """Every requirement of the installed clipeval, and whether what is installed meets it."""
    from packaging.requirements import Requirement

    wrong: list[str] = []
    right: list[str] = []
    absent: dict[str, list[str]] = {}
    for text in metadata.requires("clipeval") or []:
        requirement = Requirement(text)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", text)
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            if extra is None:
                wrong.append(f"{requirement.name} is not installed")
            elif extra[1] != "test":
                absent.setdefault(extra[1], []).append(requirement.name)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version}, and {requirement.specifier} is needed")
        elif extra is None:
            right.append(f"{requirement.name} {version}")
    if wrong:
        yield Check("packages", BAD, "; ".join(wrong), "pip install --upgrade clipeval")
    else:
        yield Check("packages", GOOD, ", ".join(right))
    for extra_name, names in absent.items():
        yield Check(
            f"extra {extra_name}", NOTE, f"{', '.join(names)} not installed", f"pip install 'clipeval[{extra_name}]'"
        )


def _torch() -> Iterator[Check]:
    import torch

    build = (
        f"torch {torch.__version__}, {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'no CUDA in this build'}"
    )
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            name = torch.cuda.get_device_name(i)
            yield Check(f"cuda:{i}", GOOD, f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free; {build}")
    elif torch.backends.mps.is_available():
        yield Check("mps", GOOD, f"Apple GPU; {build}")
    else:
        yield Check("device", GOOD if not shutil.which("nvidia-smi") else NOTE, f"the CPU alone; {build}")


def _driver() -> Iterator[Check]:
    """NVIDIA's driver: what torch cannot use although it is there."""
    if shutil.which("nvidia-smi") is None:
        return
    answer = ask("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", timeout=TIMEOUT)
    if answer is None:
        yield Check(
            "driver", BAD, "nvidia-smi fails", "load the NVIDIA driver, or reboot after its update; see `nvidia-smi`"
        )
        return
    import torch

    gpus = "; ".join(line.strip() for line in answer.splitlines() if line.strip())
    if torch.cuda.is_available():
        yield Check("driver", GOOD, gpus)
    elif torch.version.cuda is None:
        yield Check(
            "driver",
            BAD,
            f"{gpus}, which this torch cannot use",
            "install a CUDA build of torch, as pytorch.org's selector says",
        )
    else:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        fix = (
            f"CUDA_VISIBLE_DEVICES={hidden!r} may hide them; unset it"
            if hidden is not None
            else f"update the driver to one for CUDA {torch.version.cuda}, or install a torch built for an older CUDA"
        )
        yield Check("driver", BAD, f"{gpus}, which torch cannot open", fix)


def _cores() -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    value = f"{cores} cores may be used" + (f", a quota of {quota:.1f}" if quota is not None else ", no quota")
    if quota is not None and quota < cores - 0.5:
        fix = (
            f"the container or job grants the time of {quota:.1f} cores: set runtime.workers={max(1, round(quota))} and "
            f"OMP_NUM_THREADS={max(1, round(quota))}, or ask for more"
        )
        yield Check("CPU", NOTE, value, fix)
    else:
        yield Check("CPU", GOOD, value)


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores' worth of time that the control groups grant, the least of all levels; None where there is no limit."""
    return min((quota for place in _groups("cpu", root, proc) for quota in _quota_of(place)), default=None)


def _groups(controller: str, root: Path, proc: Path) -> Iterator[Path]:
    """The folders of this process's control groups, those above them included, of cgroup 1 and 2."""
    for line in _lines(proc):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controller if controllers else root
        inner = base / path.strip("/")
        yield from (place for place in (inner, *inner.parents) if place == base or base in place.parents)


def _quota_of(place: Path) -> Iterator[float]:
    for line in _lines(place / "cpu.max"):  # cgroup 2: "200000 100000" or "max 100000"
        quota, _, period = line.partition(" ")
        if quota.isdigit():
            yield int(quota) / int(period or 100000)
    quotas, periods = _lines(place / "cpu.cfs_quota_us"), _lines(place / "cpu.cfs_period_us")
    if quotas and periods and int(quotas[0]) > 0:  # cgroup 1: -1 is no limit
        yield int(quotas[0]) / int(periods[0])


def memory_limit(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes that the control groups grant, the least of all levels; None where there is no limit."""
    names = ("memory.max", "memory.limit_in_bytes")
    lines = [line for place in _groups("memory", root, proc) for name in names for line in _lines(place / name)]
    return min((int(line) for line in lines if line.isdigit()), default=None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().split("\n")[:-1]
    except OSError:
        return []


def _memory() -> Iterator[Check]:
    from rich.filesize import decimal

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = min(total, memory_limit() or total)
    value = decimal(most) + (f" (a limit; the machine has {decimal(total)})" if most < total else "")
    if most < 4 * 10**9:
        yield Check(
            "memory", NOTE, value, "large models and suites need more: a smaller runtime.batch_size, or another machine"
        )
    else:
        yield Check("memory", GOOD, value)


def _files() -> Iterator[Check]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < 512:
        yield Check("open files", NOTE, f"at most {soft}", f"ulimit -n {min(hard, 4096) if hard > 0 else 4096}")
    else:
        yield Check("open files", GOOD, f"at most {soft}" if soft >= 0 else "no limit")


def _java() -> Iterator[Check]:
    if shutil.which("java") is None:
        yield Check(
            "Java",
            NOTE,
            "not on PATH; protocol=captioning needs it",
            "install one, such as Debian's default-jre-headless",
        )
        return
    done = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    said = (done.stderr or done.stdout).strip().splitlines() or [""]
    if done.returncode:
        yield Check("Java", NOTE, said[0], "repair it, or install another: `java -version` fails")
    else:
        yield Check("Java", GOOD, said[0])


def _slurm() -> Iterator[Check]:
    missing = [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]
    if len(missing) == 3:
        yield Check(
            "Slurm", NOTE, "not on PATH", "none is needed here; elsewhere use --share I/N, or log in to a Slurm node"
        )
        return
    if missing:
        yield Check("Slurm", BAD, f"{', '.join(missing)} not on PATH", "load the cluster's Slurm module")
        return
    version = (ask("sbatch", "--version", timeout=TIMEOUT) or "its version cannot be read").strip()
    if ask("squeue", "--noheader", "--format=%i", timeout=TIMEOUT) is None:
        yield Check("Slurm", NOTE, f"{version}; squeue gets no answer", "see that slurmctld runs: `scontrol ping`")
    else:
        yield Check("Slurm", GOOD, version)


def _disks() -> Iterator[Check]:
    from clipeval.configs.resolvers import user_cache

    yield _disk(
        "cache",
        Path(user_cache()),
        "set CLIPEVAL_CACHE to a folder on another disk",
        "clipeval cache prune --keep 10GB",
    )
    yield _disk(
        "runs", Path("runs"), "work in another folder, or set out=FOLDER", "make room, or set out= to another disk"
    )


def _disk(name: str, folder: Path, elsewhere: str, full: str) -> Check:
    from rich.filesize import decimal

    folder = folder.expanduser().absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Check(name, BAD, f"{folder} cannot be written", elsewhere)
    free = shutil.disk_usage(there).free
    value = f"{folder}, {decimal(free)} free"
    return Check(name, NOTE, value, f"{full}; or {elsewhere}") if free < LEAST_DISK else Check(name, GOOD, value)


def _data() -> Iterator[Check]:
    root = os.environ.get("CLIPEVAL_DATA")
    if not root:
        yield Check(
            "data", NOTE, "CLIPEVAL_DATA is not set", "set it to your data.root, or write data.root=… each time"
        )
    elif "://" in root:
        from clipeval.configs.addresses import shown

        yield Check("data", NOTE, f"{shown(root)}, where runs read sets", "`clipeval plan` says whether they are there")
    elif not Path(root).expanduser().is_dir():
        yield Check(
            "data", BAD, f"CLIPEVAL_DATA={root} is no folder", "make it, or set CLIPEVAL_DATA to the one that is meant"
        )
    else:
        from rich.filesize import decimal

        folder = Path(root).expanduser()
        sets = sum(1 for path in folder.iterdir() if path.is_dir())
        yield Check("data", GOOD, f"{folder}, {sets} folders, {decimal(shutil.disk_usage(folder).free)} free")


def _hub() -> Iterator[Check]:
    from huggingface_hub import constants, get_token

    location = f"{constants.ENDPOINT}, cache {constants.HF_HUB_CACHE}"
    if constants.HF_HUB_OFFLINE:
        yield Check(
            "hub", NOTE, f"HF_HUB_OFFLINE is set; {location}", "unset it to download; runs on what is here need nothing"
        )
    elif get_token() is None:
        fix = "sets that ask for an agreement need one: make it at huggingface.co/settings/tokens and set HF_TOKEN"
        yield Check("hub", NOTE, f"no token; {location}", fix)
    else:
        yield Check("hub", GOOD, f"a token is set; {location}")


def _text() -> Iterator[Check]:
    encoding = (sys.stdout.encoding or "").lower()
    if not encoding.startswith("utf"):
        yield Check(
            "terminal", NOTE, f"{encoding or 'no encoding'}: signs are spelled in ASCII", "export LC_ALL=C.UTF-8"
        )
    else:
        width = shutil.get_terminal_size().columns
        yield Check(
            "terminal", GOOD, f"{encoding}, {width} columns" + (", NO_COLOR" if os.environ.get("NO_COLOR") else "")
        )
