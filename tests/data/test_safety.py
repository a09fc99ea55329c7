"""Results of others are safe to open: an attack for each command that reads them, and for each way that a file may attack.

Each attack leaves a trace where it works (a file, or a module that was imported), and each test sees that there is none.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

from clipeval.cli.main import main
from clipeval.configs.errors import ClipevalError
from clipeval.models import resolve
from clipeval.models.head_files import _read as read_head
from clipeval.replay.pictures import pictures
from clipeval.replay.stored_run import StoredRun
from clipeval.results.json_io import digest, dumps
from clipeval.results.run_folder import RunFolder
from clipeval.results.trust import NOBODY, Trust, check_tasks, trust
from scripts.tiny_model import write_tiny_model
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, write_hugging_face

DIGITS = "quickstart_digits"
RETRIEVAL = "quickstart_emoji_retrieval"


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("honest")
    tasks = [f"+task@tasks.{name}={name}" for name in (DIGITS, RETRIEVAL)]
    words = ["suite=none", *tasks, "data.limit=40", "runtime.workers=0"]  # which `rerun` computes again and again
    assert main(["run", *words, f"out={base / 'run'}", f"cache.root={base / 'cache'}"]) == 0
    return base / "run"


@pytest.fixture
def run(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of an honest run, to tamper with."""
    monkeypatch.setenv("CLIPEVAL_CACHE", str(tmp_path / "own-cache"))
    shutil.copytree(honest, tmp_path / "theirs")
    return tmp_path / "theirs"


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file that attacks leave; and modules on the path, `theirs_evil` that attacks on import, `mine_good` the user's own."""
    place = tmp_path / "canary"
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Trap(place)))
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "theirs_evil.py").write_text(
        f"import pathlib\nfrom clipeval.tasks import Classification\npathlib.Path({str(place)!r}).touch()\n"
        "class Own(Classification): pass\n"
    )
    (modules / "mine_good.py").write_text(
        textwrap.dedent(
            """
            from dataclasses import dataclass
            from subprocess import Popen
            from clipeval.tasks import Classification

            @dataclass(frozen=True)
            class Own(Classification):
                part: object = None

            class Part: pass

            def function(**given): raise AssertionError("called")
            """
        )
    )
    monkeypatch.syspath_prepend(str(modules))
    before = set(sys.modules)
    yield place
    assert not place.exists(), "the attack ran"
    assert "theirs_evil" not in sys.modules, "a module that nobody trusts was imported"
    for name in set(sys.modules) - before:
        if name == "mine_good":
            del sys.modules[name]


