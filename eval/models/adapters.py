"""Adapters of PEFT (LoRA and its kin) on a model's weights: merged into them once these are loaded, strictly.

PEFT itself makes the layers, loads them and merges them; what it passes over with a warning (names that are missing, left
over, or settings of a newer version) is an error here.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from clipeval.configs.errors import ClipevalError
from clipeval.models import hub_cache
from clipeval.models.checkpoint_file import read_checkpoint, tensors_in
from clipeval.models.handle import digest_files
from clipeval.models.no_code import refuse_code
from clipeval.results import safe_json

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SIZES = re.compile(r"size mismatch for (\S+): .*?Size\(\[([\d, ]*)\]\).*?Size\(\[([\d, ]*)\]\)")
EXTRA = "pip install 'clipeval[adapters]'"


class Adapter:
    """`model.adapter`: a folder that PEFT's save_pretrained wrote, or ORG/NAME of the hub.

    Args:
        given: as the config has it.
        cache_root: where digests of files are remembered.

    Raises:
        ClipevalError: there is no such folder, or it holds no adapter.
    """

    def __init__(self, given: str, cache_root: Path) -> None:
        self.given, self._cache = given, cache_root
        folder = Path(given).expanduser()
        self._repository = given if not folder.exists() and _REPOSITORY.fullmatch(given) else None
        self._folder = folder.parent if folder.is_file() else folder
        if self._repository is None and not (self._folder / CONFIG).is_file():
            raise ClipevalError(
                f"model.adapter={given}: there is no {self._folder / CONFIG}; a folder that peft's save_pretrained wrote, "
                "or ORG/NAME of the hub, was expected"
            )
        if self.missing is None:
            _ = self.config

    @property
    def name(self) -> str:
        """For tables."""
        return self._repository or self._folder.resolve().name

    @property
    def _files(self) -> tuple[Path | None, Path | None]:
        """Its config and its weights, where they are on this machine."""
        if self._repository is not None:
            return hub_cache.cached(self._repository, CONFIG), hub_cache.cached_any(self._repository, WEIGHTS)
        here = [self._folder / name for name in WEIGHTS if (self._folder / name).is_file()]
        return self._folder / CONFIG, here[0] if here else None

    @property
    def missing(self) -> str | None:
        """What is not on this machine, in words; None where all is."""
        config, weights = self._files
        if config is None or (weights is None and self._repository is not None):
            return f"the adapter {self.given} is not on this machine"
        return None if weights is not None else f"model.adapter={self.given} holds none of {', '.join(WEIGHTS)}"

    def fetch(self) -> None:
        """Downloads what is missing.

        Raises:
            ClipevalError: it cannot be fetched.
        """
        if self._repository is not None and self.missing is not None:
            hub_cache.download(self._repository, (CONFIG,))
            hub_cache.download(self._repository, WEIGHTS)
        if self.missing is not None:
            raise ClipevalError(self.missing)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The content of its adapter_config.json.

        Raises:
            ClipevalError: it is none, or asks for code.
        """
        path = self._files[0]
        assert path is not None
        try:
            content = safe_json.read(path)
        except (OSError, ValueError) as problem:
            raise ClipevalError(f"{path} cannot be read ({problem})") from None
        if not isinstance(content, dict) or not isinstance(content.get("peft_type"), str):
            raise ClipevalError(f"{path} is no adapter's config: it names no peft_type")
        refuse_code(content, path)
        return content

    @cached_property
    def digest(self) -> str:
        """16 hex digits of its config and weights."""
        if self.missing is not None:
            raise ClipevalError(self.missing)
        return digest_files([path for path in self._files if path is not None], self._cache, {}, names=False)

    @property
    def base(self) -> str | None:
        """The model that it says it was trained on."""
        found = self.config.get("base_model_name_or_path")
        return found if isinstance(found, str) and found else None

    def describe(self) -> dict[str, Any]:
        """For records."""
        if self.missing is not None:
            return {"adapter": {"path": self.given}}
        return {"adapter": {"path": self.given, "digest": self.digest, "type": self.config["peft_type"]}}

    def flags(self, names: Iterable[str | None]) -> list[str]:
        """A flag if it says that it was trained on another model.

        Args:
            names: what the model that it is put on is called.
        """
        if self.missing is not None or self.base is None:
            return []
        known = {_last(name) for name in names if name}
        if _last(self.base) in known:
            return []
        return [
            f"the adapter {self.name} says that it was trained on {self.base}, and it is put on {', '.join(sorted(known))}: on "
            "other weights than its own an adapter means little"
        ]

    def merge_into(self, model: nn.Module) -> nn.Module:
        """The model with the adapter merged into its weights.

        Raises:
            ClipevalError: PEFT is not installed, the adapter is of another base, of a newer PEFT, of a kind that cannot be merged,
                or its weights are not just those of its layers.
        """
        try:
            import peft
        except ImportError:
            raise ClipevalError(f"model.adapter={self.given} needs the package peft: {EXTRA}") from None
        config, weights = self._peft_config(peft), self._files[1]
        assert weights is not None
        shapes = {".".join(path): list(tensor.shape) for path, tensor in tensors_in(read_checkpoint(weights))}
        modules = [name for name, _ in model.named_modules()]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names, which are compared below
                built = peft.PeftModel.from_pretrained(model, str(weights.parent), config=config, local_files_only=True)
            wanted = peft.get_peft_model_state_dict(built, save_embedding_layers=False)
            self._compare(shapes, {name: list(tensor.shape) for name, tensor in wanted.items()}, modules)
            merged: nn.Module = built.merge_and_unload(safe_merge=True)
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, NotImplementedError, OSError) as problem:
            raise ClipevalError(self._misfit(str(problem), modules)) from problem
        return merged

    def _peft_config(self, peft: Any) -> Any:
        """The settings as PEFT has them, every one known to the version that is installed."""
        kind = self.config["peft_type"]
        try:
            chosen = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)]
        except (KeyError, ValueError):
            raise ClipevalError(
                f"model.adapter={self.given} is of type {kind}, which peft {peft.__version__} does not know"
            ) from None
        known = {field.name for field in fields(chosen)}
        unknown = sorted(key for key, value in self.config.items() if key not in known and value not in (None, False))
        if unknown:
            raise ClipevalError(
                f"model.adapter={self.given} has the settings {', '.join(unknown[:5])}, which peft {peft.__version__} does not "
                f"know (it was saved by {self.config.get('peft_version', 'another version')}): update peft"
            )
        config = chosen(**{key: value for key, value in self.config.items() if key in known})
        if config.is_prompt_learning:
            raise ClipevalError(
                f"model.adapter={self.given} is of type {kind}: it changes what a model reads, and cannot be merged into weights"
            )
        config.task_type, config.inference_mode = None, True
        return config

    def _compare(self, given: Mapping[str, Any], wanted: Mapping[str, Any], modules: Sequence[str]) -> None:
        """ClipevalError unless the file holds the very tensors of the adapter's layers."""
        lost = [name for name in wanted if name not in given]
        over = [name for name in given if name not in wanted]
        parts = []
        if lost:
            parts.append(f"{len(lost)} missing (such as {lost[0]!r}{_near(lost[0], over)})")
        if over:
            parts.append(f"{len(over)} left over (such as {over[0]!r}{_near(over[0], [*lost, *modules])})")
        if parts:
            raise ClipevalError(
                f"model.adapter={self.given} does not fit the model{self._trained_on}: weights {'; '.join(parts)}"
            )

    def _misfit(self, problem: str, modules: Sequence[str]) -> str:
        """What PEFT says, in one sentence."""
        targets = self.config.get("target_modules")
        if "arget modules" in problem and ("not found" in problem or "No modules" in problem):
            asked = [targets] if isinstance(targets, str) else list(targets or [])
            ends = sorted({_last(name.replace(".", "/")) for name in modules if name})
            near = [f"{name}{_near(name, ends)}" for name in asked[:5]]
            return (
                f"model.adapter={self.given}{self._trained_on} has layers for the modules {', '.join(map(str, near))}, and the "
                f"model has none of these: it has {', '.join(ends[:12])}"
            )
        sizes = _SIZES.search(problem.replace("\n", " "))
        if sizes:
            name, theirs, ours = sizes.groups()
            return (
                f"model.adapter={self.given} is of another base{self._trained_on}: its {name!r} is [{theirs}], and this model "
                f"needs [{ours}]"
            )
        line = (problem.strip() or "unknown").splitlines()[0][:300]
        return f"model.adapter={self.given}{self._trained_on} cannot be merged into the model: {line}"

    @property
    def _trained_on(self) -> str:
        return f" (trained on {self.base})" if self.base else ""


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _near(name: str, among: Sequence[str]) -> str:
    found = get_close_matches(str(name), among, n=1, cutoff=0.6)
    return f"; nearest: {found[0]!r}" if found else ""
