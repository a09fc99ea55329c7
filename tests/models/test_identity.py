"""What changes beside unchanged weights: a result is reused while everything that can alter it is the same, and not longer."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipeval.cli.main import main
from clipeval.models.own_code import import_fresh
from tests.models.own_model import HELPER, MODEL, Bench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_the_same_model_is_reused(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.score() == 1.0
    assert bench.embeddings() == 1
    said(capsys)
    assert bench.score() == 1.0
    assert "nothing to compute" in said(capsys)
    assert bench.score(out="other") == 1.0
    assert "1 tasks, 0 images" in said(capsys), "its embeddings are reused in another folder"


def test_another_process_reuses_it(bench: Bench) -> None:
    assert bench.score() == 1.0
    environment = {
        **os.environ,
        "PYTHONPATH": f"{bench.place / 'code'}:{Path(__file__).parents[2]}",
        "PYTHONHASHSEED": "7",
    }
    command = [sys.executable, "-m", "clipeval.cli.main", "run", *bench.words()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd="/")
    assert "nothing to compute" in done.stderr


@pytest.mark.parametrize("out", ["run", "other"])
def test_an_argument_that_is_no_weight(bench: Bench, out: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The issue's first case: the old record, or the embeddings in the cache, were shown for it."""
    assert bench.score() == 1.0
    said(capsys)
    assert bench.score("+model.flip=true", out=out) == 0.0
    assert ("the model's arguments (" in said(capsys)) == (out == "run")
    assert bench.score("+model.flip=false", out=out) == 1.0


FAR = "def order(rows, table): return rows.roll({}, 1)\n"
CHANGES = {
    "a constant of a helper": {"own_helper": HELPER.replace("SHIFT = 0", "SHIFT = 1")},
    "a function of a helper": {"own_helper": HELPER.replace("rows.roll(shift", "rows.roll(shift + 1")},
    "the class": {"own_model": MODEL.replace("if self.flip", "if not self.flip")},
    "a helper's helper": {"own_helper": HELPER + "\nfrom own_far import order\n", "own_far": FAR.format(1)},
}


def test_bytecode_of_the_same_second_is_not_taken_for_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A constant that changes twice within a second: Python tells bytecode by the second and the size of its source."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    source = tmp_path / "own_constant.py"
    for value in range(3):
        monkeypatch.delitem(sys.modules, "own_constant", raising=False)
        importlib.invalidate_caches()
        source.write_text(f"VALUE = {value}\nclass Model: ...\n")
        os.utime(source, ns=(10**18 + 1000 * value, 10**18 + 1000 * value))  # one second, and later than the bytecode's
        for cached in tmp_path.glob("__pycache__/own_constant.*"):
            os.utime(cached, ns=(10**18 + 1000 * value - 500, 10**18 + 1000 * value - 500))
        assert value == import_fresh("own_constant.Model").VALUE
        assert list(tmp_path.glob("__pycache__/own_constant.*"))


