"""Scores that need a word: equal scores, class names that are alike, texts that are cut, embeddings that say nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipeval.stores.embeddings import ImageStore
from tests.data_faults.case import Case, Refused, Scored
from tests.data_faults.cases.plain import write_tar
from tests.data_faults.colours import COLOURS, ColourModel, picture, write_picture

TIES = r"^ties: {} answers hang on the order of equal scores: "
TWICE = r"1 of 3 class names are given more than once.*'red' \(classes 0, 2\)"


def shards(
    names: Sequence[str], labels: Sequence[int], colours: Sequence[str], *words: str
) -> Callable[[Path], list[str]]:
    """A webdataset folder with these class names and a picture for each label."""

    def make(place: Path) -> list[str]:
        members = {}
        for i, (label, colour) in enumerate(zip(labels, colours, strict=True)):
            members |= {f"s{i:02}.png": picture(colour, size=(12 + i, 12)), f"s{i:02}.cls": str(label).encode()}
        write_tar(place / "data" / "test" / "0.tar", members)
        (place / "data" / "classnames.txt").write_text("\n".join(names))
        (place / "data" / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.")
        return ["task=webdataset", f"task.data.path={place / 'data'}", *words]

    return make


def captions(rows: Sequence[tuple[str, str]], *words: str) -> Callable[[Path], list[str]]:
    """Pictures of these colours, each with its caption, in a CSV."""

    def make(place: Path) -> list[str]:
        for i, (colour, _) in enumerate(rows):
            write_picture(place / "data" / f"{i}.png", colour, size=(12 + i, 12))
        lines = [f'{i}.png,"{caption}"' for i, (_, caption) in enumerate(rows)]
        (place / "data" / "c.csv").write_text("\n".join(["image,caption", *lines]) + "\n")
        return ["task=captions", f"task.data.path={place / 'data' / 'c.csv'}", *words]

    return make


def questions(
    kind: str, rows: Sequence[dict[str, Any]], colours: Sequence[str], *words: str
) -> Callable[[Path], list[str]]:
    """Association or selection over pictures `0`, `1`, … of these colours."""

    def make(place: Path) -> list[str]:
        write_tar(place / "data" / "test" / "0.tar", {f"{i}.png": picture(c) for i, c in enumerate(colours)})
        (place / "data" / "test" / "instances.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return [
            f"+task@tasks.mine=_{kind}",
            "tasks.mine.key=mine",
            "tasks.mine.name=Mine",
            f"tasks.mine.metric={'text_acc' if kind == 'selection' else 'avg_jaccard_score'}",
            f"tasks.mine.data.path={place / 'data'}",
            *words,
        ]

    return make


class Odd(ColourModel):
    """The colour model, that gives something unsound for black pictures or texts that name black."""

    def __init__(self, what: float, side: str) -> None:
        super().__init__()
        self.what, self.side = what, side

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self._spoil(super().encode_image(images), "image")

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._spoil(super().encode_text(tokens), "text")

    def _spoil(self, rows: torch.Tensor, side: str) -> torch.Tensor:
        black = rows[:, COLOURS.index("black")] == 1
        if side == self.side:
            rows[black] = self.what
        return rows


class Constant(ColourModel):
    """Sees and reads the same in everything."""

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(images), 7)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(tokens), 7)


class Short(ColourModel):
    """Reads eight words and, at both ends, a special token; what stands behind them is lost."""

    @staticmethod
    def tokenizer(texts: Sequence[str]) -> torch.Tensor:
        rows = []
        for text in texts:
            words = text.lower().replace(".", "").split()[:8]
            numbers = [COLOURS.index(w) + 1 if w in COLOURS else 30 + len(w) for w in words]
            rows.append([20, *numbers, 21, *[0] * (8 - len(words))])
        return torch.tensor(rows)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        named = [[int(t) - 1 for t in row if 1 <= int(t) <= len(COLOURS)] for row in tokens]
        first = torch.tensor([found[0] if found else len(COLOURS) for found in named])
        return torch.nn.functional.one_hot(first, len(COLOURS) + 1).float()


class Strict(Short):
    """Refuses what is too long, as openai's clip does."""

    @staticmethod
    def tokenizer(texts: Sequence[str]) -> torch.Tensor:
        for text in texts:
            if len(text.split()) > 8:
                raise RuntimeError(f"Input {text} is too long for context length 10")
        return Short.tokenizer(texts)


