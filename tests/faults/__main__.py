"""Every fault, tried and counted:   python -m tests.faults --kills 50   (or: pytest tests/faults)"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import traceback
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.bench import Bench
from tests.faults.cases import CASES, Skipped
from tests.faults.server import Server


def main() -> int:
    """Tries them; status 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="random kills for each of the kill faults")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random moments")
    parser.add_argument("--only", default="", metavar="TEXT", help="only faults whose name contains it")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    console = Console()
    table = Table(
        "fault", "held", "seconds", "how it ended", title=f"faults, {arguments.kills} kills, seed {arguments.seed}"
    )
    failed = 0
    with Server() as server, tempfile.TemporaryDirectory(prefix="faults-") as root:
        bench = Bench(server, Path(root), arguments.kills, arguments.seed)
        for name, try_it in CASES.items():
            if arguments.only not in name:
                continue
            started, held = time.monotonic(), "[green]yes[/green]"
            try:
                how = try_it(bench)
            except Skipped as reason:
                held, how = "skipped", str(reason)
            except AssertionError as problem:
                held, how = "[red]NO[/red]", str(problem) or traceback.format_exc()[-300:]
                failed += 1
            table.add_row(name, held, f"{time.monotonic() - started:.1f}", how.replace("[", "\\["))
            console.print(f"{name}: {how[:150]}", markup=False, highlight=False)
    console.print(table)
    console.print(f"{failed} faults did not hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
