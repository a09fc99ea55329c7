"""How a comparison with published figures, or with another run, is put into words."""

from __future__ import annotations

from collections.abc import Sequence

from clipeval.results import formatting, published
from clipeval.results.against import ComparisonRow, ReferenceComparison
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


def block(comparison: ReferenceComparison) -> SummaryTable:
    """What a reader sees: the verdict at a glance, then the tasks."""
    if not comparison.of:
        return _run_block(comparison)
    return _reproduction(comparison) if comparison.same_model else _places(comparison)


def _reproduction(comparison: ReferenceComparison) -> SummaryTable:
    made = comparison.reproduction
    assert made is not None
    mains, others = made.scored(main=True), made.scored(main=False)
    outside = [line for line in mains if line.verdict == "outside"]
    other = {line.task: line for line in comparison.lines}
    lines = [*(line for line in made.mains), *(line for line in others if line.verdict == "outside")]
    rows = [_judged_row(line, other[line.task].flagged if line.task in other else False) for line in lines]
    tones: list[Severity] = [TONES[line.verdict] for line in lines]
    if comparison.average is not None:
        line = comparison.average
        rows.append(
            (
                *(line.name, "", formatting.score(line.reference), formatting.score(line.measured)),
                *(formatting.signed(line.difference), formatting.interval(line.interval), SAYS[line.verdict]),
            )
        )
        tones.append(TONES[line.verdict])
    holds = not outside and bool(mains or others)
    return SummaryTable(
        title=f"{comparison.run} against what was published for it",
        headline=_headline(comparison),
        tone="bad" if outside or made.drift is not None else "good" if holds else "faint",
        header=("Task", "Metric", "Published", "Measured", "Difference", "95% interval", "Agrees"),
        rows=tuple(rows),
        tones=tuple(tones),
        remarks=tuple(_remarks(comparison)),
        left=2,
        optional=(1,),
    )


def _headline(comparison: ReferenceComparison) -> str:
    """`38 of 38 reproduce: 30 to the printed digit, 8 within`; where not all do, which do not."""
    made = comparison.reproduction
    assert made is not None
    judged = made.scored(main=True)
    which = "tasks" if judged else "metrics"
    judged = judged or made.scored()
    if not judged:
        return "Nothing to judge yet: no task that was published of this model is recorded"
    counts = {verdict: sum(line.verdict == verdict for line in judged) for verdict in SAYS}
    good = counts["exact"] + counts["within"]
    verb = "agree" if comparison.imported else "reproduce"  # nothing was computed again
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
        named = ", ".join(f"{line.name} ({formatting.signed(line.difference)})" for line in wrong[:NAMED])
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
        formatting.score(line.measured),
        formatting.signed(line.difference) if line.measured is not None else "",
        formatting.interval(line.interval) if line.measured is not None else "",
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


def _remarks(comparison: ReferenceComparison) -> list[str]:
    made = comparison.reproduction
    assert made is not None
    told = [*(f"NOT THE SAME MODEL: {remark}." for remark in made.remarks)]
    for number, cause in enumerate(comparison.causes, start=1):
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
    told.append(_place_words(comparison))
    titles = dict.fromkeys(figure.title for line in made.lines for figure in line.figures)
    told.append(f"Published by {', '.join(titles)}: results/published/README.md says how.")
    if any(line.flagged for line in comparison.lines):
        told.append("!: the report's warnings say why.")
    told.append(
        "Within: inside the measured score's 95% interval over samples, widened for judging all metrics together, for rounding "
        "and, where the precision is another one, for its measured effect."
    )
    return [remark for remark in told if remark]


def _place_words(comparison: ReferenceComparison) -> str:
    if comparison.average is None or comparison.average.place is None:
        return ""
    beside = ""
    if comparison.neighbours:
        beside = f", {'between' if len(comparison.neighbours) == 2 else 'beside'} {' and '.join(comparison.neighbours)}"
    rivals = f"{comparison.of} other" if comparison.of < len(published.table()) else str(comparison.of)
    return (
        f"{comparison.average.name} tasks: {formatting.score(comparison.average.measured)}, place {comparison.average.place} "
        f"among {comparison.of + 1}, the {rivals} published models and this run{beside}."
    )


def _places(comparison: ReferenceComparison) -> SummaryTable:
    rows = published.table()
    shown = []
    for line in comparison.lines:
        if line.measured is None:
            continue
        column = published.COLUMNS[line.key][0]
        shown.append(
            (
                line.name + (" !" if line.flagged else ""),
                formatting.score(line.measured),
                formatting.interval(line.interval),
                formatting.score(float(rows[column].median())),
                formatting.score(float(rows[column].max())),
                f"{line.place} of {comparison.of + 1}",
            )
        )
    return SummaryTable(
        title=f"{comparison.run} among {comparison.of} published models",
        headline=_place_words(comparison) or "Nothing to place yet: no task of the published table is recorded",
        tone="plain",
        header=("Task", "Measured", "95% interval", "Median", "Best", "Place"),
        rows=tuple(shown),
        tones=tuple("plain" for _ in shown),
        remarks=(_why_placed(comparison),),
    )


def _why_placed(comparison: ReferenceComparison) -> str:
    if not comparison.namesake:
        return "This model is not in the published table: its place is shown, and nothing is reproduced."
    return (
        f"This model is called like {comparison.namesake}, but its weights are a file or an object of one's own, and their "
        "digest is not known to be the published one: nothing is reproduced. To run the published weights, name them so: "
        "model.pretrained=TAG of open_clip, or ORG/NAME of the Hub in model.path."
    )


def _run_block(comparison: ReferenceComparison) -> SummaryTable:
    scored = [line for line in comparison.lines if line.verdict not in ("missing",)]
    apart = [line for line in scored if line.verdict == "outside"]
    higher = sum((line.difference or 0) > 0 for line in apart)
    lines = [*comparison.lines, *([comparison.average] if comparison.average else [])]
    return SummaryTable(
        title=f"{comparison.run} against {comparison.reference}",
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
                formatting.score(line.reference),
                formatting.score(line.measured),
                formatting.signed(line.difference),
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


def _signed_interval(line: ComparisonRow) -> str:
    if line.interval is None or line.difference is None:
        return ""
    return f"{line.interval[0]:+.4f} to {line.interval[1]:+.4f}"
