"""Where a checkpoint is: a file of this machine, a file of a hub repository, or one at an address (s3://…) that is fetched once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipeval.configs.addresses import is_address, shown
from clipeval.configs.errors import ClipevalError
from clipeval.data import addresses
from clipeval.models import hub_cache
from clipeval.models.checkpoint_file import checkpoint_in

_HF = re.compile(r"hf://(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<file>.+))?")


@dataclass(frozen=True)
class WeightFiles:
    """A checkpoint that may have to be fetched. One of `file`, `repository` and `address` is set.

    Attributes:
        file: on this machine.
        repository: of the hub.
        names: the file's names in the repository that are looked for, best first.
        revision: of the repository; None: main.
        address: as fsspec takes it.
        cache: `cache.root`, where the copy of an address lies.
        published: whether others published it, as weights alone.
    """

    file: Path | None = None
    repository: str | None = None
    names: tuple[str, ...] = hub_cache.WEIGHTS
    revision: str | None = None
    address: str | None = None
    cache: Path = Path()
    published: bool = False

    @property
    def path(self) -> Path | None:
        """The file on this machine; None where it must be fetched."""
        if self.address is not None:
            return addresses.cached(self.address, self.cache)
        if self.repository is not None:
            return hub_cache.cached_any(self.repository, self.names, self.revision)
        return self.file

    @property
    def on_demand(self) -> bool:
        """Whether a run fetches it by itself: its address says where from, and there is nothing to choose."""
        return self.address is not None

    def fetch(self) -> None:
        """Downloads what is not here.

        Raises:
            ClipevalError: it cannot be fetched, and why.
        """
        if self.path is not None:
            return
        if self.address is not None:
            addresses.fetch(self.address, self.cache)
        elif self.repository is not None:
            hub_cache.download(self.repository, self.names, self.revision)

    def describe(self) -> dict[str, Any]:
        """For records: where a copy is from, and its sha256."""
        return {} if self.address is None else {"fetched": addresses.origin(self.address, self.cache)}

    @property
    def label(self) -> str:
        """A short name, for messages and tables."""
        if self.file is not None:
            return self.file.name
        return shown(self.address) if self.address else f"{self.repository}/{self.names[0]}"


def located(key: str, given: str, cache: Path) -> WeightFiles | None:
    """The checkpoint that a config's text names by a path or an address; None where it is neither.

    Args:
        key: of the config, for errors: `model.pretrained`.
        given: hf://ORG/NAME/FILE, an address of fsspec, a file or a folder with one.
        cache: `cache.root`.

    Raises:
        ClipevalError: a folder holds no checkpoint or several, or an address names no file.
    """
    if given.lower().startswith("hf://"):
        named: Mapping[str, Any] = (match.groupdict() if (match := _HF.fullmatch(given)) else {}) or {}
        if not named.get("file"):
            hint = f"; all of a repository in open_clip's form is hf-hub:{given[5:]}" if named else ""
            raise ClipevalError(f"{key}={given}: hf://ORG/NAME/FILE was expected, a file of a repository{hint}")
        return WeightFiles(repository=named["repository"], names=(named["file"],), revision=named["revision"])
    if is_address(given):
        return WeightFiles(address=given, cache=cache)
    if Path(given).expanduser().exists():
        return WeightFiles(file=checkpoint_in(Path(given).expanduser()))
    return None
