"""What open_clip's installed files say of architectures and weights, read without importing open_clip, which imports torch."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class Weights:
    """Where a tag's weights come from.

    Attributes:
        hub: the repository on the Hugging Face hub; empty: none.
        filename: the file in it; empty: open_clip's own names.
        url: where else they are published; empty: nowhere.
    """

    hub: str
    filename: str
    url: str

    def describe(self) -> str:
        """The repository, or else the address."""
        return f"https://huggingface.co/{self.hub}" if self.hub else self.url

    def here(self) -> bool:
        """Whether the weights are in the hub's cache, or in open_clip's, of this user."""
        if self.url and (Path.home() / ".cache" / "clip" / self.url.rpartition("/")[2]).is_file():
            return True
        if not self.hub:
            return False
        from huggingface_hub import try_to_load_from_cache

        names = (self.filename,) if self.filename else WEIGHTS
        return any(isinstance(try_to_load_from_cache(self.hub, name), str) for name in names)


def image_size(name: str) -> int | None:
    """The side of an architecture's images in pixels; None where open_clip has no such architecture."""
    path = _package() / "model_configs" / f"{name}.json"
    if not path.is_file():
        return None
    size = json.loads(path.read_text(encoding="utf-8")).get("vision_cfg", {}).get("image_size")
    return size if isinstance(size, int) else None


def weights(name: str, tag: str) -> Weights | None:
    """Where the weights of an architecture's tag come from; None where open_clip's table does not say it in a plain way."""
    tags = _table().get(name) or _table().get(name.removesuffix("-quickgelu"), {})
    candidates = tags.get(tag.lower().replace("-", "_"))
    if candidates is None:
        return None
    owner, repository, filename = [*str(candidates.get("hf_hub") or "").split("/", 2), "", ""][:3]
    return Weights(f"{owner}/{repository}" if repository else "", filename, str(candidates.get("url") or ""))


def _package() -> Path:
    spec = find_spec("open_clip")
    return Path(next(iter(spec.submodule_search_locations or []))) if spec else Path("/nowhere")


@cache
def _table() -> dict[str, dict[str, dict[str, Any]]]:
    """{architecture: {tag: {"url", "hf_hub"}}}, of the literals in open_clip/pretrained.py."""
    path = _package() / "pretrained.py"
    if not path.is_file():
        return {}
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        if node.targets[0].id == "_PRETRAINED" and isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant):
                    table[str(key.value)] = groups.get(value.id, {}) if isinstance(value, ast.Name) else _tags(value)
        else:
            groups[node.targets[0].id] = _tags(node.value)
    return table


def _tags(node: ast.expr) -> dict[str, dict[str, Any]]:
    """The tags of `dict(openai=_pcfg(url=…, hf_hub=…), …)` or `{"openai": _pcfg(…)}`."""
    pairs: list[tuple[str, ast.expr]] = []
    if isinstance(node, ast.Call):
        pairs = [(word.arg, word.value) for word in node.keywords if word.arg]
    elif isinstance(node, ast.Dict):
        pairs = [(str(k.value), v) for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)]
    return {tag.lower(): _config(value) for tag, value in pairs if isinstance(value, ast.Call)}


def _config(call: ast.Call) -> dict[str, Any]:
    names = dict(zip(("url", "hf_hub"), call.args, strict=False))
    names.update({word.arg: word.value for word in call.keywords if word.arg in ("url", "hf_hub")})
    return {name: value.value for name, value in names.items() if isinstance(value, ast.Constant)}
