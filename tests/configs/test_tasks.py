"""Every task's config, composed and made into a task, against the table of facts."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import tarfile
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from clipeval.configs.catalog import CONFIG_DIR, describe, group_options
from clipeval.configs.compose import compose, task_ids
from clipeval.configs.data_keys import DATA
from clipeval.data.config import DataConfig
from clipeval.results.trust import NOT_TASK
from clipeval.tasks import Task
from tests.configs.test_variants import MULTILINGUAL

FACTS = Path(__file__).parents[2] / "scripts" / "datacomp_tasks.csv"
OWN = {
    "folder": "data.path=/pictures",
    "webdataset": "data.path=/pictures",
    "hf_dataset": "data.hub=org/name",
    "captions": "data.path=/pictures/captions.csv",
    "labels": "data.path=/pictures/labels.csv",
    "pairs": "data.path=/pictures/pairs.csv",
    "videos": "data.path=/videos",
}
NEW_SUITES = ("compositionality", "long_captions", "imagenet_plus", "embeddings", "video")
ONE_BY_ONE = {"aro_relation_mteb", "aro_attribution_mteb", "eqben", "ood"}
"""Tasks in no suite: another way of scoring, another size, or what needs more words."""
PROTOCOLS = {
    "classification": "Classification",
    "retrieval": "Retrieval",
    "association": "Association",
    "attributes": "Attributes",
}
BUNDLED = Path(__file__).parents[2] / "eval" / "bundled" / "data"


def facts() -> list[dict[str, str]]:
    with FACTS.open(newline="") as file:
        return list(csv.DictReader(file))


def make(node: DictConfig) -> Task:
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return instantiate({k: v for k, v in values.items() if k not in NOT_TASK}, _convert_="all")


@pytest.fixture(scope="module")
def datacomp() -> DictConfig:
    return compose(["suite=datacomp"])


@pytest.fixture(scope="module")
def by_key(datacomp: DictConfig) -> dict[str, tuple[str, DictConfig]]:
    return {node.key: (str(name), node) for name, node in datacomp.tasks.items()}


def test_the_40_tasks_are_those_of_the_table_in_its_order(datacomp: DictConfig) -> None:
    assert [node.key for node in datacomp.tasks.values()] == [row["key"] for row in facts()]
    assert len(set(task_ids(datacomp))) == 40


@pytest.mark.parametrize("row", facts(), ids=lambda row: row["key"])
def test_a_task_says_what_the_table_says(row: dict[str, str], by_key: dict[str, tuple[str, DictConfig]]) -> None:
    name, node = by_key[row["key"]]
    task = make(node)
    assert type(task).__name__ == PROTOCOLS[row["protocol"]]
    assert task.protocol == row["protocol"]
    assert (task.key, task.name, task.group) == (row["key"], row["name"], row["group"])
    assert task.metric == (row["main_metric"] or None)
    assert task.chance == (float(row["chance"]) if row["chance"] else None)
    assert tuple(task.splits) == ("test",)
    data = node.data
    assert (data.folder, data.hub) == (row["folder"], row["hub_dataset"])
    assert data.samples == int(row["samples"])
    assert data.classes == (int(row["classes"]) if row["classes"] else None)
    assert list(data.fields) == row["metadata_fields"].split()
    own_pixels = row["key"].startswith("retrieval/") or row["key"] == "misc/winogavil"
    assert data.convert == ("as_decoded" if own_pixels else "rgb_first")
    assert name in (row["key"].rsplit("/", 1)[-1], {"Flickr": "flickr", "MSCOCO": "mscoco"}.get(row["name"]))


PLAIN = [row for row in facts() if row["protocol"] == "classification" and not row["metadata_fields"]]


@pytest.mark.parametrize("row", PLAIN, ids=lambda row: row["key"])
def test_a_plain_task_is_at_most_12_lines(row: dict[str, str], by_key: dict[str, tuple[str, DictConfig]]) -> None:
    text = (CONFIG_DIR / "task" / f"{by_key[row['key']][0]}.yaml").read_text()
    assert len(text.splitlines()) <= 12
    assert yaml.safe_load(text)["defaults"] == ["_classification", "_published"]


def test_published_sets_keep_the_references_order_of_ties_and_ones_own_do_not(
    by_key: dict[str, tuple[str, DictConfig]],
) -> None:
    for key in (row["key"] for row in facts()):
        assert by_key[key][1].ties == "reference", key
    for task in ("folder", "labels", "webdataset", "hf_dataset", "captions"):
        assert compose([f"task={task}", "task.data.path=/nowhere"]).tasks[task].ties == "first"


def test_group_metrics_are_declared(by_key: dict[str, tuple[str, DictConfig]]) -> None:
    fmow = make(by_key["wilds/fmow"][1])
    assert [(g.field, g.worst) for g in fmow.by] == [("year", "acc_worst_year"), ("region", "acc_worst_region")]
    assert fmow.by[1].worst_without == {"acc_worst_region_named": (5,)}
    assert [(g.field, g.top, g.prefix) for g in make(by_key["fairness/dollar_street"][1]).by] == [
        ("income_ds", 5, "acc_top5")
    ]
    assert [g.field for g in make(by_key["wilds/camelyon17"][1]).by] == ["slide"]
    assert [g.field for g in make(by_key["fairness/geode"][1]).by] == ["region"]
    assert make(by_key["wilds/iwildcam"][1]).macro
    for row in facts():  # a group can only be one of the set's metadata fields
        for group in getattr(make(by_key[row["key"]][1]), "by", ()):
            assert group.field in row["metadata_fields"].split()


@pytest.mark.parametrize("key", ["fairness/fairface", "fairness/utkface"])
def test_faces_are_asked_about_race_gender_age_and_toxicity(
    key: str, by_key: dict[str, tuple[str, DictConfig]]
) -> None:
    _, node = by_key[key]
    task = make(node)
    assert {part.objective for part in (*task.attributes, *task.harms)} == {"race", "gender", "age", "toxic"}
    assert [(h.prefix, h.first, h.last) for h in task.harms] == [
        ("toxicity_crime", 18, None),
        ("toxicity_nonhuman", 14, 17),
    ]
    assert {name for part in task.attributes for name in (part.label, *part.by)} <= set(node.data.fields)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("wilds/fmow", 'Region 5 is "Other"'),
        ("wilds/iwildcam", "duplicates"),
        ("imagenet1k", "occur twice"),
        ("imagenet-o", "out-of-distribution"),
        ("vtab/clevr_closest_object_distance", "blank"),
    ],
)
def test_quirks_are_notes(key: str, words: str, by_key: dict[str, tuple[str, DictConfig]]) -> None:
    assert any(words in note for note in by_key[key][1].notes)


def test_suites_are_the_groups_of_the_table() -> None:
    groups: dict[str, list[str]] = {}
    for row in facts():
        groups.setdefault(row["group"], []).append(row["key"])
    del groups["other"]
    for suite, keys in groups.items():
        assert [node.key for node in compose([f"suite={suite}"]).tasks.values()] == keys
    assert {suite: len(keys) for suite, keys in groups.items()} == {
        "imagenet": 1,
        "imagenet_shifts": 6,
        "vtab": 13,
        "retrieval": 3,
        "wilds": 3,
        "fairness": 4,
    }
    of_clip_benchmark = {"vtab_19", "vtab_plus", "retrieval_all", "imagenet_robustness", "sugar_crepe", "laion"}
    assert set(group_options("suite")) == {
        *groups, *of_clip_benchmark, *NEW_SUITES, "multilingual", "datacomp", "quickstart", "none",
    }  # fmt: skip


@pytest.mark.parametrize("name", [t for t in group_options("task") if t in OWN])
def test_tasks_for_own_data_compose(name: str) -> None:
    config = compose(["suite=none", f"task={name}", f"task.{OWN[name]}"])
    assert task_ids(config) == [name]
    assert isinstance(make(config.tasks[name]), Task)
    assert "{c}" in config.tasks[name].prompts.templates[0] if name in ("folder", "hf_dataset") else True


def test_every_task_that_is_offered_was_looked_at(datacomp: DictConfig) -> None:
    in_languages = {*MULTILINGUAL, "babel_imagenet"}  # by test_variants.py
    of_clip_benchmark = task_ids(compose(["suite=laion"]))  # by test_copies.py
    captioning = {name for name in group_options("task") if name.endswith("-captioning")}  # by eval/test_captioning.py
    suites = [task_ids(compose([f"suite={suite}"])) for suite in NEW_SUITES]  # by eval/test_pairs_sets.py and others
    of_today = {*itertools.chain(*suites), *ONE_BY_ONE}
    seen = {
        *of_today,
        *task_ids(datacomp),
        *task_ids(compose([])),
        *OWN,
        *in_languages,
        *of_clip_benchmark,
        *captioning,
    }
    assert set(group_options("task")) == seen
    assert all(describe("task", name) for name in seen)


@pytest.mark.parametrize("suite", NEW_SUITES)
def test_a_set_is_at_most_15_lines_and_its_config_makes_a_task(suite: str) -> None:
    config = compose([f"suite={suite}"])
    for name, node in config.tasks.items():
        assert len((CONFIG_DIR / "task" / f"{name}.yaml").read_text().splitlines()) <= 15, name
        assert make(node).metric is not None, name
        assert all(len(line) <= 132 for line in (CONFIG_DIR / "task" / f"{name}.yaml").read_text().splitlines()), name


def test_a_task_may_say_about_its_data_what_the_reader_knows(datacomp: DictConfig) -> None:
    known = {field.name for field in dataclasses.fields(DataConfig)}
    assert set(DATA) == known
    assert set(datacomp.tasks.mnist.data) == known


def tar_names(folder: Path) -> list[str]:
    return [name for tar in folder.glob("*.tar") for name in tarfile.open(tar).getnames()]


def test_quickstart_tasks_say_what_the_bundled_data_is() -> None:
    """Counted here from the files, with tarfile and csv."""
    config = compose([])
    assert all(name.startswith("quickstart_") for name in task_ids(config))
    assert {make(node).protocol for node in config.tasks.values()} >= {
        "classification",
        "retrieval",
        "association",
        "attributes",
        "selection",
        "pairs",
        "calibration",
        "clustering",
        "video_classification",
    }
    for name, node in config.tasks.items():
        data, folder = node.data, BUNDLED / node.data.folder
        assert Path(data.root) == BUNDLED.resolve()
        if data.kind == "videos":
            assert data.samples == len([path for path in folder.rglob("*") if path.is_file()])
            assert data.classes == len(list(folder.iterdir()))
            continue
        images = [n for n in tar_names(folder / "test") if not n.endswith(".cls")]
        if data.instances:
            questions = (folder / "test" / data.instances).read_text().splitlines()
            assert data.samples == len([json.loads(line) for line in questions]), name
        else:
            assert data.samples == len(images), name
        if data.classnames:
            assert data.classes == len(data.classnames)
        elif data.label:
            rows = csv.DictReader(io.StringIO((folder / "test" / "samples.csv").read_text(encoding="utf-8")))
            assert data.classes == len({row[data.label] for row in rows}), name
        elif data.classes:
            assert data.classes == len((folder / "classnames.txt").read_text().splitlines()), name


def test_bundled_attributes_are_numbered_as_the_data_numbers_them() -> None:
    task = compose([]).tasks.quickstart_emoji_people_attributes
    numbers = json.loads((BUNDLED / task.data.folder / "test" / "metadata.json").read_text())
    assert list(task.data.classnames) == [f"{kind}:{name}" for kind in ("tone", "gender") for name in numbers[kind]]


def chance(labels: list[str]) -> float:
    """What drawing an answer from the labels' own distribution scores."""
    return sum((labels.count(label) / len(labels)) ** 2 for label in set(labels))


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("quickstart_emoji_category", "category"),
        ("quickstart_emoji_name", "name"),
        ("quickstart_emoji_people_name", "name"),
        ("quickstart_emoji_people_attributes", "gender"),
    ],
)
def test_chance_of_bundled_tasks(name: str, column: str) -> None:
    task = compose(["suite=none", f"task={name}"]).tasks[name]
    with (BUNDLED / task.data.folder / "test" / "samples.csv").open(newline="", encoding="utf-8") as file:
        labels = [row[column] for row in csv.DictReader(file)]
    assert task.chance == pytest.approx(chance(labels), abs=1e-6)


def test_bundled_pairs_differ_in_one_word_and_all_of_it_is_small() -> None:
    folder = BUNDLED / "wds_quickstart_emoji_test" / "test"
    rows = csv.DictReader(io.StringIO((folder / "samples.csv").read_text(encoding="utf-8")))
    caption = {row["key"]: row["caption"] for row in rows}
    for line in (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        assert pair["captions"] == [caption[key] for key in pair["images"]]
        one, other = (text.split() for text in pair["captions"])
        assert sum(a != b for a, b in zip(one, other, strict=True)) == 1
    assert sum(path.stat().st_size for path in BUNDLED.parent.rglob("*") if path.is_file()) < 12_000_000
