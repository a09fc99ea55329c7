"""The runs that overrides with several values stand for, each in a folder of its own: `runtime.precision=fp32,bf16`.

A folder's name says what is special to its run: `runs/ViT-B-32__openai__precision-bf16`. A key whose values give folders of
their own as it is (`model=a,b`) is not repeated.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.configs.naming import folder_name, short_keys, spelled, suffix

OUT = "out"


@dataclass(frozen=True)
class Naming:
    """How the folder of a run follows from its overrides.

    Attributes:
        plain: keys that have one value in all runs.
        told: keys with several values, which `out` tells apart by itself.
        shown: {key: what a folder's name calls it}.
        fixed: whether the user has given `out`, which then stands as it is.
    """

    plain: frozenset[str] = frozenset()
    told: frozenset[str] = frozenset()
    shown: Mapping[str, str] = field(default_factory=dict)
    fixed: bool = False

    def values(self, overrides: Sequence[str]) -> dict[str, str]:
        """{key: value} of the overrides in which a run differs from others."""
        read = {key_of(override): _value(override) for override in map(parsed, overrides)}
        return {key: value for key, value in read.items() if key not in self.plain}

    def out(self, config: DictConfig, overrides: Sequence[str]) -> str:
        """The run folder of a config that was composed of some overrides."""
        if self.fixed:
            return str(config.out)
        values = {key: value for key, value in self.values(overrides).items() if key not in self.told}
        shown = self.shown if self.shown.keys() >= values.keys() else short_keys(values)
        above, slash, name = str(config.out).rstrip("/").rpartition("/")  # a path, or an address
        return above + slash + folder_name(name + suffix(values, shown))


@dataclass(frozen=True)
class Combination:
    """One run: its overrides, its config with its own `out`, and the values in which it differs from the others."""

    overrides: tuple[str, ...]
    config: DictConfig
    values: Mapping[str, str]

    @property
    def name(self) -> str:
        """Its values, as the user wrote them."""
        return " ".join(f"{key}={value}" for key, value in self.values.items())


def parsed(word: str) -> Override:
    """An override as Hydra reads it.

    Raises:
        ClipevalError: it is no override.
    """
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as problem:
        raise ClipevalError(f"{word}: not an override ({str(problem).splitlines()[0]}).") from None


def combinations(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Each run's overrides, where some have several values: model=a,b gives two runs.

    Raises:
        ClipevalError: one is no override, or its values cannot be listed.
    """
    choices: list[list[str]] = []
    for word in overrides:
        override = parsed(word)
        if not override.is_sweep_override():
            choices.append([word])
            continue
        if not override.is_discrete_sweep():
            raise ClipevalError(
                f"{word}: an interval has no list of values, which only another hydra/sweeper chooses from."
            )
        key = override.get_key_element()
        choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
    return [tuple(chosen) for chosen in itertools.product(*choices)]


def compose_all(overrides: Sequence[str], config_dir: str | Path | None) -> tuple[Naming, list[Combination]]:
    """Composes every run of some overrides. Writes nothing.

    Raises:
        ClipevalError: a run cannot be composed, or two runs would share a folder.
    """
    runs = combinations(overrides)
    configs = [compose(run, config_dir) for run in runs]
    read = [parsed(override) for override in overrides]
    several = [key_of(override) for override in read if override.is_sweep_override()]
    plain = frozenset(key_of(override) for override in read) - set(several)
    bare = Naming(plain)
    values = [bare.values(run) for run in runs]
    outs = [str(config.out) for config in configs]
    told = frozenset(key for key in several if _tells(key, values, outs))
    naming = Naming(plain, told, short_keys(several), fixed=OUT in plain)
    runs_to_do = []
    for run, config, its in zip(runs, configs, values, strict=True):
        config.out = naming.out(config, run)
        runs_to_do.append(Combination(run, config, its))
    _check_folders(runs_to_do)
    return naming, runs_to_do


def key_of(override: Override) -> str:
    """What an override sets, without Hydra's + and ~."""
    return str(override.get_key_element()).lstrip("+~")


def _value(override: Override) -> str:
    """Its value as the user would write it; Hydra spells true as True."""
    return spelled(override.value()) or str(override.get_value_element_as_str())


def _tells(key: str, values: Sequence[Mapping[str, str]], outs: Sequence[str]) -> bool:
    """Whether runs that differ in this key alone have different folders as it is."""
    groups: dict[tuple[str, ...], dict[str, set[str]]] = {}
    for its, out in zip(values, outs, strict=True):
        others = tuple(f"{k}={v}" for k, v in its.items() if k != key)
        groups.setdefault(others, {}).setdefault(its[key], set()).add(out)
    return all(
        len(set().union(*folders.values())) == sum(len(one) for one in folders.values()) for folders in groups.values()
    )


def _check_folders(runs: Sequence[Combination]) -> None:
    owners: dict[Path, Combination] = {}
    for one in runs:
        folder = Path(str(one.config.out)).expanduser().resolve()
        other = owners.setdefault(folder, one)
        if other is not one:
            both = f"{other.name} and {one.name}" if other.name != one.name else f"{one.name} twice"
            raise ClipevalError(
                f"out={one.config.out} would hold the results of {both}, and each run needs a folder of its own: leave out= away, "
                "write one that tells them apart, such as out='runs/${model.slug}-${runtime.precision}', or give each value once."
            )
