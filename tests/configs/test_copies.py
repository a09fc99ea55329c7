"""clip_benchmark's sets and collections as configs, and the choice between a set's copies.

clip_benchmark_tasks.csv: names, metrics, sample and class counts of the sets that clip_benchmark reads. `published_acc1` is one
score out of its own published benchmark.csv: right answers over samples, so that it betrays how many samples there were.
(Caltech-101's has 6,085 in the first such table and 6,084 in later ones.)
"""

from __future__ import annotations

import csv
import importlib.resources
import json
from pathlib import Path

import pytest
from clip_benchmark.datasets.builder import dataset_collection, get_dataset_default_task

from clipeval.configs.compose import compose, task_ids
from clipeval.configs.errors import ClipevalError
from clipeval.data.config import data_config
from clipeval.engine.task_config import make_task

FACTS = Path(__file__).with_name("clip_benchmark_tasks.csv")
COLLECTIONS = {
    "vtab_19": "vtab",
    "vtab_plus": "vtab+",
    "retrieval_all": "retrieval",
    "imagenet_robustness": "imagenet_robustness",
    "sugar_crepe": "sugar_crepe",
}
PROTOCOLS = {
    "classification": "zeroshot_classification",
    "multilabel": "zeroshot_classification",
    "retrieval": "zeroshot_retrieval",
    "selection": "image_caption_selection",
}


def facts() -> list[dict[str, str]]:
    with FACTS.open(newline="") as file:
        return list(csv.DictReader(file))


def wds(name: str) -> str:
    """The folder as clip_benchmark's command line writes it: --dataset_root …/wds_{dataset_cleaned}."""
    return f"wds_{name.replace('/', '-')}"


@pytest.fixture(scope="module")
def theirs():
    return compose(["suite=laion", "data.source=clip_benchmark"]).tasks


@pytest.fixture(scope="module")
def first():
    return compose(["suite=laion"]).tasks


@pytest.mark.parametrize("row", facts(), ids=lambda row: row["id"])
def test_a_task_says_what_the_table_says(row, theirs, first) -> None:
    task, data = make_task(row["id"], theirs[row["id"]]), theirs[row["id"]].data
    assert (task.protocol, task.key, task.name, task.group) == tuple(
        row[c] for c in ("protocol", "key", "name", "group")
    )
    assert task.metric == row["main_metric"]
    assert task.chance == (float(row["chance"]) if row["chance"] else None)
    assert data.samples == int(row["samples"])
    assert data.classes == (int(row["classes"]) if row["classes"] else None)
    assert tuple(task.splits) == ("test",)
    own = {"winoground": "facebook/winoground"}  # clip_benchmark reads it from there
    assert data.folder == wds(row["clip_benchmark"])
    assert data.hub == own.get(row["id"], f"clip-benchmark/{data.folder}")
    assert data.revision is None
    assert get_dataset_default_task(row["clip_benchmark"]) == PROTOCOLS[row["protocol"]]
    assert first[row["id"]].data.folder == (
        row["datacomp_folder"] or ("wds_sugar_crepe" if row["key"].startswith("sugar_crepe/") else data.folder)
    )


@pytest.mark.parametrize("row", [r for r in facts() if r["published_acc1"]], ids=lambda row: row["id"])
def test_published_scores_are_so_many_samples(row) -> None:
    right = float(row["published_acc1"]) * int(row["samples"])
    assert right == pytest.approx(round(right), abs=1e-6)


def test_class_counts_are_those_of_the_packaged_names(theirs) -> None:
    packaged = json.loads((importlib.resources.files("clip_benchmark") / "datasets/en_classnames.json").read_text())
    packaged["caltech101"] = packaged.pop("caltech101_vtab")
    seen = [name for name in theirs if name in packaged]
    assert {"fer2013", "dmlab", "diabetic_retinopathy"} <= set(seen)
    for name in seen:
        assert theirs[name].data.classes == len(packaged[name]), name


