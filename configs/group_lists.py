"""`task=[A,B]` on the command line: several tasks. To Hydra, a list of a group's options is one option made of all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clipeval.configs.errors import ClipevalError

_LIST = re.compile(r"(?P<sign>\+{0,2})(?P<group>task|model|protocol|prompts)(?P<place>@[^=]*)?=\[(?P<names>[^\[\]]*)\]")
_LISTS = re.compile(
    r"\+{0,2}(task|model|protocol|prompts)(@[^=]*)?=.*\].*,|\+{0,2}(task|model|protocol|prompts)(@[^=]*)?=.*,\s*\["
)
"""Several lists, or a list among several values, of a sweep."""
_SEVERAL = {
    "model": "for several, `clipeval run -m model=A,B`, or model.pretrained=glob(FILES) for the checkpoints of one training",
    "protocol": "for each of several, `clipeval run -m protocol=A,B`",
    "task": "write task=[A,B], or +task@tasks.A=A +task@tasks.B=B",
    "prompts": "write prompts=[A,B] for several, or tasks.NAME.prompts=A",
}


def spell_group_lists(overrides: Sequence[str]) -> list[str]:
    """`task=[a,b]` as `suite=none +task@tasks.a=a +task@tasks.b=b`, `prompts=[a,b]` as `prompt_sets=[a,b]`.

    And with one task, `tasks.NAME.KEY` as `task.KEY`.

    Lists of the other groups merge settings (`runtime=[cuda,fast]`) or tasks (`suite=[vtab,retrieval]`), and are left to Hydra.

    Raises:
        ClipevalError: a list where one option was meant, which would be a mixture of all; a task named twice.
    """
    words: list[str] = []
    tasks: list[str] = []
    for word in overrides:
        found = _LIST.fullmatch(word)
        if found is None and _LISTS.match(word):
            raise ClipevalError(f"{word}: no sweep goes over lists of names; run the command once for each list.")
        if found is None:
            words.append(word)
        elif found["group"] == "prompts" and not found["place"]:
            words.append(f"prompt_sets=[{found['names']}]")
        elif found["group"] == "task" and not found["place"]:
            tasks = [name.strip().strip("'\"") for name in found["names"].split(",") if name.strip()]
            if not tasks or len(set(tasks)) < len(tasks):
                raise ClipevalError(f"{word}: names of different tasks were expected, as in task=[mnist,cifar10].")
        else:
            raise ClipevalError(
                f"{word}: one name was expected, for a list would be a mixture of all its {found['group']} configs; "
                f"{_SEVERAL[found['group']]}."
            )
    if not tasks:
        return _of_the_one_task(words)
    chosen = [word for word in words if re.match(r"\+{0,2}task=|task\.", word)]
    if chosen:
        raise ClipevalError(
            f"{chosen[0]}: with task=[{','.join(tasks)}] there is no one task; a key of one of them is tasks.{tasks[0]}.KEY=…"
        )
    others = [word for word in words if not re.match(r"\+{0,2}suite=", word)]
    return ["suite=none", *(f"+task@tasks.{name}={name}" for name in tasks), *others]


def _of_the_one_task(words: Sequence[str]) -> list[str]:
    """With `task=NAME`, a word `tasks.NAME.KEY=…`, as of a suite's task, is `task.KEY=…`."""
    names = [word.partition("=")[2] for word in words if re.match(r"\+{0,2}task=", word)]
    if not names:
        return list(words)
    return [re.sub(rf"^([~+]*)tasks\.{re.escape(names[-1])}\.", r"\1task.", word) for word in words]