def tamper(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a run's config as its sender might."""
    content = json.loads((run / "run.json").read_text())
    change(content["config"])
    (run / "run.json").write_text(json.dumps(content))


def put(run: Path, **fields: Any) -> None:
    """Puts keys into the config of the first task."""
    tamper(run, lambda config: config["tasks"][DIGITS].update(fields))


def rewrite(run: Path, task: str, change: Callable[[dict[str, Any]], object], to: str | None = None) -> None:
    """Changes a record, with a digest that fits."""
    path = run / "records" / f"{task}.json"
    content = json.loads(path.read_text())
    content.pop("digest")
    change(content)
    path.unlink()
    content["digest"] = digest(content)
    (run / "records" / f"{to or task}.json").write_bytes(dumps(content))


def commands(run: Path, honest: Path, scratch: Path) -> dict[str, list[str]]:
    """Every command that makes something of a stored config."""
    return {
        "verify": ["verify", str(run)],
        "compare": ["compare", str(run), str(honest), "--output", str(scratch / "compared")],
        "compare, the second": ["compare", str(honest), str(run), "--output", str(scratch / "compared")],
        "html": ["report", str(run), "--format", "html", "--output", str(scratch / "page.html")],
        "groups": ["report", str(run), "--groups"],
        "rerun": ["rerun", str(run), "--output", str(scratch / "again")],
        "status": ["status", str(run)],
        "table": ["report", str(run)],
        "jsonl": ["report", str(run), "--format", "jsonl"],
        "model-card": ["report", str(run), "--format", "model-card"],
        "clip_benchmark": ["report", str(run), "--format", "clip_benchmark", "--output", str(scratch / "files")],
        "figures": ["report", str(run), "--figures", str(scratch / "figures")],
    }


COMMANDS = list(commands(Path(), Path(), Path()))
MAKERS = ["verify", "compare", "groups", "rerun"]
"""The commands that instantiate tasks; the others have no need to, and go on without."""


def attacks(scratch: Path) -> dict[str, dict[str, Any]]:
    """Configs of a task, each of which runs code or writes a file where it is instantiated unchecked."""
    place, pickled = scratch / "canary", str(scratch / "x.pkl")
    code = f"open({str(place)!r}, 'w')"
    return {
        "a pickle, by joblib": {"_target_": "joblib.load", "filename": pickled},
        "a pickle, by pandas": {"_target_": "pandas.read_pickle", "filepath_or_buffer": pickled},
        "a pickle, by torch": {"_target_": "torch.load", "f": pickled, "weights_only": False},
        "a pickle, by numpy": {"_target_": "numpy.load", "file": pickled, "allow_pickle": True},
        "exec": {"_target_": "builtins.exec", "_args_": [code]},
        "eval": {"_target_": "builtins.eval", "_args_": [code]},
        "a process": {"_target_": "subprocess.Popen", "args": ["touch", str(place)]},
        "a method": {"_target_": "pathlib.Path.touch", "_args_": [str(place)]},
        "builtins, by way of the package": {"_target_": "clipeval.tasks.base.__builtins__.exec", "_args_": [code]},
        "open, by way of the package": {
            "_target_": "clipeval.tasks.base.__builtins__.open",
            "_args_": [str(place), "w"],
        },
        "numpy, by way of the package": {
            "_target_": "clipeval.tasks.base.np.load",
            "file": pickled,
            "allow_pickle": True,
        },
        "pandas, by way of the package": {
            "_target_": "clipeval.tasks.base.pd.read_pickle",
            "filepath_or_buffer": pickled,
        },
        "a function of the package": {
            "_target_": "clipeval.configs.files.write_atomically",
            "path": str(place),
            "content": "x",
        },
        "a function that imports": {"_target_": "clipeval.models.custom._find", "target": "theirs_evil.Own"},
        "a class of the package that imports": {
            "_target_": "clipeval.models.custom.UserModel",
            "target": "theirs_evil.Own",
            "arguments": {},
        },
        "a class of the package that is no task": {"_target_": "clipeval.tasks.Samples", "keys": []},
        "a function of a task's module": {"_target_": "clipeval.tasks.checks.parts"},
        "the abstract class": {"_target_": "clipeval.tasks.base.Task"},
        "a module of the tasks' name": {"_target_": "clipeval.tasks.theirs_evil.Own"},
        "a module that is imported": {"_target_": "theirs_evil.Own"},
        "a module alone": {"_target_": "theirs_evil"},
        "a path": {"_target_": "../theirs_evil.Own"},
        "a list": {"_target_": ["theirs_evil.Own"]},
        "no text": {"_target_": 7},
        "Hydra itself": {"_target_": "hydra.utils.instantiate", "config": {"_target_": "theirs_evil.Own"}},
        "a part": {"scorer": {"_target_": "joblib.load", "filename": pickled}},
        "a part at depth": {"meanings": {"a": [[{"b": {"_target_": "theirs_evil.Own"}}]]}},
        "a part that is a task": {"scorer": {"_target_": "theirs_evil.Own"}},
        "a part under another key": {"metric": {"_target_": "builtins.exec", "_args_": [code]}},
        "a name by _args_": {"_args_": [{"_target_": "theirs_evil.Own"}]},
        "a partial": {"_partial_": True, "scorer": {"_target_": "joblib.load", "_partial_": True}},
        "no recursion": {"_recursive_": False, "scorer": {"_target_": "theirs_evil.Own"}},
    }


ATTACKS = list(attacks(Path()))


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_in_a_tasks_config_runs_in_verify(attack, run, canary, tmp_path, capsys):
    put(run, **attacks(tmp_path)[attack])
    assert main(["verify", str(run)]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(f"clipeval: {run / 'run.json'} names what is not trusted, and nothing of it was imported")
    assert f"tasks.{DIGITS}" in said
    assert "--trust MODULE[.CLASS]" in said
    assert said.count("clipeval: ") == 1


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "attack",
    [
        "a pickle, by joblib",
        "exec",
        "a module that is imported",
        "a class of the package that imports",
        "a part at depth",
    ],
)
def test_no_command_runs_an_attack(attack, command, run, canary, honest, tmp_path, capsys):
    put(run, **attacks(tmp_path)[attack])
    status = main(commands(run, honest, tmp_path)[command])
    said = capsys.readouterr().err
    assert status == (1 if command in MAKERS else 0), said
    assert ("names what is not trusted" in said) == (command in MAKERS)


def test_the_attacks_do_run_where_they_are_not_checked(run, tmp_path):
    """Hydra as it is: what the tests above see refused is no straw man."""
    from hydra.utils import instantiate

    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "canary")))
    instantiate(attacks(tmp_path)["a pickle, by joblib"])
    assert (tmp_path / "canary").exists()


