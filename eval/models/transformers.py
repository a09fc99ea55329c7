"""Checkpoints in the layout of Hugging Face transformers: a folder with config.json, or a repository of the hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from clipeval.configs.errors import ClipevalError, first_line
from clipeval.configs.naming import slug_of
from clipeval.data.library_logs import errors_only
from clipeval.models import hub_cache
from clipeval.models.changes import Changes
from clipeval.models.checkpoint_file import INDEX, checkpoint_in, refuse_pointer
from clipeval.models.encoder import Encoder
from clipeval.models.facts import Facts, package_stamp
from clipeval.models.handle import ModelHandle, digest_files, path_mark
from clipeval.models.interpolation import mix
from clipeval.models.no_code import refuse_code, refuse_unknown_type
from clipeval.models.overrides import Overrides, applied
from clipeval.models.positions import patches_flags
from clipeval.models.remote_code import SAID, code_files, modules_of
from clipeval.models.text_clean import NONE
from clipeval.models.transformers_files import ADAPTER, CONFIG, PROCESSORS, Files
from clipeval.models.transformers_processor import pixels_of, plain, versions
from clipeval.models.transformers_towers import (
    KINDS,
    PROJECTED,
    REFUSED,
    HubTokenizer,
    Towers,
    check_features,
    kind_of,
    padding_of,
)
from clipeval.preprocess.transforms import CustomTransform, Preprocess, Transform, from_open_clip
from clipeval.results import safe_json

_AS_TRAINED, _UNCHANGED = Overrides(), Changes()
_LONGEST = 32_768
"""Tokens of a text, beyond which a tokenizer's model_max_length says nothing."""