@pytest.mark.parametrize(("suite", "collection"), COLLECTIONS.items())
def test_a_suite_is_the_collection(suite, collection) -> None:
    tasks = compose([f"suite={suite}", "data.source=clip_benchmark"]).tasks
    assert [node.data.folder for node in tasks.values()] == [wds(name) for name in dataset_collection[collection]]


def test_laion_is_all_of_them(theirs) -> None:
    everything = {name for names in dataset_collection.values() for name in names}
    assert {node.data.folder for node in theirs.values()} >= {wds(name) for name in everything}
    assert sorted(theirs) == sorted(row["id"] for row in facts())


def test_vtab_stays_datacomps_13() -> None:
    left_out = set(compose(["suite=vtab_19"]).tasks) - set(compose(["suite=vtab"]).tasks)
    assert left_out == {
        "diabetic_retinopathy",
        "dmlab",
        "dsprites_label_orientation",
        "dsprites_label_x_position",
        "smallnorb_label_azimuth",
        "smallnorb_label_elevation",
    }


def test_sugar_crepe_lies_over_one_folder_of_images_or_over_seven() -> None:
    one = compose(["suite=sugar_crepe"]).tasks.values()
    assert {node.data.folder for node in one} == {"wds_sugar_crepe"}
    assert {node.data.instances for node in one} == {
        f"instances_{name.split('/')[1]}.jsonl" for name in dataset_collection["sugar_crepe"]
    }
    seven = compose(["suite=sugar_crepe", "data.source=clip_benchmark"]).tasks.values()
    assert {node.data.instances for node in seven} == {None}


@pytest.mark.parametrize(
    ("words", "folder", "hub"),
    [
        ([], "wds_vtab-dtd_test", "djghosh/wds_vtab-dtd_test"),
        (["data.source=datacomp"], "wds_vtab-dtd_test", "djghosh/wds_vtab-dtd_test"),
        (["data.source=clip_benchmark"], "wds_vtab-dtd", "clip-benchmark/wds_vtab-dtd"),
        (["data.source=clip_benchmark", "task.data.folder=mine"], "mine", "clip-benchmark/wds_vtab-dtd"),
        (["data.source=clip_benchmark", "task.data.hub=me/dtd"], "wds_vtab-dtd", "me/dtd"),
        (["data.sources.datacomp.hub='me/{folder}'"], "wds_vtab-dtd_test", "me/wds_vtab-dtd_test"),
    ],
)
def test_the_source_chooses_and_the_users_word_stands(words, folder, hub) -> None:
    data = compose(["suite=none", "task=dtd", *words]).tasks.dtd.data
    assert (data.folder, data.hub) == (folder, hub)
    assert "copies" not in data


def test_a_probe_reads_the_copy_that_has_its_train_split() -> None:
    probe = ["suite=none", "task=dtd", "protocol=linear_probe"]
    (node,) = compose(probe).tasks.values()
    assert (list(node.splits), node.data.folder) == (["train", "test"], "wds_vtab-dtd")
    (node,) = compose([*probe, "data.source=datacomp"]).tasks.values()
    assert node.data.folder == "wds_vtab-dtd_test"
    (node,) = compose(["suite=none", "task=iwildcam", "protocol=linear_probe"]).tasks.values()
    assert (
        node.data.folder == "wds_wilds-iwildcam_test"
    )  # the only copy; that it lacks the split is said when it is opened


def test_a_copy_may_differ_in_more_than_its_place(tmp_path) -> None:
    (tmp_path / "task").mkdir()
    text = "defaults: [_classification]\nkey: pets\nname: Pets\ndata:\n  copies:\n    datacomp: {name: pets, samples: 10}\n"
    (tmp_path / "task" / "my_pets.yaml").write_text(
        f"{text}    clip_benchmark: {{name: vtab/pets, samples: 12, revision: v2}}\n"
    )
    words = ["suite=none", "task=my_pets"]
    assert compose(words, tmp_path).tasks.my_pets.data.samples == 10
    data = compose([*words, "data.source=clip_benchmark"], tmp_path).tasks.my_pets.data
    assert (data.samples, data.revision, data.folder) == (12, "v2", "wds_vtab-pets")


