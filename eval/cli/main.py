"""The command `clipeval`: each subcommand parses its words and calls one function."""

from __future__ import annotations

import argparse
import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from clipeval.cli.check import add_commands as add_check_command
from clipeval.cli.cluster import add_commands, add_run_options, check_sinks, say_pending, share_parts, tell_sinks
from clipeval.cli.completion import COMPLETE, add_completion, answer
from clipeval.cli.doctor import add_doctor
from clipeval.cli.listing import add_list
from clipeval.cli.reports import add_commands as add_report_commands
from clipeval.cli.terminal import any_encoding
from clipeval.configs.collector import rare_collections
from clipeval.configs.errors import EXIT_ERROR, EXIT_SKIPPED, ClipevalError
from clipeval.preprocess.quick_imports import postpone_meta_kernels

if TYPE_CHECKING:
    pass

EXIT_STOPPED, EXIT_PIPE = 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Returns:
        The exit status: 0 when everything that was asked for is done, 3 when all but what `data.on_missing=skip` left out is, 1
        for an error, 130 when stopped, 141 when the reader of
        its output has gone.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    any_encoding(sys.stdout, sys.stderr)
    parser = _parser()
    if words[:1] == [COMPLETE]:
        return answer(words[1:], parser)
    arguments, rest = parser.parse_known_args(words)
    if rest and not arguments.overrides:
        parser.error(f"unknown words: {' '.join(rest)}")
    import logging

    postpone_meta_kernels()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    stop = _Stop()
    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGINT, stop)
    try:
        command: Callable[[argparse.Namespace, list[str]], int] = arguments.command
        return command(arguments, rest)
    except (KeyboardInterrupt, Exception) as problem:  # noqa: BLE001  (raised again where nobody foresaw it)
        if isinstance(problem, Exception) and not stop.asked:
            return _explain(problem)
        print("clipeval: stopped. What was finished is kept; the same command goes on from there.", file=sys.stderr)
        return EXIT_STOPPED


class _Stop:
    """Handles the signals that ask for an end.

    What is being done may make another error of the KeyboardInterrupt: torch, in the middle of a tensor's file, a TypeError,
    and so a checkpoint that cannot be read. `asked` knows better.
    """

    asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        raise KeyboardInterrupt


def _explain(problem: Exception) -> int:
    """Says what went wrong; the exit status. What nobody foresaw is raised again."""
    if isinstance(problem, BrokenPipeError) and _reader_left():
        return EXIT_PIPE
    from clipeval.results.records import visible

    if not isinstance(problem, ClipevalError | OSError):
        raise problem
    said = str(problem) if isinstance(problem, ClipevalError) else disk_words(problem)
    print(f"clipeval: {visible(said)}", file=sys.stderr)
    return EXIT_ERROR


def disk_words(problem: OSError) -> str:
    """What the system refused, where, and what to do about it."""
    location = f" ({problem.filename})" if problem.filename else ""
    cure = {
        errno.ENOSPC: "make room, or choose other disks with out= and cache.root=",
        errno.EDQUOT: "make room, or choose other disks with out= and cache.root=",
        errno.EROFS: "choose folders that can be written with out= and cache.root=",
        errno.EACCES: "choose folders that this user may write and read, with out=, cache.root= and data.root=",
    }.get(problem.errno or 0, "see whether the disk and the network are well")
    return f"{problem.strerror or problem}{location}: {cure}. What was finished is kept; the same command goes on from there."


def _reader_left() -> bool:
    """Whether standard output leads nowhere any more (`clipeval report RUN | head`), which needs no words."""
    poll, out = select.poll(), sys.stdout.fileno()
    poll.register(out, select.POLLERR)
    if not poll.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), out)  # or Python complains of it at its end
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clipeval", description="A reproducible evaluation harness for CLIP-like models."
    )
    parser.add_argument("--version", action=_Version, help="print clipeval's version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, text in (
        ("run", _run, "evaluate a model on tasks; running again goes on where it stopped"),
        ("plan", _plan, "what would run, what is done, what is missing, and the estimated cost"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument(
            "--config-dir", metavar="DIR", help="a folder of one's own configs, such as DIR/task/mine.yaml"
        )
        if name == "run":
            add_run_options(sub)
            sub.add_argument("--quiet", action="store_true", help="no progress: the table, warnings and errors alone")
            sub.add_argument("--json", action="store_true", help="in place of the table, its rows as JSON")
        sub.set_defaults(command=command, overrides=True)
        sub.epilog = (
            "Further words are Hydra overrides: model=… suite=… data.root=… tasks.mnist.metric=acc5 '~tasks.sun397'"
        )
    add_check_command(commands)
    add_commands(commands)
    add_report_commands(commands)
    add_list(commands)
    add_doctor(commands)
    add_completion(commands)
    return parser


class _Version(argparse.Action):
    """Prints the installed package's version; looked up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        import clipeval

        print(f"clipeval {clipeval.__version__}")
        parser.exit()


def _run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from clipeval.cli.terminal import print_results, progress_console
    from clipeval.cluster.checkpoint_files import several
    from clipeval.results.run_folder import RunFolder

    if arguments.sink:
        check_sinks(arguments)
    if arguments.multirun:
        from clipeval.cluster.sweep import sweep

        return sweep(overrides, arguments.config_dir)
    console = progress_console(arguments.quiet)
    with rare_collections():
        config, models = several(overrides, arguments.config_dir)
    if models and arguments.share:
        raise ClipevalError(
            f"--share cuts the run of one model, and these are {len(models)}: give one, or use clipeval submit"
        )
    if models:
        from clipeval.cluster.checkpoints import run_models

        folders = run_models(overrides, arguments.config_dir, models, console)
        tell_sinks(arguments.sink, folders)
        print_results(folders, arguments.json)
        return EXIT_SKIPPED if any(RunFolder(folder).skipped() for folder in folders) else 0
    with rare_collections():
        from clipeval.cluster import local  # torch, for which a wrong word need not wait
        from clipeval.engine.evaluation import Evaluation

        evaluation = Evaluation.open(config, console)
    evaluation.say_folder()
    if arguments.share:
        evaluation.parts = share_parts(evaluation.config, arguments.share)
        if not evaluation.parts:
            console.print(f"share {arguments.share} holds nothing: there are fewer tasks than shares", highlight=False)
            return 0
    summary = local.run(evaluation)
    say_pending(summary, console)
    if summary.records:
        console.print(
            f"{len(summary.records)} tasks, {summary.images:,} images and {summary.texts:,} prompts embedded in "
            f"{summary.seconds:.1f} s",
            highlight=False,
        )
    elif not summary.pending:
        console.print("all results are up to date; nothing to compute", highlight=False)
    tell_sinks(arguments.sink, [evaluation.folder.path])
    print_results([evaluation.folder.path], arguments.json)
    return EXIT_SKIPPED if evaluation.skipped else 0


def _plan(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from rich.console import Console

    from clipeval.configs.compose import compose

    with rare_collections():
        config = compose(overrides, arguments.config_dir)
        from clipeval.cli.plan_table import print_plan
        from clipeval.engine.evaluation import Evaluation

        evaluation = Evaluation.open(config, Console(stderr=True))
    return print_plan(evaluation, Console())


if __name__ == "__main__":
    sys.exit(main())
