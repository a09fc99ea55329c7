"""What a wrong word is answered with: one line, the nearest thing that is right, and the cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipeval.configs.catalog import describe, group_options
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError, nearest

MNIST = ["suite=none", "task=mnist"]


def message(words: list[str], config_dir: Path | None = None) -> str:
    with pytest.raises(ClipevalError) as caught:
        compose(words, config_dir)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.__cause__ is None
    return text


WRONG: list[tuple[list[str], list[str]]] = [
    # names of configs
    (
        ["task=cifar1"],
        ["Unknown task 'cifar1'. Did you mean: cifar10, cifar100", "`clipeval list tasks`", "--config-dir"],
    ),
    (["model=ViT-B-32"], ["Did you mean: ", "model=open_clip model.name=ViT-B-32 model.pretrained=TAG"]),
    (["tasks=cifar10"], ["tasks='cifar10': ", "task=NAME", "suite=NAME"]),
    (["tasks=[cifar10,mnist]"], ["tasks=[cifar10,mnist]: ", "'task=[NAME,NAME]'"]),
    (["model=[quickstart,vit_b_32_openai]"], ["a mixture of all its model configs", "-m model=A,B"]),
    (["+task@tasks.x=[cifar10,mnist]"], ["a mixture of all its task configs", "task=[A,B]"]),
    (["protocol=[knn,zero_shot]"], ["a mixture of all its protocol configs", "-m protocol=A,B"]),
    (["task=[mnist,cifar10],[cars,gtsrb]"], ["no sweep goes over lists of names"]),
    (["model=quickstart,[quickstart,vit_b_32_openai]"], ["no sweep goes over lists of names"]),
    (["task=[mnist,mnist]"], ["task=[mnist,mnist]: names of different tasks were expected"]),
    (["task=[mnist,cifar11]"], ["Unknown task 'cifar11'. Did you mean: cifar10, cifar100"]),
    (["task=[mnist,cifar10]", "task.metric=acc5"], ["task.metric=acc5: ", "tasks.mnist.KEY=…"]),
    (["data=[a]"], ["data=[a]: keys of its own were expected (data.KEY=…)"]),
    (["head=1"], ["head=1: keys of its own were expected (head.KEY=…)"]),
    (["head={save: x, lod: y}"], ["Unknown key 'head.lod'. Did you mean: head.load?"]),
    (["suite=datacmp"], ["Unknown suite 'datacmp'. Did you mean: datacomp?"]),
    (["model=vitb32_openai"], ["Unknown model", "Did you mean: vit_b_32_openai"]),
    (["prompts=simpel"], ["Unknown prompts 'simpel'. Did you mean: simple?"]),
    (["runtime=gpu"], ["Unknown runtime 'gpu'", "cuda"]),
    (["+task@tasks.mine=mnits"], ["Unknown task 'mnits'. Did you mean: mnist"]),
    (["+taks@tasks.mine=mnist"], ["Unknown config group 'taks'. Did you mean: task?"]),
    (["suite=_x"], ["Unknown suite"]),
    # keys
    (["runtime.devise=cpu"], ["Unknown key 'runtime.devise'. Did you mean: runtime.device", "precision"]),
    (["+runtime.devise=cpu"], ["Unknown key 'runtime.devise'. Did you mean: runtime.device"]),
    (["workers=2"], ["Unknown key 'workers'. Did you mean: runtime.workers?"]),
    (["models=quickstart"], ["Unknown key 'models'. Did you mean: model?"]),
    (["+foo=3"], ["Unknown key 'foo'", "Available: "]),
    (
        ["hydra.launcher.ray.init=3"],
        ["Unknown key 'hydra.launcher.ray.init' of Hydra", "write +hydra.launcher.ray.init="],
    ),
    (["data.root.x=3"], ["Unknown key 'data.root.x'", "data.root is a value"]),
    (["+model.nam=3"], ["Unknown key 'model.nam'. Did you mean: model.name?"]),
    ([*MNIST, "task.metrik=acc5"], ["Unknown key 'task.metrik'. Did you mean: task.metric?"]),
    ([*MNIST, "+task.metrik=acc5"], ["Unknown key 'tasks.mnist.metrik'. Did you mean: tasks.mnist.metric?"]),
    (
        [*MNIST, "+task.data.sample=5"],
        ["Unknown key 'tasks.mnist.data.sample'. Did you mean: tasks.mnist.data.samples?"],
    ),
    (["tasks.quickstart_digitz.metric=x"], ["Unknown task of this run 'quickstart_digitz'", "quickstart_digits"]),
    (["~tasks.quickstart_digit"], ["Unknown task of this run", "Did you mean: quickstart_digits"]),
    (["~task@tasks.quickstart_digit"], ["Unknown task of this run", "Did you mean: quickstart_digits"]),
    # choices of groups
    (["suite=null"], ["~suite"]),
    (["task@tasks.mine=mnist"], ["write +task@tasks.mine=…"]),
    (["+task@tasks.quickstart_digits=mnist"], ["leave out the plus: task@tasks.quickstart_digits=…"]),
    (["prompts@tasks.quickstart_digits.prompts=simple"], ["write tasks.quickstart_digits.prompts=NAME"]),
    (
        ["tasks.quickstart_digits.prompts=openai_imagenet_8"],
        ["tasks.quickstart_digits.prompts", "openai_imagenet_80"],
    ),
    (["tasks.quickstart_digits.prompts=file"], ["path"]),
    (["task=mnist,cars"], ["add -m"]),
    (["~model"], ["model", "leave out ~model"]),
    # syntax
    (["data.root"], ["'data.root' is not an override", "key=value"]),
    (["data.root=["], ["is not an override"]),
    (["out=a=b"], ["is not an override", "quote"]),
    (["data.root=/données"], ["is not an override", "quote", "beyond ASCII"]),
    (["data.root=${oc.env:CLIPEVAL_NO_SUCH}"], ["CLIPEVAL_NO_SUCH"]),
    (["data.root=${foo}"], ["foo"]),
    # values
    (["runtime.precision=fp23"], ["Unknown runtime.precision 'fp23'. Did you mean: fp32?", "bf16"]),
    (["runtime.workers=-1"], ["runtime.workers=-1", "at least 0"]),
    (["runtime.workers=two"], ["runtime.workers='two'", "whole number"]),
    (["runtime.batch_size=0"], ["at least 1"]),
    (["runtime.batch_size=1.5"], ["whole number"]),
    (["runtime.devices=true"], ["runtime.devices=true", "whole number"]),
    (["runtime.device=gpu"], ["runtime.device='gpu'", "cuda"]),
    (["runtime.compile=1"], ["true or false"]),
    (["resume=foo"], ["recompute", "refuse"]),
    (["data.on_error=ignore"], ["fail", "skip"]),
    (["data.strict=maybe"], ["data.strict='maybe'"]),
    (["out=123"], ["Quote it"]),
    (["out=null"], ["out=null"]),
    (["out='s3:/bucket/run'"], ["out=s3:/bucket/run: a slash is missing", "s3://"]),
    (["out='https://host/run'"], ["out=https://host/run: the web is read, and not written to"]),
    (["out='s3://me:secret@bucket/run'"], ["out=s3://bucket/run holds a password"]),
    (["out='s3://bucket/run?token=secret'"], ["out=s3://bucket/run holds a ? or #"]),
    (["cache.root='gs://bucket/cache'"], ["cache.root=gs://bucket/cache: a folder of this machine"]),
    (["head.save='hf://datasets/a/b'"], ["head.save=hf://datasets/a/b: a folder of this machine"]),
    (["data=3"], ["data"]),
    (["model.slug=../up"], ["model.slug"]),
    (["~runtime.device"], ["runtime.device was taken out"]),
    # what is left to the user
    (["model=open_clip"], ["model.name must be set"]),
    (["model=open_clip", "model.name=ViT-B-32"], ["model.pretrained must be set"]),
    (["model=custom"], ["model._target_ must be set"]),
    (["model=hf_transformers"], ["model.path must be set"]),
    (["prompts=file"], ["prompts.path must be set"]),
    (["task=folder"], ["task.data.path=PATH"]),
    (["task=captions"], ["task.data.path=PATH"]),
    # tasks
    ([*MNIST, "task._target_=tasks.Clasification"], ["Did you mean: Classification"]),
    ([*MNIST, "task._target_=nowhere.Task"], ["'nowhere' cannot be imported"]),
    ([*MNIST, "task._target_=pathlib.Path"], ["a subclass of clipeval.tasks.Task"]),
    ([*MNIST, "task.chance=2"], ["from 0 to 1"]),
    ([*MNIST, "task.splits=test"], ["a list of text"]),
    ([*MNIST, "task.data.kind=tar"], ["Unknown tasks.mnist.data.kind 'tar'", "webdataset"]),
    ([*MNIST, "task.data.classnames=[1,2]"], ["classnames"]),
    ([*MNIST, "+task.prompts={name: x, templates: ['{c}'], path: /x}"], ["give one"]),
    (["tasks.quickstart_digits=null"], ["write ~tasks.quickstart_digits"]),
    (["tasks.quickstart_digits=3"], ["tasks.quickstart_digits=3"]),
    (["suite=none", "+task@tasks.a/b=mnist"], []),
]


@pytest.mark.parametrize(("words", "parts"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_words(words: list[str], parts: list[str]) -> None:
    quick = [] if any(word in " ".join(words) for word in ("suite", "quickstart")) else ["suite=none"]
    text = message([*quick, *words])
    for part in parts:
        assert part in text, text


def test_own_files_with_mistakes(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    mine = tmp_path / "task" / "mine.yaml"

    mine.write_text("defaults: [_clasification]\nkey: mine\nname: Mine\n")
    text = message(["task=mine"], tmp_path)
    assert "task/mine.yaml" in text
    assert "Did you mean: _classification" in text

    mine.write_text("defaults: [_classification]\nkey: mine\nname: Mine\ntempltes: [a]\ndata: {folder: x}\n")
    assert "Unknown key 'tasks.mine.templtes'" in message(["task=mine"], tmp_path)

    mine.write_text("defaults: [_classification]\nkey: mine\ndata: {folder: x}\n")
    assert "task.name must be set" in message(["task=mine"], tmp_path)

    mine.write_text("key: mine\nname: Mine\ndata: {folder: x}\n")
    assert "Inherit one: `defaults: [_classification]`" in message(["task=mine"], tmp_path)

    mine.write_text("defaults: [_classification]\nkey: [mine\n")
    assert "mine.yaml" in message(["task=mine"], tmp_path)

    mine.write_text("defaults: [_classification]\nkey: mine\nname: Mine\ndata: {folder: x}\n")
    assert "Did you mean: mine?" in message(["task=minee"], tmp_path)


def test_a_config_folder_that_is_none(tmp_path: Path) -> None:
    assert "is not a folder" in message([], tmp_path / "nowhere")


def test_a_file_of_ones_own_may_not_hide_behind_one_of_ours(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mnist.yaml").write_text("defaults: [_classification]\n")
    assert "another name" in message(["task=mnist"], tmp_path)


def test_listing_what_is_not_there() -> None:
    with pytest.raises(ClipevalError, match="Did you mean: task"):
        group_options("tasks")
    with pytest.raises(ClipevalError, match="Did you mean: mnist"):
        describe("task", "mnits")


def test_nearest_names_the_nearest_then_all() -> None:
    assert nearest("task", "cifar1", ["mnist", "cifar10", "cifar100"]) == (
        "Unknown task 'cifar1'. Did you mean: cifar10, cifar100? Available: mnist, cifar10, cifar100"
    )
    many = [f"task_{number}" for number in range(30)]
    assert nearest("task", "task1", many).endswith("? There are 30 in all")
    assert nearest("task", "zzz", ["mnist"]) == "Unknown task 'zzz'. Available: mnist"
    assert nearest("task", "zzz", []) == "Unknown task 'zzz'. There is none."
    assert "Did you mean: ViT-B-32?" in nearest("model", "vit_b_32", ["ViT-B-32", "RN50"])
    assert nearest("task", "x", [f"t{i:03}" for i in range(100)]).endswith("t019 and 80 more")
