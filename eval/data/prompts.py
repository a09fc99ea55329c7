"""Which prompts a task is asked with: its folder's own, a named set, a user's file, or prompts written for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.data.descriptors import descriptor_prompts, waffle_templates
from clipeval.data.images import digest_of
from clipeval.data.languages import read_packaged
from clipeval.data.split import read_text
from clipeval.data.text_table import lines_of
from clipeval.results import safe_json
from clipeval.tasks.base import Samples
from clipeval.tasks.zero_shot import Pooling, Templates

Weights = tuple[float, ...] | dict[str, tuple[float, ...]] | None


@dataclass(frozen=True)
class PromptSet:
    """A named prompt set as configs/prompts/ declares it.

    Attributes:
        name: printed in records.
        templates: `{c}` stands for the class name.
        path: a user's file: a template a line, or JSON {class name: [prompts]}; with weights
            {template: weight}, {class name: {prompt: weight}}.
        source: class-specific prompts that clip_benchmark packages, as `<file>:<set>`.
        descriptors: a JSON file {class name: [descriptors]}, of which DCLIP's prompts are made.
        waffle: how many of WaffleCLIP's random words; `seed` and `words`, a file of them, one a line, belong to it.
        aggregate: vectors: a class is the normalised mean of its prompts' vectors; cosines: its score is the mean of their cosines.
    """

    name: str
    templates: tuple[str, ...] = ()
    path: str | None = None
    source: str | None = None
    descriptors: str | None = None
    waffle: int | None = None
    seed: int = 1
    words: str | None = None
    aggregate: str = "vectors"

    def load(self, samples: Samples) -> Templates:
        """The templates for a split's classes; the folder's own where this set names none."""
        if self.path:
            return _from_file(Path(self.path).expanduser())[0]
        if self.source:
            return _packaged(self.source)
        if self.descriptors:
            path = Path(self.descriptors).expanduser()
            return descriptor_prompts(_descriptors(path))
        if self.waffle:
            words = [line.strip() for line in lines_of(read_text(Path(self.words).expanduser()))] if self.words else []
            return waffle_templates(samples.classnames, self.waffle, self.seed, [word for word in words if word])
        return self.templates or samples.templates

    def pooling(self) -> Pooling:
        """How a class's prompts become its vector: their weights are those of the user's file."""
        weights = _from_file(Path(self.path).expanduser())[1] if self.path else None
        return Pooling(weights, self.aggregate == "cosines")


def prompt_set(config: Mapping[str, Any] | None) -> PromptSet:
    """The prompt set of a config node; None is the folder's own."""
    if config is None:
        return PromptSet("folder")
    fields = {key: value for key, value in config.items() if value is not None}
    templates = tuple(fields.pop("templates", ()))
    return PromptSet(templates=templates, **fields)


def prompts_digest(texts: Sequence[str]) -> str:
    """sha256 of the texts that a task asks about, in order."""
    return digest_of(*texts)


def pooled_digest(texts: Sequence[str], pooling: Pooling) -> str:
    """As `prompts_digest`, and of how they become class vectors, where that is not by a plain mean."""
    return prompts_digest(texts if pooling == Pooling() else [*texts, repr(pooling)])


def _from_file(path: Path) -> tuple[Templates, Weights]:
    text = read_text(path)
    if path.suffix != ".json":
        return _with_place([line.strip() for line in lines_of(text) if line.strip()], path), None
    try:
        content = safe_json.parse(text)
    except ValueError as problem:
        raise ClipevalError(f"{path}: not JSON ({problem}).") from None
    if isinstance(content, dict) and content and all(_is_weight(value) for value in content.values()):
        return _with_place(list(content), path), _weights(content, path)
    if isinstance(content, dict) and content and all(isinstance(value, dict) and value for value in content.values()):
        weights = {name: _weights(own, path, name) for name, own in content.items()}
        return _checked({name: list(own) for name, own in content.items()}, str(path)), weights
    checked = _checked(content, str(path))
    return (_with_place(checked, path) if isinstance(checked, list) else checked), None


def _weights(content: Mapping[str, object], path: Path, name: str | None = None) -> tuple[float, ...]:
    """The weights of {template: weight}, of all classes or of one."""
    values = [float(value) if _is_weight(value) else -1.0 for value in content.values()]  # type: ignore[arg-type]
    wrong = next((key for key, value in zip(content, values, strict=True) if not 0 <= value < float("inf")), None)
    if wrong is not None or not sum(values) > 0:
        whose = "" if name is None else f" of {name!r}"
        raise ClipevalError(
            f"{path}: the weight of {wrong or 'some template'!r}{whose}: a number from 0 was expected, and one above 0."
        )
    return tuple(values)


def _is_weight(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _descriptors(path: Path) -> dict[str, list[str]]:
    try:
        content = safe_json.parse(read_text(path))
    except ValueError as problem:
        raise ClipevalError(f"{path}: not JSON ({problem}).") from None
    lists = isinstance(content, dict) and all(
        isinstance(v, list) and all(isinstance(d, str) for d in v) for v in content.values()
    )
    if not lists or not content:
        raise ClipevalError(f"{path}: an object {{class name: [descriptors]}} was expected.")
    return dict(content)


def _with_place(templates: list[str], path: Path) -> list[str]:
    """A user's templates, each of which must say where the class name goes: `{}` and `{class}` are easily mistaken for it."""
    if not templates:
        raise ClipevalError(f"{path} holds no template; write one a line, with {{c}} where the class name goes.")
    for template in templates:
        if "{c}" not in template:
            raise ClipevalError(f"{path}: the template {template!r} has no {{c}}, the place of the class name.")
    return templates


def _packaged(source: str) -> Templates:
    file, _, name = source.partition(":")
    sets = read_packaged(file)
    if name not in sets:
        raise ClipevalError(f"clip_benchmark's {file} has prompts for {', '.join(sets)}, and none for {name!r}.")
    return _checked(sets[name], source)


def _checked(content: object, location: str) -> list[str] | dict[str, list[str]]:
    if isinstance(content, list) and all(map(_is_prompt, content)):
        return content
    if isinstance(content, dict):
        for name, prompts in content.items():
            if not isinstance(prompts, list) or not prompts or not all(map(_is_prompt, prompts)):
                raise ClipevalError(
                    f"{location}: the prompts of {name!r} must be a list of texts; got {prompts!r:.80}."
                )
        return content
    raise ClipevalError(f"{location}: expected a JSON list of templates, or an object {{class name: [prompts]}}.")


def _is_prompt(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
