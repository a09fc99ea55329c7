"""A reproducible evaluation harness for CLIP-like models.

from clipeval import evaluate, load

table = evaluate(model, tokenizer, transform, suite="datacomp", data_root="/data/datacomp")
results = load("runs/ViT-B-32__openai")   # .metrics and .predictions(task), as DataFrames

How a benchmark is run: shards -> images -> embeddings -> scores. Of a clone, the folder `eval` is this package, and `configs`,
`results` and `tasks` are its subpackages of these names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipeval.api import evaluate
    from clipeval.results.loaded import Results, load

    __version__: str

__all__ = ["Results", "__version__", "evaluate", "load"]


def __getattr__(name: str) -> Any:
    """What is public, when it is asked for: `evaluate` brings torch with it, `load` pandas."""
    if name == "evaluate":
        from clipeval.api import evaluate

        return evaluate
    if name in ("load", "Results"):
        from clipeval.results import loaded

        return getattr(loaded, name)
    if name == "__version__":
        from importlib import metadata

        return metadata.version("clipeval")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
