"""CLIP and SigLIP checkpoints in the layout of Hugging Face transformers: a folder with config.json."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from clipeval.configs.errors import ClipevalError
from clipeval.configs.naming import slug_of
from clipeval.models import hub_cache
from clipeval.models.checkpoint_file import INDEX, checkpoint_in
from clipeval.models.encoder import Encoder
from clipeval.models.facts import Facts, package_stamp
from clipeval.models.handle import ModelHandle, digest_files, digest_of, path_mark
from clipeval.models.no_code import refuse_code
from clipeval.preprocess.transforms import CustomTransform, Transform, from_open_clip
from clipeval.results import safe_json

_MODELS = {"clip": "CLIPModel", "siglip": "SiglipModel"}
"""Of the types that transformers knows, those whose towers take plain images and tokens. (SigLIP 2 checkpoints of a fixed
resolution are of type siglip.)"""
_OTHER_CONFIGS = ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
_INTERPOLATION = {2: "bilinear", 3: "bicubic"}


class HuggingFace(ModelHandle):
    """`model=hf_transformers model.path=FOLDER`: what `save_pretrained` of a model and its processor wrote.

    The image processor becomes a `Preprocess` if it resizes and crops as open_clip does: the shorter side and a centre
    crop, or both sides. Pillow then resizes, as the processors did when the published checkpoints were scored; the fast
    processors of transformers 5 use torchvision, whose pixels differ by a few of 255. Any other processor runs as it is.

    >>> HuggingFace("clip-vit-base-patch32", cache_root=cache)
    """

    def __init__(
        self,
        path: str,
        *,
        cache_root: Path,
        name: str | None = None,
        pretrained: str | None = None,
        slug: str | None = None,
    ):
        self._folder, self._cache = Path(path).expanduser(), cache_root
        self.name, self.pretrained, self.flags = name or self._folder.name, pretrained, []
        self.slug = slug_of(slug) if slug else slug_of(f"{self.name}-{path_mark(self._folder)}")
        config = self._folder / "config.json"
        try:
            self._config: dict[str, Any] = safe_json.read(config)
        except (OSError, ValueError) as error:
            raise ClipevalError(
                f"model.path={path}: {config} cannot be read ({type(error).__name__});"
                " expected a folder that transformers' save_pretrained wrote"
            ) from None
        if not isinstance(self._config, dict):
            raise ClipevalError(f"{config} holds a {type(self._config).__name__}, and an object was expected")
        for name in ("config.json", *_OTHER_CONFIGS):
            self._check(self._folder / name)
        self._type = str(self._config.get("model_type"))
        if self._type not in _MODELS:
            known = ", ".join(_MODELS)
            raise ClipevalError(
                f"model.path={path} is of type {self._type}, not {known}; wrap it in a class (model=custom)"
            )
        adapter = self._folder / "adapter_config.json"
        if adapter.exists():  # transformers applies it where peft is installed, and else says nothing
            raise ClipevalError(
                f"model.path={path} holds an adapter ({adapter.name}), which is not applied: merge it into the weights (peft's "
                "merge_and_unload, then save_pretrained) and give that folder, or move the adapter's files away"
            )
        self._preprocess = self._read_processor()

    def _check(self, path: Path) -> None:
        """ClipevalError where a config of the folder asks for code that came with it."""
        try:
            content = safe_json.read(path)
        except FileNotFoundError:
            return
        except ValueError as problem:
            raise ClipevalError(f"{path} is not JSON ({problem})") from None
        if not isinstance(content, dict):
            raise ClipevalError(f"{path} holds a {type(content).__name__}, and an object was expected")
        refuse_code(content, path)

    @property
    def preprocess(self) -> Transform:
        """See `ModelHandle.preprocess`."""
        return self._preprocess

    @property
    def missing(self) -> str | None:
        """See `ModelHandle.missing`. The folder is local: what it lacks cannot be fetched."""
        if not self._weights():
            return f"{self._folder} holds no model.safetensors or pytorch_model.bin"
        return None if hub_cache.tokenizer_files(str(self._folder)) else f"{self._folder} holds no tokenizer files"

    def fetch(self) -> None:
        """Nothing to do for a local folder; ClipevalError if it is incomplete."""
        if self.missing is not None:
            raise ClipevalError(self.missing)

    def _weights(self) -> list[Path]:
        safe = sorted(self._folder.glob("model*.safetensors"))
        return safe or sorted(self._folder.glob("pytorch_model*.bin"))

    def _read_processor(self) -> Transform:
        facts = Facts(self._cache, self._what_processors_depend_on())
        settings = facts.ask("settings of the image processor", lambda: self._processor().to_dict())
        plain = _plain(settings)
        if not isinstance(plain, str):
            return from_open_clip(plain)
        processor = self._processor()  # which has to run

        def transform(image: Image.Image) -> torch.Tensor:
            pixels: torch.Tensor = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
            return pixels

        return CustomTransform(transform, digest_of(settings), plain)

    def _what_processors_depend_on(self) -> dict[str, Any] | None:
        """The folder's configs, and the packages among which transformers chooses a processor; None where it is imported."""
        stamp = None if "transformers" in sys.modules else package_stamp("transformers")
        if stamp is None:
            return None
        configs = digest_files(sorted(self._folder.glob("*.json")), self._cache, {})
        return {"folder": str(self._folder), "configs": configs, "transformers": stamp, "beside it": _versions()}

    def _processor(self) -> Any:
        from transformers import AutoImageProcessor

        try:
            load: Any = AutoImageProcessor.from_pretrained  # transformers has no annotation for it
            return load(self._folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
            raise ClipevalError(f"{self._folder} has no image processor that can be read: {error}") from None

    @property
    def weights_digest(self) -> str:
        """See `ModelHandle.weights_digest`."""
        self.fetch()
        return digest_files(self._weights(), self._cache, {"config": self._config}, names=False)

    @property
    def tokenizer_digest(self) -> str:
        """See `ModelHandle.tokenizer_digest`."""
        self.fetch()
        return digest_files(
            hub_cache.tokenizer_files(str(self._folder)), self._cache, {"lower": self._type == "siglip"}
        )

    def tokenizer(self) -> _Tokenizer:
        """See `ModelHandle.tokenizer`."""
        from transformers import AutoConfig

        self.fetch()
        text = self._config.get("text_config") or {}
        context = text.get("max_position_embeddings")
        if context is None:  # the type's own default
            load: Any = AutoConfig.from_pretrained
            context = load(self._folder, local_files_only=True).text_config.max_position_embeddings
        try:
            return _Tokenizer(self._folder, int(context), lower=self._type == "siglip")
        except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
            raise ClipevalError(f"the tokenizer in {self._folder} cannot be read: {error}") from error

    def load(self, device: str | torch.device = "cpu", precision: str = "fp32", compile: bool = False) -> Encoder:
        """See `ModelHandle.load`."""
        import transformers

        from clipeval.models.checkpoint import check_finite, load_into

        self.fetch()
        kind = getattr(transformers, _MODELS[self._type])
        try:
            model, info = kind.from_pretrained(
                self._folder,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                weights_only=True,
            )
        except Exception as error:  # transformers passes on what torch, safetensors and the file system raise
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ClipevalError(f"{self._folder} cannot be loaded as a {kind.__name__}: {line}") from error
        extra = sorted(key for key in info["unexpected_keys"] if not key.endswith("position_ids"))
        if info["missing_keys"]:  # the names may stand below a prefix; else `load_into` says which are missing
            indices, weights = sorted(self._folder.glob(f"*{INDEX}")), self._weights()
            path = weights[0] if len(weights) == 1 else checkpoint_in(indices[0] if indices else self._folder)
            self.flags = list(dict.fromkeys([*self.flags, *load_into(model, path)]))
        elif extra:
            raise ClipevalError(
                f"{self._folder} holds {len(extra)} weights that a {kind.__name__} has not (such as {extra[0]!r}): config.json "
                "is another model's"
            )
        check_finite(model, str(self._folder))
        return Encoder(_Towers(model), self.tokenizer(), self._preprocess, device, precision, compile=compile)


class _Towers(nn.Module):
    """A transformers model under open_clip's method names."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    @property
    def logit_scale(self) -> Any:
        return getattr(self.model, "logit_scale", None)

    @property
    def logit_bias(self) -> Any:
        return getattr(self.model, "logit_bias", None)

    def encode_image(self, images: torch.Tensor) -> Any:
        return self.model.get_image_features(pixel_values=images)

    def encode_text(self, tokens: torch.Tensor) -> Any:
        # No attention mask: CLIP's tower is causal and pools the end token; SigLIP was trained to see its padding.
        return self.model.get_text_features(input_ids=tokens)


class _Tokenizer:
    """A transformers tokenizer that pads to the tower's context. SigLIP's texts are lower-cased, as in its training."""

    def __init__(self, folder: Path, context: int, lower: bool):
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.context, self._lower = context, lower

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        texts = [text.lower() for text in texts] if self._lower else list(texts)
        tokens: torch.Tensor = self._tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.context, return_tensors="pt"
        )["input_ids"]
        return tokens

    def whole_length(self, text: str) -> int:
        """Tokens of a text that is not cut, special ones included."""
        return len(self._tokenizer(text.lower() if self._lower else text, truncation=False)["input_ids"])


def _versions() -> list[str]:
    """Of the packages that decide which kind of processor there is, and how it sets itself."""
    found = []
    for package in ("torch", "torchvision", "pillow", "numpy"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return found


def _plain(settings: dict[str, Any]) -> dict[str, Any] | str:
    """An image processor's settings as open_clip's; or, in words, what open_clip's cannot say."""
    size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
    size = {"shortest_edge": size} if isinstance(size, int) else dict(size)
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else dict(crop)
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not settings.get(step, True):
            return f"its image processor has {step}=False"
    if abs(float(settings.get("rescale_factor") or 1 / 255) * 255 - 1) > 1e-6:
        return "its image processor scales pixels by another factor than 1/255"
    interpolation = _INTERPOLATION.get(int(settings.get("resample") or 0))
    if interpolation is None:
        return f"its image processor resizes with filter {settings.get('resample')}"
    common = {"mean": settings["image_mean"], "std": settings["image_std"], "interpolation": interpolation}
    cropped = bool(settings.get("do_center_crop"))
    if {"height", "width"} <= set(size) and not cropped:
        return {**common, "size": (size["height"], size["width"]), "resize_mode": "squash"}
    edge = size.get("shortest_edge")
    if cropped and edge and crop.get("height") == crop.get("width") == edge:
        return {**common, "size": edge, "resize_mode": "shortest"}
    return f"its image processor resizes to {size} and crops to {crop if cropped else None}"
