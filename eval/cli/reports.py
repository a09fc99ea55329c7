"""The subcommands beside `run` and `plan`. What each needs is imported when it is called: `report` needs no model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipeval.cli.cache import add_cache
from clipeval.cli.convert import add_convert
from clipeval.cli.download import add_download
from clipeval.cli.leaderboard import add_leaderboard
from clipeval.cli.places import path_here, run_place
from clipeval.configs.errors import ClipevalError

BATCH = 64
"""Pictures that `classify` embeds at once."""

FORMATS = (
    "table",
    "csv",
    "md",
    "latex",
    "html",
    "jsonl",
    "clip_benchmark",
    "model-card",
    "mteb",
    "model-index",
    "eval_results",
    "every_eval_ever",
)
FLAGS_SAID = 5
"""Warnings that are written out on standard error for a format that cannot hold them."""


def add_commands(commands: Any) -> None:
    """Adds the subcommands to the command line."""
    add_cache(commands)
    _add_import(commands)
    add_download(commands)
    add_convert(commands)
    _add_classify(commands)
    add_leaderboard(commands)
    report = commands.add_parser("report", help="tables and pages of one or several runs")
    report.add_argument(
        "runs", nargs="+", type=run_place, metavar="RUN", help="run folders, or their addresses (s3://…)"
    )
    report.add_argument("--format", default="table", help=", ".join(FORMATS))
    report.add_argument("--against", metavar="published|RUN", help="the published figures, or another run's, beside")
    report.add_argument(
        "--output", type=path_here, metavar="PATH", help="a file (a folder for clip_benchmark and mteb)"
    )
    report.add_argument(
        "--figures", type=path_here, metavar="FOLDER", help="also write the charts there, as SVG and PDF"
    )
    report.add_argument(
        "--groups", action="store_true", help="instead, FairFace's and UTKFace's tables by group, in %%"
    )
    report.add_argument("--languages", action="store_true", help="instead, a row a language, gaps to English, averages")
    report.add_argument("--prompts", action="store_true", help="instead, what each of several prompt sets does")
    _add_trust(report)
    report.set_defaults(command=_report, overrides=False)
    compare = commands.add_parser("compare", help="two runs, task by task, with paired statistics")
    compare.add_argument("a", type=run_place, metavar="RUN_A", help="a run folder, or its address")
    compare.add_argument("b", type=run_place, metavar="RUN_B", help="another")
    compare.add_argument("--format", default="table", choices=("table", "md", "csv"), help="table, md or csv")
    compare.add_argument(
        "--output", type=path_here, metavar="FOLDER", help="tables, the samples where they part, pictures"
    )
    _add_trust(compare)
    compare.set_defaults(command=_compare, overrides=False)
    verify = commands.add_parser("verify", help="check digests, and compute every metric again from the predictions")
    verify.add_argument("run", type=run_place, metavar="RUN", help="a run folder, or its address")
    _add_trust(verify)
    verify.set_defaults(command=_verify, overrides=False)
    rerun = commands.add_parser("rerun", help="repeat a run from its manifest alone and compare sample by sample")
    rerun.add_argument("run", type=run_place, metavar="RUN", help="a run folder, or its address")
    rerun.add_argument(
        "--output",
        type=run_place,
        metavar="FOLDER",
        help="default: RUN with .rerun added; of an address runs/NAME.rerun",
    )
    _add_trust(rerun)
    rerun.set_defaults(command=_rerun, overrides=False)


def _add_trust(parser: argparse.ArgumentParser) -> None:
    """The two ways to vouch for classes that a run names and that are not clipeval's own."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE[.CLASS]",
        help="call this class, or those of this module, where the run names them; may be given again. Runs their code",
    )
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of one's own configs, whose classes are trusted")


def _trusted(arguments: argparse.Namespace) -> Any:
    from clipeval.results.trust import trust

    return trust(arguments.trust, arguments.config_dir)


def _read(*places: str | Path) -> list[Path]:
    """Run folders, of which those that are kept at addresses are brought here."""
    from clipeval.results.mirror import read

    return [read(place) for place in places]


def _stored(path: Path, arguments: argparse.Namespace) -> Any:
    """A run folder's `StoredRun`, checked before torch is imported."""
    from clipeval.replay.stored_run import StoredRun
    from clipeval.results.run_folder import RunFolder

    run = StoredRun.read(RunFolder(path), _trusted(arguments))
    run.check()
    return run


