"""How a comparison with published figures, or with another run, is put into words."""

from __future__ import annotations

from collections.abc import Sequence

from clipeval.results import published, words
from clipeval.results.against import Line, ReferenceComparison
from clipeval.results.block import Severity, SummaryTable
from clipeval.results.judgement import Verdict
from clipeval.results.reproduction import Figure, Judged

SAYS: dict[Verdict, str] = {
    "exact": "exact",
    "within": "within",
    "outside": "OUTSIDE",
    "unknown": "no interval",
    "missing": "missing",
}

TONES: dict[Verdict, Severity] = {
    "exact": "good",
    "within": "plain",
    "outside": "bad",
    "unknown": "faint",
    "missing": "faint",
}

RUN_SAYS: dict[Verdict, str] = {
    "exact": "equal",
    "within": "unclear",
    "outside": "DIFFERS",
    "unknown": "no interval",
    "missing": "missing",
}

RUN_TONES: dict[Verdict, Severity] = {**TONES, "exact": "plain", "outside": "good"}


def block(found: ReferenceComparison) -> SummaryTable:
    """What a reader sees: the verdict at a glance, then the tasks."""
    if not found.of:
        return _run_block(found)
    return _reproduction(found) if found.same_model else _places(found)


def _reproduction(found: ReferenceComparison) -> SummaryTable:
    made = found.reproduction
    assert made is not None
    mains, others = made.scored(main=True), made.scored(main=False)
    outside = [line for line in mains if line.verdict == "outside"]
    other = {line.task: line for line in found.lines}
    lines = [*(line for line in made.mains), *(line for line in others if line.verdict == "outside")]
    rows = [_judged_row(line, other[line.task].flagged if line.task in other else False) for line in lines]
    tones: list[Severity] = [TONES[line.verdict] for line in lines]
    if found.average is not None:
        line = found.average
        rows.append(
            (
                *(line.name, "", words.score(line.reference), words.score(line.measured)),
                *(words.signed(line.difference), words.interval(line.interval), SAYS[line.verdict]),
            )
        )
        tones.append(TONES[line.verdict])
    holds = not outside and bool(mains or others)
    return SummaryTable(
        title=f"{found.run} against what was published for it",
        headline=_headline(found),
        tone="bad" if outside or made.drift is not None else "good" if holds else "faint",
        header=("Task", "Metric", "Published", "Measured", "Difference", "95% interval", "Agrees"),
        rows=tuple(rows),
        tones=tuple(tones),
        remarks=tuple(_remarks(found)),
        left=2,
        optional=(1,),
    )


def _headline(found: ReferenceComparison) -> str:
    """`38 of 38 reproduce: 30 to the printed digit, 8 within`; where not all do, which do not."""
    made = found.reproduction
    assert made is not None
    judged = made.scored(main=True)
    which = "tasks" if judged else "metrics"
    judged = judged or made.scored()
    if not judged:
        return "Nothing to judge yet: no task that was published of this model is recorded"
    counts = {verdict: sum(line.verdict == verdict for line in judged) for verdict in SAYS}
    good = counts["exact"] + counts["within"]
    verb = "agree" if found.imported else "reproduce"  # nothing was computed again
    text = f"{good} of {len(judged)} {verb}"
    if len(judged) < len(made.mains):
        text += f" (so far: {len(judged)} of {len(made.mains)} {which})"
    parts = [
        (counts["exact"], "to the printed digit"),
        (counts["within"], "within"),
        (counts["unknown"], "without an interval"),
    ]
    text += ": " + ", ".join(f"{count} {what}" for count, what in parts if count) if good or counts["unknown"] else ""
    wrong = [line for line in judged if line.verdict == "outside"]
    if wrong:
        named = ", ".join(f"{line.name} ({words.signed(line.difference)})" for line in wrong[:NAMED])
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        text += f"; {len(wrong)} not: {named}{more}"
    if made.drift is not None and not wrong:
        side = "lower" if made.drift < 0 else "higher"
        text += f"; yet together they are {side} than chance allows ({abs(made.drift):.1f} standard deviations)"
    return text


NAMED = 6
"""Tasks that the first line names."""


def _judged_row(line: Judged, flagged: bool) -> tuple[str, ...]:
    values = "; ".join(dict.fromkeys(_printed(figure) for figure in line.figures))
    return (
        line.name + (" !" if flagged else ""),
        line.metric,
        values,
        words.score(line.measured),
        words.signed(line.difference) if line.measured is not None else "",
        words.interval(line.interval) if line.measured is not None else "",
        SAYS[line.verdict],
    )


def _printed(figure: Figure) -> str:
    """A published value as its source prints it; a float with the digits of ours."""
    return f"{figure.value:.{min(figure.digits, 4)}f}"


