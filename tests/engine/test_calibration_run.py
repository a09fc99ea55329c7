"""Calibration and out-of-distribution detection through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from clipeval.cli.main import main
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.models import resolve
from scripts.tiny_model import write_tiny_model

INSIDE, OUTSIDE, OTHER = "own_inside", "own_outside", "own_other"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classifications of some pictures, then the same embeddings asked in the other ways."""
    root = tmp_path_factory.mktemp("calibration")
    rng = np.random.default_rng(0)
    (root / "mine" / "task").mkdir(parents=True)
    for task, classes, count in ((INSIDE, "abc", 12), (OUTSIDE, "de", 9), (OTHER, "fg", 5)):
        for name in classes:
            (root / task / f"class {name}").mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / task / f"class {name}" / f"{i}.png")
        data = f"data: {{kind: folder, path: {root / task}}}"
        text = f"defaults: [_classification]\nkey: {task}\nname: {task}\nprompts: simple\n{data}\n"
        (root / "mine" / "task" / f"{task}.yaml").write_text(text)
    write_tiny_model(root / "model")
    two = ["suite=none", f"+task@tasks.{INSIDE}={INSIDE}", f"+task@tasks.{OUTSIDE}={OUTSIDE}"]
    assert main(["run", *two, *words(root, "plain")]) == 0
    assert main(["run", *two, "protocol=calibration", *words(root, "calibration")]) == 0
    ood = ["task=ood", f"ood.inside={INSIDE}", f"ood.outside=[{OUTSIDE},{OTHER}]"]
    assert main(["run", *ood, *words(root, "ood")]) == 0
    return root


def words(root: Path, out: str) -> list[str]:
    model = ["model=open_clip", f"model.name=local-dir:{root / 'model'}", "--config-dir", str(root / "mine")]
    return [*model, f"out={root / out}", f"cache.root={root / 'cache'}", "runtime.workers=0", "runtime.device=cpu"]


def record(folder: Path, task: str) -> dict[str, Any]:
    return json.loads((folder / "records" / f"{task}.json").read_text())


def table(folder: Path, task: str) -> pd.DataFrame:
    return pd.read_parquet(folder / "predictions" / f"{task}.parquet")


def test_the_accuracies_are_those_of_the_classification_and_the_scale_the_models(place: Path) -> None:
    for task in (INSIDE, OUTSIDE):
        plain, found = record(place / "plain", task), record(place / "calibration", f"{task}-calibration")
        assert {name: found["metrics"][name] for name in plain["metrics"]} == plain["metrics"]
        assert found["fingerprint"]["data"] == plain["fingerprint"]["data"]
        assert found["metric"] is None
        model = compose(["suite=none", "model=open_clip", f"model.name=local-dir:{place / 'model'}"]).model
        handle = resolve(model, place / "cache")
        with handle.load_text() as encoder:
            assert found["metrics"]["logit_scale"] == pytest.approx(float(torch.as_tensor(encoder.scale).exp()))
        assert found["metrics"]["nll_best"] <= found["metrics"]["nll"]


def test_metrics_come_from_the_stored_columns(place: Path) -> None:
    frame, metrics = (
        table(place / "calibration", f"{INSIDE}-calibration"),
        record(place / "calibration", f"{INSIDE}-calibration")["metrics"],
    )
    assert metrics["nll"] == pytest.approx(-frame["log_likelihood"].mean())
    assert metrics["brier"] == pytest.approx((frame["squares"] - 2 * np.exp(frame["log_likelihood"]) + 1).mean())
    assert main(["verify", str(place / "calibration")]) == 0
    assert main(["verify", str(place / "ood")]) == 0


def test_the_report_shows_the_errors_beside_the_task(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(place / "calibration"), "--format", "md"]) == 0
    shown, metrics = capsys.readouterr().out, record(place / "calibration", f"{INSIDE}-calibration")["metrics"]
    assert f"ece ({metrics['ece']:.4f})" in shown


def test_detection_against_scikit_learn(place: Path) -> None:
    for other, count in ((OUTSIDE, len(table(place / "plain", OUTSIDE))), (OTHER, 10)):
        found, frame = record(place / "ood", f"ood-{other}"), table(place / "ood", f"ood-{other}")
        inside, score = frame["inside"].to_numpy(), frame["score"].to_numpy()
        assert inside.sum() == len(table(place / "plain", INSIDE))
        assert count is None or (~inside).sum() == count
        assert found["metrics"]["auroc"] == pytest.approx(roc_auc_score(inside, score), abs=1e-6)
        assert found["metrics"]["aupr_out"] == pytest.approx(average_precision_score(~inside, -score), abs=1e-6)
        assert found["metric"] == "auroc"
        assert found["interval"] if "interval" in found else found["intervals"]["auroc"][0] < found["metrics"]["auroc"]


def test_nothing_is_embedded_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ood = ["task=ood", f"ood.inside={OUTSIDE}", f"ood.outside=[{INSIDE}]"]
    assert main(["plan", *ood, *words(place, "turned")]) == 0
    assert "To embed: 0 images" in " ".join(capsys.readouterr().out.split())


def test_the_scale_is_that_of_the_model_that_is_loaded_for_the_images(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipeval.models.open_clip import OpenClip

    loaded: list[str] = []
    for name in ("load", "load_text"):
        real = getattr(OpenClip, name)
        monkeypatch.setattr(
            OpenClip, name, lambda self, *a, real=real, name=name: (loaded.append(name), real(self, *a))[1]
        )
    chosen = ["suite=none", f"+task@tasks.{OTHER}={OTHER}", "protocol=calibration"]
    assert main(["run", *chosen, *words(place, "fresh"), f"cache.root={tmp_path}"]) == 0
    assert loaded == ["load"]
    assert (
        main(["run", *chosen, *words(place, "again"), f"cache.root={tmp_path}"]) == 0
    )  # all is embedded: the scale alone is missing
    assert loaded == ["load", "load_text"]
    found = [record(place / out, f"{OTHER}-calibration")["metrics"] for out in ("fresh", "again")]
    assert found[0] == found[1]


def test_the_page_has_a_reliability_diagram(place: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["report", str(place / "calibration"), "--format", "html", "--output", str(page)]) == 0
    assert f"Reliability: {INSIDE}, calibration" in page.read_text()


DIGITS, FASHION = "quickstart_digits", "quickstart_fashion_mnist"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["task=ood"], "names no set inside: add ood.inside=TASK"),
        (["task=ood", f"ood.inside={DIGITS}"], "names no set outside"),
        (["task=ood", f"ood.inside={DIGITS}", f"ood.outside=[{DIGITS}]"], f"{DIGITS} is the set inside"),
        (["task=ood", "ood.inside=quickstart_digit", f"ood.outside=[{FASHION}]"], "quickstart_digit"),
        (["task=ood", f"ood.inside={DIGITS}", "ood.outside=[]"], "the name of a task was expected"),
        (["task=quickstart_emoji_retrieval", "protocol=calibration"], "protocol=calibration takes the place of"),
    ],
)
def test_one_error(given: list[str], message: str) -> None:
    with pytest.raises(ClipevalError, match=message):
        compose(given)