MODELS = {
    "a process": lambda place: {"_target_": "subprocess.Popen", "args": ["touch", str(place)]},
    "exec": lambda place: {"_target_": "builtins.exec", "name": "x"},
    "an import": lambda place: {"_target_": "theirs_evil.Own"},
    "a class of the package that imports": lambda place: {
        "_target_": "clipeval.models.custom.UserModel",
        "target": "theirs_evil.Own",
        "arguments": {},
    },
    "a function of the package": lambda place: {
        "_target_": "clipeval.configs.files.write_atomically",
        "path": str(place),
        "content": "x",
    },
}


@pytest.mark.parametrize("attack", list(MODELS))
def test_rerun_makes_no_model_that_a_run_names(attack, run, canary, tmp_path, capsys):
    tamper(run, lambda config: config.update(model={"slug": "x", "name": "x", **MODELS[attack](canary)}))
    assert main(["rerun", str(run), "--output", str(tmp_path / "again")]) == 1
    said = capsys.readouterr().err
    assert "model._target_=" in said and "--trust" in said
    assert main(["verify", str(run)]) == 0  # which needs no model


# -- what the user vouches for ---------------------------------------------------------------------------------------


def test_a_class_that_the_user_trusts_is_called_and_only_it(run, canary, tmp_path, capsys):
    put(run, _target_="mine_good.Own")
    assert main(["verify", str(run)]) == 1
    assert f"tasks.{DIGITS}._target_=mine_good.Own is not one of clipeval's own" in " ".join(
        capsys.readouterr().err.split()
    )
    assert "mine_good" not in sys.modules
    assert main(["verify", str(run), "--trust", "mine_good.Own"]) == 0
    assert main(["verify", str(run), "--trust", "mine_good"]) == 0
    assert main(["verify", str(run), "--trust", "mine"]) == 1  # another module, whose name begins alike
    assert main(["verify", str(run), "--trust", "mine_good.Ow"]) == 1
    put(run, part={"_target_": "mine_good.Part"})
    assert main(["verify", str(run), "--trust", "mine_good.Own"]) == 1
    assert main(["verify", str(run), "--trust", "mine_good"]) == 0
    put(run, part={"_target_": "theirs_evil.Own"})
    assert main(["verify", str(run), "--trust", "mine_good"]) == 1


@pytest.mark.parametrize(
    "target", ["mine_good.Popen", "mine_good.function", "mine_good.dataclass", "mine_good.missing"]
)
def test_a_trusted_module_lends_only_classes_that_it_defines(target, canary, tmp_path):
    node = {"_target_": "mine_good.Own", "part": {"_target_": target, "args": ["touch", str(canary)]}}
    with pytest.raises(ClipevalError, match=rf"tasks.x.part._target_={target}"):
        check_tasks({"x": node}, Path("run.json"), Trust(("mine_good",)))


@pytest.mark.parametrize("target", ["mine_good.Part", "mine_good.function", "mine_good.Popen", "joblib.load"])
def test_a_trusted_name_is_a_task_where_a_task_is_expected(target, canary):
    with pytest.raises(
        ClipevalError, match=r"expected, a subclass of clipeval\.tasks\.base\.Task|has no class of that name"
    ):
        check_tasks({"x": {"_target_": target}}, Path("run.json"), Trust((target,)))


def test_the_users_config_folder_vouches_for_the_classes_that_it_names(run, canary, tmp_path, capsys):
    mine = tmp_path / "configs"
    (mine / "task").mkdir(parents=True)
    (mine / "task" / "own.yaml").write_text(
        yaml.safe_dump({"_target_": "mine_good.Own", "part": {"_target_": "mine_good.Part"}})
    )
    put(run, _target_="mine_good.Own", part={"_target_": "mine_good.Part"})
    assert main(["verify", str(run)]) == 1
    assert main(["verify", str(run), "--config-dir", str(mine)]) == 0
    assert main(["compare", str(run), str(run), "--config-dir", str(mine)]) == 0
    put(run, _target_="theirs_evil.Own")
    assert main(["verify", str(run), "--config-dir", str(mine)]) == 1
    assert main(["verify", str(run), "--config-dir", str(tmp_path / "none")]) == 1
    assert "--config-dir" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "os;system", "a/b", ".x", "x.", "a b", "*"])
def test_a_trusted_name_has_a_form(name):
    with pytest.raises(ClipevalError, match=r"MODULE or MODULE\.CLASS was expected"):
        trust([name])


def test_a_users_own_task_runs_without_a_word_and_verifies_with_one(tmp_path, canary, honest, monkeypatch):
    """`clipeval run` with a task of one's own is as it was: what the user names on the command line is the user's."""
    mine = tmp_path / "configs"
    (mine / "task").mkdir(parents=True)
    bundled = json.loads((honest / "run.json").read_text())["config"]["tasks"][DIGITS]
    (mine / "task" / "own.yaml").write_text(yaml.safe_dump({**bundled, "_target_": "mine_good.Own"}))
    out, cache = f"out={tmp_path / 'run'}", f"cache.root={tmp_path / 'cache'}"
    words = ["run", "--config-dir", str(mine), "suite=none", "+task@tasks.own=own", out, cache]
    assert main(words) == 0
    assert main(["verify", str(tmp_path / "run")]) == 1
    assert main(["verify", str(tmp_path / "run"), "--trust", "mine_good.Own"]) == 0
    assert main(["rerun", str(tmp_path / "run"), "--config-dir", str(mine), "--output", str(tmp_path / "again")]) == 0


