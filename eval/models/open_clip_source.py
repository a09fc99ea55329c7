"""What `model.name` and `model.pretrained` name to open_clip: an architecture, its preprocessing, and where its weights are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.configs.naming import CHECKPOINT_SUFFIXES, slug_of
from clipeval.models import hub_cache
from clipeval.models.checkpoint_file import INDEX, checkpoint_in, torchscript_says
from clipeval.models.handle import path_mark
from clipeval.models.no_code import refuse_code
from clipeval.models.open_clip_registry import Registry, exported_config
from clipeval.models.weight_files import WeightFiles, located

RANDOM = "random"
"""`model.pretrained=random`: the architecture with random weights, seed 0, to measure speed without a download."""
LOCAL, HUB = "local-dir:", "hf-hub:"
CONFIG = "open_clip_config.json"


class Source:
    """An open_clip model before anything is asked for in place of its own.

    Attributes:
        registry: what open_clip knows.
        model_cfg: the architecture, as open_clip's configs have it.
        preprocess_cfg: what is said of its images; empty where nothing is.
        weights: where they are; None: random ones.
        flags: what a reader of the scores must know.

    Args:
        name: an architecture, hf-hub:ORG/REPO (or ORG/REPO@REVISION), or local-dir:FOLDER.
        pretrained: a tag, a file, an address, hf-hub:ORG/REPO, or `RANDOM`; of a folder or a repository, what takes the place of
            the weights in it, as from training them on.
        cache_root: where digests, answers and fetched files are kept.
        config_dir: a folder of one's own architectures.
        strict_quickgelu: whether a checkpoint of the other activation is an error.
        offline: never ask the network.

    Raises:
        ClipevalError: a name, tag or file that does not exist, with the nearest.
    """

    def __init__(
        self,
        name: str,
        pretrained: str | None,
        cache_root: Path,
        config_dir: str | None = None,
        strict_quickgelu: bool = False,
        offline: bool = False,
    ) -> None:
        self.name, self.pretrained, self.flags = name, pretrained or None, list[str]()
        self._cache, self._strict, self._offline = cache_root, strict_quickgelu, offline
        self.registry = Registry(cache_root, config_dir, {"name": name, "pretrained": pretrained})
        self.preprocess_cfg: dict[str, Any] = {}
        self.weights: WeightFiles | None = None
        self._archive: list[str] | None = None
        if name.startswith(LOCAL):
            self.model_cfg = self._read_folder(Path(name[len(LOCAL) :]).expanduser())
        elif name.startswith(HUB):
            self.model_cfg, self.preprocess_cfg = self._read_repository(name[len(HUB) :])
            self.weights = WeightFiles(repository=name[len(HUB) :], published=True)
        else:
            self.model_cfg = self._read_architecture()
        if pretrained or not self._has_config:
            self._read_pretrained()
        if any("naflex" in f"{key} {value}".lower() for key, value in self.model_cfg["vision_cfg"].items()):
            raise ClipevalError(
                f"{name} is a NaFlex model, whose images are patches of any aspect: use one of a fixed resolution, such as "
                "model=vit_b_16_siglip2"
            )
        self.archive_flags()

    @property
    def is_file(self) -> bool:
        """Whether the weights are a checkpoint alone, with nothing beside it that says how its images are made."""
        return self.weights is not None and not self.weights.published and not self._has_config

    @property
    def _has_config(self) -> bool:
        """Whether the name is of a folder or a repository with a config, of which the weights may be others."""
        return self.name.startswith((LOCAL, HUB))

    @property
    def command(self) -> str:
        """What fetches the files."""
        pretrained = f" model.pretrained={self.pretrained}" if self.pretrained else ""
        return f"clipeval download model=open_clip model.name={self.name}{pretrained}"

    def slug(self, *more: str | None) -> str:
        """Names the run folder, as `configs/model/_open_clip.yaml` does."""
        name, weights = self.name.removeprefix(HUB), (self.pretrained or "").removeprefix(HUB)
        if self.name.startswith(LOCAL):
            folder = Path(self.name[len(LOCAL) :]).expanduser()
            name = f"{folder.resolve().name}-{path_mark(folder)}"
        if weights and self.weights is not None and self.weights.file is not None:
            weights = f"{self.weights.file.stem}-{path_mark(self.weights.file)}"
        return slug_of(name, weights, *more)

    def _read_folder(self, folder: Path) -> dict[str, Any]:
        config = folder / CONFIG
        if not config.is_file():
            if (folder / "config.json").is_file():
                raise ClipevalError(
                    f"model.name={self.name} is a folder in transformers' form: model=hf_transformers model.path={folder}"
                )
            raise ClipevalError(
                f"model.name={self.name}: there is no {config}; expected a folder that open_clip exported"
            )
        model, self.preprocess_cfg = exported_config(config)
        if self.pretrained:
            return model
        indices = sorted(folder.glob(f"*{INDEX}"))
        if indices and not (folder / hub_cache.WEIGHTS[0]).is_file():
            self.weights = WeightFiles(file=checkpoint_in(folder))
            return model
        file = self.registry.checkpoint_in(folder)
        if file is None:
            raise ClipevalError(f"model.name={self.name}: {folder} holds no .safetensors, .bin or .pth file")
        self.weights = WeightFiles(file=file)
        return model

    def _read_repository(self, repository: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The repository's config: without it, neither preprocessing nor architecture is known."""
        if hub_cache.split(repository)[0].count("/") != 1 or repository.endswith("@"):
            raise ClipevalError(
                f"{HUB}{repository}: {HUB}ORG/REPO was expected, a repository of the hub, or {HUB}ORG/REPO@REVISION"
            )
        config = hub_cache.cached(repository, CONFIG)
        if config is None and not self._offline:
            try:
                config = hub_cache.download(repository, (CONFIG,))
            except hub_cache.OutOfReach as problem:
                raise ClipevalError(f"{problem}; where there is a network, run `{self.command}`") from problem
        if config is None:
            raise ClipevalError(f"the {CONFIG} of {repository} is not on this machine; run `{self.command}`")
        return exported_config(config)

    def _read_architecture(self) -> dict[str, Any]:
        name = self.name.replace("/", "-")
        found = self.registry.architecture(name)
        if found is None:
            raise ClipevalError(nearest("model.name", self.name, self.registry.names()))
        refuse_code(found, f"the architecture {name}")
        return found

    def _read_pretrained(self) -> None:
        name, given = self.name.replace("/", "-"), self.pretrained
        if given is None:
            choices = ", ".join(self.registry.tags(name)) or "none: give a checkpoint file"
            raise ClipevalError(
                f"model.name={self.name} needs model.pretrained, a tag ({choices}), file or hf-hub:org/repo"
            )
        if given == RANDOM:
            self.flags.append("random weights: scores mean nothing")
            self.weights = None
            return
        self.weights, own, trained = self._named("model.pretrained", given)
        self.preprocess_cfg = own or self.preprocess_cfg
        if trained is not None and (problem := self._other_activation(trained)):
            self.flags.append(problem)

    def other_weights(self, key: str, given: str) -> WeightFiles:
        """The weights that another key of the config names, of the same architecture.

        Raises:
            ClipevalError: there are none of that name, or they were trained with the other activation.
        """
        found, _, trained = self._named(key, given)
        if trained is not None and trained != bool(self.model_cfg.get("quick_gelu", False)):
            raise ClipevalError(f"{key}={given} was trained with the other activation than {self.name} has (QuickGELU)")
        return found

    def _named(self, key: str, given: str) -> tuple[WeightFiles, dict[str, Any], bool | None]:
        """Where weights are; what is said of their images; whether they were trained with QuickGELU, None: not said."""
        name = self.name.replace("/", "-")
        if given.startswith(HUB):
            repository = given[len(HUB) :]
            model, preprocess = self._read_repository(repository)
            found = WeightFiles(repository=repository, published=True)
            return found, preprocess, bool(model.get("quick_gelu", False))
        if not self._has_config and (cfg := self.registry.pretrained(name, given)):
            repository, _, filename = cfg["hf_hub"].rpartition("/")
            names = hub_cache.weight_names(filename)
            found = WeightFiles(repository=repository, names=names, published=True)
            return found, cfg, bool(cfg.get("quick_gelu", False))
        if (at := located(key, given, self._cache)) is not None:
            return at, {}, None
        if os.sep in given or Path(given).suffix in CHECKPOINT_SUFFIXES:
            raise ClipevalError(f"{key}={given}: there is no such file")
        if self._has_config:
            raise ClipevalError(
                f"{key}={given}: a checkpoint file, its address, or {HUB}ORG/REPO was expected; {self.name} has no tags"
            )
        raise ClipevalError(nearest(f"{key} for {self.name}", given, self.registry.tags(name)))

    def archive_flags(self) -> list[str]:
        """What a TorchScript archive says of its activation, once it is here.

        Raises:
            ClipevalError: it is the other one, with `model.strict_quickgelu`.
        """
        given = self.weights if self.pretrained else None
        path = None if given is None or given.published else given.path
        if self._archive is None and path is not None:
            problem = self._other_activation(True) if torchscript_says(path, "QuickGELU") else None
            self._archive = [problem] if problem else []
        return self._archive or []

    def _other_activation(self, trained: bool) -> str | None:
        """A checkpoint trained with QuickGELU and run without it loses points, and nothing else shows it."""
        built = bool(self.model_cfg.get("quick_gelu", False))
        if trained == built:
            return None
        base = self.name.removesuffix("-quickgelu")
        better = f"{base}-quickgelu" if trained else base
        known = not self._has_config and self.registry.architecture(better) is not None
        hint = f"; use model.name={better}" if known else ""
        message = (
            f"QuickGELU mismatch: {self.pretrained} was trained {'with' if trained else 'without'} it,"
            f" {self.name} runs {'with' if built else 'without'} it{hint}"
        )
        if self._strict:
            raise ClipevalError(f"{message} (or model.strict_quickgelu=false, to measure it all the same)")
        return message
