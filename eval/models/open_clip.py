"""Models of open_clip: a tag, a checkpoint file, a hub repository or a local folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.configs.naming import CHECKPOINT_SUFFIXES, slug_of
from clipeval.models import hub_cache
from clipeval.models.checkpoint_file import INDEX, checkpoint_in, files_of, torchscript_says
from clipeval.models.encoder import Encoder
from clipeval.models.handle import ModelHandle, digest_files, digest_of, path_mark
from clipeval.models.no_code import refuse_code
from clipeval.models.open_clip_registry import Registry, exported_config
from clipeval.models.open_clip_text import is_open_clips, own_policy, settings_digest
from clipeval.models.overrides import Overrides
from clipeval.models.positions import interpolated
from clipeval.models.texts import Tokenizer
from clipeval.preprocess.transforms import Preprocess, from_open_clip
from clipeval.results.files import write_atomically

RANDOM = "random"
"""`model.pretrained=random`: the architecture with random weights, seed 0, to measure speed without a download."""
LOCAL, HUB = "local-dir:", "hf-hub:"
_CONFIG = "open_clip_config.json"
_AS_TRAINED = Overrides()


class OpenClip(ModelHandle):
    """A model that open_clip builds.

    >>> OpenClip("ViT-B-32-256", "datacomp_s34b_b86k", cache_root=cache)     # a tag
    >>> OpenClip("ViT-B-32", "logs/run/checkpoints/epoch_5.pt", cache_root=cache)
    >>> OpenClip("hf-hub:org/repo", cache_root=cache)                        # architecture and weights
    >>> OpenClip("ViT-B-32", "hf-hub:org/repo", cache_root=cache)            # weights alone
    >>> OpenClip("local-dir:exported", cache_root=cache)                     # as open_clip's push_to_hf_hub writes it
    """

    def __init__(
        self,
        name: str,
        pretrained: str | None = None,
        *,
        cache_root: Path,
        config_dir: str | None = None,
        slug: str | None = None,
        strict_quickgelu: bool = False,
        ema: bool = False,
        state_dict: str | None = None,
        offline: bool = False,
        overrides: Overrides = _AS_TRAINED,
    ):
        self.name, self.pretrained, self._flags = name, pretrained or None, list[str]()
        self._ema, self._state_dict = ema, state_dict
        self._of_checkpoint: tuple[str, ...] | None = None
        """What is to be said of the checkpoint; None until it was read, or that was looked up."""
        self._cache, self._offline = Path(cache_root), offline
        self._registry = Registry(self._cache, config_dir, {"name": name, "pretrained": pretrained})
        if name.startswith((LOCAL, HUB)) and pretrained:
            raise ClipevalError(f"model.name={name} brings its own weights; leave model.pretrained={pretrained} out")
        self._repository: str | None = None
        """A hub repository with the weights; `_filenames` are the names to look for, best first."""
        self._filenames: tuple[str, ...] = hub_cache.WEIGHTS
        self._file: Path | None = None
        self._model_cfg: dict[str, Any] | None = None
        self._preprocess_cfg: dict[str, Any] = {}
        if name.startswith(LOCAL):
            self._read_folder(Path(name[len(LOCAL) :]).expanduser())
        elif name.startswith(HUB):
            self._repository = name[len(HUB) :]
            self._read_repository(architecture=True)
        else:
            self._read_architecture()
            self._read_pretrained(strict_quickgelu)
        self._override(overrides)
        self.slug = slug_of(slug) if slug else self._slug()

    # -- what the config names ------------------------------------------------------------------------------------

    def _read_folder(self, folder: Path) -> None:
        config = folder / _CONFIG
        if not config.is_file():
            raise ClipevalError(
                f"model.name={self.name}: there is no {config}; expected a folder that open_clip exported"
            )
        self._read_config(config, architecture=True)
        indices = sorted(folder.glob(f"*{INDEX}"))
        if indices and not (folder / hub_cache.WEIGHTS[0]).is_file():
            self._file = checkpoint_in(folder)
            return
        self._file = self._registry.checkpoint_in(folder)
        if self._file is None:
            raise ClipevalError(f"model.name={self.name}: {folder} holds no .safetensors, .bin or .pth file")

    def _read_repository(self, architecture: bool) -> dict[str, Any]:
        """The repository's config: without it, neither preprocessing nor architecture is known."""
        assert self._repository is not None
        config = hub_cache.cached(self._repository, _CONFIG)
        if config is None and not self._offline:
            config = hub_cache.download(self._repository, (_CONFIG,))
        if config is None:
            raise ClipevalError(f"the {_CONFIG} of {self._repository} is not on this machine; run `{self._command}`")
        return self._read_config(config, architecture)

    def _read_config(self, path: Path, architecture: bool) -> dict[str, Any]:
        """Take the preprocessing, and the architecture if it is wanted, from an exported config; its `model_cfg`."""
        model, self._preprocess_cfg = exported_config(path)
        if architecture:
            self._model_cfg = model
        return model

    def _read_architecture(self) -> None:
        name = self.name.replace("/", "-")
        self._model_cfg = self._registry.architecture(name)
        if self._model_cfg is None:
            raise ClipevalError(nearest("model.name", self.name, self._registry.names()))
        refuse_code(self._model_cfg, f"the architecture {name}")

    def _read_pretrained(self, strict_quickgelu: bool) -> None:
        name, given = self.name.replace("/", "-"), self.pretrained
        if given is None:
            choices = ", ".join(self._registry.tags(name)) or "none: give a checkpoint file"
            raise ClipevalError(
                f"model.name={self.name} needs model.pretrained, a tag ({choices}), file or hf-hub:org/repo"
            )
        if given == RANDOM:
            self._flags.append("random weights: scores mean nothing")
        elif given.startswith(HUB):
            self._repository = given[len(HUB) :]
            trained = self._read_repository(architecture=False)
            self._check_quickgelu(bool(trained.get("quick_gelu", False)), strict_quickgelu)
        elif cfg := self._registry.pretrained(name, given):
            repository, _, filename = cfg["hf_hub"].rpartition("/")
            self._repository, self._filenames = repository, hub_cache.weight_names(filename)
            self._preprocess_cfg = cfg
            self._check_quickgelu(bool(cfg.get("quick_gelu", False)), strict_quickgelu)
        elif Path(given).expanduser().exists():
            self._file = checkpoint_in(Path(given).expanduser())
            if torchscript_says(self._file, "QuickGELU"):
                self._check_quickgelu(True, strict_quickgelu)
        elif os.sep in given or Path(given).suffix in CHECKPOINT_SUFFIXES:
            raise ClipevalError(f"model.pretrained={given}: there is no such file")
        else:
            raise ClipevalError(nearest(f"model.pretrained for {self.name}", given, self._registry.tags(name)))

    def _check_quickgelu(self, trained: bool, strict: bool) -> None:
        """A checkpoint trained with QuickGELU and run without it loses points, and nothing else shows it."""
        assert self._model_cfg is not None
        built = bool(self._model_cfg.get("quick_gelu", False))
        if trained == built:
            return
        base = self.name.removesuffix("-quickgelu")
        better = f"{base}-quickgelu" if trained else base
        hint = f"; use model.name={better}" if self._registry.architecture(better) is not None else ""
        message = (
            f"QuickGELU mismatch: {self.pretrained} was trained {'with' if trained else 'without'} it,"
            f" {self.name} runs {'with' if built else 'without'} it{hint}"
        )
        if strict:
            raise ClipevalError(f"{message} (or model.strict_quickgelu=false, to measure it all the same)")
        self._flags.append(message)

    text_clean: str

    def _override(self, asked: Overrides) -> None:
        """Put what is asked for in the place of the model's own; flag it, and what open_clip would assume without a word."""
        assert self._model_cfg is not None
        self._asked = asked
        text, vision = self._model_cfg["text_cfg"], self._model_cfg["vision_cfg"]
        self._native_size = vision.get("image_size", 224)
        own = own_policy(text), text.get("context_length", 77), self._native_size
        self._flags += asked.flags(self._preprocess_cfg, *own)
        self.text_clean = asked.text_clean or own[0]
        self._model_cfg = {**self._model_cfg, "text_cfg": {**text}, "vision_cfg": {**vision}}
        if asked.context_length is not None:
            self._model_cfg["text_cfg"]["context_length"] = asked.context_length
        if asked.image_size is not None:
            size = asked.image_size
            self._model_cfg["vision_cfg"]["image_size"] = list(size) if isinstance(size, tuple) else size
        self._preprocess_cfg = {**self._preprocess_cfg, **asked.preprocess}
        absent = [key for key in ("mean", "std") if self._preprocess_cfg.get(key) is None]
        if self.pretrained == RANDOM or not absent:
            return
        alone = self._file is not None and self._repository is None and not self.name.startswith(LOCAL)
        location = "a checkpoint file" if alone else f"its {_CONFIG}"
        used = ", ".join(f"{key} {getattr(from_open_clip({}), key)}" for key in absent)
        self._flags.append(
            f"{location} says nothing of the {' and '.join(absent)} of its images: open_clip's own are assumed ({used}); "
            "model.preprocess={mean: …, std: …} says what they were"
        )

    @property
    def flags(self) -> list[str]:  # type: ignore[override]
        """See `ModelHandle.flags`. Looks into the checkpoint, if it is on this machine."""
        known = self._known()
        return [*self._flags, *(self._interpolated if known is None else known)]

    @cached_property
    def _interpolated(self) -> list[str]:
        path = self._weights()
        return [] if path is None else interpolated(path, self._model_cfg or {})

    def _slug(self) -> str:
        if self.name.startswith(LOCAL):
            folder = Path(self.name[len(LOCAL) :]).expanduser()
            return slug_of(f"{folder.resolve().name}-{path_mark(folder)}", *self._asked.slug_parts())
        which = ("ema" if self._ema else None, self._state_dict, *self._asked.slug_parts())
        if self._file is not None:
            return slug_of(self.name, f"{self._file.stem}-{path_mark(self._file)}", *which)
        return slug_of(self.name.removeprefix(HUB), (self.pretrained or "").removeprefix(HUB), *which)

    # -- what is here ---------------------------------------------------------------------------------------------

    @property
    def preprocess(self) -> Preprocess:
        """As open_clip would set it: the weights' own constants, at the image tower's size."""
        assert self._model_cfg is not None
        size = self._model_cfg["vision_cfg"].get("image_size", 224)
        return from_open_clip({**self._preprocess_cfg, "size": self._asked.preprocess.get("size", size)})

    @property
    def _command(self) -> str:
        pretrained = f" model.pretrained={self.pretrained}" if self.pretrained else ""
        return f"clipeval download model=open_clip model.name={self.name}{pretrained}"

    def _weights(self) -> Path | None:
        """The checkpoint on this machine; None if it must be fetched, or if the weights are random."""
        if self._file is not None or self._repository is None:
            return self._file
        return hub_cache.cached_any(self._repository, self._filenames)

    def _text_cfg(self) -> Mapping[str, Any]:
        assert self._model_cfg is not None
        text: Mapping[str, Any] = self._model_cfg["text_cfg"]
        return text

    def _tokenizer_source(self) -> str | None:
        """The folder or repository of a Hugging Face tokenizer; None: open_clip's own."""
        named = self._text_cfg().get("hf_tokenizer_name")
        if not named:
            return None
        return self.name[len(LOCAL) :] if self.name.startswith(LOCAL) else str(named)

    @property
    def missing(self) -> str | None:
        """See `ModelHandle.missing`."""
        if self.pretrained != RANDOM and self._weights() is None:
            return f"the weights of {self.name} {self.pretrained or ''} are not on this machine; run `{self._command}`"
        source = self._tokenizer_source()
        if source is not None and not hub_cache.tokenizer_files(source):
            return f"the tokenizer {source} is not on this machine; run `{self._command}`"
        tower = self._text_cfg().get("hf_model_name")
        if tower and not Path(tower).is_dir() and hub_cache.cached(tower, "config.json") is None:
            return f"the config of the text tower {tower} is not on this machine; run `{self._command}`"
        return None

    def fetch(self) -> None:
        """See `ModelHandle.fetch`."""
        if self._repository is not None and self._weights() is None:
            hub_cache.download(self._repository, self._filenames)
        source, tower = self._tokenizer_source(), self._text_cfg().get("hf_model_name")
        if source is not None and not hub_cache.tokenizer_files(source):
            hub_cache.download_tokenizer(source)
        if tower and not Path(tower).is_dir() and hub_cache.cached(tower, "config.json") is None:
            hub_cache.download(tower, ("config.json",))

    def _require(self) -> None:
        if self.missing is not None:
            raise ClipevalError(self.missing)

    @property
    def architecture(self) -> Mapping[str, Any] | None:
        """See `ModelHandle.architecture`."""
        return self._model_cfg

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `ModelHandle.outputs`. An architecture with a multimodal tower is a CoCa."""
        assert self._model_cfg is not None
        return ("embeddings", "captions") if "multimodal_cfg" in self._model_cfg else ("embeddings",)

    @property
    def weights_digest(self) -> str:
        """See `ModelHandle.weights_digest`."""
        path = self._weights()
        if path is None:
            if self.pretrained != RANDOM:
                self._require()
            return digest_of({"weights": RANDOM, "torch": torch.__version__, "architecture": self._model_cfg})
        # The file's name says nothing of its weights.
        return digest_of(
            {
                "file": digest_files(files_of(path), self._cache, {}, names=False),
                "architecture": self._model_cfg,
                **self._which,
            }
        )

    @property
    def _which(self) -> dict[str, Any]:
        """Which of a checkpoint's state dicts was asked for; empty where none was."""
        given = {"ema": self._ema, "state_dict": self._state_dict}
        return {key: value for key, value in given.items() if value}

    def describe(self) -> dict[str, Any]:
        """See `ModelHandle.describe`."""
        return {**super().describe(), **self._which, **self._asked.describe()}

    def checkpoint_flags(self) -> tuple[str, ...]:
        """See `ModelHandle.checkpoint_flags`. What a load has found is kept beside the digests of files."""
        path = self._weights()
        if (
            path is not None and self._known() is None
        ):  # an older version cached the features, or this memory was removed
            from clipeval.models.checkpoint import flags_of

            self._of_checkpoint = flags_of(self._build(blank=True), path, ema=self._ema, name=self._state_dict)
            self._remember()
        return self._of_checkpoint or ()

    def _known(self) -> tuple[str, ...] | None:
        """What a load has found, this one or an earlier one of the same weights; None where there was none."""
        if self._of_checkpoint is None and self._weights() is not None:
            known = self._cache / "checkpoints" / f"{self.weights_digest}.json"
            with suppress(OSError, ValueError, TypeError):  # not there, or damaged: it is found out again
                self._of_checkpoint = tuple(map(str, json.loads(known.read_text("utf-8"))))
        return self._of_checkpoint

    def _remember(self) -> None:
        known = self._cache / "checkpoints" / f"{self.weights_digest}.json"
        with suppress(OSError):  # a full or read-only cache costs time, nothing else
            write_atomically(known, json.dumps(self._of_checkpoint).encode())

    @property
    def tokenizer_digest(self) -> str:
        """See `ModelHandle.tokenizer_digest`."""
        source = self._tokenizer_source()
        files = [self._registry.vocabulary()] if source is None else hub_cache.tokenizer_files(source)
        if not files:
            self._require()
            raise ClipevalError(f"{self.name}: there are no tokenizer files in {source}")
        return settings_digest(self._text_cfg(), self.text_clean, files, self._cache)

    @property
    def text_mark(self) -> str:
        """See `ModelHandle.text_mark`."""
        return "" if is_open_clips(self._text_cfg(), self.text_clean) else self.text_clean

    def _tower_digest(self) -> str | None:
        """Of the config of a text tower that transformers builds; None for open_clip's own."""
        tower = self._text_cfg().get("hf_model_name")
        if not tower:
            return None
        path = Path(tower, "config.json") if Path(tower).is_dir() else hub_cache.cached(tower, "config.json")
        return None if path is None or not path.is_file() else digest_files([path], self._cache, {}, names=False)

    @property
    def text_digest(self) -> str:
        """See `ModelHandle.text_digest`."""
        tower = self._tower_digest()
        return super().text_digest if tower is None else digest_of([super().text_digest, tower])

    @property
    def identity(self) -> Mapping[str, str]:
        """See `ModelHandle.identity`."""
        tower = self._tower_digest()
        return {**super().identity, **({} if tower is None else {"config of the text tower": tower})}

    # -- loading --------------------------------------------------------------------------------------------------

    def load(self, device: str | torch.device = "cpu", precision: str = "fp32", compile: bool = False) -> Encoder:
        """See `ModelHandle.load`."""
        return self._load(device, precision, compile, images=True)

    def load_text(self, device: str | torch.device = "cpu", precision: str = "fp32") -> Encoder:
        """See `ModelHandle.load_text`."""
        return self._load(device, precision, compile=False, images=False)

    def _load(self, device: str | torch.device, precision: str, compile: bool, images: bool) -> Encoder:
        from clipeval.models.checkpoint import load_into, load_text_into

        self._require()
        path = self._weights()
        model = self._build(blank=path is not None)
        seen = from_open_clip({**self._preprocess_cfg, "size": getattr(model.visual, "image_size", None)})
        if seen != self.preprocess and "size" not in self._asked.preprocess:
            raise ClipevalError(
                f"{self.name} sees {seen.describe()}, not {self.preprocess.describe()} as its config says"
            )
        if path is not None and (images or self._which or not load_text_into(model, path)):
            self._of_checkpoint = load_into(model, path, ema=self._ema, name=self._state_dict)
            self._remember()
        if self._asked.image_size is not None and hasattr(model.visual, "set_input_size"):
            cast(Any, model.visual).set_input_size(
                self._asked.image_size
            )  # of a tower of timm's, once its weights are there
        if images and "size" in self._asked.preprocess:
            self._try_size(model)
        return Encoder(model, self.tokenizer(), self.preprocess, device, precision, compile=compile)

    def _try_size(self, model: Any) -> None:
        """ClipevalError where images of the size that was asked for do not fit the tower, before any is read."""
        try:
            with torch.inference_mode():
                model.eval().encode_image(torch.zeros(1, *self.preprocess.shape))
        except (RuntimeError, ValueError, AssertionError) as error:
            height, width = self.preprocess.size
            size = height if height == width else f"[{height},{width}]"
            raise ClipevalError(
                f"model.preprocess.size={size} does not fit the image tower of {self.name} ({str(error).splitlines()[0]}); "
                f"model.image_size={size} resizes its positional embedding"
            ) from error

    def _build(self, blank: bool) -> Any:
        from clipeval.models.open_clip_build import build

        assert self._model_cfg is not None
        return build(self._model_cfg, self.name, blank)

    def tokenizer(self) -> Tokenizer:
        """See `ModelHandle.tokenizer`."""
        from clipeval.models.open_clip_build import build_tokenizer

        source = self._tokenizer_source()
        if source is None and "siglip" in self.name.lower() and not self.name.startswith((LOCAL, HUB)):
            # open_clip would go by the name here, and fetch a vocabulary from elsewhere.
            raise ClipevalError(f"the architecture {self.name} must name its tokenizer, text_cfg.hf_tokenizer_name")
        return build_tokenizer(self._text_cfg(), self.text_clean, source, self.name)