@pytest.mark.parametrize("name", ["classification.Classification", "Classification", "probe.LinearProbe", "Attributes"])
def test_the_packages_own_tasks_are_trusted(name):
    check_tasks({"x": {"_target_": f"clipeval.tasks.{name}", "key": "x"}}, Path("run.json"), NOBODY)


def test_every_task_of_the_package_can_be_verified():
    """The shipped configs name nothing that a stored one may not name."""
    from omegaconf import OmegaConf

    from clipeval.configs.compose import compose

    suites = (
        ["suite=datacomp"],
        ["suite=imagenet", "protocol=linear_probe"],
        ["suite=retrieval", "~tasks.winogavil", "protocol=captioning"],
    )
    for words in suites:
        config = compose([*words, "data.root=x"])
        check_tasks(OmegaConf.to_container(config.tasks, resolve=True), Path("run.json"), NOBODY)


# -- interpolations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:SECRET}",
        "a${oc.env:SECRET,x}b",
        "${oc.decode:'1'}",
        "${user_cache:}",
        "${bundled:data}",
        "${model.slug}",
        "${",
    ],
)
@pytest.mark.parametrize("place", ["name", "notes", "prompts", "model"])
@pytest.mark.parametrize("command", ["verify", "compare", "groups", "rerun"])
def test_no_interpolation_is_resolved(place, text, command, run, honest, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SECRET", "the-secret")
    value: Any = {"name": text, "notes": ["x", text], "prompts": {"name": text, "templates": ["{c}"]}}.get(place, text)
    if place == "model":
        tamper(run, lambda config: config["model"].update(pretrained=text))
    else:
        put(run, **{place: value})
    assert main(commands(run, honest, tmp_path)[command]) == 1
    said = capsys.readouterr()
    assert "the-secret" not in said.out + said.err
    assert "holds the interpolation" in said.err and str(run / "run.json") in said.err
    assert not (tmp_path / "again").exists()


def test_a_page_holds_no_variable_of_the_environment(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "the-secret")
    put(run, name="${oc.env:SECRET}", data={"path": "${oc.env:SECRET}"})
    for format in ("html", "md", "csv", "model-card", "latex"):
        out = tmp_path / f"page.{format}"
        main(["report", str(run), "--format", format, "--output", str(out)])
        assert not out.exists() or "the-secret" not in out.read_text()


def test_shell_words_of_a_runs_own_slurm_options_are_left_alone(run, monkeypatch):
    monkeypatch.setenv("SECRET", "the-secret")
    tamper(run, lambda config: config["slurm"].update(setup=["export X=${SECRET} ${oc.env:SECRET} \\${a}"]))
    stored = StoredRun.read(RunFolder(run))
    assert list(stored.config.slurm.setup) == ["export X=${SECRET} ${oc.env:SECRET} \\${a}"]
    assert main(["verify", str(run)]) == 0


# -- names, links and files of a run folder --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../../x.parquet", "/etc/passwd", "predictions/other.parquet", "predictions/../run.json", "", None, 7]
)
def test_a_record_names_its_own_predictions(name, run, honest, capsys, tmp_path):
    (tmp_path / "x.parquet").write_bytes((run / "predictions" / f"{DIGITS}.parquet").read_bytes())
    rewrite(run, DIGITS, lambda record: record["predictions"].update(file=name))
    assert main(["verify", str(run)]) == 1
    assert "predictions, which lie in predictions/quickstart_digits.parquet" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a\x00b", "a/b", "..", "x\x1b]0;title\x07"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_record_cannot_name_another_file_by_its_task(name, command, run, honest, tmp_path, capsys):
    """`compare --output` writes a picture for each task, under its name."""
    before = sorted(path for path in tmp_path.rglob("*") if "escaped" in path.name)
    rewrite(run, DIGITS, lambda record: record.update(task=name))
    tamper(run, lambda config: config["tasks"].update({name: config["tasks"][DIGITS]}))
    main(commands(run, honest, tmp_path)[command])
    assert sorted(path for path in tmp_path.parent.rglob("*") if "escaped" in path.name) == before
    with pytest.raises(ClipevalError, match="it is the record of a task"):
        RunFolder(run).record(DIGITS)


