"""What others published, shown beside a run and never in its place.

`registry` holds every value of every source, `names` finds a model by any of its names, `table` is open_clip's table of the 38
sets.
"""

from clipeval.results.published.names import has_own_weights, namesake, of_record, published_names
from clipeval.results.published.registry import rows, rows_of_model, rows_of_task, source, sources
from clipeval.results.published.table import COLUMNS, average, find, flops, profile, table, value

__all__ = [
    "COLUMNS",
    "average",
    "find",
    "flops",
    "has_own_weights",
    "namesake",
    "of_record",
    "profile",
    "published_names",
    "rows",
    "rows_of_model",
    "rows_of_task",
    "source",
    "sources",
    "table",
    "value",
]