def _side_by_side(lines: Sequence[Judged]) -> str:
    """Values that several sources have, each with its source."""
    shown = [
        f"{line.name} {line.metric}: " + ", ".join(f"{_printed(figure)} ({figure.title})" for figure in line.figures)
        for line in lines[:NAMED]
    ]
    return "; ".join(shown) + (f" and {len(lines) - NAMED} more" if len(lines) > NAMED else "")


def _remarks(found: ReferenceComparison) -> list[str]:
    made = found.reproduction
    assert made is not None
    told = [*(f"NOT THE SAME MODEL: {remark}." for remark in made.remarks)]
    for number, cause in enumerate(found.causes, start=1):
        seen = "" if cause.seen else " (possible)"
        told.append(f"Likely cause {number}, {cause.name}{seen}: {cause.evidence}. Test it: {cause.command}")
    others = made.scored(main=False)
    if others:
        wrong = [line for line in others if line.verdict == "outside"]
        good = sum(line.verdict in ("exact", "within") for line in others)
        text = f"Other published metrics of these tasks: {good} of {len(others)} agree"
        unknown = sum(line.verdict == "unknown" for line in others)
        told.append(
            text
            + (f", {unknown} without an interval" if unknown else "")
            + (f", {len(wrong)} do not: above" if wrong else "")
            + "."
        )
    several = [line for line in made.lines if len(line.figures) > 1]
    apart = [line for line in several if line.disagree]
    if apart:
        told.append(
            f"The sources DISAGREE on {len(apart)} of {len(several)} values that several print: {_side_by_side(apart)}."
        )
    elif several:
        told.append(f"Several sources, which agree: {_side_by_side(several)}.")
    told.append(_place_words(found))
    titles = dict.fromkeys(figure.title for line in made.lines for figure in line.figures)
    told.append(f"Published by {', '.join(titles)}: results/published/README.md says how.")
    if any(line.flagged for line in found.lines):
        told.append("!: the report's warnings say why.")
    told.append(
        "Within: inside the measured score's 95% interval over samples, widened for judging all metrics together, for rounding "
        "and, where the precision is another one, for its measured effect."
    )
    return [remark for remark in told if remark]


def _place_words(found: ReferenceComparison) -> str:
    if found.average is None or found.average.place is None:
        return ""
    beside = ""
    if found.neighbours:
        beside = f", {'between' if len(found.neighbours) == 2 else 'beside'} {' and '.join(found.neighbours)}"
    rivals = f"{found.of} other" if found.of < len(published.table()) else str(found.of)
    return (
        f"{found.average.name} tasks: {words.score(found.average.measured)}, place {found.average.place} "
        f"among {found.of + 1}, the {rivals} published models and this run{beside}."
    )


def _places(found: ReferenceComparison) -> SummaryTable:
    rows = published.table()
    shown = []
    for line in found.lines:
        if line.measured is None:
            continue
        column = published.COLUMNS[line.key][0]
        shown.append(
            (
                line.name + (" !" if line.flagged else ""),
                words.score(line.measured),
                words.interval(line.interval),
                words.score(float(rows[column].median())),
                words.score(float(rows[column].max())),
                f"{line.place} of {found.of + 1}",
            )
        )
    return SummaryTable(
        title=f"{found.run} among {found.of} published models",
        headline=_place_words(found) or "Nothing to place yet: no task of the published table is recorded",
        tone="plain",
        header=("Task", "Measured", "95% interval", "Median", "Best", "Place"),
        rows=tuple(shown),
        tones=tuple("plain" for _ in shown),
        remarks=("This model is not in the published table: its place is shown, and nothing is reproduced.",),
    )


def _run_block(found: ReferenceComparison) -> SummaryTable:
    scored = [line for line in found.lines if line.verdict not in ("missing",)]
    apart = [line for line in scored if line.verdict == "outside"]
    higher = sum((line.difference or 0) > 0 for line in apart)
    lines = [*found.lines, *([found.average] if found.average else [])]
    return SummaryTable(
        title=f"{found.run} against {found.reference}",
        headline=(
            f"{len(apart)} of {len(scored)} tasks differ by more than chance: {higher} higher, {len(apart) - higher} lower"
            if scored
            else "No task is recorded in both"
        ),
        tone="plain",
        header=("Task", "Theirs", "This run", "Difference", "95% interval", "Verdict"),
        rows=tuple(
            (
                line.name + (" !" if line.flagged else ""),
                words.score(line.reference),
                words.score(line.measured),
                words.signed(line.difference),
                _signed_interval(line),
                RUN_SAYS[line.verdict],
            )
            for line in lines
        ),
        tones=tuple(RUN_TONES[line.verdict] for line in lines),
        remarks=(
            "The intervals take the two runs as independent; `clipeval compare` pairs their samples and sees more.",
        ),
    )


def _signed_interval(line: Line) -> str:
    if line.interval is None or line.difference is None:
        return ""
    return f"{line.interval[0]:+.4f} to {line.interval[1]:+.4f}"
