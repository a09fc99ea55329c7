"""What Hydra composed once is read from the cache: the same config, asked anew whenever a file or a word changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig

from clipeval.configs import compose as composing
from clipeval.configs import remembered, value_words
from clipeval.configs.compose import compose


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CLIPEVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "_here", {})
    yield tmp_path / "cache" / "configs"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words that Hydra was given."""
    words: list[list[str]] = []
    hydra = composing._hydra

    def noted(overrides: list[str]) -> DictConfig:
        words.append(list(overrides))
        return hydra(overrides)

    monkeypatch.setattr(composing, "_hydra", noted)
    return words


@pytest.mark.parametrize("words", [["suite=datacomp"], ["suite=quickstart"], ["task=mnist", "model=vit_b_32_openai"]])
def test_a_memory_is_what_hydra_composed(
    words: list[str], asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compose(words)
    second = compose(words)
    monkeypatch.setattr(remembered, "_here", {})  # as another process
    third = compose(words)
    assert first == second == third and len(asked) == 1
    assert list(first.tasks) == list(third.tasks), "in their order"
    compose([*words, "runtime.workers=3"])
    assert len(asked) == 1
    compose([*words, "runtime=default"])
    assert len(asked) == 2


def test_a_file_that_changed_is_read_anew(tmp_path: Path, asked: list[list[str]]) -> None:
    own = tmp_path / "own" / "task"
    own.mkdir(parents=True)
    file = own / "mine.yaml"
    text = "defaults: [_classification, _self_]\nkey: mine\nname: Mine\nmetric: {}\ndata: {{folder: mine}}\n"
    for number, metric in enumerate(("acc1", "acc5"), 1):
        file.write_text(text.format(metric))
        for _ in range(2):
            assert compose(["task=mine"], tmp_path / "own").task is None
            assert compose(["task=mine"], tmp_path / "own").tasks.mine.metric == metric
        assert len(asked) == number


def test_the_environment_is_asked_each_time(
    tmp_path: Path, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, folder in enumerate(("a", "b"), 1):
        monkeypatch.setenv("CLIPEVAL_DATA", folder)
        assert compose(["task=mnist"]).data.root == folder, (
            "an interpolation of ours: resolved after what is remembered"
        )
        monkeypatch.setenv("MINE", folder)
        assert compose(["task=mnist", "data.root='${oc.env:MINE}'"]).data.root == folder
        assert len(asked) == 1 + number, "words that name the environment are not remembered"


@pytest.mark.parametrize("damage", ["", "{", "\udcff", "flipped"])
def test_a_damaged_memory_is_composed_anew(
    damage: str, cache: Path, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compose(["task=mnist"])
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    flipped = whole.replace(b'"acc1"', b'"acc5"')
    assert flipped != whole
    file.write_bytes(flipped if damage == "flipped" else damage.encode("utf-8", "surrogateescape"))
    monkeypatch.setattr(remembered, "_here", {})
    assert compose(["task=mnist"]) == first and len(asked) == 2


def test_a_cache_that_cannot_be_written_costs_no_more_than_time(cache: Path, asked: list[list[str]]) -> None:
    cache.parent.parent.joinpath("cache").write_text("a file in its place")
    assert compose(["task=mnist"]) == compose(["task=mnist"])
    assert len(asked) == 1, "within a process it is known all the same"


def test_the_longest_unused_go_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST", 2)
    models = ("quickstart", "vit_b_32_openai", "quickstart", "vit_b_16_openai")
    for number, model in enumerate(models):
        compose(["suite=none", f"model={model}"])
        for file in cache.iterdir():
            stat = file.stat()
            os.utime(file, (stat.st_atime, min(stat.st_mtime, 1_000_000 + number)))
        monkeypatch.setattr(remembered, "_here", {})
    assert len(list(cache.iterdir())) == 2


def test_an_error_is_no_memory(cache: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="Did you mean"):
            compose(["task=mnst"])
    assert not cache.exists()


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        (["task=mnist", "out=runs/a"], 1),
        (["task=mnist", "out='a b/c'", "cache.root=/x/1", "data.root=./y"], 3),
        (["task=mnist", "model=open_clip", "model.name=local-dir:/m/v1.5", "task.data.root=/z"], 2),
        (["suite=quickstart", "tasks.quickstart_digits.data.folder='12'"], 1),
        (["task=mnist", "out=1/2"], 1),
        (["task=mnist", "out=runs/a", "out=b"], 2),
        (["suite=vtab", "~tasks.sun397", "tasks.dtd.metric=acc5", "data.limit=2000", "data.strict=true"], 4),
        (["suite=vtab", "tasks.sun397.metric=acc5", "~tasks.sun397"], 2),
        (["suite=vtab", "~tasks.sun397", "tasks.sun397.metric=acc5"], 2),
        (["suite=vtab", "~tasks.sun398"], 1),
        (["suite=vtab", "~tasks.sun397.notes"], 1),
        (["task=mnist", "task.chance=0.125", "task.chance=-0", "task.chance=-1.50", "task.metric=0x1"], 3),
        (["task=mnist", "task.chance=null", "data.strict=TRUE", "task.metric=nan", "task.metric=-inf"], 1),
        (["task=mnist", "task.notes=[a,1,true,b/c]", "+task.more=[]"], 1),
        (["task=mnist", "task.notes=[[a],b]", "task.notes=[a, b]", "task.notes=[a,'b']"], 0),
        (["task=mnist", "task.data=3", "data.strict.more=4"], 2),
        (["task='mnist'"], 0),
        (["task=a/mnist"], 0),
        (["suite=vtab", "tasks.dtd.metrik=acc5"], 1),
        (["task=mnist", "task.metric=1e3", "task.metric=01", "task.metric=1_000", "task.metric=1."], 0),
        (["task=mnist", "data={root: /x}", "data.root=/y"], 0),
        (["task=mnist", "+task.data.own=1", "task.data.own=2"], 0),
        (["task=mnist", "task.data.own=2", "+task.data.own=1"], 0),
        (["task=mnist", "out=runs/${model.slug}"], 0),
        (["task=mnist", "model.pretrained=glob(a/*.pt)"], 0),
        (["task=mnist", "+task.data.own=/z", "~slurm.logs"], 1),
        (["task=mnist", "task.metric=acc1,acc5"], 0),
        (["task=mnist", "out=runs,b/c"], 0),
        (["task=mnist", "out=runs/a b"], 0),
    ],
)
def test_words_that_give_values_are_put_in_as_hydra_does(words: list[str], plain: int) -> None:
    """With all words given to Hydra, and with those alone that do not just give a value."""
    split = value_words.split
    assert len(split(words)[1]) == plain
    results = []
    for given in (split, lambda w: (list(w), [])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(composing.value_words, "split", given)
            try:
                results.append(compose(words))
            except ValueError as problem:
                results.append(str(problem))
    assert results[0] == results[1]


def test_one_memory_serves_every_value(asked: list[list[str]]) -> None:
    for number in (1, 2, 3):
        config = compose(["task=mnist", f"out=runs/{number}", f"data.limit={number}"])
        assert (config.out, config.data.limit) == (f"runs/{number}", number)
    assert len(asked) == 1


def test_a_value_for_a_key_that_is_none_is_an_error_with_the_nearest() -> None:
    for words in (["task=mnist", "outt=a/b"], ["task=mnist", "data.rot=/x"], ["task=mnst", "out=a/b"]):
        with pytest.raises(ValueError, match=r"Did you mean: (out|data\.root|mnist)"):
            compose(words)
