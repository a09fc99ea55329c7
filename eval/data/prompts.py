"""Which prompts a task is asked with: its folder's own, a named set, a user's file, or prompts written for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.data.images import digest_of
from clipeval.data.languages import read_packaged
from clipeval.data.split import read_text
from clipeval.data.text_table import lines_of
from clipeval.results import safe_json
from clipeval.tasks.base import Samples
from clipeval.tasks.zero_shot import Templates


@dataclass(frozen=True)
class PromptSet:
    """A named prompt set as configs/prompts/ declares it.

    Attributes:
        name: printed in records.
        templates: `{c}` stands for the class name.
        path: a user's file: a template a line, or JSON {class name: [prompts]}.
        source: class-specific prompts that clip_benchmark packages, as `<file>:<set>`.
    """

    name: str
    templates: tuple[str, ...] = ()
    path: str | None = None
    source: str | None = None

    def load(self, samples: Samples) -> Templates:
        """The templates for a split's classes; the folder's own where this set names none."""
        if self.path:
            return _from_file(Path(self.path).expanduser())
        if self.source:
            return _packaged(self.source)
        return self.templates or samples.templates


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


def _from_file(path: Path) -> Templates:
    text = read_text(path)
    if path.suffix == ".json":
        try:
            content = safe_json.parse(text)
        except ValueError as problem:
            raise ClipevalError(f"{path}: not JSON ({problem}).") from None
        checked = _checked(content, str(path))
        return _with_place(checked, path) if isinstance(checked, list) else checked
    return _with_place([line.strip() for line in lines_of(text) if line.strip()], path)


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
