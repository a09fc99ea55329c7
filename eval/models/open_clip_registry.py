"""What open_clip knows of architectures and published weights. It is imported where nobody has asked the same before."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.models.facts import Facts, package_stamp
from clipeval.models.handle import digest_files
from clipeval.models.hub_cache import WEIGHTS
from clipeval.models.no_code import refuse_code
from clipeval.results import safe_json


class Registry:
    """open_clip's registry, as one model needs it; see `clipeval.models.facts`.

    Args:
        cache_root: where answers are remembered.
        config_dir: a folder of one's own architecture files, which come before open_clip's.
        about: which model it is, so that each has a file of its own.

    Raises:
        ClipevalError: the folder has no architecture file.
    """

    def __init__(self, cache_root: Path, config_dir: str | None, about: Mapping[str, Any]) -> None:
        self._config_dir = None if config_dir is None else Path(config_dir).expanduser()
        if self._config_dir is not None and not (self._config_dir.is_dir() and any(self._config_dir.glob("*.json"))):
            raise ClipevalError(
                f"model.config_dir={config_dir} is no folder with open_clip architecture files (*.json)"
            )
        self._facts = Facts(cache_root, self._what_they_depend_on(cache_root, about))

    def _what_they_depend_on(self, cache_root: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
        # Once imported, it answers at once; and who imported it may have registered architectures of his own.
        stamp = None if "open_clip" in sys.modules else package_stamp("open_clip")
        if stamp is None:
            return None
        own = [] if self._config_dir is None else sorted(self._config_dir.glob("*.json"))
        return {**about, "open_clip": stamp, "config_dir": digest_files(own, cache_root, {})}

    def architecture(self, name: str) -> dict[str, Any] | None:
        """`model_cfg` of an architecture; None where there is none of that name."""
        found: dict[str, Any] | None = self._facts.ask(f"architecture {name}", lambda: self._architecture(name))
        return found

    def _architecture(self, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._open_clip().get_model_config(name) if name in self.names() else None
        return found

    def pretrained(self, name: str, tag: str) -> dict[str, Any]:
        """`preprocess_cfg`, and where the weights lie, of a tag; empty where there is none of that name."""
        found: dict[str, Any] = self._facts.ask(
            f"pretrained {name} {tag}", lambda: self._open_clip().get_pretrained_cfg(name, tag)
        )
        return found

    def vocabulary(self) -> Path:
        """The file of open_clip's own tokenizer."""

        def ask() -> str:
            self._open_clip()
            from open_clip.tokenizer import default_bpe

            return str(default_bpe())

        return Path(self._facts.ask("vocabulary", ask))

    def checkpoint_in(self, folder: Path) -> Path | None:
        """Which file of a folder open_clip would load; None if there is none."""
        listed = sorted(p.name for suffix in ("safetensors", "bin", "pth") for p in folder.glob(f"*.{suffix}"))

        def ask() -> str | None:
            found = self._open_clip().factory._find_checkpoint_in_dir(folder)
            return None if found is None else Path(found).name

        # Of any other name open_clip says on the log that it had to choose: it is asked, and says it, each time.
        found = self._facts.ask(f"checkpoint among {listed}", ask, keep=lambda name: name in (None, *WEIGHTS))
        return None if found is None else folder / found

    def names(self) -> list[str]:
        """Of every architecture. Imports open_clip."""
        found: list[str] = self._open_clip().list_models()
        return found

    def tags(self, name: str) -> list[str]:
        """Published weights of an architecture. Imports open_clip."""
        found: list[str] = self._open_clip().list_pretrained_tags_by_model(name)
        return found

    def _open_clip(self) -> Any:
        import open_clip

        if self._config_dir is not None and self._config_dir not in open_clip.factory._MODEL_CONFIG_PATHS:
            open_clip.add_model_config(self._config_dir)
        return open_clip


def exported_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`model_cfg` and `preprocess_cfg` of an open_clip_config.json.

    Raises:
        ClipevalError: it is none, or asks for code.
    """
    try:
        content = safe_json.read(path)
        model: dict[str, Any] = content["model_cfg"]
        preprocess = content.get("preprocess_cfg") or {}
        if not all(isinstance(part, dict) for part in (model, model["vision_cfg"], model["text_cfg"], preprocess)):
            raise TypeError("model_cfg, vision_cfg, text_cfg and preprocess_cfg are objects")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClipevalError(f"{path} is no open_clip config with a `model_cfg`: {error!r}") from None
    refuse_code(content, path)
    return model, dict(preprocess)