@pytest.mark.parametrize(
    "part", ["run.json", "records", f"records/{DIGITS}.json", "predictions", f"predictions/{DIGITS}.parquet"]
)
@pytest.mark.parametrize("command", ["verify", "compare", "html", "table", "rerun"])
def test_links_out_of_a_run_folder_are_not_followed(part, command, run, honest, tmp_path, capsys):
    outside = tmp_path / "private"
    shutil.move(run / part, outside)
    (run / part).symlink_to(outside)
    before = sorted((path, path.stat().st_mtime_ns) for path in [outside, *outside.rglob("*")])
    status = main(commands(run, honest, tmp_path)[command])
    said = " ".join((lambda read: read.out + read.err)(capsys.readouterr()).split())
    if command in ("html", "table") and "predictions" in part:
        assert status == 0  # a table has no need of them, and the page says so
    else:
        assert status == 1
        assert "link out of the run folder" in said and "is not followed" in said
    assert sorted((path, path.stat().st_mtime_ns) for path in [outside, *outside.rglob("*")]) == before


def test_nothing_is_written_through_a_link_out_of_a_run_folder(run, tmp_path, capsys):
    """Running on in a folder that somebody sent."""
    outside = tmp_path / "precious"
    shutil.move(run / "predictions", outside)
    (run / "predictions").symlink_to(outside)
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    frame = pd.DataFrame({"key": ["a"]})
    record = json.loads((run / "records" / f"{DIGITS}.json").read_text())
    from clipeval.results.records import Record

    with pytest.raises(ClipevalError, match="link out of the run folder"):
        RunFolder(run).write(Record.from_json(record), frame)
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == before


