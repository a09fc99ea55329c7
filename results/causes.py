"""Why a run may not reproduce what was published: the causes that cost others their points, in the order of the evidence."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clipeval.results.published.names import QUICKGELU, needs_quickgelu
from clipeval.results.published.registry import RECIPES
from clipeval.results.reproduction import Judged, Reproduction, same_recipe
from clipeval.results.runs import Run

SMALL = 0.01
"""The most that another precision was seen to move a metric is 0.0047 (`precision=datacomp`) and 0.0141 (bf16), see
results/benchmarks: values further apart than this have another cause."""


@dataclass(frozen=True)
class Cause:
    """One likely cause.

    Attributes:
        name: precision, prompts, activation, text clean-up, data revision or image decoding.
        evidence: what of the run speaks for it.
        command: what tests it.
        seen: whether the run is known to differ in it from what was published.
    """

    name: str
    evidence: str
    command: str
    seen: bool


@dataclass(frozen=True)
class _Clue:
    evidence: str
    overrides: str
    seen: bool
    pattern: bool
    """Whether the values that do not agree are those that this cause would move."""


def causes(run: Run, reproduction: Reproduction) -> list[Cause]:
    """The likely causes, the likeliest first; [] where everything agrees."""
    wrong = reproduction.outside or (_lowest(reproduction) if reproduction.drift is not None else [])
    if not wrong:
        return []
    scored: list[tuple[tuple[int, int, int], Cause]] = []
    for order, (name, clue_of) in enumerate(CLUES.items()):
        clue = clue_of(run, reproduction, wrong)
        if clue is not None:
            cause = Cause(name, clue.evidence, command(run, wrong, name, clue.overrides), clue.seen)
            scored.append(((-int(clue.seen), -int(clue.pattern), order), cause))
    return [cause for _, cause in sorted(scored, key=lambda item: item[0])]


def command(run: Run, wrong: Sequence[Judged], name: str, overrides: str) -> str:
    """A command that runs the worst tasks again with one thing changed, and judges them."""
    config = run.info.get("config") or {}
    worst = sorted(wrong, key=lambda line: -abs(line.difference or 0.0))
    chosen = list(dict.fromkeys(line.task for line in worst))[:3]
    model = _model_overrides(run, overrides)
    root = (config.get("data") or {}).get("root")
    parts = ["clipeval run", *model, "suite=none", *(f"+task@tasks.{task}={task}" for task in chosen)]
    parts += [f"data.root={shlex.quote(str(root))}"] if root else []
    out = shlex.quote(f"{run.folder.place}-{name.replace(' ', '-')}")
    return f"{' '.join(parts)} {overrides} out={out} && clipeval report {out} --against published"


def _model_overrides(run: Run, overrides: str) -> list[str]:
    model = (run.info.get("config") or {}).get("model") or {}
    told = {**model, **{key: value for key, value in run.model.items() if key in ("name", "pretrained")}}
    if "transformers" in str(model.get("_target_")):
        return [f"model=hf_transformers model.path={shlex.quote(str(model.get('path')))}"]
    given = [f"model.{key}={shlex.quote(str(told[key]))}" for key in ("name", "pretrained") if told.get(key)]
    return ["model=open_clip", *(text for text in given if text.partition("=")[0] + "=" not in overrides)]


def _activation(run: Run, reproduction: Reproduction, wrong: Sequence[Judged]) -> _Clue | None:
    name, tag = str(run.model.get("name") or ""), str(run.model.get("pretrained") or "")
    flags = [flag for record in run.records.values() for flag in record.flags if "QuickGELU" in flag]
    lower = _share(wrong, lambda line: (line.difference or 0.0) < 0) > 0.7
    if not name.endswith(QUICKGELU) and (flags or needs_quickgelu(name, tag)):
        text = flags[0] if flags else f"{tag} was trained with QuickGELU, and {name} has none"
        return _Clue(text, f"model.name={name}{QUICKGELU}", seen=True, pattern=lower)
    remark = next((line.figure.remark for line in wrong if "QuickGELU" in line.figure.remark), "")
    if remark:
        other = name.removesuffix(QUICKGELU) if name.endswith(QUICKGELU) else name + QUICKGELU
        return _Clue(remark, f"model.name={other}", seen=True, pattern=True)
    known = any(not line.figure.remark for line in wrong)
    return (
        None
        if known
        else _Clue("the activation of these weights is not known", f"model.name={name}{QUICKGELU}", False, lower)
    )


def _prompts(run: Run, reproduction: Reproduction, wrong: Sequence[Judged]) -> _Clue | None:
    asked = (run.info.get("config") or {}).get("prompts")
    named = {
        str(line.record.prompts.get("name"))
        for line in wrong
        if line.record is not None and line.record.prompts.get("name") not in (None, "folder")
    }
    by_prompts = [line for line in wrong if _by_prompts(line)]
    others = [line for line in reproduction.scored(main=True) if not _by_prompts(line)]
    if not by_prompts:
        return None
    pattern = len(by_prompts) == len(wrong) and all(line.verdict != "outside" for line in others)
    if asked or named:
        what = ", ".join(sorted(named)) or str(asked.get("name") if isinstance(asked, dict) else asked)
        return _Clue(
            f"this run asked with {what}, the published with each set's own prompts", "prompts=null", True, pattern
        )
    return _Clue(
        "the sets' own prompts were used; see that their folders' zeroshot_classification_templates.txt and classnames.txt "
        "are those of the published copies",
        "data.source=datacomp",
        False,
        pattern and bool(others),
    )


def _text(run: Run, reproduction: Reproduction, wrong: Sequence[Judged]) -> _Clue | None:
    config = (run.info.get("config") or {}).get("model") or {}
    names = " ".join(str(part) for part in (run.model.get("name"), config.get("path"), config.get("name"))).lower()
    given = config.get("text_clean")
    captions = [line for line in wrong if not _by_prompts(line)]
    pattern = len(captions) >= len(wrong) / 2
    if given is not None:
        return _Clue(f"this run cleaned texts by model.text_clean={given}", "model.text_clean=null", True, pattern)
    if "siglip" not in names:
        return None
    route = "transformers" in str(config.get("_target_"))
    text = "SigLIP reads lower case without punctuation, as its authors advise; transformers' Siglip2 tokenizer lowers only"
    return _Clue(text, "model.text_clean=canonicalize", route, pattern)


def _data(run: Run, reproduction: Reproduction, wrong: Sequence[Judged]) -> _Clue | None:
    sources = (run.info.get("config") or {}).get("data") or {}
    flags = [
        f"{line.name}: {flag}"
        for line in wrong
        if line.record is not None
        for flag in line.record.flags
        if any(word in flag for word in ("expected", "left out", "samples", "classes"))
    ]
    tasks = {line.task for line in wrong}
    few = len(tasks) <= max(1, len(reproduction.scored(main=True)) // 5)
    if flags:
        return _Clue(flags[0], "data.strict=true", True, True)
    if sources.get("source") not in (None, "datacomp"):
        return _Clue(f"this run read data.source={sources['source']}", "data.source=datacomp", True, few)
    return _Clue(
        "another revision of the set, or a damaged copy: `clipeval download --verify` compares digests",
        "data.strict=true",
        False,
        few,
    )


def _decode(run: Run, reproduction: Reproduction, wrong: Sequence[Judged]) -> _Clue | None:
    config = run.info.get("config") or {}
    ways = {(config.get("runtime") or {}).get("preprocess")}
    for line in wrong:
        ways.update(line.record.fingerprint.preprocess.split("/")[1:2] if line.record is not None else ())
    other = next((way for way in ("fast", "nvjpeg") if way in ways), None)
    changed = (config.get("model") or {}).get("preprocess")
    several = len({line.task for line in wrong}) >= len(reproduction.scored(main=True)) / 2
    if other is not None:
        does = {"fast": "decodes and resizes", "nvjpeg": "decodes"}[other]
        return _Clue(f"runtime.preprocess={other} {does} in its own way", "runtime.preprocess=exact", True, several)
    if changed:
        return _Clue(
            f"model.preprocess={changed} is not what the model describes", "model.preprocess=null", True, several
        )
    return _Clue("images are decoded by this machine's Pillow and its libjpeg", "runtime.device=cpu", False, False)


def _precision(run: Run, reproduction: Reproduction, wrong: Sequence[Judged]) -> _Clue | None:
    line = next((line for line in wrong if line.record and not same_recipe(line.record, line.figure.recipe)), None)
    if line is None or line.record is None:
        return None
    made, recipe = line.record.fingerprint.precision, line.figure.recipe
    small = all(abs(each.difference or 0.0) <= SMALL for each in wrong)
    known = recipe != "unknown"
    overrides = {"datacomp": "runtime.precision=datacomp", "fp32": "runtime.precision=fp32"}.get(
        recipe, "runtime.precision=fp16"
    )
    # Half precision throughout is a choice of this run's; fp32 differs from every mixed recipe, by little.
    seen = (known and small) or made.split("/")[0] in ("bf16", "fp16")
    return _Clue(f"this run computed in {made}; the published: {RECIPES[recipe]}", overrides, seen, small)


CLUES: dict[str, Callable[[Run, Reproduction, Sequence[Judged]], _Clue | None]] = {
    "activation": _activation,
    "prompts": _prompts,
    "text clean-up": _text,
    "data revision": _data,
    "image decoding": _decode,
    "precision": _precision,
}
"""What to look for, in the order of what it has cost others where nothing else decides."""


def _by_prompts(line: Judged) -> bool:
    """Whether a task's texts are made of templates and class names."""
    protocol: Any = line.record.protocol if line.record else ""
    return str(protocol).partition("/")[0] in ("classification", "attributes", "multilabel")


def _share(lines: Sequence[Judged], holds: Callable[[Judged], bool]) -> float:
    return sum(map(holds, lines)) / len(lines) if lines else 0.0


def _lowest(reproduction: Reproduction) -> list[Judged]:
    """The main metrics on the side to which all of them lie, the furthest first."""
    side = -1 if (reproduction.drift or 0.0) < 0 else 1
    lines = [
        line
        for line in reproduction.scored(main=True)
        if line.verdict == "within" and side * (line.difference or 0.0) > 0
    ]
    return sorted(lines, key=lambda line: -abs(line.difference or 0.0))
