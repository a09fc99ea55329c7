"""Results as DataFrames: `clipeval.load("runs/ViT-B-32__openai")`.

    results = clipeval.load("runs/a", "runs/b")
    results.metrics                 # a row for each run, task and metric
    results.table()                 # the main metric of each task, a column a run
    results.predictions("mnist")    # a row a sample

It reads records and predictions alone, and imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.results.runs import Run, long_rows
from clipeval.results.runs import load as load_runs


class Results:
    """What one or several runs found; made by `load`.

    Attributes:
        runs: the runs, in the order given.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = tuple(runs)

    @property
    def labels(self) -> list[str]:
        """The runs' names, each another one."""
        return [run.label for run in self.runs]

    @cached_property
    def tasks(self) -> pd.DataFrame:
        """A row for each run and task, recorded or not, in the report's order.

        Columns: run, slug, model, pretrained, group, task, key, name, protocol, metric, value, low and high (95% interval),
        chance, corrected, samples, classes, flags, notes, status (done, missing, skipped, damaged).
        """
        numbers = dict.fromkeys(("value", "low", "high", "chance", "corrected"), "float64")
        rows = [row for mine in long_rows(self.runs) for row in mine]
        return pd.DataFrame(rows).astype({**numbers, "samples": "Int64", "classes": "Int64"})

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row for each run, task and metric of its record: run, task, name, metric, value, low, high, main, samples.

        `main` is true for the metric that the task's average counts. `value` is NaN where the metric is undefined.
        """
        rows = []
        for run in self.runs:
            for task, record in run.records.items():
                for metric, value in record.metrics.items():
                    low, high = record.intervals.get(metric) or (None, None)
                    main = metric == record.metric
                    rows.append((run.label, task, record.name, metric, value, low, high, main, record.samples))
        columns = ["run", "task", "name", "metric", "value", "low", "high", "main", "samples"]
        numbers = dict.fromkeys(("value", "low", "high"), "float64")
        return pd.DataFrame(rows, columns=columns).astype({**numbers, "main": bool, "samples": "Int64"})

    def table(self) -> pd.DataFrame:
        """Each task's main metric, a row a task and a column a run; NaN where a run has none."""
        wide = self.tasks.pivot(index="task", columns="run", values="value")
        return wide.loc[self.tasks["task"].unique(), self.labels]

    def predictions(self, task: str) -> pd.DataFrame:
        """The stored predictions of a task: a row a sample, as its protocol writes them.

        Of several runs, stacked, with the run's name in a column `run` before the others.

        Raises:
            ClipevalError: no run has such a task, or its file is not what the record says.
        """
        tables = {}
        for run in self.runs:
            record = run.records.get(task)
            if record is not None:
                tables[run.label] = run.folder.predictions(record)
        if not tables:
            known = dict.fromkeys(task for run in self.runs for task in run.records)
            raise ClipevalError(nearest("recorded task", task, known))
        if len(self.runs) == 1:
            return next(iter(tables.values()))
        return pd.concat(tables, names=["run"]).reset_index(level="run").reset_index(drop=True)

    def __repr__(self) -> str:
        from clipeval.results import render_terminal, sheet

        return render_terminal.render(sheet.build(self.runs)).rstrip("\n")

    def _repr_html_(self) -> str:
        """The report's table, for a notebook."""
        from markdown_it import MarkdownIt

        from clipeval.results import render_markdown, sheet

        # The Markdown escapes what runs bring along; the HTML in it is its own <sup>.
        return str(MarkdownIt("commonmark").enable("table").render(render_markdown.render(sheet.build(self.runs))))


def load(*runs: str | Path) -> Results:
    """Reads one or several run folders.

    Args:
        runs: folders that `clipeval run` or `clipeval import` wrote, or addresses, such as s3://bucket/run, where they keep them.

    Returns:
        Their metrics and predictions as DataFrames; in a notebook it shows itself as the report's table.

    Raises:
        ClipevalError: no folder is given, or one of them is no run folder; the nearest is named.
    """
    return Results(load_runs(runs))