def _report(arguments: argparse.Namespace, rest: list[str]) -> int:
    from clipeval.results.tables import print_table, report, write_report

    arguments.runs = _read(*arguments.runs)
    if arguments.groups:
        for path in arguments.runs:
            _stored(path, arguments)
        return _report_groups(arguments.runs, _trusted(arguments))
    if arguments.languages or arguments.prompts:
        from clipeval.cli.variants import print_languages, print_prompts

        if arguments.languages:
            return print_languages(arguments.runs, arguments.format)
        for path in arguments.runs:
            _stored(path, arguments)
        return print_prompts(arguments.runs, arguments.format, _trusted(arguments))
    if arguments.figures is not None:
        from clipeval.results.figures import figures

        for path in figures(arguments.runs, arguments.figures):
            print(path)
    if arguments.output is not None:
        for path in write_report(
            arguments.runs, arguments.output, arguments.format, arguments.against, pictures=_pictures(arguments.format)
        ):
            print(path)
    elif arguments.format == "table":
        print_table(arguments.runs, against=arguments.against)
    else:
        print(report(arguments.runs, arguments.format, arguments.against, pictures=_pictures(arguments.format)))
    _say_flags(arguments.runs, arguments.format)
    return 0


def _report_groups(paths: list[Path], trusted: Any) -> int:
    from clipeval.replay.groups import tables_by_group
    from clipeval.results.mirror import place

    for path in paths:
        for title, table in tables_by_group(path, trusted):
            print(f"{place(path)}: {title}" if len(paths) > 1 else title)
            print(table.to_string(float_format=lambda rate: f"{100 * rate:.1f}", na_rep="–"), end="\n\n")
    return 0


def _say_flags(paths: list[Path], format: str) -> None:
    """Other tools' forms have no place for a warning: it goes to standard error, so that nobody misses it."""
    from clipeval.results.mirror import place
    from clipeval.results.run_folder import RunFolder
    from clipeval.results.runs import load
    from clipeval.results.sheet import warnings

    if format not in ("jsonl", "clip_benchmark", "mteb"):
        return
    for text in warnings(load(paths, slim=True)):
        print(f"(!) {text}", file=sys.stderr)
    for path in paths:
        flagged = [record for record in RunFolder(path).records(damaged=[]) if record.flags]
        for record in flagged[:FLAGS_SAID]:
            print(f"(!) {place(path)}: {record.name}: {'; '.join(record.flags)}", file=sys.stderr)
        if len(flagged) > FLAGS_SAID:
            print(
                f"(!) {place(path)}: {len(flagged) - FLAGS_SAID} more tasks have warnings; see its table",
                file=sys.stderr,
            )


def _pictures(format: str) -> Any:
    """The reader of pictures for the one format that shows them; the others need neither data nor its libraries."""
    if format != "html":
        return None
    from clipeval.replay.pictures import pictures

    return pictures


def _compare(arguments: argparse.Namespace, rest: list[str]) -> int:
    from rich.console import Console

    arguments.a, arguments.b = _read(arguments.a, arguments.b)
    run = _stored(arguments.a, arguments)
    from clipeval.replay.pictures import pictures
    from clipeval.results.block import terminal
    from clipeval.results.compare import compare
    from clipeval.results.compare_block import build, render
    from clipeval.results.contact_sheet import contact_sheet, picture_keys
    from clipeval.results.run_folder import RunFolder

    comparison = compare(arguments.a, arguments.b, run.statistics)
    if arguments.format == "table":
        console = Console(highlight=False)
        console.print(terminal(build(comparison), console.width))
    else:
        print(render(comparison, arguments.format))
    if arguments.output is not None:
        written = comparison.write(arguments.output)
        for task, rows in comparison.disagreements.groupby("task"):
            shown = rows.head(60)
            keys = [key for row in shown.to_dict("records") for key in picture_keys(row)]
            images = pictures(str(arguments.a), str(task), keys)
            if images:
                path = arguments.output / f"{task}.png"
                path.write_bytes(contact_sheet(shown, images, RunFolder(arguments.a).record(str(task))))
                written.append(path)
        for path in written:
            print(path)
    return 0


def _verify(arguments: argparse.Namespace, rest: list[str]) -> int:
    (folder,) = _read(arguments.run)
    _stored(folder, arguments)
    from clipeval.replay.verify import verify

    return _say(verify(folder, _trusted(arguments)), "holds")


def _rerun(arguments: argparse.Namespace, rest: list[str]) -> int:
    from rich.console import Console

    (folder,) = _read(arguments.run)
    _stored(folder, arguments)
    from clipeval.replay.rerun import rerun

    beside = folder.parent if folder == arguments.run else Path("runs")
    out = arguments.output or beside / f"{folder.name}.rerun"
    return _say(rerun(folder, out, Console(stderr=True), _trusted(arguments)), "same")


