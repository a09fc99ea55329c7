"""The words of a command line, and the config that they give."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, ListConfig, OmegaConf

import configs.resolvers as resolvers
from clipeval.configs import compose as composing
from clipeval.configs import quick_choices
from clipeval.configs.catalog import CONFIG_DIR, describe, group_options
from clipeval.configs.compose import compose, override, task_ids

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's config folder with a task, a suite and a prompt set."""
    for group in ("task", "suite", "prompts"):
        (tmp_path / group).mkdir()
    (tmp_path / "task" / "mine.yaml").write_text(
        "# Pets of mine.\ndefaults: [_classification]\nkey: mine\nname: Mine\nprompts: terse\ndata:\n  folder: wds_mine\n"
    )
    (tmp_path / "task" / "digits.yaml").write_text("defaults: [mnist]\nmetric: acc5\n")
    (tmp_path / "suite" / "ours.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /task@tasks.mine: mine\n  - /task@tasks.cars: cars\n"
    )
    (tmp_path / "prompts" / "terse.yaml").write_text('name: terse\ntemplates: ["{c}"]\n')
    return tmp_path


def test_no_words_give_the_bundled_model_on_the_bundled_data() -> None:
    config = compose()
    assert config.model.slug == "quickstart"
    assert config.out == "runs/quickstart"
    assert config.model.name == f"local-dir:{REPOSITORY / 'eval' / 'bundled' / 'model'}"
    assert len(config.tasks) >= 8
    assert config.task is None
    assert "hydra" not in config
    assert OmegaConf.is_struct(config)
    plain = OmegaConf.to_container(config, resolve=False)
    assert "${" not in json.dumps(plain)
    assert "???" not in json.dumps(plain)


def test_the_words_of_the_design(own: Path) -> None:
    words = ["suite=vtab", "~tasks.sun397", "tasks.dtd.metric=acc5", "+task@tasks.mine=mine"]
    config = compose(words, own)
    names = task_ids(config)
    assert len(names) == 13
    assert "sun397" not in names
    assert names[-1] == "mine"
    assert config.tasks.dtd.metric == "acc5"
    assert config.tasks.pets.metric == "mean_per_class_recall"
    assert config.tasks.mine.name == "Mine"


def test_quick_merges_leave_what_omegaconfs_own_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a suite that has interpolations and lists, with words that change, add and leave out: values, and each node's parent."""
    words = [
        "suite=vtab",
        "~tasks.sun397",
        "tasks.dtd.metric=acc5",
        "+tasks.dtd.own={a: [1, {b: 2}]}",
        "prompts=simple",
    ]

    def strays(node: Any) -> list[Any]:
        if not isinstance(node, (DictConfig, ListConfig)) or node._is_missing() or node._is_none():
            return []
        inner = node.__dict__["_content"]
        below = list(inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else [])
        return [each for each in below if each._get_parent() is not node] + [s for each in below for s in strays(each)]

    quick = composing._hydra(words)
    monkeypatch.setattr(composing, "quick_merges", nullcontext)
    plain = composing._hydra(words)
    assert OmegaConf.to_container(quick, resolve=False) == OmegaConf.to_container(plain, resolve=False)
    assert strays(quick) == strays(plain) == []


