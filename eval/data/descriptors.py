"""Prompts made of descriptors, as DCLIP has them, or of random words and characters in their place, as WaffleCLIP has them."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

import numpy as np

CHARACTERS = string.ascii_lowercase + string.digits + "-'"
"""What random words are made of where no descriptors are given, whose own characters WaffleCLIP takes."""


def sentence(descriptor: str) -> str:
    """A descriptor as a subordinate clause, by the rules of both programs (`make_descriptor_sentence`), quirks included."""
    if descriptor.startswith("a"):
        return f"which is {descriptor}"
    if descriptor.startswith(("has", "often", "typically", "may", "can")):
        return f"which {descriptor}"
    return f"which {'is' if descriptor.startswith('used') else 'has'} {descriptor}"


def descriptor_prompts(descriptors: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """{class: its prompts}: "hen, which has a red comb."; of a class without descriptors the one that an empty one makes."""
    return {
        name: [f"{name.replace('_', ' ')}, {sentence(one)}." for one in own or [""]]
        for name, own in descriptors.items()
    }


def waffle_templates(
    classnames: Sequence[str], count: int, seed: int, words: Sequence[str] = (), characters: str = CHARACTERS
) -> list[str]:
    """WaffleCLIP's templates, the same for all classes: "A photo of a {c}, which has jqvz, u3kd.".

    How many words and characters there are follows from the class names, as in its `waffle` mode.

    Args:
        classnames: of the set.
        count: how many random words, and as many rows of characters.
        seed: of the draws, which are not those of that program.
        words: to draw from, cut to the mean length of the class names' own; without any there are characters only.
        characters: to draw from.

    Returns:
        2 · `count` templates, or `count` without words.
    """
    rng = np.random.default_rng(seed)
    split = [name.replace("_", " ").split(" ") for name in classnames]
    how_many = int(max(np.round(np.mean([len(parts) for parts in split])), 1))
    length = int(np.round(np.mean([np.mean([len(part) for part in parts]) for parts in split])))
    groups = int(np.round(np.mean([len(parts) - 1 for parts in split]))) + 1
    each = (int(np.ceil(np.mean([max(len(part) for part in parts) for parts in split]))) + groups) // groups
    letters, found = list(characters), []
    for _ in range(count):
        if words:
            found.append(" ".join(str(words[i])[:length] for i in rng.integers(len(words), size=how_many)))
        found.append(", ".join("".join(rng.choice(letters, size=each)) for _ in range(groups)))
    return [f"A photo of a {{c}}, {sentence(one)}." for one in found]
