"""The examples and templates, run as they stand."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import clipeval
from clipeval.cli.main import main
from clipeval.configs import catalog

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], warm):
    """Runs an example in a folder of its own and gives what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPEVAL_CACHE", str(warm(tmp_path / "cache")))

    def run(name: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *words])
        monkeypatch.setattr(sys, "path", list(sys.path))
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as end:
            assert not end.code, capsys.readouterr().err
        return capsys.readouterr().out

    return run


def test_there_are_at_most_six_and_each_is_in_the_list() -> None:
    files = sorted(path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb"))
    assert len(files) <= 6
    assert sorted(re.findall(r"\]\((\w+\.\w+)\)", (EXAMPLES / "README.md").read_text())) == files


def test_a_training_loop(run) -> None:
    lines = run("training_loop.py").splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 2", "step 4"]
    assert all(re.search(r"Digits acc1 0\.\d{4} \(0\.\d{4} to 0\.\d{4}\)", line) for line in lines)


def test_a_custom_model_and_two_runs_compared(run, tmp_path: Path) -> None:
    run("custom_model.py", "out=own")
    record = json.loads((tmp_path / "own" / "records" / "quickstart_digits.json").read_text())
    assert record["model"]["name"] == "custom_model.Colours"
    assert main(["run", "task=quickstart_digits", "out=bundled"]) == 0
    text = run("compare_runs.py", "own", "bundled")
    results = clipeval.load("own", "bundled")
    frames = [results.runs[i].folder.predictions(results.runs[i].records["quickstart_digits"]) for i in (0, 1)]
    right = [(frame["label"] == frame["prediction"]).to_numpy() for frame in frames]
    assert f"450 samples, of which only one run is right on {(right[0] != right[1]).sum()}" in text


def test_a_custom_task(run, tmp_path: Path) -> None:
    run("custom_task.py", "out=run")
    record = json.loads((tmp_path / "run" / "records" / "polarity.json").read_text())
    low, high = record["intervals"]["polarity_acc"]
    assert low < record["metrics"]["polarity_acc"] <= high
    assert record["flags"] == []


def test_own_pictures(run, tmp_path: Path) -> None:
    run("own_pictures.py", "out=run")
    record = json.loads((tmp_path / "run" / "records" / "folder.json").read_text())
    assert (record["samples"], record["classes"]) == (24, 3)


def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: Callable[[Path], Path]) -> None:
    """In a kernel, as a notebook is run: what each cell shows, and that it shows it once."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("CLIPEVAL_CACHE", str(warm(tmp_path / "cache")))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells), "a notebook is kept without its outputs"
    # This Python's, whatever kernels the machine knows beside.
    kernel = {
        "display_name": "test",
        "language": "python",
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    }
    (tmp_path / "kernels" / "python3").mkdir(parents=True)
    (tmp_path / "kernels" / "python3" / "kernel.json").write_text(json.dumps(kernel))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        [
            output.get("data", {"text/plain": output.get("text")})
            for output in cell.outputs
            if output.get("name") != "stderr"
        ]
        for cell in cells
    ]
    assert [len(outputs) for outputs in shown[1:]] == [1, 1, 1, 1]  # the first is a process's own
    _, (table,), (frame,), (intervals,), (errors,) = shown
    assert "Fashion-MNIST" in table["text/html"]
    assert "0.9867" in table["text/html"] and "0.9867" in frame["text/html"].replace("0.986667", "0.9867")
    for picture in (intervals, errors):
        assert len(picture["image/png"]) > 5000


def test_the_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: Callable[[Path], Path]) -> None:
    """templates/protocol.py with the YAML of its docstring, and templates/task.yaml, on bundled data."""
    bundled = ROOT / "eval" / "bundled" / "data"
    text = (ROOT / "templates" / "protocol.py").read_text()
    (tmp_path / "protocol.py").write_text(text)
    yaml = "".join(
        line[4:] for line in re.findall(r"^    (?:defaults|_target_|\w+): .*\n", text.split('"""')[1], re.MULTILINE)
    )
    yaml = yaml.replace("wds_mnist_test, samples: 10000", "wds_quickstart_digits_test, samples: 450")
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "polarity.yaml").write_text(yaml)
    task = (ROOT / "templates" / "task.yaml").read_text().replace("wds_flags_test", "wds_quickstart_digits_test")
    (tmp_path / "task" / "flags.yaml").write_text(task)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert catalog.describe("task", "flags", tmp_path).startswith("One line that says")
    common = [
        "--config-dir",
        str(tmp_path),
        f"data.root={bundled}",
        f"cache.root={warm(tmp_path / 'cache')}",
        "out=run",
    ]
    words = ["suite=none", "+task@tasks.polarity=polarity", "+task@tasks.flags=flags"]
    assert main(["run", *words, *common]) == 0
    assert main(["verify", "run", "--config-dir", str(tmp_path)]) == 0
    metrics = clipeval.load("run").metrics.query("main").set_index("task")["value"]
    assert metrics["flags"] == pytest.approx(0.9867, abs=1e-4)
