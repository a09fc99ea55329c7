"""clipeval is one package, imports from anywhere, and reads what was written before it was one."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from clipeval.cli.main import main
from clipeval.configs.compose import compose

ROOT = Path(__file__).resolve().parents[1]
BEFORE = ROOT / "tests" / "results" / "run_before_the_package"
HOSTILE = {
    "eval.py",
    "tasks.py",
    "configs/__init__.py",
    "results/__init__.py",
    "scripts/__init__.py",
    "tests/__init__.py",
}
USE = """
import clipeval.results.tables, clipeval.configs.compose, clipeval.tasks.base
from clipeval import evaluate
from clipeval.cli.main import main
raise SystemExit(main(["run", "task=quickstart_digits", "data.limit=60", "out=run", "cache.root=cache"]))
"""


def in_folder(folder: Path, python: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """USE as a script in a folder."""
    (folder / "train.py").write_text(USE)
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([str(python), "train.py"], cwd=folder, env=environment, capture_output=True, text=True)


def test_it_runs_in_a_repository_with_modules_of_the_folders_names(tmp_path: Path) -> None:
    for name in HOSTILE:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("raise RuntimeError('this is not clipeval')\n")
    done = in_folder(tmp_path, Path(sys.executable))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "records" / "quickstart_digits.json").read_text())["samples"] == 60
    assert "this is not clipeval" not in done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git knows, without the tests."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("a wheel is built of what git knows, and this is no clone")
    source = tmp_path_factory.mktemp("package") / "source"
    for name in filter(None, listed.stdout.split("\0")):
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    return source


@pytest.fixture(scope="module")
def sdist(source: Path) -> Path:
    pytest.importorskip("build", reason="the package build is not installed")
    words = [sys.executable, "-m", "build", "--sdist", "--outdir", str(source.parent), str(source)]
    built = subprocess.run(words, capture_output=True, text=True)
    if built.returncode and "setuptools" in built.stdout + built.stderr:
        pytest.skip("no package registry to build with")
    assert built.returncode == 0, built.stdout + built.stderr
    return next(source.parent.glob("*.tar.gz"))


def wheel_of(source: Path, place: Path) -> Path:
    """The wheel that pip builds of a clone or an sdist; `twine` finds no fault in it."""
    words = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--wheel-dir", str(place), str(source)]
    built = subprocess.run(words, capture_output=True, text=True)
    if built.returncode and "setuptools" in built.stderr:
        pytest.skip("no package registry to build with")
    assert built.returncode == 0, built.stderr
    wheel = next(place.glob("*.whl"))
    if importlib.util.find_spec("twine"):
        files = [str(wheel), *([str(source)] if source.is_file() else [])]
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=True)
    return wheel


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of(source, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "empty"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", str(wheel)], check=True)
    installed = next((place / "lib").glob("python*/site-packages"))
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {"clipeval"}
    # What it stands on is lent by this environment; a folder on PYTHONPATH installs no links into a clone.
    lent = os.pathsep.join(folder for folder in sys.path if folder.endswith("site-packages"))
    done = in_folder(tmp_path, python, lent)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "records" / "quickstart_digits.json").is_file()


def test_the_wheel_of_the_sdist_is_that_of_the_clone(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    """Byte for byte: what runs of the one runs of the other."""
    contents = []
    for path in (wheel, wheel_of(sdist, tmp_path)):
        with zipfile.ZipFile(path) as file:
            contents.append({name: file.read(name) for name in file.namelist()})
    assert contents[0].keys() == contents[1].keys()
    assert [name for name, content in contents[0].items() if content != contents[1][name]] == []


def test_the_sdist_holds_what_a_contributor_needs(sdist: Path) -> None:
    with tarfile.open(sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "constraints.txt"}
    assert wanted | {"templates/task.yaml", "eval/bundled/model/open_clip_model.safetensors"} <= names


def test_the_version_has_one_place() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## \[([^\]]+)\]", changes, re.MULTILINE)[:2] == ["Unreleased", version]


def test_every_folder_of_the_package_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {"clipeval": "eval", **{f"clipeval.{name}": name for name in ("configs", "results", "tasks")}}
    assert declared["package-dir"] == folders
    found = {
        ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
        for package, folder in folders.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(declared["packages"]) == found
    modules = {path.parent for folder in folders.values() for path in (ROOT / folder).rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in modules)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A run folder that clipeval wrote when `tasks` and `eval` lay at the top, for the files as they lie here."""
    folder = tmp_path / "run"
    shutil.copytree(BEFORE, folder)
    return folder


def test_a_run_folder_of_before_is_read(before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert '"_target_": "tasks.Classification"' in (before / "run.json").read_text()
    assert main(["verify", str(before)]) == 0
    assert "2 of 2: holds" in capsys.readouterr().out
    assert main(["report", str(before)]) == 0
    assert "0.9867" in capsys.readouterr().out


def test_a_run_goes_on_in_a_run_folder_of_before(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = sorted((before / "records").glob("*.json"))
    was = [path.read_bytes() for path in records]
    names = [path.stem for path in records]
    kept = [f"+task@tasks.{name}={name}" for name in names]
    words = ["suite=none", *kept, f"out={before}", f"cache.root={tmp_path / 'cache'}"]
    fingerprints = [json.loads(content)["fingerprint"] for content in was]
    capsys.readouterr()
    assert main(["run", *words]) == 0
    # Only tests of one clone write to one place: elsewhere the model's files have another path, and the same digests.
    assert [json.loads(path.read_bytes())["fingerprint"] for path in records] == fingerprints
    assert [path.read_bytes() for path in records] == was, "nothing was computed again"


def test_configs_of_before(tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    (folder / "task").mkdir(parents=True)
    (folder / "task" / "mine.yaml").write_text(
        "defaults: [_classification]\n_target_: tasks.Classification\nkey: own/mine\nname: Mine\n"
        "data: {path: /pictures, kind: folder}\n"
    )
    config = compose(
        ["task=mine", "model=hf_transformers", "model.path=/m", "model._target_=eval.models.hf.HuggingFace"], folder
    )
    assert config.tasks.mine._target_ == "clipeval.tasks.Classification"
    probe = compose(["task=mine", "protocol=linear_probe"], folder)
    assert list(probe.tasks) == ["mine-lp-adamw"]


def test_code_of_ones_own_that_imports_a_former_name_learns_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "own_of_before.py").write_text("from tasks.base import Task\n")
    for words in (
        ["task=quickstart_digits", "task._target_=own_of_before.Mine"],
        ["model=custom", "model._target_=own_of_before.Net"],
    ):
        command = [sysconfig.get_path("scripts") + "/clipeval", "run", *words, "out=run"]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        assert "clipeval's package 'tasks' is called 'clipeval.tasks' now" in " ".join(done.stderr.split())