class HuggingFace(ModelHandle):
    """`model=hf_transformers model.path=FOLDER`: what `save_pretrained` of a model and its processor wrote; or ORG/NAME.

    The image processor becomes a `Preprocess` if it resizes and crops as open_clip does: the shorter side and a centre
    crop, or both sides. Pillow then resizes, as the processors did when the published checkpoints were scored; the fast
    processors of transformers 5 use torchvision, whose pixels differ by a few of 255. Any other processor runs as it is.

    >>> HuggingFace("clip-vit-base-patch32", cache_root=cache)
    >>> HuggingFace("google/siglip2-base-patch16-224", cache_root=cache)
    """

    _files: Files
    _files_of = Files

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
        changes: Changes = _UNCHANGED,
        trust_remote_code: bool = False,
    ):
        self._trusted = bool(trust_remote_code)
        self._files = self._files_of(path, offline, code=self._trusted)
        self._cache, self._asked = cache_root, overrides
        self._folder, self._changes, other = self._files.folder, changes, changes.interpolate
        self._other = None if other is None else Files(other, offline, "model.interpolate")
        self.name, self.pretrained, self.flags = name or Path(path).name, changes.name(pretrained), []
        default = path if self._files.repository else f"{self.name}-{path_mark(self._folder)}"
        self.slug = slug_of(slug) if slug else slug_of(default, *changes.slug_parts(), *overrides.slug_parts())
        if changes.adapter is not None:
            self.flags += changes.adapter.flags([hub_cache.split(path)[0] if self._files.repository else path, name])
        config = self._folder / CONFIG
        if not config.exists() and (self._folder / "open_clip_config.json").exists():
            raise ClipevalError(
                f"model.path={path} is a folder in open_clip's form: model=open_clip model.name=local-dir:{path}"
            )
        if not self._folder.is_dir():
            raise ClipevalError(
                f"model.path={path}: there is no such folder; expected one that transformers' save_pretrained wrote, or a "
                "repository of the hub (ORG/NAME)"
            )
        try:
            self._config: dict[str, Any] = safe_json.read(config)
        except (OSError, ValueError) as error:
            what = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
            raise ClipevalError(
                f"model.path={path}: {config} {what}; expected a folder that transformers' save_pretrained wrote, or a repository "
                "of the hub (ORG/NAME)"
            ) from None
        if not isinstance(self._config, dict):
            raise ClipevalError(f"{config} holds a {type(self._config).__name__}, and an object was expected")
        described = {name: self._check(self._folder / name) for name in (CONFIG, *PROCESSORS, "tokenizer_config.json")}
        self._type = str(self._config.get("model_type"))
        if self._type in REFUSED:
            raise ClipevalError(f"model.path={path} is {REFUSED[self._type]}")
        if self._trusted:
            names = ", ".join(dict.fromkeys(file for _, file in modules_of(self._config))) or "none is named"
            self.flags.append(SAID.format(names=names))
        else:
            refuse_unknown_type(config, can_be_asked=True)
        if (self._folder / ADAPTER).exists():  # transformers applies it where peft is installed, and else says nothing
            raise ClipevalError(
                f"model.path={path} holds an adapter beside the model ({ADAPTER}), which is not applied unless it is asked for: "
                "move the adapter's files into a folder of their own, and give that as model.adapter"
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
        if self._trusted and any(True for _ in modules_of(self._config)):
            return transformers.AutoModel  # what it embeds is seen once it is loaded
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
            vision = self._config.get("vision_config")
            self.flags += patches_flags(
                asked.image_size, vision.get("patch_size") if isinstance(vision, dict) else None
            )
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
        if not self._trusted:
            refuse_code(content, path)
        return content

    @property
    def preprocess(self) -> Transform:
        """See `ModelHandle.preprocess`."""
        return self._preprocess

    @property
    def embed_dim(self) -> int | None:
        """See `ModelHandle.embed_dim`."""
        width = self._config.get("projection_dim") if self._type in PROJECTED else None
        return width if isinstance(width, int) else None

    @property
    def missing(self) -> str | None:
        """See `ModelHandle.missing`. What a local folder lacks cannot be fetched."""
        adapter = self._changes.adapter
        if adapter is not None and adapter.missing:
            return f"{adapter.missing}; run `{self._files.command} model.adapter={adapter.given}`"
        return self._files.missing or (self._other.missing if self._other is not None else None)

    def fetch(self) -> None:
        """See `ModelHandle.fetch`. Nothing to do for a local folder; ClipevalError if it is incomplete."""
        for part in (self._files, self._other, self._changes.adapter):
            if part is not None:
                part.fetch()

    def _require(self) -> None:
        if self.missing is not None:
            raise ClipevalError(self.missing)

    def _read_processor(self) -> Transform:
        facts = Facts(self._cache, self._what_processors_depend_on())
        settings = facts.ask("settings of the image processor", lambda: self._processor().to_dict())
        own = plain(settings)
        return from_open_clip(own) if isinstance(own, dict) else pixels_of(self._processor())

    def _what_processors_depend_on(self) -> dict[str, Any] | None:
        """The folder's configs, and the packages among which transformers chooses a processor; None where it is imported."""
        stamp = None if self._trusted or "transformers" in sys.modules else package_stamp("transformers")
        if stamp is None:
            return None
        configs = digest_files(sorted(self._folder.glob("*.json")), self._cache, {})
        return {"folder": str(self._folder), "configs": configs, "transformers": stamp, "beside it": versions()}

    def _processor(self) -> Any:
        from transformers import AutoImageProcessor

        if not any((self._folder / name).exists() for name in PROCESSORS):
            raise ClipevalError(
                f"{self._folder} has no {PROCESSORS[0]}, which says how images are made: copy it from where the model was "
                "published, or save the processor beside the model (processor.save_pretrained)"
            )
        try:
            load: Any = AutoImageProcessor.from_pretrained  # transformers has no annotation for it
            return load(self._folder, local_files_only=True, trust_remote_code=self._trusted)
        except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
            raise ClipevalError(f"{self._folder} has no image processor that can be read: {error}") from None

    @property
    def weights_digest(self) -> str:
        """See `ModelHandle.weights_digest`."""
        self._require()
        resized = {"image_size": self._asked.image_size} if self._asked.image_size is not None else {}
        other = None if self._other is None else digest_files(self._other.weights, self._cache, {}, names=False)
        about = {"config": self._config, **resized, **self._changes.digest_parts(other)}
        if self._trusted:
            about["code"] = digest_files(code_files(self._folder, self._config), self._cache, {})
        return digest_files(self._files.weights, self._cache, about, names=False)

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
        revision |= {"hub": self._files.repository} if self._files.repository else {}
        trusted = {"trust_remote_code": True} if self._trusted else {}
        return {**super().describe(), **revision, **trusted, **self._changes.describe(), **self._asked.describe()}

    @property
    def own_weights(self) -> bool:
        """See `ModelHandle.own_weights`: those of a folder, whatever it is called, or changed ones."""
        return self._files.repository is None or self._changes.any

    def _context(self) -> int:
        """Tokens of a text: the text tower's positions, or fewer where the tokenizer says so of a longer tower."""
        from transformers import AutoConfig

        text = self._config.get("text_config") or {}
        context = text.get("max_position_embeddings")
        if context is None and self._type not in KINDS and self._trusted:
            if isinstance(self._longest, int) and self._longest <= _LONGEST:
                return self._longest
            raise ClipevalError(
                f"model.path={self._files.path} does not say how many tokens its text tower reads: set model.context_length"
            )
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
        for path in hub_cache.tokenizer_files(str(self._folder)):
            refuse_pointer(path)
        try:
            context = self._asked.context_length or self._context()
            return HubTokenizer(self._folder, context, self.text_clean or NONE, self._at_end, self._trusted)
        except (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError) as error:
            raise ClipevalError(f"the tokenizer in {self._folder} cannot be read: {error}") from error

    def load(self, device: str | torch.device = "cpu", precision: str = "fp32", compile: bool = False) -> Encoder:
        """See `ModelHandle.load`."""
        from clipeval.models.checkpoint import check_finite

        self._require()
        if self._other is None or self._changes.alpha == 0:
            model = self._weights_of(self._files)
        else:
            model = self._weights_of(self._other)
            if self._changes.alpha is not None and self._changes.alpha < 1:
                mix(self._weights_of(self._files).state_dict(), model, self._changes.alpha)
        if self._changes.adapter is not None:
            model = self._changes.adapter.merge_into(model)
        check_finite(model, str(self._folder))
        check_features(model, self._files.path)
        tokenizer = self.tokenizer()
        towers = Towers(model, padding_of(tokenizer) if self._kind.masked else None, self._asked.image_size is not None)
        return Encoder(towers, tokenizer, self._preprocess, device, precision, compile=compile)

    def _weights_of(self, files: Files) -> Any:
        """The model with the weights of some files: its own, or another folder's of the same architecture."""
        from transformers import AutoConfig

        from clipeval.models.checkpoint import load_into

        kind, folder = self._class(), files.folder
        trust: dict[str, Any] = {"trust_remote_code": True} if self._trusted else {}
        own = {} if files is self._files else {"config": AutoConfig.from_pretrained(self._folder, **trust)}
        for path in files.weights:
            refuse_pointer(path)
        try:
            with errors_only("transformers"):  # a table of what did not fit, which is an error here, in a sentence
                model, info = kind.from_pretrained(
                    folder,
                    local_files_only=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                    weights_only=True,
                    ignore_mismatched_sizes=True,  # they are an error of ours, which names them
                    **own,
                    **trust,
                )
        except Exception as error:  # transformers passes on what torch, safetensors and the file system raise
            line = first_line(error)
            cure = ": it is truncated, fetch it anew" if "deserializing header" in line else ""
            raise ClipevalError(f"{folder} cannot be loaded as a {kind.__name__}: {line}{cure}") from error
        if different := sorted(info.get("mismatched_keys") or ()):
            name, given, wanted = different[0]
            whose = "is another model's" if files is self._files else f"is not that of {self._files.path}"
            raise ClipevalError(
                f"{folder} cannot be loaded as the {kind.__name__} of its config: {len(different)} of its weights have another "
                f"shape (such as {name!r}: {list(given)} in the file, {list(wanted)} in the model); the architecture {whose}"
            )
        extra = sorted(key for key in info["unexpected_keys"] if not key.endswith("position_ids"))
        if info["missing_keys"]:  # the names may stand below a prefix; else `load_into` says which are missing
            indices, weights = sorted(folder.glob(f"*{INDEX}")), files.weights
            path = weights[0] if len(weights) == 1 else checkpoint_in(indices[0] if indices else folder)
            self.flags = list(dict.fromkeys([*self.flags, *load_into(model, path)]))
        elif extra:
            raise ClipevalError(
                f"{folder} holds {len(extra)} weights that a {kind.__name__} has not (such as {extra[0]!r}): config.json "
                "is another model's"
            )
        return model


def _image_size(config: dict[str, Any]) -> Any:
    vision = config.get("vision_config")
    return vision.get("image_size") if isinstance(vision, dict) else None
