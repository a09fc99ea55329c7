"""What libraries log of their own, where it is said here in a sentence."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def errors_only(library: str) -> Iterator[None]:
    """Keeps a library's warnings back while this lasts.

    Args:
        library: the name of its logger, as huggingface_hub.
    """
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
