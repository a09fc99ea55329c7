"""What others published: 121 models of open_clip on DataComp's 38 tasks. Shown beside a run, never in its place."""

from clipeval.results.published.table import COLUMNS, average, find, flops, profile, table, value

__all__ = ["COLUMNS", "average", "find", "flops", "profile", "table", "value"]
