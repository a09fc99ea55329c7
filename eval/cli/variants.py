"""`clipeval report --languages` and `--prompts`: the tables of one set that was asked in many ways."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipeval.configs.errors import ClipevalError
from clipeval.results.formatting import interval, score

if TYPE_CHECKING:
    import pandas as pd

    from clipeval.results.trust import Trust


def print_languages(paths: Sequence[Path], format: str) -> int:
    """A table for each run and set that was asked in several languages."""
    from clipeval.results.languages import language_tables, openclip_average
    from clipeval.results.runs import load

    runs = load(list(paths))
    found = [(run, language_tables(run)) for run in runs]
    if not any(tables for _, tables in found):
        raise ClipevalError("no set was asked in several languages here; `clipeval run suite=multilingual` asks some.")
    for run, tables in found:
        for table in tables:
            pair = "" if table.interval is None else f" (95% interval {interval(table.interval)})"
            mean = float(table.mean[table.metric])
            title = f"{table.name}: {table.metric} over {len(table.scores)} languages {score(mean)}{pair}"
            _print(table.table(), f"{run.label}: {title}" if len(runs) > 1 else title, format, "language")
        if (average := openclip_average(tables)) is not None:
            sets = "Crossmodal-3600 and multilingual MSCOCO, as open_clip's table has it"
            said = f"mean of all recalls of all languages of {sets}: {average:.4f}"
            print(f"{run.label}: {said}" if len(runs) > 1 else said)
    return 0


def print_prompts(paths: Sequence[Path], format: str, trusted: Trust) -> int:
    """A table for each run and set that was asked with several prompt sets."""
    from clipeval.replay.prompts import prompt_tables

    found = [(path, title, table) for path in paths for title, table in prompt_tables(path, trusted)]
    if not found:
        raise ClipevalError(
            "no set was asked with several prompt sets here; `clipeval run task=imagenet1k prompts=[simple,cupl]` asks with two."
        )
    for path, title, table in found:
        _print(table, f"{path}: {title}" if len(paths) > 1 else title, format, "prompts")
    return 0


def _print(table: pd.DataFrame, title: str, format: str, index: str) -> None:
    if format == "csv":
        print(table.rename_axis(index).to_csv(), end="")
    elif format == "md":
        from clipeval.results.formatting import DASH

        rows = [
            [str(name), *(f"{v:.4f}" if isinstance(v, float) and v == v else DASH if v != v else str(v) for v in row)]
            for name, row in zip(table.index, table.to_numpy(dtype=object), strict=True)
        ]
        lines = [[index, *map(str, table.columns)], ["---"] * (len(table.columns) + 1), *rows]
        print(f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines), end="\n\n")
    elif format == "table":
        print(title)
        print(table.to_string(float_format="{:.4f}".format, na_rep="–"), end="\n\n")
    else:
        raise ClipevalError(f"--format {format}: table, md or csv was expected with --languages and --prompts.")
