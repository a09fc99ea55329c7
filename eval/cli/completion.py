"""`clipeval completion bash|zsh|fish`: completion of commands, options, Hydra overrides and presets.

    source <(clipeval completion bash)                                   # ~/.bashrc
    source <(clipeval completion zsh)                                    # ~/.zshrc, after compinit
    clipeval completion fish | source                                    # ~/.config/fish/config.fish

The shell asks `clipeval __complete WORD…`, the last word being the one that is typed, and offers the lines of the answer. That
imports neither Hydra nor torch: it has to answer while somebody types.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clipeval.cli.places import path_here, run_place

COMPLETE = "__complete"
PATHS = ("DIR", "FOLDER", "FILE", "PATH", "published|RUN")
FILES = "__files"
"""The answer where the word is a path: the shell completes it by itself."""

BASH = r"""
_clipeval() {
    local line words cword current prefix
    if declare -F _get_comp_words_by_ref >/dev/null; then
        _get_comp_words_by_ref -n "=:@" -w words -i cword
    else  # without bash-completion: words that COMP_WORDBREAKS cut are put together again
        read -ra words <<< "${COMP_LINE:0:COMP_POINT}"
        [[ "${COMP_LINE:0:COMP_POINT}" == *[[:space:]] ]] && words+=("")
        cword=$((${#words[@]} - 1))
    fi
    current="${words[cword]}"
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ "$line" == __files ]]; then
            prefix="${current%"${current##*=}"}"
            while IFS= read -r line; do COMPREPLY+=("$prefix$line"); done < <(compgen -f -- "${current##*=}")
            compopt -o filenames 2>/dev/null
        else
            COMPREPLY+=("$line")
        fi
    done < <("${words[0]}" __complete "${words[@]:1:cword}" 2>/dev/null)
    # Bash replaces what follows the last of COMP_WORDBREAKS, and not the whole word.
    local cut="${current%"${current##*[=:@]}"}" i
    for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]="${COMPREPLY[i]#"$cut"}"; done
    [[ "${COMPREPLY[*]}" == *= || "${COMPREPLY[*]}" == *. ]] && [[ ${#COMPREPLY[@]} == 1 ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -F _clipeval clipeval
"""
ZSH = r"""
#compdef clipeval
_clipeval() {
    local -a answer plain open
    answer=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ "${answer[1]}" == __files ]]; then
        compset -P '*='
        _files
        return
    fi
    plain=(${answer:#*[=.]}) open=(${(M)answer:#*[=.]})
    (( $#plain )) && compadd -Q -- $plain
    (( $#open )) && compadd -Q -S '' -- $open
}
compdef _clipeval clipeval
"""
FISH = r"""
function __clipeval_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l answer ($words[1] __complete $words[2..-1] 2>/dev/null)
    if test "$answer[1]" = __files
        set -l before (string match -r '^.*=' -- $words[-1])
        for path in (__fish_complete_path (string replace -r '^.*=' '' -- $words[-1]))
            echo "$before$path"
        end
    else
        printf '%s\n' $answer
    end
end
complete -c clipeval -f -a '(__clipeval_complete)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def add_completion(commands: Any) -> None:
    """Adds `completion` to the command line."""
    text = "a script that makes a shell complete clipeval's commands, options, overrides and presets"
    sub = commands.add_parser("completion", help=text, description=text)
    sub.add_argument("shell", choices=tuple(SCRIPTS), help="source <(clipeval completion bash)")
    sub.set_defaults(command=_completion, overrides=False)


def _completion(arguments: argparse.Namespace, rest: list[str]) -> int:
    print(SCRIPTS[arguments.shell].strip())
    return 0


def answer(words: Sequence[str], parser: argparse.ArgumentParser) -> int:
    """Prints what the last of the words can become, a line each."""
    try:
        print("\n".join(complete(words, parser)), flush=True)
    except BrokenPipeError:  # the shell no longer waits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def complete(words: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """What the last word can become.

    Args:
        words: what stands behind `clipeval`, the word that is typed last; it may be empty.
        parser: the command line's own.

    Returns:
        Whole words that begin with the last one, sorted; `[FILES]` where a path belongs there.
    """
    *before, typed = words or [""]
    subs = _subparsers(parser)
    if not before:
        return _beginning(typed, [*subs, *_options(parser)])
    sub = subs.get(before[0])
    if sub is None:
        return []
    for name in before[1:]:  # `convert sugar_crepe`
        sub = _subparsers(sub).get(name, sub)
    option = next((a for a in sub._actions if before[-1] in a.option_strings), None)
    if option is not None and option.nargs != 0:
        return _of_option(option, before[0], typed)
    if typed.startswith("-"):
        return _beginning(typed, _options(sub))
    if inner := _subparsers(sub):
        return _beginning(typed, inner)
    completions: list[str] = []
    positional = [action for action in sub._actions if not action.option_strings]
    choices = [str(choice) for action in positional for choice in action.choices or ()]
    if before[0] == "list":
        from clipeval.cli.listing import KINDS

        choices = list(KINDS) if len(before) == 1 else []
    completions += _beginning(typed, choices)
    if before[0] == "show" and len(before) == 1:
        completions += _beginning(typed, _presets(typed, ("task", "model", "suite")))
    elif before[0] in ("list", "show"):
        completions += _beginning(typed, ["data.root="])
    elif sub.get_default("overrides"):
        from clipeval.cli.override_words import override_words

        completions += _beginning(typed, override_words(typed, before[1:]))
    path = any(a.type is not None or a.metavar in ("IMAGE|OVERRIDE", "FILE|OVERRIDE") for a in positional)
    return completions or ([FILES] if path or "=" in typed else [])


def _of_option(option: argparse.Action, command: str, typed: str) -> list[str]:
    """The values of an option; a path's are left to the shell."""
    from clipeval.cli.reports import FORMATS

    if option.choices or (command == "report" and option.dest == "format"):
        return _beginning(typed, map(str, option.choices or FORMATS))
    return [FILES] if option.type in (Path, path_here, run_place) or option.metavar in PATHS else []


def _presets(typed: str, groups: Iterable[str]) -> Iterator[str]:
    from clipeval.configs.catalog import group_options

    for group in groups:
        if typed.startswith(f"{group}="):
            yield from (f"{group}={name}" for name in group_options(group))
        else:
            yield f"{group}="


def _beginning(typed: str, words: Iterable[str]) -> list[str]:
    return sorted({word for word in words if word.startswith(typed)})


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    subparsers: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            subparsers.update(action.choices)
    return subparsers


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [name for action in parser._actions for name in action.option_strings]
