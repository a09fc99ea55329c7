"""Every data fault, tried and printed:   python -m tests.data_faults [--only TEXT]   (or: pytest tests/data_faults)"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.data_faults.bench import all_cases, try_case


def main() -> int:
    """Tries them; status 1 if one does not come out as it must."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose name contains it")
    arguments = parser.parse_args()
    console, wrong, count, started = Console(), 0, 0, time.monotonic()
    table = Table("input", "right", "what came of it", title="data faults")
    with tempfile.TemporaryDirectory(prefix="data-faults-") as root:
        for number, case in enumerate(all_cases()):
            if arguments.only not in case.name:
                continue
            count += 1
            try:
                right, how = "[green]yes[/green]", try_case(case, Path(root, str(number)))
            except Exception as problem:  # noqa: BLE001  (what the command line would show as a traceback is wrong, too)
                wrong, right = wrong + 1, "[red]NO[/red]"
                how = str(problem) if isinstance(problem, AssertionError) else traceback.format_exc()[-400:]
            table.add_row(case.name, right, how.replace("[", "\\["))
    console.print(table)
    console.print(f"{count - wrong} of {count} inputs came out as they must, in {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
