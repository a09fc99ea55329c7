"""Models of open_clip: a tag, a checkpoint file, a hub repository or a local folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import write_atomically
from clipeval.configs.naming import slug_of
from clipeval.models import hub_cache
from clipeval.models.changes import Changes
from clipeval.models.checkpoint_file import files_of
from clipeval.models.encoder import Encoder
from clipeval.models.handle import ModelHandle, digest_files, digest_of
from clipeval.models.interpolation import load_between
from clipeval.models.open_clip_source import CONFIG, HUB, LOCAL, RANDOM, Source
from clipeval.models.open_clip_text import is_open_clips, own_policy, settings_digest, tokenizer_flags
from clipeval.models.overrides import Overrides
from clipeval.models.positions import interpolated, patches_flags
from clipeval.models.texts import Tokenizer
from clipeval.models.weight_files import WeightFiles
from clipeval.preprocess.transforms import Preprocess, from_open_clip

_AS_TRAINED, _UNCHANGED = Overrides(), Changes()


class OpenClip(ModelHandle):
    """A model that open_clip builds.

    >>> OpenClip("ViT-B-32-256", "datacomp_s34b_b86k", cache_root=cache)     # a tag
    >>> OpenClip("ViT-B-32", "logs/run/checkpoints/epoch_5.pt", cache_root=cache)
    >>> OpenClip("ViT-B-32", "s3://bucket/epoch_5.pt", cache_root=cache)     # fetched once
    >>> OpenClip("hf-hub:org/repo", cache_root=cache)                        # architecture and weights
    >>> OpenClip("ViT-B-32", "hf-hub:org/repo", cache_root=cache)            # weights alone
    >>> OpenClip("local-dir:exported", cache_root=cache)                     # as open_clip's push_to_hf_hub writes it
    >>> OpenClip("ViT-B-32", "openai", changes=Changes(interpolate="tuned.pt", alpha=0.5), cache_root=cache)
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
        changes: Changes = _UNCHANGED,
    ):
        self._cache, self._ema, self._state_dict = Path(cache_root), ema, state_dict
        self._offline = offline
        self._of_checkpoint: tuple[str, ...] | None = None
        """What is to be said of the checkpoint; None until it was read, or that was looked up."""
        self._source = Source(name, pretrained, self._cache, config_dir, strict_quickgelu, offline)
        self.name, self._weights, self._flags = name, self._source.weights, list(self._source.flags)
        self._changes, given = changes, changes.interpolate
        self._other = None if given is None else self._source.other_weights("model.interpolate", given)
        self.pretrained = changes.name(pretrained or None)
        self._override(overrides)
        which = ("ema" if ema else None, state_dict, *changes.slug_parts(), *overrides.slug_parts())
        self.slug = slug_of(slug) if slug else self._source.slug(*which)

    text_clean: str

    def _override(self, asked: Overrides) -> None:
        """Put what is asked for in the place of the model's own; flag it, and what open_clip would assume without a word."""
        self._asked, source = asked, self._source
        text, vision = source.model_cfg["text_cfg"], source.model_cfg["vision_cfg"]
        own = own_policy(text), text.get("context_length", 77), vision.get("image_size", 224)
        self._flags += [*asked.flags(source.preprocess_cfg, *own), *tokenizer_flags(text)]
        self.text_clean = asked.text_clean or own[0]
        self._model_cfg: dict[str, Any] = {**source.model_cfg, "text_cfg": {**text}, "vision_cfg": {**vision}}
        if asked.context_length is not None:
            self._model_cfg["text_cfg"]["context_length"] = asked.context_length
        if asked.image_size is not None:
            size = asked.image_size
            self._model_cfg["vision_cfg"]["image_size"] = list(size) if isinstance(size, tuple) else size
            self._flags += patches_flags(size, vision.get("patch_size"))
        self._preprocess_cfg = {**source.preprocess_cfg, **asked.preprocess}
        absent = [key for key in ("mean", "std") if self._preprocess_cfg.get(key) is None]
        if self._weights is None or not absent:
            return
        location = "a checkpoint file" if source.is_file else f"its {CONFIG}"
        used = ", ".join(f"{key} {getattr(from_open_clip({}), key)}" for key in absent)
        self._flags.append(
            f"{location} says nothing of the {' and '.join(absent)} of its images: open_clip's own are assumed ({used}); "
            "model.preprocess={mean: …, std: …} says what they were"
        )

    @property
    def flags(self) -> list[str]:  # type: ignore[override]
        """See `ModelHandle.flags`. Looks into the checkpoint, if it is on this machine."""
        known = self._known()
        repository = hub_cache.split((self._weights and self._weights.repository) or "")[0]
        names = (self._source.name, self._source.pretrained, repository)
        of_adapter = self._changes.adapter.flags(names) if self._changes.adapter else []
        archive = self._source.archive_flags()
        return [*self._flags, *archive, *of_adapter, *(self._interpolated if known is None else known)]

    @cached_property
    def _interpolated(self) -> list[str]:
        path = self._path
        return [] if path is None else interpolated(path, self._model_cfg)

    # -- what is here ---------------------------------------------------------------------------------------------

    @property
    def preprocess(self) -> Preprocess:
        """As open_clip would set it: the weights' own constants, at the image tower's size."""
        assert self._model_cfg is not None
        size = self._model_cfg["vision_cfg"].get("image_size", 224)
        return from_open_clip({**self._preprocess_cfg, "size": self._asked.preprocess.get("size", size)})

    @property
    def _path(self) -> Path | None:
        """The checkpoint on this machine; None if it must be fetched, or if the weights are random."""
        return None if self._weights is None else self._weights.path

    def _text_cfg(self) -> Mapping[str, Any]:
        assert self._model_cfg is not None
        text: Mapping[str, Any] = self._model_cfg["text_cfg"]
        return text

    def _tokenizer_source(self) -> str | None:
        """The folder or repository of a Hugging Face tokenizer; None: open_clip's own."""
        named = self._text_cfg().get("hf_tokenizer_name")
        if not named:
            return None
        if self.name.startswith(LOCAL):
            return self.name[len(LOCAL) :]
        repository = self.name.removeprefix(HUB)  # one that names itself does so without the revision
        return repository if hub_cache.split(repository)[0] == named else str(named)

    @property
    def missing(self) -> str | None:
        """See `ModelHandle.missing`."""
        command = self._source.command
        for weights in (self._weights, self._other):
            if weights is not None and weights.path is None:
                given = self._changes.interpolate if weights is self._other else self._source.pretrained
                more = f" model.interpolate={given} model.alpha={self._changes.alpha}" if weights is self._other else ""
                what = f"the weights of {self.name} {given or ''}".strip()
                return f"{what} are not on this machine; run `{command}{more}`"
        adapter = self._changes.adapter
        if adapter is not None and (lacking := adapter.missing):
            return f"{lacking}; run `{command} model.adapter={adapter.given}`"
        source = self._tokenizer_source()
        if source is not None and not hub_cache.tokenizer_files(source):
            return f"the tokenizer {source} is not on this machine; run `{command}`"
        tower = self._text_cfg().get("hf_model_name")
        if tower and not Path(tower).is_dir() and hub_cache.cached(tower, "config.json") is None:
            return f"the config of the text tower {tower} is not on this machine; run `{command}`"
        return None

    @property
    def on_demand(self) -> bool:
        """See `ModelHandle.on_demand`."""
        lacking = [part for part in (self._weights, self._other) if part is not None and part.path is None]
        return not self._offline and bool(lacking) and all(part.on_demand for part in lacking)

    def fetch(self) -> None:
        """See `ModelHandle.fetch`."""
        for part in (self._weights, self._other, self._changes.adapter):
            if part is not None:
                part.fetch()
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
        self._require_weights()
        other = None if self._other is None else self._digest_of(self._other.path)
        about = {"architecture": self._model_cfg, **self._changes.digest_parts(other)}
        if self._weights is None:
            return digest_of({"weights": RANDOM, "torch": torch.__version__, **about})
        # The file's name says nothing of its weights.
        return digest_of({"file": self._digest_of(self._weights.path), **about, **self._which})

    def _digest_of(self, path: Path | None) -> str:
        assert path is not None
        return digest_files(files_of(path), self._cache, {}, names=False)

    def _require_weights(self) -> None:
        parts = self._weights, self._other
        if any(part is not None and part.path is None for part in parts) or (
            self._changes.adapter is not None and self._changes.adapter.missing
        ):
            self._require()

    @property
    def _which(self) -> dict[str, Any]:
        """Which of a checkpoint's state dicts was asked for; empty where none was."""
        given = {"ema": self._ema, "state_dict": self._state_dict}
        return {key: value for key, value in given.items() if value}

    def describe(self) -> dict[str, Any]:
        """See `ModelHandle.describe`."""
        fetched = {} if self._weights is None else self._weights.describe()
        return {**super().describe(), **self._which, **fetched, **self._changes.describe(), **self._asked.describe()}

    @property
    def own_weights(self) -> bool:
        """See `ModelHandle.own_weights`: a file or folder, random ones, or published ones that were changed."""
        return self._weights is None or not self._weights.published or self._changes.any

    def checkpoint_flags(self) -> tuple[str, ...]:
        """See `ModelHandle.checkpoint_flags`. What a load has found is kept beside the digests of files."""
        if (
            self._path is not None and self._known() is None
        ):  # an older version cached the features, or this was removed
            from clipeval.models.checkpoint import flags_of

            self._of_checkpoint = self._load_weights(self._build(blank=True), flags_of)
            self._remember()
        return self._of_checkpoint or ()

    def _known(self) -> tuple[str, ...] | None:
        """What a load has found, this one or an earlier one of the same weights; None where there was none."""
        if self._of_checkpoint is None and self.missing is None and self._path is not None:
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
        files = [self._source.registry.vocabulary()] if source is None else hub_cache.tokenizer_files(source)
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
        path = self._path
        model = self._build(blank=path is not None)
        seen = from_open_clip({**self._preprocess_cfg, "size": getattr(model.visual, "image_size", None)})
        if seen != self.preprocess and "size" not in self._asked.preprocess:
            raise ClipevalError(
                f"{self.name} sees {seen.describe()}, not {self.preprocess.describe()} as its config says"
            )
        whole = images or self._which or self._changes.any
        if whole or (path is not None and not load_text_into(model, path)):
            self._of_checkpoint = self._load_weights(model, load_into)
            if path is not None:
                self._remember()
        if self._changes.adapter is not None:
            from clipeval.models.checkpoint import check_finite

            model = self._changes.adapter.merge_into(model)
            check_finite(model, f"{self.name} with the adapter {self._changes.adapter.name}")
        if self._asked.image_size is not None and hasattr(model.visual, "set_input_size"):
            cast(Any, model.visual).set_input_size(
                self._asked.image_size
            )  # of a tower of timm's, once its weights are there
        if images and "size" in self._asked.preprocess:
            self._try_size(model)
        if images and torch.device(device).type == "cpu" and type(model.visual).__name__ == "ModifiedResNet":
            # A processor's convolutions want it so: 1.3 times as fast for RN50, the same but for the last bits.
            model.visual.to(memory_format=torch.channels_last)
        return Encoder(model, self.tokenizer(), self.preprocess, device, precision, compile=compile)

    def _load_weights(self, model: Any, load: Callable[..., tuple[str, ...]]) -> tuple[str, ...]:
        """Loads the checkpoint, or what lies between two, by `load_into`; or looks into it, by `flags_of`."""

        def of(weights: WeightFiles | None) -> Callable[[Any], tuple[str, ...]]:
            if weights is None or weights.path is None:  # random ones
                return lambda model: ()
            # Which of a training script's state dicts is asked for; what others published is one.
            which = {"ema": self._ema, "name": self._state_dict} if self._other is None or not weights.published else {}
            return lambda model: load(model, weights.path, **which)

        if self._other is None or self._changes.alpha is None:
            return of(self._weights)(model)
        return load_between(model, self._changes.alpha, of(self._weights), of(self._other))

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