def _say(findings: Iterable[Any], good: str) -> int:
    """Prints a row a task; the status is 1 where something is wrong."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from clipeval.results.records import visible

    table = Table("task", "", "", box=None, header_style="bold")
    wrong = unchecked = skipped = count = 0
    for finding in findings:
        count += 1
        wrong += bool(finding.problem)
        unchecked += finding.unchecked
        skipped += finding.skipped
        told = visible(finding.problem or finding.remark)
        word, style = (f"not {good}", "red") if finding.problem else (good, "green")
        if finding.unchecked or finding.skipped:
            word, style = "unchecked" if finding.unchecked else "skipped", "yellow"
        table.add_row(escape(visible(finding.task)), Text(word, style), Text(told))
    console = Console(highlight=False)
    console.print(table)
    rest = [f"{wrong} not"] * bool(wrong) + [f"{unchecked} imported, which nothing here can check"] * bool(unchecked)
    rest += [f"{skipped} skipped, for the data could not be opened"] * bool(skipped)
    console.print("; ".join([f"{count - wrong - unchecked - skipped} of {count}: {good}", *rest]))
    return 1 if wrong else 0


def _add_import(commands: Any) -> None:
    text = (
        "results of clip_benchmark, DataComp (eval_results.jsonl), MTEB, lm-evaluation-harness and open_clip's training "
        "(results.jsonl) into run folders, marked as imported"
    )
    sub = commands.add_parser("import", help=text, description=text)
    sub.add_argument("--config-dir", metavar="DIR", help="a folder of one's own configs")
    sub.add_argument("words", nargs="+", metavar="FILE|OVERRIDE", help="files or folders, and words: out=, model=…")
    sub.set_defaults(command=_import, overrides=True)


def _import(arguments: argparse.Namespace, rest: list[str]) -> int:
    from clipeval.results.importing import import_results
    from clipeval.results.tables import print_table

    overrides, names = _split([*arguments.words, *rest])
    if not names:
        raise ClipevalError("no file was named: give clip_benchmark's JSON files, or DataComp's eval_results.jsonl")
    imported = import_results([Path(name) for name in names], overrides, arguments.config_dir)
    for item in imported:
        print(f"{len(item.records)} results of {item.model['slug']} imported into {item.folder.place}")
        for remark in item.remarks:
            print(f"  {remark}")
    print_table([item.folder.path for item in imported])
    return 0


def _split(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Overrides and files: a word with an equals sign is an override, unless a file has that name."""
    words = list(words)
    overrides = [word for word in words if "=" in word and not Path(word).exists()]
    return overrides, [word for word in words if word not in overrides]


def _add_classify(commands: Any) -> None:
    text = "zero-shot probabilities for one's own pictures: files, folders, or - for standard input"
    sub = commands.add_parser("classify", help=text, description=text)
    sub.add_argument("--labels", required=True, metavar='"A,B,C"', help="the labels, separated by commas")
    sub.add_argument("--template", action="append", default=None, metavar="TEXT", help="with {c}; may be given again")
    sub.add_argument("--json", action="store_true", help="a JSON object for each picture instead of a table")
    sub.add_argument("--config-dir", metavar="DIR", help="a folder of one's own configs")
    sub.add_argument("words", nargs="+", metavar="IMAGE|OVERRIDE", help="pictures, and words such as model=…")
    sub.set_defaults(command=_classify, overrides=True)


def _classify(arguments: argparse.Namespace, rest: list[str]) -> int:
    from clipeval.configs.compose import compose

    overrides, names = _split([*arguments.words, *rest])
    labels = [label.strip() for label in arguments.labels.split(",") if label.strip()]
    if len(labels) < 2:
        raise ClipevalError(f"--labels {arguments.labels!r} names {len(labels)} label; two or more are needed.")
    wrong = [t for t in arguments.template or () if "{c}" not in t]
    if wrong:
        raise ClipevalError(f"--template {wrong[0]!r} has no {{c}}, the place of the label.")
    config = compose(["suite=none", *overrides], arguments.config_dir)
    import torch  # for which a wrong word need not wait

    from clipeval.cli.classify import WIDGET_TEMPLATE, classify, decode, print_probabilities, read_pictures
    from clipeval.models import pick_device, resolve
    from clipeval.tasks.names import name_flags
    from clipeval.tasks.zero_shot import prompts

    templates = arguments.template or [WIDGET_TEMPLATE]
    pictures = read_pictures(names)
    handle = resolve(config.model, Path(config.cache.root).expanduser())
    handle.bring(lambda text: print(text, file=sys.stderr))
    parts = [pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)]
    with handle.load(pick_device(config.runtime.device), config.runtime.precision) as encoder:
        # Decoded part by part: a folder may hold more pictures than memory does.
        predictions = (
            classify(
                encoder,
                decode(part, handle.preprocess),
                labels,
                templates,
                [name for name, _ in part],
                handle.dimensions,
            )
            for part in parts
        )
        rows = torch.cat(list(predictions)).numpy()
        warnings = [*handle.flags, *handle.cuts.flags(prompts(labels, templates)), *name_flags(labels, "given")]
        if encoder.scale is None:
            warnings.append("the model has no logit_scale: 100, CLIP's own, is assumed, and probabilities hang on it")
    for warning in warnings:
        print(f"! {warning}", file=sys.stderr)
    print_probabilities([name for name, _ in pictures], labels, rows, arguments.json)
    return 0
