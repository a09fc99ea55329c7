"""How a comparison with published figures, or with another run, is put into words."""

from __future__ import annotations

from clipeval.results import published, words
from clipeval.results.against import Line, ReferenceComparison, Verdict
from clipeval.results.block import Severity, SummaryTable

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
    scored = [line for line in found.lines if line.measured is not None]
    outside = [line for line in scored if line.verdict == "outside"]
    holds = not outside and bool(scored)
    partial = (
        "" if len(scored) == len(published.COLUMNS) else f" (so far: {len(scored)} of {len(published.COLUMNS)} tasks)"
    )
    what, agrees, parts_from = ("The reproduction", "HOLDS", "DOES NOT HOLD")
    if found.imported:  # nothing was computed again
        what, agrees, parts_from = ("What was imported", "AGREES", "DOES NOT AGREE")
    if not scored:
        headline = "Nothing to judge yet: no task of the published table is recorded"
    elif holds:
        counts = [(found.count("exact"), "to the printed digit"), (found.count("within"), "within their 95% intervals")]
        counts.append((found.count("unknown"), "without an interval"))
        parts = ", ".join(f"{count} {what}" for count, what in counts if count)
        headline = f"{what} {agrees}{partial}: of {len(scored)} tasks {parts}"
    else:
        named = ", ".join(f"{line.name} ({words.signed(line.difference)})" for line in outside)
        headline = f"{what} {parts_from} on {len(outside)} of {len(scored)} tasks{partial}: {named}"
    remarks = [_place_words(found)]
    if any(line.flagged for line in scored):
        remarks.append(
            "!: the report's warnings say why (other samples than the published figure's, or a figure that was imported);"
            " the interval is the measured one's."
        )
    else:
        remarks.append("Intervals: the measured score's, 95% over samples; published figures have four digits.")
    lines = [*found.lines, *([found.average] if found.average else [])]
    return SummaryTable(
        title=f"{found.run} against what was published for it",
        headline=headline,
        tone="good" if holds else "bad" if outside else "faint",
        header=("Task", "Published", "Measured", "Difference", "95% interval", "Agrees"),
        rows=tuple(
            (
                line.name + (" !" if line.flagged else ""),
                words.score(line.reference),
                words.score(line.measured),
                words.signed(line.difference) if line.measured is not None else "",
                words.interval(line.interval) if line.measured is not None else "",
                SAYS[line.verdict],
            )
            for line in lines
        ),
        tones=tuple(TONES[line.verdict] for line in lines),
        remarks=tuple(remark for remark in remarks if remark),
    )


def _place_words(found: ReferenceComparison) -> str:
    if found.average is None or found.average.place is None:
        return ""
    beside = ""
    if found.neighbours:
        beside = f", {'between' if len(found.neighbours) == 2 else 'beside'} {' and '.join(found.neighbours)}"
    rivals = f"{found.of} other" if found.same_model else str(found.of)
    return (
        f"{found.average.name} tasks: {words.score(found.average.measured)}, place {found.average.place} "
        f"among {found.of + 1}, the {rivals} published models and this run{beside}."
    )


def _places(found: ReferenceComparison) -> SummaryTable:
    rows = published.table()
    lines = [line for line in found.lines if line.measured is not None]
    shown = []
    for line in lines:
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
