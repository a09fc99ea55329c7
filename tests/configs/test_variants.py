"""The same task by another protocol and in other languages, as the command line asks for it."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest

from clipeval.configs.compose import compose, task_ids
from clipeval.configs.errors import ClipevalError

MULTILINGUAL = ("multilingual_mscoco", "xtd10", "xtd200", "flickr30k_200", "crossmodal3600")


def test_a_probe_takes_the_place_of_a_classification() -> None:
    config = compose(["protocol=linear_probe", "task=cifar10", "probe.shots=16", "probe.seeds=[0,1]"])
    assert task_ids(config) == ["cifar10-lp-adamw-16"]
    node = config.tasks["cifar10-lp-adamw-16"]
    assert (node._target_, node.metric, node.shots) == ("clipeval.tasks.LinearProbe", "lp_acc1", 16)
    assert (node.key, node.name) == ("cifar10/lp-adamw-16", "CIFAR-10, linear probe (adamw), 16-shot")
    assert list(node.splits) == ["train", "test"]
    assert list(node.seeds) == [0, 1]
    with_train = compose(["task=cifar10", "data.source=clip_benchmark"])  # DataComp's copy has the test split alone
    assert node.data.folder == with_train.tasks.cifar10.data.folder


def test_each_number_of_shots_and_each_solver_has_a_record_of_its_own() -> None:
    several = compose(["protocol=linear_probe", "task=caltech101", "probe.shots=[1,4,null]", "probe.solver=lbfgs"])
    assert task_ids(several) == ["caltech101-lp-lbfgs-1", "caltech101-lp-lbfgs-4", "caltech101-lp-lbfgs"]
    assert {node.metric for node in several.tasks.values()} == {"lp_mean_per_class_recall"}


def test_what_is_no_classification_has_no_probe() -> None:
    with pytest.raises(ClipevalError, match=r"protocol=linear_probe .* flickr, mscoco.*~tasks.flickr ~tasks.mscoco"):
        compose(["protocol=linear_probe", "suite=retrieval"])
    assert len(task_ids(compose(["protocol=linear_probe", "suite=vtab"]))) == 13


def test_an_unknown_protocol_or_setting_offers_the_nearest() -> None:
    with pytest.raises(ClipevalError, match="linear_probe"):
        compose(["protocol=linear_prob", "task=cifar10"])
    with pytest.raises(ClipevalError, match=r"probe.shots"):
        compose(["protocol=linear_probe", "task=cifar10", "probe.shot=3"])


def test_languages_are_tasks() -> None:
    config = compose(["task=xtd10", "language=[de,en]"])
    assert task_ids(config) == ["xtd10-de", "xtd10-en"]
    assert [node.data.language for node in config.tasks.values()] == ["de", "en"]
    assert {node.group for node in config.tasks.values()} == {"XTD10 by language"}
    assert task_ids(compose(["task=imagenet1k", "language=jp"])) == ["imagenet1k-jp"]
    assert len(task_ids(compose(["task=xtd10", "language=all"]))) == 11
    with pytest.raises(ClipevalError, match=r"xtd10: Unknown language 'dee'\. Did you mean: de"):
        compose(["task=xtd10", "language=dee"])
    with pytest.raises(ClipevalError, match="mnist is in one language only"):
        compose(["task=mnist", "language=de"])


@pytest.mark.parametrize("name", MULTILINGUAL)
def test_the_languages_and_files_are_clip_benchmarks(name: str) -> None:
    data = compose([f"task={name}"]).tasks[name].data
    source = files("clip_benchmark").joinpath("datasets", f"{name}.py").read_text(encoding="utf-8")
    from importlib import import_module

    module = import_module(f"clip_benchmark.datasets.{name}")
    assert list(data.languages) == list(module.SUPPORTED_LANGUAGES)
    template = re.search(r'OUTPUT_FILENAME_TEMPLATE = "(.*)"', source)
    assert template is not None
    assert data.captions == template[1].replace("{}", "{language}")


def test_babel_imagenets_languages_are_those_with_names_and_templates() -> None:
    folder = files("clip_benchmark").joinpath("datasets")
    names, templates = (
        json.loads(folder.joinpath(f).read_text(encoding="utf-8"))
        for f in ("babel_imagenet.json", "nllb_dist13b_prompts.json")
    )
    assert list(compose(["task=babel_imagenet"]).tasks.babel_imagenet.data.languages) == sorted({*names} & {*templates})
