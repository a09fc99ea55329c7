"""The commands that follow a run, on two real runs of the bundled model."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipeval.cli import classify
from clipeval.cli.main import main
from clipeval.configs.errors import ClipevalError
from clipeval.replay.pictures import pictures

TASKS = [
    "quickstart_digits",
    "quickstart_emoji_association",
    "quickstart_emoji_selection",
    "quickstart_emoji_retrieval",
]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tasks of four protocols under the sets' own prompts, and under one plain prompt, of which the digits in bf16.

    Not all of them: CPUs without bf16 take it seven times as long.
    """
    base = tmp_path_factory.mktemp("two")
    tasks = [f"+task@tasks.{name}={name}" for name in TASKS]
    words = ["run", "suite=none", f"cache.root={base / 'cache'}"]
    assert main([*words, *tasks, f"out={base / 'a'}"]) == 0
    assert main([*words, *tasks[:1], f"out={base / 'b'}", "prompts=simple", "runtime.precision=bf16"]) == 0
    assert main([*words, *tasks[1:], f"out={base / 'b'}", "prompts=simple"]) == 0
    return base / "a", base / "b"


def test_compare_writes_the_samples_where_they_part_and_their_pictures(two, tmp_path, capsys):
    assert main(["compare", *map(str, two), "--output", str(tmp_path)]) == 0
    assert "association" in capsys.readouterr().out
    disagreements = pd.read_parquet(tmp_path / "disagreements.parquet")
    digits = disagreements[disagreements["task"] == "quickstart_digits"]
    one, other = (pd.read_parquet(run / "predictions" / "quickstart_digits.parquet") for run in two)
    right = [(frame["label"] == frame["prediction"]).to_numpy() for frame in (one, other)]
    assert set(digits["key"]) == set(one["key"][right[0] != right[1]])
    for task in set(disagreements["task"]):
        assert Image.open(tmp_path / f"{task}.png").width > 160
    assert main(["compare", *map(str, two), "--format", "md"]) == 0
    assert capsys.readouterr().out.count("\n| ") == 6


def test_verify_and_rerun(two, tmp_path, capsys, monkeypatch):
    assert main(["verify", str(two[0])]) == 0
    assert "4 of 4: holds" in capsys.readouterr().out
    monkeypatch.setattr("clipeval.models.batch_size.ON_CPU", 16)  # what would be found today
    assert main(["rerun", str(two[0]), "--output", str(tmp_path / "again")]) == 0
    assert "4 of 4: same" in capsys.readouterr().out
    digits = json.loads((tmp_path / "again" / "records" / "quickstart_digits.json").read_text())
    assert digits["options"]["batch_size"] == 32, "as it was recorded"
    record = two[0] / "records" / "quickstart_digits.json"
    before = record.read_bytes()
    record.write_bytes(before.replace(b'"samples": 450', b'"samples": 451'))
    assert main(["verify", str(two[0])]) == 1
    record.write_bytes(before)


def test_a_report_against_another_run_names_both(two, capsys):
    assert main(["report", str(two[0]), "--against", str(two[1])]) == 0
    out = capsys.readouterr().out
    assert "quickstart (a) against quickstart (b)" in out
    # The comparison's rows keep their tasks' names.
    assert out.count("Digits") == 2


def test_classify_from_files_a_folder_and_standard_input(two, tmp_path, capsys, monkeypatch):
    (tmp_path / "pictures").mkdir()
    for key, content in pictures(str(two[0]), "quickstart_digits", ["s00000", "s00001"]).items():
        (tmp_path / "pictures" / f"{key}.png").write_bytes(content)
    words = ["--labels", "one,four", "--template", "a photo of the number {c}.", "--json", f"cache.root={tmp_path}"]
    assert main(["classify", str(tmp_path / "pictures"), *words]) == 0
    folder = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(found["image"]).stem for found in folder] == ["s00000", "s00001"]
    assert [found["scores"][0]["label"] for found in folder] == ["one", "four"]
    assert all(sum(score["score"] for score in found["scores"]) == pytest.approx(1) for found in folder)
    content = (tmp_path / "pictures" / "s00000.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
    assert main(["classify", "-", str(tmp_path / "pictures" / "s00001.png"), *words]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for one, other in zip(found, folder, strict=True):
        assert one["scores"][0]["score"] == pytest.approx(other["scores"][0]["score"], abs=1e-5)


def test_classify_without_a_picture_says_so(capsys):
    assert main(["classify", "--labels", "a,b", "model=quickstart"]) == 1
    assert "no picture is named" in capsys.readouterr().err


@pytest.mark.parametrize("width", [60, 200])
def test_probabilities_fit_the_terminal(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    labels = [f"a label of some length {i}" for i in range(7)]
    classify.print_probabilities(["picture.jpg"], labels, np.array([[0.1, 0.2, 0.4, 0.1, 0.1, 0.05, 0.05]]), False)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    assert "picture.jpg" in out
    assert "a label of some length 2" in out
    assert ("5.0%" in out) == (width == 200)


def test_a_reader_that_has_gone_is_no_error(two):
    """`clipeval report RUN --format csv | head -1`"""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "clipeval.cli.main", "report", str(two[0]), "--format", "csv"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_stop_whatever_error_torch_makes_of_it(number, monkeypatch, capsys):
    """As torch does where a signal comes in the middle of reading a checkpoint (seen in CI)."""

    def read(arguments, words):
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise ClipevalError("x.safetensors is no checkpoint that can be read") from None

    monkeypatch.setattr("clipeval.cli.main._run", read)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    # A shell without job control has its background processes ignore SIGINT, and they hand that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["run"]) == 130
    finally:
        for name, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(name, handler)
    said = capsys.readouterr().err
    assert "stopped" in said and "checkpoint" not in said
