"""A reproducible evaluation harness for CLIP-like models.

from clipeval import evaluate

table = evaluate(model, tokenizer, transform, suite="datacomp", data_root="/data/datacomp")

How a benchmark is run: shards -> images -> embeddings -> scores. Of a clone, the folder `eval` is this package, and `configs`,
`results` and `tasks` are its subpackages of these names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipeval.api import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    """`evaluate`, which brings torch with it, when it is asked for."""
    if name != "evaluate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from clipeval.api import evaluate

    return evaluate