def test_a_run_folder_that_is_a_link_itself_is_read(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    assert main(["verify", str(tmp_path / "link")]) == 0


def test_a_pipe_is_not_waited_for(run, capsys):
    for name in ("run.json", f"records/{DIGITS}.json", f"predictions/{DIGITS}.parquet"):
        kept = (run / name).read_bytes()
        (run / name).unlink()
        os.mkfifo(run / name)
        assert main(["verify", str(run)]) == 1
        said = capsys.readouterr()
        assert "it is no plain file" in " ".join((said.out + said.err).split())
        (run / name).unlink()
        (run / name).write_bytes(kept)
    assert main(["verify", str(run)]) == 0


BOMBS = {
    "lists": "[" * 100_000 + "]" * 100_000,
    "objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "open": "[" * 100_000,
    "within": '{"schema": 1, "config": ' + '{"a":' * 500 + "1" + "}" * 500 + "}",
    "just too deep": '{"schema": 1, "config": ' + "[" * 61 + "]" * 61 + "}",
    "a number": '{"schema": 1, "config": ' + "9" * 10_000 + "}",
}


@pytest.mark.parametrize("bomb", list(BOMBS))
@pytest.mark.parametrize("name", ["run.json", f"records/{DIGITS}.json"])
@pytest.mark.parametrize("command", ["verify", "compare", "html", "table", "rerun", "status"])
def test_json_bombs(bomb, name, command, run, honest, tmp_path, capsys):
    (run / name).write_text(BOMBS[bomb])
    assert main(commands(run, honest, tmp_path)[command]) in (0, 1)  # never a traceback
    said = " ".join((lambda read: read.out + read.err)(capsys.readouterr()).split())
    assert "damaged" in said or command in ("html", "table")


SHAPES: dict[str, Any] = {
    "config": 7,
    "config.tasks": [],
    f"config.tasks.{DIGITS}": "x",
    f"config.tasks.{DIGITS}.data": 3,
    "config.model": "x",
    "config.data": None,
    "config.cache": [],
    "model": [1],
    "tasks": [1],
    f"tasks.{DIGITS}": 5,
}


@pytest.mark.parametrize("location", list(SHAPES))
@pytest.mark.parametrize("command", ["verify", "compare", "html", "table", "rerun", "status", "model-card"])
def test_a_run_of_another_shape_is_no_traceback(location, command, run, honest, tmp_path, capsys):
    content = json.loads((run / "run.json").read_text())
    node, *rest = content, *location.split(".")
    for key in rest[:-1]:
        node = node[key]
    node[rest[-1]] = SHAPES[location]
    (run / "run.json").write_text(json.dumps(content))
    assert main(commands(run, honest, tmp_path)[command]) in (0, 1)


FIELDS: dict[str, Any] = {
    "flags": [{}],
    "notes": "text",
    "metrics": {"acc1": "0.9"},
    "intervals": {"acc1": [1]},
    "model": [],
    "prompts": {"classnames": 7},
    "samples": "many",
    "fingerprint": [],
    "predictions": "x",
    "imported": {"x": 1},
    "timings": {"a": None},
    "name": None,
    "metric": ["acc1"],
}


@pytest.mark.parametrize("field", list(FIELDS))
@pytest.mark.parametrize("command", ["verify", "compare", "html", "table", "jsonl"])
def test_a_record_of_another_shape_counts_as_damaged(field, command, run, honest, tmp_path, capsys):
    rewrite(run, DIGITS, lambda record: record.update({field: FIELDS[field]}))
    assert main(commands(run, honest, tmp_path)[command]) in (0, 1)
    with pytest.raises(ClipevalError, match="is damaged: a field is missing or of another type"):
        RunFolder(run).record(DIGITS)


def test_an_index_that_came_with_a_folder_is_only_as_good_as_its_records(run, capsys):
    from clipeval.results.record_index import _digest

    for known in (
        [],
        {DIGITS: 7},
        {DIGITS: [[], {}]},
        {DIGITS: [None, None, None]},
        {DIGITS: [[1, 2, 3, 4], {"task": "x"}]},
    ):
        content = json.dumps(known).encode()
        (run / "records" / ".index").write_bytes(_digest(content).encode() + b"\n" + content)
        assert main(["report", str(run)]) == 0
        assert "Digits" in capsys.readouterr().out


def test_predictions_of_another_protocol_are_a_finding(run, capsys):
    frame = pd.DataFrame({"key": ["a", "b"], "x": [1, 2]})
    folder = RunFolder(run)
    folder.write(folder.record(DIGITS), frame)
    assert main(["verify", str(run)]) == 1
    assert "holds no predictions of the protocol" in " ".join(capsys.readouterr().out.split())


EVIL_TEXT = "x\x1b]0;title\x07\x9b2J [/nothing] [red]"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_terminal_takes_no_text_for_a_command(command, run, honest, tmp_path, capsys):
    """Neither its own escape sequences, nor what `rich` takes for markup."""
    content = json.loads((run / "run.json").read_text())
    content["tasks"][DIGITS]["name"] = content["model"]["name"] = content["model"]["slug"] = EVIL_TEXT
    (run / "run.json").write_text(json.dumps(content))
    fields = {"name": EVIL_TEXT, "flags": [EVIL_TEXT], "notes": [EVIL_TEXT], "group": EVIL_TEXT}
    rewrite(run, DIGITS, lambda record: record.update({**fields, "metrics": {**record["metrics"], EVIL_TEXT: 0.5}}))
    assert main(commands(run, honest, tmp_path)[command]) in (0, 1)
    said = "".join(capsys.readouterr())
    assert not set(said) & {"\x1b", "\x07", "\x9b"}


def test_predictions_have_the_rows_that_their_record_says(run):
    rewrite(run, DIGITS, lambda record: record["predictions"].update(rows=3))
    folder = RunFolder(run)
    with pytest.raises(ClipevalError, match="its record says 3"):
        folder.predictions(folder.record(DIGITS))


# -- what a page and a repetition read and write ---------------------------------------------------------------------


def test_a_page_shows_pictures_of_the_data_that_was_scored_and_of_nothing_else(run, tmp_path):
    key = pd.read_parquet(run / "predictions" / f"{DIGITS}.parquet")["key"][0]
    assert set(pictures(str(run), DIGITS, [key])) == {key}
    from PIL import Image

    for name in ("cats", "dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / f"{name}.png")
    private = {"kind": "folder", "path": str(tmp_path / "photos")}
    put(run, data=private)
    assert pictures(str(run), DIGITS, [f"{name}/{name}.png" for name in ("cats", "dogs")]) == {}
    assert main(["report", str(run), "--format", "html", "--output", str(tmp_path / "page.html")]) == 0


def test_a_page_asks_no_network(run, monkeypatch):
    import datasets

    def load(*given: Any, **more: Any) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(datasets, "load_dataset", load)
    put(run, data={"kind": "huggingface", "hub": "somebody/somewhere", "image": "image", "label": "label"})
    assert pictures(str(run), DIGITS, ["00000000"]) == {}


def test_a_repetition_writes_where_the_user_lets_it(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    tamper(run, lambda config: config["head"].update(save=str(elsewhere / "heads")))
    tamper(run, lambda config: config["cache"].update(root=str(elsewhere / "cache")))
    tamper(run, lambda config: config.update(out=str(elsewhere / "out")))
    assert main(["rerun", str(run), "--output", str(tmp_path / "again")]) == 0
    assert main(["report", str(run), "--format", "html", "--output", str(tmp_path / "page.html")]) == 0
    assert not elsewhere.exists()
    assert (tmp_path / "own-cache").exists()


def test_a_repetition_fetches_nothing(run, tmp_path, monkeypatch, capsys):
    from clipeval.models import hub_cache

    def fetch(*given: Any) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(hub_cache, "download", fetch)
    tamper(run, lambda config: config.update(model={"name": "hf-hub:somebody/somewhere", "pretrained": None}))
    assert main(["rerun", str(run), "--output", str(tmp_path / "again")]) == 1
    assert "is not on this machine" in capsys.readouterr().err


# -- imported results, heads, caches ---------------------------------------------------------------------------------

RESULT = {
    "dataset": "wds/x",
    "model": "m",
    "pretrained": "p",
    "task": "zeroshot_classification",
    "metrics": {"acc1": 0.5},
}


@pytest.mark.parametrize(
    "content",
    [
        *BOMBS.values(),
        json.dumps({**RESULT, "metrics": {"acc1": 10**400}}),
        json.dumps({**RESULT, "metrics": {"acc1": {"_target_": "builtins.exec"}}, "_target_": "joblib.load"}),
        json.dumps({**RESULT, "dataset": "../../../escaped"}),
        json.dumps({**RESULT, "model": "../../../escaped"}),
        json.dumps({**RESULT, "language": "../../../escaped"}),
        json.dumps({**RESULT, "task": "../../../escaped"}),
        json.dumps({**RESULT, "language": "a\x00b"}),
        "\x00",
    ],
)
def test_imported_json(content, tmp_path, monkeypatch, canary, capsys):
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b" / "c")
    Path("x.json").write_text(content)
    before = set(tmp_path.rglob("*"))
    assert main(["import", "x.json"]) in (0, 1)
    here = Path.cwd()
    assert all(here in path.parents for path in set(tmp_path.rglob("*")) - before)


@pytest.mark.parametrize(
    "metadata, weight",
    [
        ({"classnames": "[" * 100_000, "about": "{}"}, torch.ones(2, 4)),
        ({"classnames": "7", "about": "{}"}, torch.ones(2, 4)),
        ({"classnames": '[1, "b"]', "about": "{}"}, torch.ones(2, 4)),
        ({"classnames": '["a", "b"]', "about": "[]"}, torch.ones(2, 4)),
        ({"classnames": '["a", "b"]', "about": "{}"}, torch.ones(3, 4)),
        ({"classnames": '["a", "b"]', "about": "{}"}, torch.ones(2)[:, None][:, 0]),
        ({"classnames": '["a", "b"]', "about": "{}"}, torch.full((2, 4), float("nan"))),
        ({}, torch.ones(2, 4)),
    ],
)
def test_a_head_of_another_shape_is_refused(metadata, weight, tmp_path):
    if weight.ndim == 1:
        weight = torch.ones(())
    save_file({"weight": weight}, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(ClipevalError, match=r"is no head that head\.save wrote"):
        read_head(tmp_path / "x.safetensors")


def test_a_head_that_is_a_pickle_is_not_opened(tmp_path, canary):
    (tmp_path / "x.safetensors").write_bytes(pickle.dumps(Trap(canary)))
    with pytest.raises(ClipevalError, match=r"is no head that head\.save wrote"):
        read_head(tmp_path / "x.safetensors")


def test_a_cached_array_that_is_a_pickle_is_not_opened(tmp_path, canary):
    import hashlib

    import numpy as np

    from clipeval.stores.embeddings import _read

    np.save(tmp_path / "x.npy", np.array([Trap(canary)], dtype=object), allow_pickle=True)
    content = (tmp_path / "x.npy").read_bytes()
    name = tmp_path / f"0-{hashlib.sha256(content).hexdigest()}.npy"
    name.write_bytes(content)
    assert _read(name) is None  # it is computed again


def test_the_cache_command_reads_labels_of_any_kind(tmp_path, capsys):
    for number, text in enumerate(["[" * 100_000, "7", "{", '{"label": {"a": ["[bold]"]}}']):
        folder = tmp_path / "images" / f"k{number}"
        folder.mkdir(parents=True)
        (folder / "parts.json").write_text(text)
    assert main(["cache", "list", "--root", str(tmp_path)]) == 0
    assert "4 entries" in capsys.readouterr().out


# -- checkpoints -----------------------------------------------------------------------------------------------------

EVIL = "import pathlib\npathlib.Path({place!r}).touch()\nclass Evil:\n    def __init__(self, *a, **k): pass\n"


@pytest.fixture
def answers_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who would say yes to whatever transformers asks."""
    monkeypatch.setattr("builtins.input", lambda *given: "y")


def load(config: dict[str, Any], cache: Path) -> None:
    resolve(config, cache, offline=True).load()


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("trusting", [False, True])
def test_code_in_a_transformers_folder_is_never_run(name, trusting, tmp_path, canary, answers_yes):
    folder = write_hugging_face(tmp_path / "model", "clip", CLIP_PROCESSOR)
    (folder / "evil.py").write_text(EVIL.format(place=str(canary)))
    config = json.loads((folder / name).read_text())
    names = dict.fromkeys(("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor", "CLIPModel"), "evil.Evil")
    config["auto_map"] = {**names, "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    for key in ("image_processor_type", "tokenizer_class"):
        if key in config:
            config[key] = "Evil"
    config |= {"trust_remote_code": True} if trusting else {}
    (folder / name).write_text(json.dumps(config))
    try:
        load({"_target_": "clipeval.models.transformers.HuggingFace", "path": str(folder)}, tmp_path)
    except ClipevalError as problem:
        assert str(folder) in str(problem)
    else:
        assert not trusting


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_no_attention_kernel_is_fetched(key, tmp_path):
    folder = write_hugging_face(tmp_path / "model", "clip", CLIP_PROCESSOR)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"][key] = "somebody/kernel:run"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ClipevalError, match=rf"config.json asks for code .*text_config.{key}=somebody/kernel:run"):
        load({"_target_": "clipeval.models.transformers.HuggingFace", "path": str(folder)}, tmp_path)


def test_a_pickle_among_a_transformers_folders_weights_is_not_run(tmp_path, canary):
    folder = write_hugging_face(tmp_path / "model", "clip", CLIP_PROCESSOR)
    (folder / "model.safetensors").unlink()
    torch.save(Trap(canary), folder / "pytorch_model.bin")
    with pytest.raises(ClipevalError, match="cannot be loaded"):
        load({"_target_": "clipeval.models.transformers.HuggingFace", "path": str(folder)}, tmp_path)


def with_tokenizer(folder: Path, **text: Any) -> str:
    """A tiny open_clip folder whose tokenizer is a transformers folder's, and changes to its text_cfg."""
    name = write_tiny_model(folder)
    other = write_hugging_face(folder.parent / "hf", "clip", CLIP_PROCESSOR)
    for file in other.glob("tokenizer*"):
        shutil.copy(file, folder)
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "x", **text}
    path.write_text(json.dumps(content))
    return name


@pytest.mark.parametrize("kwargs", [{}, {"trust_remote_code": False}, {"trust_remote_code": True}])
def test_code_beside_an_open_clip_config_is_never_run(kwargs, tmp_path, canary, answers_yes):
    name = with_tokenizer(tmp_path / "m", tokenizer_kwargs=kwargs)
    (tmp_path / "m" / "evil.py").write_text(EVIL.format(place=str(canary)))
    path = tmp_path / "m" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(
        json.dumps({**config, "tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}})
    )
    if kwargs.get("trust_remote_code"):
        with pytest.raises(ClipevalError, match=r"asks for code .*tokenizer_kwargs\.trust_remote_code=True"):
            load({"name": name}, tmp_path)
        return
    try:
        load({"name": name}, tmp_path)
    except ClipevalError as problem:
        assert str(tmp_path / "m") in str(problem)


def test_a_text_tower_that_is_a_python_file_is_refused(tmp_path, canary, answers_yes):
    tower = tmp_path / "tower"
    tower.mkdir()
    (tower / "evil.py").write_text(EVIL.format(place=str(canary)))
    (tower / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}))
    name = with_tokenizer(tmp_path / "m", hf_model_name=str(tower))
    with pytest.raises(ClipevalError, match=r"asks for code that comes with the checkpoint, which is never run"):
        load({"name": name}, tmp_path)


@pytest.mark.parametrize(
    "text", [*BOMBS.values(), "7", '{"model_cfg": 7}', '{"model_cfg": {"vision_cfg": [], "text_cfg": {}}}']
)
def test_an_open_clip_config_of_another_shape(text, tmp_path):
    name = write_tiny_model(tmp_path / "m")
    (tmp_path / "m" / "open_clip_config.json").write_text(text)
    with pytest.raises(ClipevalError, match="is no open_clip config"):
        resolve({"name": name}, tmp_path, offline=True)


# -- data ------------------------------------------------------------------------------------------------------------


def laughs(levels: int = 30) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "front",
    [
        f"{laughs()}\nconfigs:\n- config_name: *a29\n- config_name: *a29",
        f"{laughs()}\nconfigs:\n- config_name: x\n  data_files:\n  - {{split: *a29, path: x}}",
        "m0: &m0 {a: 1, b: 2}\n" + "\n".join(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}" for n in range(1, 60)),
    ],
)
def test_yaml_bombs_in_a_sets_card(front, tmp_path):
    from clipeval.data.huggingface import _declared

    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n")
    with pytest.raises(ClipevalError, match="uses YAML aliases"):
        _declared(tmp_path, {"x.parquet": tmp_path / "x.parquet"})


@pytest.mark.parametrize(
    "front", ["[" * 5000, "a: " + "{b: " * 5000, "!!python/object/apply:os.system ['touch canary']"]
)
def test_other_yaml_of_a_sets_card_declares_nothing(front, tmp_path, canary):
    from clipeval.data.huggingface import _declared

    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n")
    assert _declared(tmp_path, {}) == {}
    assert not Path("canary").exists()
