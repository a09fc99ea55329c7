"""What a repository's page says of its licence, of who may read it and of its size: asked of the hub, and kept."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import DatasetInfo, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from rich.filesize import decimal

from clipeval.configs.files import write_atomically
from clipeval.configs.resolvers import user_cache

PATIENCE = 3.0
"""Seconds for the hub's answer; without one, nobody waits for what is only said beside other things."""


def of_page(info: Any) -> str:
    """`licence mit; gated`, of the hub's answer about a repository."""
    card = info.card_data or {}
    said = card.get("license")
    if said == "other":  # then the page names it in words of its own
        said = card.get("license_name") or said
    licence = f"licence {', '.join(said) if isinstance(said, list) else said}" if said else "no licence is stated"
    return f"{licence}; gated" if info.gated else licence


def remember(endpoint: str, repo: str, info: Any) -> None:
    """Keeps what a page said, and the day. That it cannot be written is nobody's concern."""
    # A model's repository holds its weights in several forms; a data set's is what it takes.
    sized = isinstance(info, DatasetInfo) and info.used_storage
    size = f"; {decimal(info.used_storage)} on the hub" if sized else ""
    day = datetime.now(UTC).date().isoformat()
    content = {"endpoint": endpoint, "repo": repo, "terms": of_page(info) + size, "day": day}
    kind = "dataset" if isinstance(info, DatasetInfo) else "model"
    with suppress(OSError):
        write_atomically(_path(endpoint, repo, kind), json.dumps(content).encode())


def known(repo: str, kind: str = "dataset") -> str | None:
    """`licence mit; gated; 6.7 GB on the hub (its page, 2026-11-28)`: as the hub says now, or said; None where it never did.

    Args:
        repo: ORG/NAME.
        kind: dataset or model.
    """
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    if not constants.is_offline_mode():
        # Out of reach, private or no hub at all: what was said stands.
        with suppress(HfHubHTTPError, httpx2.HTTPError, OSError, ValueError, RuntimeError):
            hub = HfApi(endpoint=endpoint)
            ask = hub.model_info if kind == "model" else hub.dataset_info
            remember(endpoint, repo, ask(repo, timeout=PATIENCE))
    try:
        content = json.loads(_path(endpoint, repo, kind).read_bytes())
        return f"{content['terms']} (its page, {content['day']})"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(endpoint: str, repo: str, kind: str) -> Path:
    return Path(user_cache()) / "terms" / f"{sha256(f'{endpoint}/{kind}s/{repo}'.encode()).hexdigest()[:32]}.json"