def test_quick_choices_leave_what_hydras_own_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a suite whose defaults name tasks by what was chosen elsewhere, in a list and as an override; and of one without."""
    from hydra._internal import defaults_list

    asked: list[bool] = []
    gather = defaults_list._create_interpolation_map
    monkeypatch.setattr(defaults_list, "_create_interpolation_map", lambda *given: asked.append(True) or gather(*given))
    (tmp_path / "suite").mkdir()
    lines = ["defaults:", "  - /task@tasks.first: ${protocol}_task", "  - /task@tasks.second: mnist", "  - _self_"]
    (tmp_path / "suite" / "mine.yaml").write_text("# @package _global_\n" + "\n".join(lines) + "\n")
    (tmp_path / "task").mkdir()
    for name in ("zero_shot", "linear_probe"):
        text = (
            f"defaults: [_classification, _self_]\nkey: {name}\nname: Of {name}\nmetric: acc1\ndata: {{folder: mine}}\n"
        )
        (tmp_path / "task" / f"{name}_task.yaml").write_text(text)
    own = f"hydra.searchpath=[file://{tmp_path}]"
    for words, resolved in (
        (["suite=mine", "protocol=linear_probe", own], "Of linear_probe"),
        (["suite=mine", own], "Of zero_shot"),
        (["suite=mine", "task@tasks.second=${protocol}_task", own], "Of zero_shot"),
        (["suite=vtab", "~tasks.sun397", "tasks.dtd.metric=acc5"], None),
    ):
        asked.clear()
        quick = composing._hydra(words)
        times = len(asked)
        with monkeypatch.context() as patch:
            patch.setattr(quick_choices, "KNOWN", "no version")
            plain = composing._hydra(words)
        assert times < len(asked) - times, "Hydra alone gathers its choices for each file"
        assert OmegaConf.to_container(quick, resolve=False) == OmegaConf.to_container(plain, resolve=False)
        assert quick.hydra.runtime.choices == plain.hydra.runtime.choices
        if resolved is not None:
            assert quick.tasks.first.name == resolved and times > 0
        else:
            assert times == 0


def test_a_task_can_be_left_out_by_its_default_too() -> None:
    assert "sun397" not in task_ids(compose(["suite=vtab", "~task@tasks.sun397"]))


def test_a_single_task_takes_the_place_of_the_suite() -> None:
    config = compose(["suite=imagenet_shifts", "task=mnist", "task.metric=acc5", "task.data.root=/elsewhere"])
    assert task_ids(config) == ["mnist"]
    assert config.task is None
    assert config.tasks.mnist.metric == "acc5"
    assert config.tasks.mnist.data.root == "/elsewhere"


def test_names_with_dashes_can_be_overridden() -> None:
    assert compose(["suite=imagenet_shifts", "tasks.imagenet-a.metric=acc5"]).tasks["imagenet-a"].metric == "acc5"


def test_own_pictures_by_class() -> None:
    config = compose(["task=folder", "task.data.path=/my pets", "task.id=pets"])
    assert task_ids(config) == ["pets"]
    task = config.tasks.pets
    assert (task.data.kind, task.data.path, task.prompts.name) == ("folder", "/my pets", "simple")
    assert "id" not in task
    asked = compose(["task=folder", "task.data.path=/my pets", "prompts=openai_imagenet_7"])
    assert asked.tasks.folder.prompts.name == "openai_imagenet_7"
    alone = compose(
        ["task=folder", "task.data.path=/p", "prompts=openai_imagenet_7", "task.prompts=openai_imagenet_80"]
    )
    assert alone.tasks.folder.prompts.name == "openai_imagenet_80"


def test_several_folders_beside_each_other() -> None:
    config = compose(
        ["suite=none", *(f"+task@tasks.{n}=folder" for n in "ab"), *(f"tasks.{n}.data.path=/{n}" for n in "ab")]
    )
    assert [task.data.path for task in config.tasks.values()] == ["/a", "/b"]


def test_prompts_for_all_tasks_and_for_one() -> None:
    config = compose(["prompts=simple", "tasks.quickstart_digits.prompts=openai_imagenet_7"])
    assert config.prompts.name == "simple"
    assert config.tasks.quickstart_fashion_mnist.prompts is None
    assert config.tasks.quickstart_digits.prompts.name == "openai_imagenet_7"
    assert len(config.tasks.quickstart_digits.prompts.templates) == 7
    assert config.tasks.quickstart_emoji_category.prompts.name == "simple"
    with_plus = compose(["+prompts@tasks.quickstart_digits.prompts=simple"])
    assert with_plus.tasks.quickstart_digits.prompts.name == "simple"
    inline = compose(["tasks.quickstart_digits.prompts={name: own, templates: ['the digit {c}']}"])
    assert list(inline.tasks.quickstart_digits.prompts.templates) == ["the digit {c}"]


def test_prompts_of_attributes_stay_their_own() -> None:
    config = compose(["suite=fairness", "prompts=simple"])
    assert config.tasks.fairface.prompts.name == "folder"
    assert config.tasks.geode.prompts is None


def test_overrides_reach_everything() -> None:
    words = {
        "data.root": "/data",
        "data.strict": True,
        "data.on_error": "skip",
        "cache.root": "/cache",
        "cache.features": False,
        "runtime.device": "cuda:1",
        "runtime.devices": 2,
        "runtime.precision": "bf16",
        "runtime.batch_size": 7,
        "runtime.workers": 3,
        "runtime.preprocess": "fast",
        "runtime.compile": True,
        "runtime.deterministic": True,
        "out": "here/and there",
        "resume": "refuse",
        "model.slug": "mine",
        "tasks.quickstart_digits.group": "other",
        "tasks.quickstart_digits.chance": 0.5,
        "tasks.quickstart_digits.data.samples": 3,
        "tasks.quickstart_digits.data.label": "name",
        "tasks.quickstart_digits.data.revision": "abc",
    }
    config = compose([override(key, value) for key, value in words.items()])
    assert {key: OmegaConf.select(config, key) for key in words} == words


def test_runtimes_differ_from_the_default_in_what_they_say() -> None:
    assert compose(["suite=none", "runtime=published"]).runtime.precision == "datacomp"
    assert compose(["suite=none", "runtime=cuda"]).runtime.device == "cuda"
    fast = compose(["suite=none", "runtime=fast", "runtime.workers=1"]).runtime
    assert (fast.precision, fast.preprocess, fast.workers, fast.device) == ("bf16", "fast", 1, "auto")


def test_a_config_folder_of_ones_own(own: Path) -> None:
    config = compose(["suite=ours", "prompts=terse"], own)
    assert task_ids(config) == ["mine", "cars"]
    assert config.tasks.mine.prompts.templates == ["{c}"]
    assert config.prompts.name == "terse"
    assert compose(["task=digits"], own).tasks.digits.key == "mnist"
    assert "mine" in group_options("task", own)
    assert "mine" not in group_options("task")
    assert describe("task", "mine", own) == "Pets of mine."


def test_a_config_folder_may_have_any_name(own: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = own.rename(tmp_path_factory.mktemp("odd") / "it's, a=b [c]")
    assert task_ids(compose(["task=mine"], moved)) == ["mine"]


@pytest.mark.parametrize(
    "text", ["/a b", "it's", r"back\slash", "end\\", r"\'both", "a=b,c", "[x]", "null", "12", "{c}", 'ü "q"']
)
def test_any_text_can_be_a_value(text: str) -> None:
    assert compose(["suite=none", override("out", text)]).out == text


def test_paths_and_null_as_values() -> None:
    config = compose(["suite=none", override("data.root", Path("/x")), override("runtime.workers", None)])
    assert (config.data.root, config.runtime.workers) == ("/x", None)


def test_data_root_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIPEVAL_DATA", raising=False)
    assert compose(["suite=none"]).data.root is None
    monkeypatch.setenv("CLIPEVAL_DATA", "/from/env")
    assert compose(["suite=none"]).data.root == "/from/env"


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CLIPEVAL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolvers.user_cache() == str(tmp_path / ".cache" / "clipeval")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert resolvers.user_cache() == "/xdg/clipeval"
    monkeypatch.setenv("CLIPEVAL_CACHE", "/own")
    assert compose(["suite=none"]).cache.root == "/own"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("ViT-B-32-256", "datacomp_s34b_b86k"), "ViT-B-32-256__datacomp_s34b_b86k"),
        (("hf-hub:org/repo", None), "hf-hub-org-repo"),
        (("..", None), "model"),
    ],
)
def test_slugs(parts: tuple[str, str | None], expected: str) -> None:
    assert resolvers.slug(*parts) == expected


def test_slugs_of_files_tell_them_apart() -> None:
    first, second = (resolvers.slug("ViT-B-32", f"/{run}/checkpoints/epoch_10.pt") for run in "ab")
    assert first != second
    assert first.startswith("ViT-B-32__epoch_10-")
    assert first == resolvers.slug("ViT-B-32", "/a/checkpoints/epoch_10.pt")
    assert resolvers.slug("local-dir:/models/v1.5").startswith("v1.5-")


APP = """
import hydra
from hydra.core.hydra_config import HydraConfig
from clipeval.configs.compose import CONFIG_DIR, CONFIG_NAME, VERSION_BASE, finish, task_ids

