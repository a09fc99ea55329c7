"""Checkpoints in the layout of Hugging Face transformers: a folder with config.json, or a repository of the hub."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from clipeval.configs.errors import ClipevalError
from clipeval.configs.naming import slug_of
from clipeval.models import hub_cache
from clipeval.models.checkpoint_file import INDEX, checkpoint_in
from clipeval.models.encoder import Encoder
from clipeval.models.facts import Facts, package_stamp
from clipeval.models.handle import ModelHandle, digest_files, digest_of, path_mark
from clipeval.models.no_code import refuse_code, refuse_unknown_type
from clipeval.models.overrides import Overrides, applied
from clipeval.models.text_clean import NONE
from clipeval.models.transformers_files import CONFIG, PROCESSORS, Files
from clipeval.models.transformers_towers import (
    KINDS,
    REFUSED,
    HubTokenizer,
    Towers,
    check_features,
    kind_of,
    padding_of,
)
from clipeval.preprocess.transforms import CustomTransform, Preprocess, Transform, from_open_clip
from clipeval.results import safe_json

_INTERPOLATION = {2: "bilinear", 3: "bicubic"}
_AS_TRAINED = Overrides()


class HuggingFace(ModelHandle):
    """`model=hf_transformers model.path=FOLDER`: what `save_pretrained` of a model and its processor wrote; or ORG/NAME.

    The image processor becomes a `Preprocess` if it resizes and crops as open_clip does: the shorter side and a centre
    crop, or both sides. Pillow then resizes, as the processors did when the published checkpoints were scored; the fast
    processors of transformers 5 use torchvision, whose pixels differ by a few of 255. Any other processor runs as it is.

    >>> HuggingFace("clip-vit-base-patch32", cache_root=cache)
    >>> HuggingFace("google/siglip2-base-patch16-224", cache_root=cache)
    """

    def __init__(
        self,
        path: str,
        *,
        cache_root: Path,
        name: str | None = None,
        pretrained: str | None = None,
        slug: str | None = None,
        overrides: Overrides = _AS_TRAINED,
        offline: bool = False,
    ):
        self._files, self._cache, self._asked = Files(path, offline), cache_root, overrides
        self._folder = self._files.folder
        self.name, self.pretrained, self.flags = name or Path(path).name, pretrained, []
        default = path if self._files.repository else f"{self.name}-{path_mark(self._folder)}"
        self.slug = slug_of(slug) if slug else slug_of(default, *overrides.slug_parts())
        config = self._folder / CONFIG
        try:
            self._config: dict[str, Any] = safe_json.read(config)
        except (OSError, ValueError) as error:
            raise ClipevalError(
                f"model.path={path}: {config} cannot be read ({type(error).__name__});"
                " expected a folder that transformers' save_pretrained wrote, or a repository of the hub (ORG/NAME)"
            ) from None
        if not isinstance(self._config, dict):
            raise ClipevalError(f"{config} holds a {type(self._config).__name__}, and an object was expected")
        described = {name: self._check(self._folder / name) for name in (CONFIG, *PROCESSORS, "tokenizer_config.json")}
        self._type = str(self._config.get("model_type"))
        if self._type in REFUSED:
            raise ClipevalError(f"model.path={path} is {REFUSED[self._type]}")
        refuse_unknown_type(config)
        adapter = self._folder / "adapter_config.json"
        if adapter.exists():  # transformers applies it where peft is installed, and else says nothing
            raise ClipevalError(
                f"model.path={path} holds an adapter ({adapter.name}), which is not applied: merge it into the weights (peft's "
                "merge_and_unload, then save_pretrained) and give that folder, or move the adapter's files away"
            )
        if self._type not in KINDS:
            self._class()
        tokenizer = described["tokenizer_config.json"]
        self._kind = kind_of(self._type, tokenizer.get("tokenizer_class"))
        self._at_end = self._type in KINDS
        self._turned = self._at_end and tokenizer.get("padding_side") == "left"
        self._longest = tokenizer.get("model_max_length")
        self.text_clean = overrides.text_clean or self._kind.clean
        self._preprocess = self._override(self._read_processor())

    def _class(self) -> Any:
        """The class in transformers, which is not known to embed images and texts before it is looked at.

        Raises:
            ClipevalError: transformers has none of this type, or one that does not embed.
        """
        import transformers

        known = KINDS.get(self._type)
        if known is not None:
            return getattr(transformers, known.model)
        try:
            found = transformers.MODEL_MAPPING[type(transformers.AutoConfig.for_model(self._type))]
        except (KeyError, ValueError) as problem:
            raise ClipevalError(
                f"model.path={self._files.path} is of type {self._type}, which transformers {transformers.__version__} does not "
                f"know ({str(problem).splitlines()[0][:120]}); known here are {', '.join(KINDS)}. Wrap it in a class "
                "(model=custom)."
            ) from None
        chosen = found[0] if isinstance(found, tuple) else found
        check_features(chosen, self._files.path)
        return chosen

    def _override(self, own: Transform) -> Transform:
        """What is asked for in place of the model's own; flags it."""
        asked = self._asked
        size = _image_size(self._config)
        described = {} if isinstance(own, CustomTransform) else own.__dict__
        self.flags += asked.flags(described, self._kind.clean, self._context() if asked.context_length else None, size)
        if asked.context_length is not None and asked.context_length > self._context():
            raise ClipevalError(
                f"model.context_length={asked.context_length}: the text tower of {self.name} has {self._context()} positions"
            )
        if asked.image_size is None and not asked.preprocess:
            return own
        if not isinstance(own, Preprocess):
            key = "image_size" if asked.image_size is not None else f"preprocess.{next(iter(asked.preprocess))}"
            raise ClipevalError(f"model.{key}: {own.reason}, which runs as it is; write another into {PROCESSORS[0]}")
        if asked.image_size is not None:
            if not self._kind.resizes:
                raise ClipevalError(f"model.image_size: the image tower of a {self._kind.model} cannot be resized")
            own = from_open_clip({**own.__dict__, "size": asked.image_size})
        return applied(own, asked)

    def _check(self, path: Path) -> dict[str, Any]:
        """A config of the folder, empty where it has none. ClipevalError where it asks for code that came with it."""
        try:
            content = safe_json.read(path)
        except FileNotFoundError:
            return {}
        except ValueError as problem:
            raise ClipevalError(f"{path} is not JSON ({problem})") from None
        if not isinstance(content, dict):
            raise ClipevalError(f"{path} holds a {type(content).__name__}, and an object was expected")
        refuse_code(content, path)
        return content

    @property
    def preprocess(self) -> Transform:
        """See `ModelHandle.preprocess`."""
        return self._preprocess

    @property
    def missing(self) -> str | None:
        """See `ModelHandle.missing`. What a local folder lacks cannot be fetched."""
        return self._files.missing

    def fetch(self) -> None:
        """See `ModelHandle.fetch`. Nothing to do for a local folder; ClipevalError if it is incomplete."""
        self._files.fetch()

    def _require(self) -> None:
        if self.missing is not None:
            raise ClipevalError(self.missing)

    def _read_processor(self) -> Transform:
        facts = Facts(self._cache, self._what_processors_depend_on())
        settings = facts.ask("settings of the image processor", lambda: self._processor().to_dict())
        return from_open_clip(plain) if isinstance(plain := _plain(settings), dict) else pixels_of(self._processor())

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
        self._require()
        resized = {"image_size": self._asked.image_size} if self._asked.image_size is not None else {}
        return digest_files(self._files.weights, self._cache, {"config": self._config, **resized}, names=False)

    @property
    def tokenizer_digest(self) -> str:
        """See `ModelHandle.tokenizer_digest`."""
        self._require()
        files = hub_cache.tokenizer_files(str(self._folder))
        # The tokenizer's own clean-up alone is what there was before there was a choice.
        settings: dict[str, Any] = {"lower": False} if self.text_clean == NONE else {"clean": self.text_clean}
        settings |= {"context": self._asked.context_length} if self._asked.context_length is not None else {}
        settings |= {"padding": "end"} if self._turned else {}
        return digest_files(files, self._cache, settings)

    @property
    def text_mark(self) -> str:
        """See `ModelHandle.text_mark`."""
        context = f"context {self._asked.context_length}" if self._asked.context_length is not None else ""
        clean = self.text_clean if self.text_clean != NONE else ""
        return ", ".join(part for part in (clean, context, "padded at the end" if self._turned else "") if part)

    def describe(self) -> dict[str, Any]:
        """See `ModelHandle.describe`."""
        revision = {"revision": self._files.revision} if self._files.revision else {}
        return {**super().describe(), **revision, **self._asked.describe()}

    def _context(self) -> int:
        """Tokens of a text: the text tower's positions, or fewer where the tokenizer says so of a longer tower."""
        from transformers import AutoConfig

        text = self._config.get("text_config") or {}
        context = text.get("max_position_embeddings")
        if context is None:  # the type's own default
            load: Any = AutoConfig.from_pretrained
            context = load(self._folder, local_files_only=True).text_config.max_position_embeddings
        if not self._kind.masked:
            return int(context)
        # A RoBERTa counts its positions from behind its padding token; no tower has been trained on as many as these have.
        limit = int(self._longest) if isinstance(self._longest, int) and self._longest < context else int(context) - 2
        return min(limit, 512)

    def tokenizer(self) -> HubTokenizer:
        """See `ModelHandle.tokenizer`."""
        self._require()
        try:
            context = self._asked.context_length or self._context()
            return HubTokenizer(self._folder, context, self.text_clean or NONE, self._at_end)
        except (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError) as error:
            raise ClipevalError(f"the tokenizer in {self._folder} cannot be read: {error}") from error

    def load(self, device: str | torch.device = "cpu", precision: str = "fp32", compile: bool = False) -> Encoder:
        """See `ModelHandle.load`."""
        from clipeval.models.checkpoint import check_finite, load_into

        self._require()
        kind = self._class()
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
            indices, weights = sorted(self._folder.glob(f"*{INDEX}")), self._files.weights
            path = weights[0] if len(weights) == 1 else checkpoint_in(indices[0] if indices else self._folder)
            self.flags = list(dict.fromkeys([*self.flags, *load_into(model, path)]))
        elif extra:
            raise ClipevalError(
                f"{self._folder} holds {len(extra)} weights that a {kind.__name__} has not (such as {extra[0]!r}): config.json "
                "is another model's"
            )
        check_finite(model, str(self._folder))
        check_features(model, self._files.path)
        tokenizer = self.tokenizer()
        towers = Towers(model, padding_of(tokenizer) if self._kind.masked else None, self._asked.image_size is not None)
        return Encoder(towers, tokenizer, self._preprocess, device, precision, compile=compile)


def pixels_of(processor: Any) -> Transform:
    """An image processor of transformers as a `Preprocess`; one that open_clip cannot express runs as it is."""
    settings = processor.to_dict()
    plain = _plain(settings)
    if not isinstance(plain, str):
        return from_open_clip(plain)

    def transform(image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        return pixels

    return CustomTransform(transform, digest_of(settings), plain)


def _image_size(config: dict[str, Any]) -> Any:
    vision = config.get("vision_config")
    return vision.get("image_size") if isinstance(vision, dict) else None


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