@pytest.mark.parametrize("fresh", [True, False], ids=["a new process", "the same process"])
@pytest.mark.parametrize("what", list(CHANGES))
def test_code_that_changes(bench: Bench, what: str, fresh: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.score() == 1.0
    for module, content in CHANGES[what].items():
        bench.write(module, content)
    if fresh:
        for name in (*bench.modules, "own_far"):
            bench.monkeypatch.delitem(sys.modules, name, raising=False)
    said(capsys)
    assert bench.score() == 0.0
    assert "the model's code (" in said(capsys)
    for module, content in {"own_model": MODEL, "own_helper": HELPER}.items():
        bench.write(module, content)
    assert bench.score() == 1.0


@pytest.mark.parametrize(
    "how",
    [
        "import own_far\n",
        "def order(rows, table):\n    import own_far\n    return own_far.order(rows, table)\n",
        "import importlib\nown_far = importlib.import_module('own_far')\n",
        "import importlib\nown_far = importlib.import_module('own' + '_far')\n",
        "from pack import own_far\n",
        "from pack.deep import own_far\n",
        "from pack import *\n",
    ],
)
def test_every_way_to_import(bench: Bench, how: str) -> None:
    place = "own_far"
    if "pack" in how:
        place = "pack/own_far" if "deep" not in how else "pack/deep/own_far"
        (bench.place / "code" / place).parent.mkdir(parents=True)
        bench.write("pack/__init__", "__all__ = ['own_far']\n")
        if "deep" in how:
            bench.write("pack/deep/__init__", "")
    bench.write(place, FAR.format(0))
    own = how if "def order" in how else how + "def order(rows, table): return own_far.order(rows, table)\n"
    bench.write("own_helper", own)
    names = ("own_far", "pack", "pack.own_far", "pack.deep", "pack.deep.own_far", *bench.modules)

    def forget() -> None:
        for name in names:
            bench.monkeypatch.delitem(sys.modules, name, raising=False)

    forget()
    assert bench.score() == 1.0
    bench.write(place, FAR.format(1))
    forget()
    assert bench.score() == 0.0
    forget()


@pytest.mark.parametrize("times", ["new", "restored"])
def test_a_file_that_an_argument_names(bench: Bench, times: str) -> None:
    table = bench.place / "table.txt"
    table.write_text("0")
    argument = f"+model.table={table}"
    assert bench.score(argument) == 1.0
    stat = table.stat()
    table.write_text("1")
    if times == "restored":
        os.utime(table, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert bench.score(argument) == 0.0
    table.write_text("0")
    assert bench.score(argument) == 1.0


def test_a_file_in_a_folder_that_an_argument_names_and_one_that_the_source_names(bench: Bench) -> None:
    bench.write("own_helper", HELPER.replace("Path(table)", "Path(table, 'shift')"))
    folder = bench.place / "folder"
    folder.mkdir()
    (folder / "shift").write_text("0")
    assert bench.score(f"+model.table={folder}") == 1.0
    (folder / "shift").write_text("1")
    assert bench.score(f"+model.table={folder}") == 0.0
    beside = HELPER.replace("SHIFT if table is None else int(Path(table)", "int((Path(__file__).parent / 'shift.txt')")
    bench.write("own_helper", beside)
    (bench.place / "code" / "shift.txt").write_text("0")
    assert bench.score() == 1.0
    (bench.place / "code" / "shift.txt").write_text("1")
    assert bench.score() == 0.0


def test_what_an_instance_holds_that_is_no_weight(bench: Bench) -> None:
    """As a variable of the environment, read when it is made, or a buffer that no state dict holds."""
    bench.write(
        "own_model",
        MODEL.replace("self.flip = flip", "import os; self.flip = os.environ['FLIP'] == '1'"),
    )
    bench.monkeypatch.setenv("FLIP", "0")
    assert bench.score() == 1.0
    bench.monkeypatch.setenv("FLIP", "1")
    assert bench.score() == 0.0
    held = "self.register_buffer('flip', torch.tensor(os.environ['FLIP'] == '1'), persistent=False)"
    bench.write("own_model", MODEL.replace("self.flip = flip", f"import os; {held}"))
    assert bench.score() == 0.0
    bench.monkeypatch.setenv("FLIP", "0")
    assert bench.score() == 1.0


def test_what_cannot_be_told_apart_is_not_kept(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """A class whose source nobody can read: every run computes anew, says so, and keeps no embedding."""
    import types

    def ghost(flip: bool) -> types.ModuleType:
        module = types.ModuleType("ghost")
        exec(MODEL.replace("flip=False", f"flip={flip}"), module.__dict__)
        return module

    word = "model._target_=ghost.Own"
    bench.monkeypatch.setitem(sys.modules, "ghost", ghost(flip=False))
    assert bench.score(word) == 1.0
    assert "the source of the module ghost cannot be read" in said(capsys)
    assert bench.embeddings() == 0
    bench.monkeypatch.setitem(sys.modules, "ghost", ghost(flip=True))
    assert bench.score(word) == 0.0
    assert main(["run", *bench.words(word, "resume=refuse")]) == 1
    assert "resume=refuse" in said(capsys)


def test_a_digest_of_its_own(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """It stands for what the instance holds, and for the source where that cannot be read."""
    import types

    def ghost(flip: bool, digest: str) -> None:
        module = types.ModuleType("ghost")
        exec(MODEL.replace("flip=False", f"flip={flip}"), module.__dict__)
        module.__dict__["Own"].digest = digest
        bench.monkeypatch.setitem(sys.modules, "ghost", module)

    word = "model._target_=ghost.Own"
    ghost(flip=False, digest="a")
    assert bench.score(word) == 1.0
    assert bench.embeddings() == 1
    said(capsys)
    assert bench.score(word) == 1.0
    assert "nothing to compute" in said(capsys)
    ghost(flip=True, digest="b")
    assert bench.score(word) == 0.0
    assert bench.score(word, "+model.flip=false") == 1.0, "its arguments count all the same"


def test_a_model_that_is_no_torch_module(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    plain = MODEL + "\nclass Plain:\n    transform = Own.transform\n    tokenizer = staticmethod(Own.tokenizer)\n"
    plain += (
        "    def __init__(self, digest=None):\n        self.inner = Own()\n        if digest: self.digest = digest\n"
    )
    plain += "    def encode_image(self, x): return self.inner.encode_image(x)\n"
    plain += "    def encode_text(self, x): return self.inner.encode_text(x)\n"
    bench.write("own_model", plain)
    assert bench.score("model._target_=own_model.Plain") == 1.0
    assert "is no torch module" in said(capsys)
    assert bench.embeddings() == 0
    assert bench.score("model._target_=own_model.Plain", "+model.digest=a") == 1.0
    assert bench.embeddings() == 1
    assert main(["run", *bench.words("model._target_=own_model.Plain", "+model.digest=3")]) == 1
    assert "`digest` of Plain is int" in said(capsys)


def test_no_record_of_an_earlier_state_stays_beside_new_ones(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    two = [
        "+task@tasks.a=folder",
        "+task@tasks.b=folder",
        *(f"tasks.{t}.data.path={bench.place / 'pictures'}" for t in "ab"),
    ]

    def words(*tasks: str) -> list[str]:
        kept = [w for w in bench.words() if not w.startswith("task")]
        return ["run", "suite=none", *kept, *(w for w in two if any(f"tasks.{t}" in w for t in tasks))]

    assert main(words("a", "b")) == 0
    bench.write("own_helper", HELPER.replace("SHIFT = 0", "SHIFT = 1"))
    said(capsys)
    assert main(words("a")) == 1
    assert "holds results of b by an earlier state" in said(capsys)
    assert main(words("a", "b")) == 0


# -- tasks of one's own ---------------------------------------------------------------------------------------------------

TASK = """
from dataclasses import dataclass
import pandas as pd, torch
from clipeval.tasks.base import Task
from clipeval.tasks.statistics import Proportion
import own_rule

@dataclass(frozen=True)
class Mine(Task):
    protocol = "mine"
    def prompts(self, samples):
        return [f"a photo of a {c}" for c in samples["test"].classnames]
    def predict(self, images, texts, samples):
        scores = images["test"].cpu() @ texts.cpu().T
        labels = torch.as_tensor(samples["test"].labels)
        return pd.DataFrame({"key": samples["test"].keys, "right": own_rule.right(scores, labels).numpy()})
    def statistics(self, predictions):
        return {"acc1": Proportion(predictions["right"])}
"""
RULE = "def right(scores, labels): return scores.argmax(dim=1) == labels\n"
MINE = """
defaults: [_task]
_target_: own_task.Mine
key: mine/folder
name: Mine
metric: acc1
data:
  kind: folder
  path: ???
"""


def test_a_task_of_ones_own_whose_code_changes(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    (bench.place / "config" / "task").mkdir(parents=True)
    (bench.place / "config" / "task" / "mine.yaml").write_text(MINE)
    bench.write("own_task", TASK)
    bench.write("own_rule", RULE)
    for name in ("own_task", "own_rule"):
        bench.monkeypatch.delitem(sys.modules, name, raising=False)
    words = [
        "run",
        *(w.replace("task=folder", "task=mine") for w in bench.words()),
        "--config-dir",
        str(bench.place / "config"),
    ]

    def score() -> float:
        import json

        assert main(words) == 0
        value: float = json.loads((bench.place / "run" / "records" / "mine.json").read_text())["metrics"]["acc1"]
        return value

    assert score() == 1.0
    said(capsys)
    assert score() == 1.0
    assert "nothing to compute" in said(capsys)
    bench.write("own_rule", RULE.replace("==", "!="))
    assert score() == 0.0
    assert "the protocol (" in said(capsys)