def spoil_cache(value: float) -> Callable[[Path], None]:
    """Writes an embedding of another value into every store of images, as a damaged program might have."""

    def change(place: Path) -> None:
        for folder in (place / "cache" / "images").iterdir():
            file = next(folder.glob("*.npy"))
            rows = np.load(file)
            rows[1, :] = value
            if np.isnan(value):
                rows[1, 0] = 1.0  # NaN in the first place means: not embedded yet
            file.unlink()
            parts = json.loads((folder / "parts.json").read_text())
            store = ImageStore(place / "cache", {k: v for k, v in parts.items() if k != "label"}, len(rows))
            store.put(np.arange(len(rows)), torch.from_numpy(rows))
        for record in (place / "run" / "records").glob("*.json"):
            record.unlink()

    return change


EIGHT = ("red", "blue") * 4
SIX = ("red", "blue", "red") * 2
LONG = "this picture has got a great deal of red in it"
BLACK = (("red", "a red one"), ("black", "a black one"))
PAIR = {"id": "q", "images": ["0"], "captions": ["something red", "a red thing"]}

CASES = [
    # -- class names that are alike, and the ties that they make
    Case(
        "scores: a class name given twice",
        shards(("red", "blue", "red"), (0, 1, 2) * 2, SIX),
        Scored(
            {"acc1": 2 / 3, "mean_per_class_recall": 2 / 3},
            flags=[TWICE, TIES.format(4) + r"acc1 lies between 0.3333 and 1.0000 \(0.6667 is reported\)"],
        ),
    ),
    Case(
        "scores: class names alike but for case and white space",
        shards(("red", "blue", "Red "), (0, 1) * 2, EIGHT[:4]),
        Scored({"acc1": 1.0, "mean_per_class_recall": 1.0}, flags=["given more than once", TIES.format(2)]),
    ),
    Case(
        "scores: the published set's own repeated names",
        shards(("red", "blue", "red"), (0, 1, 2) * 2, SIX, "task.data.names_as_published=true"),
        Scored({"acc1": 2 / 3}, flags=[TIES.format(4)]),
    ),
    Case(
        "scores: names of one's own are not the published ones",
        shards(
            ("a", "b", "c"),
            (0, 1),
            EIGHT[:2],
            "task.data.names_as_published=true",
            "task.data.classnames=[red,blue,blue]",
        ),
        Scored({"acc1": 1.0}, flags=["1 of 3 class names are given more than once", TIES.format(1)]),
    ),
    Case(
        "scores: an empty class name",
        shards(("red", "", "blue"), (0, 2), EIGHT[:2]),
        Scored({"acc1": 1.0}, flags=["1 of 3 class names are empty: class 1"]),
    ),
    Case(
        "scores: classes whose names a model cannot tell apart",
        shards(("light red", "dark red", "blue"), (0, 1, 2) * 2, ("red", "red", "blue") * 2),
        Scored({"acc1": 2 / 3, "mean_per_class_recall": 2 / 3}, flags=[TIES.format(4)]),
    ),
    Case(
        "scores: ties among wrong classes move nothing",
        shards(("light red", "dark red", "blue"), (2, 2), ("red", "blue")),
        Scored({"acc1": 0.5}, flags=["no label is 0"]),
    ),
    Case(
        "scores: few ties are recorded, and not flagged",
        shards(
            ("blue", "red"),
            (0, 1) * 30 + (1,),
            ("blue", "red") * 30 + ("black",),  # black is as far from the one as from the other
        ),
        Scored({"acc1": 60 / 61}, samples=61),
    ),
    # -- every protocol
    Case(
        "scores: a model that gives one embedding for everything",
        shards(("red", "blue"), (0, 1) * 4, EIGHT),
        Scored(
            {"acc1": 0.5, "mean_per_class_recall": 0.5}, flags=[TIES.format(8) + "acc1 lies between 0.0000 and 1.0000"]
        ),
        model=Constant,
    ),
    Case(
        "scores: captions that are equal",
        captions([("red", "a red one"), ("red", "a red one"), ("blue", "a blue one"), ("green", "a green one")]),
        Scored(
            {"mean_recall@1": 0.75, "image_retrieval_recall@1": 0.75},
            flags=[TIES.format(4) + r"mean_recall@1 lies between 0.5000 and 1.0000 \(0.7500 is reported\)"],
        ),
    ),
    Case(
        "scores: equal captions of one image are no rivals",
        captions([("red", "a red one"), ("blue", "a blue one"), ("green", "a green one")]),
        Scored({"mean_recall@1": 1.0}),
    ),
    Case(
        "scores: selection among captions that score alike",
        questions("selection", [PAIR], ["red"]),
        Scored({"text_acc": 1.0}, flags=[TIES.format(1) + "text_acc lies between 0.0000 and 1.0000"]),
    ),
    Case(
        "scores: association among pictures that score alike",
        questions(
            "association",
            [{"id": "q", "cue": "red", "candidates": ["0", "1", "2"], "associations": ["1"]}],
            ["red", "red", "blue"],
        ),
        Scored({"avg_jaccard_score": 0.0}, flags=[TIES.format(1) + "avg_jaccard_score lies between 0.0000 and 1.0000"]),
    ),
    Case(
        "scores: association as the reference orders ties",
        questions(
            "association",
            [{"id": "q", "cue": "red", "candidates": ["0", "1", "2"], "associations": ["1"]}],
            ["red", "red", "blue"],
            "tasks.mine.ties=reference",
        ),
        Scored({"avg_jaccard_score": 1.0}, flags=[TIES.format(1)]),
    ),
    # -- texts that are cut
    Case(
        "scores: a caption longer than the context",
        captions([("blue", "a blue one"), ("red", LONG)]),
        Scored(
            {"mean_recall@1": 0.5},
            flags=["1 of 2 texts are cut.*10 tokens.*'this picture has got", TIES.format(2)],  # its colour is lost
        ),
        model=Short,
    ),
    Case(
        "scores: a caption of just the context's length is not cut",
        captions([("red", "this picture has got much red in it"), ("blue", "a blue one")]),
        Scored({"mean_recall@1": 1.0}),
        model=Short,
    ),
    Case(
        "scores: a prompt longer than the context, its embedding from the cache",
        shards(("red", "blue"), (0, 1), EIGHT[:2], "prompts=file", "prompts.path={place}/long.txt"),
        Scored({"acc1": 1.0}, flags=["2 of 4 texts are cut"]),
        change=lambda place: [record.unlink() for record in (place / "run" / "records").glob("*.json")],
        model=Short,
    ),
    Case(
        "scores: a tokenizer that refuses long texts",
        captions([("red", LONG), ("blue", "a blue one")]),
        Refused("tokenizer refuses 'this picture has got", "too long for context length"),
        model=Strict,
    ),
    # -- embeddings that say nothing
    *(
        Case(
            f"scores: the embedding of {side} is {word}",
            captions(BLACK),
            Refused("colours", "Captions", where, f"is {said}"),
            model=lambda value=value, side=side: Odd(value, side),
        )
        for word, value, said in (
            ("NaN", float("nan"), "NaN"),
            ("infinite", float("inf"), "NaN"),
            ("zero", 0.0, "zero"),
            ("too large to be normalised", 3e38, "zero"),
        )
        for side, where in (("image", r"1\.png"), ("text", "a black one"))
    ),
    *(
        Case(
            f"scores: the cache holds an embedding that is {word}",
            captions(BLACK),
            Refused("colours", "Captions", r"1\.png", f"in the cache is {word}", "Remove .*images"),
            change=spoil_cache(value),
        )
        for word, value in (("zero", 0.0), ("NaN", float("nan")), ("infinite", float("inf")))
    ),
]


def _with_prompts(make: Callable[[Path], list[str]]) -> Callable[[Path], list[str]]:
    def made(place: Path) -> list[str]:
        place.mkdir(parents=True, exist_ok=True)
        (place / "long.txt").write_text("a photo of a {c}.\nthis is what one would call a picture of {c} things\n")
        return [word.replace("{place}", str(place)) for word in make(place)]

    return made


CASES = [
    Case(c.name, _with_prompts(c.make), c.outcome, c.change, c.model) if "its embedding from the cache" in c.name else c
    for c in CASES
]
