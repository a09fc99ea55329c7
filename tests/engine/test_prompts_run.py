"""One set asked with many prompt sets in one run: images decoded once, and what each does, sample by sample."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipeval.cli.main import main
from clipeval.data.images import FileImages
from clipeval.results.paired import difference_of_proportions, holm, mcnemar
from scripts.tiny_model import write_tiny_model
from tests.data.test_data import write_tar

NAMES = ["tench", "goldfish", "great white shark", "hen", "ostrich", "jay"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prompts")
    rng, folder = np.random.default_rng(1), root / "wds_mine"
    for split, count in (("test", 60), ("train", 24)):
        members = []
        for i in range(count):
            sink = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(sink, "png")
            members += [(f"s{i:03d}.png", sink.getvalue()), (f"s{i:03d}.cls", str(i % 6).encode())]
        write_tar(folder / split / "0.tar", members)
        (folder / split / "nshards.txt").write_text("1\n")
    (folder / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c}\nthe {c}\n")
    (root / "mine" / "task").mkdir(parents=True)
    (root / "mine" / "task" / "mine.yaml").write_text(
        f"defaults: [_classification]\nkey: mine\nname: Mine\nchance: 0.1667\ndata: {{path: {folder}}}\n"
    )
    (root / "descriptors.json").write_text(
        json.dumps({name: ["a tail", "used for food", "scales"][: 1 + len(name) % 3] for name in NAMES})
    )
    (root / "weights.json").write_text(json.dumps({"a photo of a {c}.": 3, "art of the {c}.": 1}))
    (root / "each.json").write_text(json.dumps({name: {f"one {name}": 1, f"two {name}": 2.5} for name in NAMES}))
    write_tiny_model(root / "model")
    return root


def words(root: Path, *more: str, out: str = "run") -> list[str]:
    model = [
        "model=open_clip",
        f"model.name=local-dir:{root / 'model'}",
        "--config-dir",
        str(root / "mine"),
        "runtime.device=cpu",
    ]
    return [*model, f"out={root / out}", f"cache.root={root / 'cache'}", "runtime.workers=0", "task=mine", *more]


def table(root: Path, task: str, out: str = "run") -> pd.DataFrame:
    return pd.read_parquet(root / out / "predictions" / f"{task}.parquet")


SETS = ["folder", "simple", "waffle", "dclip:{}/descriptors.json", "{}/weights.json", "{}/each.json"]
TASKS = ["folder", "simple", "waffle", "dclip-descriptors", "weights", "each"]


@pytest.fixture(scope="module")
def ran(place: Path) -> Path:
    seen: list[int] = []
    read = FileImages.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileImages, "read", lambda self, position: (seen.append(position), read(self, position))[1])
        assert main(["run", *words(place, f"prompts=[{','.join(s.format(place) for s in SETS)}]")]) == 0
    assert sorted(seen) == list(range(60))  # six prompt sets, each image once
    return place


def test_each_is_a_task_as_if_it_had_been_asked_alone(ran: Path) -> None:
    assert main(["run", *words(ran, "prompts=waffle", out="waffle")]) == 0
    pd.testing.assert_frame_equal(table(ran, "mine-waffle"), table(ran, "mine", "waffle"))
    assert main(["run", *words(ran, "prompts=dclip", f"prompts.descriptors={ran}/descriptors.json", out="dclip")]) == 0
    pd.testing.assert_frame_equal(table(ran, "mine-dclip-descriptors"), table(ran, "mine", "dclip"))
    prints = {
        task: json.loads((ran / "run" / "records" / f"mine-{task}.json").read_text())["fingerprint"]["prompts"]
        for task in TASKS
    }
    assert len(set(prints.values())) == len(TASKS)
    assert main(["verify", str(ran / "run")]) == 0


def test_what_prompts_do(ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(ran / "run"), "--prompts", "--format", "csv"]) == 0
    rows = {row["prompts"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert list(rows) == TASKS
    hits = {task: (lambda t: (t["pred_1"] == t["label"]).to_numpy())(table(ran, f"mine-{task}")) for task in TASKS}
    raw = []
    for task in TASKS[1:]:
        wins, losses = int((hits[task] & ~hits["folder"]).sum()), int((~hits[task] & hits["folder"]).sum())
        assert float(rows[task]["difference"]) == pytest.approx(hits[task].mean() - hits["folder"].mean())
        low, high = difference_of_proportions(wins, losses, 60)
        assert (float(rows[task]["from"]), float(rows[task]["to"])) == pytest.approx((low, high))
        raw.append(mcnemar(wins, losses))
    assert [float(rows[task]["p"]) for task in TASKS[1:]] == pytest.approx(holm(raw))
    assert main(["report", str(ran / "run"), "--prompts"]) == 0
    assert "What prompts do on Mine: acc1, differences from the first" in capsys.readouterr().out
    assert main(["report", str(ran / "run"), "--languages"]) == 1
    assert "no set was asked in several languages" in capsys.readouterr().err


def test_templates_are_weighed_by_the_images_or_by_a_labelled_split(ran: Path) -> None:
    seven = "prompts=openai_imagenet_7"
    assert main(["run", *words(ran, "protocol=weighted_prompts", seven, out="zpe")]) == 0
    record = json.loads((ran / "zpe" / "records" / "mine-zpe.json").read_text())
    assert 1 < record["metrics"]["effective_templates"] <= 7
    by = ["protocol.task.weighting=validation", "protocol.task.splits=[train,test]", "protocol.task.per_class=true"]
    assert main(["run", *words(ran, "protocol=weighted_prompts", seven, *by, out="validation")]) == 0
    assert (
        json.loads((ran / "validation" / "records" / "mine-validation.json").read_text())["metrics"]["acc1"] is not None
    )
    assert main(["verify", str(ran / "validation")]) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["prompts=[simple,cupple]"], "cupl"),
        (["prompts=[simple]"], "two prompt sets or more"),
        (["prompts=[simple,dclip]"], "dclip leaves descriptors open: write dclip:FILE"),
        (["prompts=[simple,cupl:x.json]"], "cupl takes no file"),
        (["prompts=[simple,simple]"], "two of them have one name"),
        (["prompts=[simple,/nowhere/a.txt]"], "/nowhere/a.txt is missing"),
        (["prompts=dclip", "prompts.descriptors=weights.json"], "an object {class name: [descriptors]} was expected"),
        (["prompts=file", "prompts.path=bad.json"], "the weight of 'a {c}'"),
        (["protocol=weighted_prompts", "prompts=file", "prompts.path=each.json"], "templates are weighed"),
    ],
)
def test_one_error(
    given: list[str], message: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    (place / "bad.json").write_text('{"a {c}": -1, "the {c}": 2}')
    assert main(["run", *words(place, *given, out="wrong")]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_retrieval_is_asked_otherwise(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "task=quickstart_emoji_retrieval", "prompts=[simple,folder]"]) == 1
    assert "quickstart_emoji_retrieval ask otherwise" in capsys.readouterr().err
