"""Where the files of a transformers checkpoint are: a folder, or a repository of the hub of which this machine has a copy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.models import hub_cache
from clipeval.models.checkpoint_file import INDEX
from clipeval.models.remote_code import fetch_code, missing_code
from clipeval.results import safe_json

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
SENTENCE_TRANSFORMERS = "0_CLIPModel"
"""Where sentence-transformers keeps the CLIP of its models."""
_WEIGHTS = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", re.ASCII)


class Files:
    """The files of `model.path`.

    Args:
        path: a folder, ORG/NAME, or ORG/NAME@REVISION, a commit, branch or tag of it.
        offline: never ask the network.
        key: of the config, for errors.
        code: whether the Python files that its config names are wanted, too.

    Raises:
        ClipevalError: there is neither such a folder nor such a repository, or its config is not here and cannot be fetched.
    """

    _model = "hf_transformers"
    """The preset that reads them."""

    def __init__(self, path: str, offline: bool = False, key: str = "model.path", code: bool = False):
        self.path, self._key, self._code = path, key, code
        folder = Path(path).expanduser()
        self.repository = path if not folder.exists() and _REPOSITORY.fullmatch(path) else None
        self._within = ""
        if self.repository is None:
            inner = folder / SENTENCE_TRANSFORMERS
            self.folder = inner if not (folder / CONFIG).exists() and (inner / CONFIG).is_file() else folder
            if (folder / ADAPTER).is_file() and not (self.folder / CONFIG).exists():
                raise ClipevalError(
                    f"{key}={path} is an adapter and no model: give it as model.adapter={path}, and the model that it was "
                    "trained on as model.path"
                )
            return
        self.folder = self._here(offline)

    def _here(self, offline: bool) -> Path:
        """The folder of the copy; fetches the small files that say what the model is."""
        assert self.repository is not None
        for within in ("", f"{SENTENCE_TRANSFORMERS}/"):
            found = hub_cache.cached(self.repository, within + CONFIG)
            if found is None and not offline and (found := self._fetched(within + CONFIG)) is not None:
                for name in (*PROCESSORS, ADAPTER, "tokenizer_config.json"):
                    self._fetched(within + name, found.parent.parent.name if within else found.parent.name)
            if found is not None:
                self._within = within
                return found.parent
        if offline:
            raise ClipevalError(f"the {CONFIG} of {self.path} is not on this machine; run `{self.command}`")
        raise ClipevalError(
            f"{self._key}={self.path}: there is no such folder, and the repository of this name on the hub has no {CONFIG}"
        )

    def _fetched(self, name: str, revision: str | None = None) -> Path | None:
        assert self.repository is not None
        try:
            return hub_cache.fetch_one(self.repository, name, revision)
        except ClipevalError as problem:
            cure = (
                f"; where there is a network, run `{self.command}`" if isinstance(problem, hub_cache.OutOfReach) else ""
            )
            raise ClipevalError(f"{self._key}={self.path} is no folder here, and of the hub {problem}{cure}") from None

    @property
    def command(self) -> str:
        """What fetches the rest."""
        return f"clipeval download model={self._model} model.path={self.path}"

    @property
    def weights(self) -> list[Path]:
        """Those on this machine: safetensors before pickles."""
        safe = sorted(self.folder.glob("model*.safetensors"))
        return safe or sorted(self.folder.glob("pytorch_model*.bin"))

    @property
    def missing(self) -> str | None:
        """What is not here, in a sentence."""
        cure = f"; run `{self.command}`" if self.repository else ""
        again = cure or "; copy it there, or save the model anew"
        lacking = [name for name in self._shards() if not (self.folder / name).is_file()]
        if lacking:
            return f"{self.path}: {', '.join(lacking[:3])} of its weights is not on this machine{again}"
        if not self.weights:
            return f"{self._nothing}{cure or f' ({self.folder})'}"
        if not hub_cache.tokenizer_files(str(self.folder)):
            saved = cure or "; save the tokenizer beside the model (tokenizer.save_pretrained)"
            return f"{self.path} holds no tokenizer files{saved}"
        if self._code and (modules := missing_code(self.folder, self._config())):
            return f"{self.path}: the code that its {CONFIG} names, {', '.join(modules)}, is not on this machine{cure}"
        return None

    @property
    def _nothing(self) -> str:
        """That there are no weights."""
        return f"{self.path} holds no model.safetensors or pytorch_model.bin"

    def _config(self) -> dict[str, Any]:
        try:
            content = safe_json.read(self.folder / CONFIG)
        except (OSError, ValueError):
            return {}  # whoever loads it says what is wrong
        return content if isinstance(content, dict) else {}

    def _shards(self) -> Iterator[str]:
        """The names of an index's files; none where the weights are one file."""
        for index in sorted(self.folder.glob(f"*{INDEX}")):
            if (self.folder / index.name.removesuffix(INDEX)).is_file():
                continue
            try:
                names = safe_json.read(index)["weight_map"].values()
            except (OSError, ValueError, KeyError, AttributeError, TypeError):
                return  # whoever loads it says what is wrong
            yield from sorted({str(name) for name in names})
            return

    def fetch(self) -> None:
        """Download what is missing.

        Raises:
            ClipevalError: it cannot be fetched, or a local folder is incomplete.
        """
        if self.repository is not None and self.missing is not None:
            for name in hub_cache.TOKENIZER_FILES:
                self._fetched(self._within + name, self.revision)
            if not self.weights:
                self._fetch_weights()
            for name in self._shards():
                self._fetched(self._within + name, self.revision)
            if self._code:
                fetch_code(
                    self._config(),
                    lambda repository, name: (
                        hub_cache.fetch_one(repository, name)
                        if repository
                        else self._fetched(self._within + name, self.revision)
                    ),
                )
        if self.missing is not None:
            raise ClipevalError(self.missing)

    def _fetch_weights(self) -> None:
        found = (self._fetched(self._within + name, self.revision) for name in _WEIGHTS)
        if next(filter(None, found), None) is None:
            raise ClipevalError(f"{self.path} has none of {', '.join(_WEIGHTS)} on the hub")

    @property
    def revision(self) -> str | None:
        """The commit of the repository's copy; None of a folder."""
        if self.repository is None:
            return None
        return self.folder.parent.name if self._within else self.folder.name
