"""Published scores for `clipeval show`: the one place of the command line that knows where they are kept."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def of_task(key: str) -> Row | None:
    """What was published of a task: `{"metric", "models", "best", "median", "least", "source"}`; None where nothing was."""
    from clipeval.results import published

    if key not in published.COLUMNS:
        return None
    column, metric = published.COLUMNS[key]
    rows = published.table().sort_values(column, ascending=False)
    best = rows.iloc[0]
    return {
        "metric": metric,
        "models": len(rows),
        "best": {"model": best["name"], "pretrained": best["pretrained"], "value": float(best[column])},
        "median": round(float(rows[column].median()), 4),
        "least": float(rows[column].iloc[-1]),
        "source": SOURCE,
    }


def of_model(name: str | None, pretrained: str | None) -> Row | None:
    """What was published of a model, by open_clip's names: its figures and `{"scores": {task's key: score}}`; None: nothing."""
    from clipeval.results import published

    row = published.find(name, pretrained)
    if row is None:
        return None
    averages = published.average(list(published.COLUMNS))
    rows = published.table()
    average = float(averages[(rows["name"] == name) & (rows["pretrained"] == pretrained)].iloc[0])
    return {
        "params (M)": float(row["params (M)"]),
        "FLOPs (B)": float(row["FLOPs (B)"]),
        "average": average,
        "rank": int((averages > average).sum()) + 1,
        "models": len(averages),
        "scores": {key: published.value(row, key) for key in published.COLUMNS},
        "source": SOURCE,
    }


def profile(name: str) -> Row:
    """An architecture's sizes, as open_clip measured them: image_size, mparams, gflops, embed_dim; empty where it was not."""
    from clipeval.results import published

    rows = published.profile()
    found = rows[rows["model"] == name]
    if found.empty:  # the activation changes no size
        found = rows[rows["model"] == name.removesuffix("-quickgelu")]
    return {} if found.empty else {str(key): value for key, value in found.iloc[0].to_dict().items()}


SOURCE = "open_clip's table of 121 models (docs/openclip_results.csv)"
