"""Captions against references, by pycocoevalcap and the Java programs that it brings.

It stands here and not in `tasks`, which starts no program: the config of a captioning task names it, and the task is given it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from clipeval.configs.errors import ClipevalError
from clipeval.tasks.captioning import COUNTS


@dataclass(frozen=True)
class CocoScorer:
    """BLEU, METEOR, ROUGE-L and CIDEr as pycocoevalcap computes them, of captions that its Penn Treebank tokenizer has split.

    What it gives of each caption is enough for every metric of the whole: see `clipeval.tasks.captioning.Scorer`.
    """

    version: int = 1
    """Part of every record's fingerprint, by the task that holds it."""

    def check(self) -> None:
        """ClipevalError without pycocoevalcap or Java."""
        if importlib.util.find_spec("pycocoevalcap") is None:
            raise ClipevalError(
                "captioning needs pycocoevalcap, which is not installed: pip install 'clipeval[captioning]'"
            )
        if shutil.which("java") is None:
            raise ClipevalError(
                "captioning needs Java, for METEOR and the tokenizer, and there is no `java` on PATH: install one, such as "
                "Debian's default-jre-headless"
            )

    def __call__(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> pd.DataFrame:
        """See `clipeval.tasks.captioning.Scorer`; a second for a thousand captions, and ten for METEOR to start.

        Raises:
            ClipevalError: as `check`; or one of the Java programs failed.
        """
        self.check()
        with _silence():
            from pycocoevalcap.bleu.bleu_scorer import BleuScorer
            from pycocoevalcap.cider.cider import Cider
            from pycocoevalcap.rouge.rouge import Rouge

            counts = [len(several) for several in references]
            lines = _tokenise([*captions, *(text for several in references for text in several)])
            tokens, rest = lines[: len(captions)], iter(lines[len(captions) :])
            wanted = [[next(rest) for _ in range(count)] for count in counts]
            given = {number: [text] for number, text in enumerate(tokens)}
            truth = dict(enumerate(wanted))
            if not any(text for several in wanted for text in several):
                raise ClipevalError("no reference caption holds a word: see the set's `txt` members")
            bleu = BleuScorer(n=4)
            for text, several in zip(tokens, wanted, strict=True):
                bleu += (text, several)
            rows = [
                (part["testlen"], min((abs(n - part["testlen"]), n) for n in part["reflen"])[1], *part["correct"])
                for part in bleu.ctest
            ]
            frame = pd.DataFrame(rows, columns=list(COUNTS))
            frame.insert(0, "tokens", tokens)
            frame.insert(1, "references", wanted)
            frame["meteor"] = _meteor(tokens, wanted)
            frame["rouge_l"] = Rouge().compute_score(truth, given)[1]
            frame["cider"] = Cider().compute_score(truth, given)[1]
        return frame


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """pycocoevalcap reports on standard output, where tables go."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _tokenise(texts: Sequence[str]) -> list[str]:
    """The texts as COCO's evaluation splits them: Penn Treebank words in lower case, without punctuation."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # A line each is the tokenizer's only border between texts.
    asked = {number: [{"caption": " ".join(text.split())}] for number, text in enumerate(texts)}
    tokenized = PTBTokenizer().tokenize(asked)
    if len(tokenized) != len(texts):
        raise ClipevalError(
            f"the Java tokenizer gave {len(tokenized):,} lines for {len(texts):,} captions: see that `java` works"
        )
    return [tokenized[number][0] for number in range(len(texts))]


def _meteor(tokens: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[float]]:
    """METEOR's 23 statistics of each caption, of its best reference."""
    from pycocoevalcap.meteor.meteor import Meteor

    program: Any = Meteor()
    rows = []
    try:
        for text, several in zip(tokens, references, strict=True):
            line = program._stat(text, [one.replace("|||", "") for one in several])
            rows.append([float(number) for number in line.split()])
    except (OSError, ValueError) as problem:
        raise ClipevalError(f"METEOR's Java program failed ({problem}); it needs 2 GiB of memory") from problem
    if any(len(numbers) != 23 for numbers in rows):
        raise ClipevalError("METEOR's Java program gave no statistics; it needs 2 GiB of memory")
    return rows