def test_a_set_that_the_source_lacks_is_one_error() -> None:
    with pytest.raises(ClipevalError) as caught:
        compose(["suite=datacomp", "data.source=clip_benchmark"])
    lacking = "winogavil, iwildcam, camelyon17, fmow, dollar_street, geode, fairface, utkface"
    assert str(caught.value).startswith(f"data.source=clip_benchmark has no copy of {lacking} (datacomp: yes). ")
    assert "~tasks.winogavil" in str(caught.value)
    with pytest.raises(ClipevalError, match=r"data.source=datacomp has no copy of fer2013 \(clip_benchmark: yes\)"):
        compose(["suite=none", "task=fer2013", "data.source=datacomp"])
    elsewhere = compose(["suite=none", "task=fer2013", "data.source=datacomp", "task.data.path=/data/fer"])
    assert elsewhere.tasks.fer2013.data.path == "/data/fer"
    assert task_ids(compose(["suite=quickstart", "data.source=clip_benchmark"]))  # bundled data has no copies


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.source=clip_bench"], r"data.source 'clip_bench'. Did you mean: clip_benchmark"),
        (["~data.sources"], r"data.sources=None: for each source its folder and hub"),
        (["data.sources.datacomp=x"], r"data.sources=.*'datacomp': 'x'"),
        (["task.data.copies.datacomp=3"], r"tasks.mnist.data.copies.datacomp=3: the set's name there"),
        (["task.data.copies=[a]"], r"copies"),
        (["+task.data.copies.mine=x"], r"tasks.mnist.data.copies: .*'mine'"),
        (["task.data.copies.datacomp={name: mnist, hubb: x}"], r"copies.datacomp.hubb'. Did you mean"),
    ],
)
def test_what_is_no_source_and_no_copy(words, message) -> None:
    with pytest.raises(ClipevalError, match=message):
        compose(["suite=none", "task=mnist", *words])


def test_a_copy_may_lack_a_split_that_its_collection_has() -> None:
    """clip_benchmark's SUN397 has no train: what is recommended must work, and is never the word that was given."""
    probe = ["protocol=linear_probe", "suite=vtab_19"]
    node = compose([*probe, "data.source=clip_benchmark"]).tasks["sun397-lp-adamw"]
    assert (list(node.data.elsewhere), node.data.task, node.data.folder) == ([], "sun397", "wds_sun397")
    assert "splits" not in node.data
    cure = data_config(node).for_split()
    assert "'~tasks.sun397'" in cure and "data.on_missing=skip" in cure and "data.source" not in cure
    assert "sun397-lp-adamw" not in compose([*probe, "~tasks.sun397"]).tasks, "the recommended word is one that works"
    others = compose([*probe, "~tasks.sun397", "data.source=clip_benchmark"]).tasks
    assert len(others) == 18 and all(node.data.get("elsewhere") is None for node in others.values())
    cifar = compose(["suite=none", "task=cifar10", "protocol=linear_probe", "data.source=datacomp"]).tasks
    assert data_config(cifar["cifar10-lp-adamw"]).for_split() == "Another copy has it: data.source=clip_benchmark."
    zero_shot = compose(["suite=vtab_19", "data.source=clip_benchmark"]).tasks.sun397.data
    assert zero_shot.get("elsewhere") is None and zero_shot.folder == "wds_sun397"


def test_a_variant_is_left_out_by_its_tasks_name() -> None:
    words = ["suite=none", "+task@tasks.iwildcam=iwildcam", "protocol=linear_probe", "data.source=clip_benchmark"]
    with pytest.raises(ClipevalError, match=r"has no copy of iwildcam .*\(~tasks\.iwildcam\)"):
        compose(words)
