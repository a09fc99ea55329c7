"""What a reader saw and did not score: the one place where something may be left out, and there it is counted and named.

A reader calls one of five methods for whatever is not plainly a sample:

    unusable    a sample that is given and cannot be scored: an error; with `data.on_error=skip` counted, named and flagged
    leave_out   something beside the samples, such as a text file among pictures: counted, named and flagged
    ignore      litter of an operating system or an editor: said once, no flag
    assume      a guess that could be wrong, such as a recognised separator: flagged
    remark      how something was read, where it cannot be wrong: said once, no flag
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath

from clipeval.configs.errors import ClipevalError

NAMED = 5
"""How many of the things that were left out for one reason a flag names."""

LITTER_NAMES = frozenset({".ds_store", "thumbs.db", "desktop.ini", ".directory", "icon\r", "ehthumbs.db"})
LITTER_FOLDERS = frozenset(
    {
        "__macosx",
        ".ipynb_checkpoints",
        ".git",
        ".svn",
        ".hg",
        ".cache",
        ".spotlight-v100",
        ".trashes",
        ".fseventsd",
        "@eadir",
        "__pycache__",
        "$recycle.bin",
        "system volume information",
        "lost+found",
    }
)


def is_litter(path: str | PurePath) -> bool:
    """Whether a path (relative to the data) is what systems and editors leave behind: `.DS_Store`, `__MACOSX/…`, `._x.jpg`."""
    parts = [part.lower() for part in PurePath(str(path).replace("\\", "/")).parts]
    return bool(parts) and (
        any(part in LITTER_FOLDERS for part in parts) or parts[-1] in LITTER_NAMES or parts[-1].startswith("._")
    )


@dataclass
class Account:
    """Of one split.

    Attributes:
        on_error: `data.on_error`: fail or skip.
    """

    on_error: str = "fail"
    _left_out: dict[str, list[str]] = field(default_factory=dict)
    _ignored: list[str] = field(default_factory=list)
    _assumed: list[str] = field(default_factory=list)
    _remarks: list[str] = field(default_factory=list)

    def unusable(self, location: str, why: str, fix: str = "") -> None:
        """A sample that is given and cannot be scored.

        Args:
            location: file and row, key or column: `captions.csv, line 7`.
            why: what is wrong with it, without a full stop: `the caption is null`.
            fix: a sentence: what else would help.

        Raises:
            ClipevalError: `data.on_error=fail`.
        """
        if self.on_error != "skip":
            raise ClipevalError(
                f"{location}: {why}. {f'{fix} ' if fix else ''}To leave such samples out of the score, counted and flagged, "
                "set data.on_error=skip."
            )
        self._left_out.setdefault(why, []).append(location)

    def leave_out(self, name: str, why: str) -> None:
        """Something that is no sample: `leave_out("cats/notes.txt", "not a picture")`."""
        self._left_out.setdefault(why, []).append(name)

    def ignore(self, name: str) -> None:
        """A file of an operating system or editor (`is_litter`)."""
        self._ignored.append(name)

    def assume(self, text: str) -> None:
        """A guess that a reader of the scores must know: `the separator is ';'`."""
        if text not in self._assumed:
            self._assumed.append(text)

    def remark(self, text: str) -> None:
        """How something was read: `0.tar.gz is read through a decompressed copy`."""
        if text not in self._remarks:
            self._remarks.append(text)

    @property
    def left_out(self) -> dict[str, list[str]]:
        """{why: names} of everything that is flagged as left out."""
        return self._left_out

    @property
    def ignored(self) -> list[str]:
        """What was ignored as litter."""
        return self._ignored

    @property
    def flags(self) -> tuple[str, ...]:
        """For every record of the split."""
        left = (f"{len(names):,} left out, {why}: {_some(names)}" for why, names in self._left_out.items())
        return (*left, *self._assumed)

    @property
    def remarks(self) -> tuple[str, ...]:
        """To be said once, when the data is read."""
        ignored = [f"ignored {len(self._ignored):,} system files: {_some(self._ignored)}"] if self._ignored else []
        return (*ignored, *self._remarks)


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