@hydra.main(config_path=str(CONFIG_DIR), config_name=CONFIG_NAME, version_base=VERSION_BASE)
def main(config):
    done = finish(config, HydraConfig.get().runtime.choices)
    print("job", done.out, *task_ids(done))

main()
"""


def test_a_sweep_under_hydra_main(tmp_path: Path) -> None:
    words = ["-m", "suite=none", "task=mnist", "model=vit_b_32_openai,vit_b_16_dfn2b"]
    done = subprocess.run(
        [sys.executable, "-c", APP, *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("job")] == [
        "job runs/ViT-B-32-quickgelu__openai mnist",
        "job runs/ViT-B-16-quickgelu__dfn2b mnist",
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name not in (".cache",)] == ["runs"]  # no timestamps


def test_bases_are_not_offered() -> None:
    assert not [name for group in ("task", "model") for name in group_options(group) if name.startswith("_")]
    assert (CONFIG_DIR / "task" / "_classification.yaml").is_file()


def test_a_list_of_tasks_is_each_of_them_and_no_mixture() -> None:
    """To Hydra, `task=[mnist,cifar10]` is one task whose keys are cifar10's where it has them, and mnist's elsewhere."""
    several = compose(["task=[mnist, cifar10]", "suite=vtab", "tasks.mnist.metric=acc5"])
    assert task_ids(several) == ["mnist", "cifar10"]
    assert several.tasks.mnist.metric == "acc5"
    for name in several.tasks:
        alone = compose([f"task={name}", f"tasks.{name}.metric={several.tasks[name].metric}"])
        assert alone.tasks[name] == several.tasks[name]
    suites = [task_ids(compose([f"suite={suite}"])) for suite in ("wilds", "fairness")]
    assert task_ids(compose(["suite=[wilds,fairness]"])) == [*suites[0], *suites[1]]
    runtime = compose(["runtime=[cpu,fast]"]).runtime
    assert runtime == compose(["runtime=fast"]).runtime
