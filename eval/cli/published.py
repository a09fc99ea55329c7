"""Published scores for `clipeval show`, from the registry of `clipeval.results.published`."""

from __future__ import annotations

from typing import Any, cast

Row = dict[str, Any]


def of_task(key: str) -> list[Row]:
    """What was published of a task by each source and metric, in the registry's order; empty where nothing was.

    Returns:
        `{"source", "metric", "models", "best": {"model", "pretrained", "value"}, "median"}` each.
    """
    from clipeval.results import published

    table = published.rows_of_task(key)
    sources = []
    for group, rows in table.groupby(["source", "metric"], sort=False):
        source, metric = cast(tuple[str, str], group)
        best = rows.sort_values("value", ascending=False, kind="stable").iloc[0]
        sources.append(
            {
                "source": published.source(source).title,
                "metric": metric,
                "models": len(rows),
                "best": {name: best[name] for name in ("model", "pretrained", "value")},
                "median": round(float(rows["value"].median()), 4),
            }
        )
    return sources


def of_model(name: str | None, pretrained: str | None) -> Row | None:
    """What was published of a model, by any of its names; None: nothing.

    Returns:
        `average`, `rank` and `models` of open_clip's table of the 38 sets, where it is in it; `params (M)` and `FLOPs (B)`;
        `sources`: `{"source", "values", "remark", "scores": {task's key: {metric: value}}}` each.
    """
    from clipeval.results import published

    table = published.rows_of_model(name, pretrained)
    if table.empty:
        return None
    facts: Row = {"sources": []}
    for source, rows in table.groupby("source", sort=False):
        scores: dict[str, dict[str, float]] = {}
        for key, metric, value in zip(rows["key"], rows["metric"], rows["value"], strict=True):
            scores.setdefault(key, {})[metric] = float(value)
        remark = str(rows["remark"].iloc[0])
        facts["sources"].append(
            {"source": published.source(str(source)).title, "values": len(rows), "remark": remark, "scores": scores}
        )
    first = table.iloc[0]
    row = published.find(first["model"], first["pretrained"])
    if row is not None:
        averages = published.average(list(published.COLUMNS))
        average = float(averages.loc[cast(int, row.name)])
        facts |= {"average": average, "rank": int((averages > average).sum()) + 1, "models": len(averages)}
        facts |= {size: float(row[size]) for size in ("params (M)", "FLOPs (B)")}
    return facts


def profile(name: str) -> Row:
    """An architecture's sizes, as open_clip measured them: image_size, mparams, gflops, embed_dim; empty where it was not."""
    from clipeval.results import published

    rows = published.profile()
    matching = rows[rows["model"] == name]
    if matching.empty:  # the activation changes no size
        matching = rows[rows["model"] == name.removesuffix("-quickgelu")]
    return {} if matching.empty else {str(key): value for key, value in matching.iloc[0].to_dict().items()}
