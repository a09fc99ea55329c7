"""Captions written by a tiny CoCa, and their scores against clip_benchmark's own."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from open_clip import coca_model
from PIL import Image

from clipeval.captioning import generate as writing
from clipeval.captioning import scorer as scoring
from clipeval.captioning.generate import BEAMS, search
from clipeval.captioning.scorer import CocoScorer
from clipeval.cli.main import main
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.engine.task_config import make_task
from clipeval.results.run_folder import RunFolder
from clipeval.results.tables import report, write_report
from clipeval.tasks import Captioning
from scripts.tiny_model import write_tiny_model

pytest.importorskip("pycocoevalcap", reason="the extra clipeval[captioning] is not installed")
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java")

WRITTEN = [
    "a man riding horses on the beach",
    "Two cats, sleeping on the couch!",
    "",
    "a person quickly walks the dogs",
    "the child eats a big red apple near the old house, doesn't he?",
    "a a a a a a",
    "automobile parked beside the sidewalk",
]
PEOPLES = [
    ["A man rides a horse, quickly.", "The man is riding a brown horse", "Someone on a horse\nby the sea"],
    ["two cats sleeping on the couch"],
    ["a dog", "nothing (to see)"],
    ["A woman walking several dogs.", "People walk their dogs"],
    ["A kid is eating an apple.", "the child doesn't eat a pear", "little boy with red fruit near a house"],
    ["a cat", "a black cat on a mat"],
    ["A car is parked next to the pavement.", "cars on the street", "parked car"],
]


@needs_java
def test_scores_are_clip_benchmarks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from clip_benchmark.metrics import captioning as reference

    class NoSpice:
        """SPICE fetches models from a network as soon as it is made; nothing else of the reference is changed."""

        def compute_score(self, gts, res):
            return 0.0, [0.0] * len(gts)

        def method(self):
            return "SPICE"

    monkeypatch.setattr(reference, "Spice", NoSpice)
    results = [
        {"gen": [{"caption": text}], "true": [{"caption": one} for one in several]}
        for text, several in zip(WRITTEN, PEOPLES, strict=True)
    ]
    theirs = reference.COCOEvalCap(results)
    theirs.evaluate()
    wanted = {name: float(value) for name, value in theirs.eval.items() if name != "SPICE"}

    frame = CocoScorer()(WRITTEN, PEOPLES)
    frame.insert(0, "key", [str(number) for number in range(len(WRITTEN))])
    found = Captioning(key="k", name="K", metric="CIDEr").statistics(frame)
    assert {name: statistic.value for name, statistic in found.items()} == pytest.approx(wanted, abs=1e-9)
    assert list(found) == list(wanted)
    assert all(value > 0 for value in wanted.values())
    for statistic in found.values():
        low, high = statistic.interval()
        assert low <= statistic.value <= high


def tiny(folder: Path) -> open_clip.CoCa:
    model = open_clip.create_model(write_tiny_model(folder, kind="coca")).eval()
    assert isinstance(model, open_clip.CoCa)
    return model


@pytest.mark.skipif(
    not coca_model._has_transformers,
    reason="open_clip's own generate wants transformers below 5, which has BeamSearchScorer",
)
def test_the_search_is_open_clips(tmp_path: Path) -> None:
    model = tiny(tmp_path)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    lengths = set()
    for bias in (3.0, 6.0, 8.0):  # a model of random weights hardly ever ends a caption by itself
        end = torch.zeros(49408)
        end[49407] = bias
        hook = model.text_decoder.register_forward_hook(lambda module, given, logits, end=end: logits + end)
        with torch.inference_mode():
            theirs = [ids[: ids.index(49407)] if 49407 in ids else ids for ids in model.generate(images).tolist()]
            tokenizer = Keeps()
            writing.write_captions(model, tokenizer, images)
        hook.remove()
        assert tokenizer.seen == theirs
        lengths |= {len(ids) for ids in theirs}
    assert len(lengths) > 1


class Keeps:
    """A tokenizer that remembers what it decoded."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def decode(self, ids: list[int]) -> str:
        self.seen.append(ids)
        return "<start_of_text>words here <end_of_text> more"


def test_the_search_worked_out_by_hand() -> None:
    """Two images over a vocabulary of four, the end being 3. What follows a token is fixed, whatever came before it."""
    after = torch.tensor(
        [
            [0.0, 4.0, 3.0, 1.0],  # after the start: 1 leads, 2 is close
            [0.0, 1.0, 0.0, 2.0],
            [0.0, 6.0, 5.0, 9.0],
            [0.0, 0.0, 0.0, 0.0],
        ]
    )
    asked: list[int] = []

    def step(which: list[int], tokens: torch.Tensor) -> torch.Tensor:
        asked.append(len(which))
        assert tokens.shape[0] == len(which) * BEAMS
        logits = after[tokens[:, -1]].clone()
        logits[[place for place, number in enumerate(which) for _ in range(BEAMS) if number == 1]] += 0.0
        return logits

    first, second = search(step, 2, start=0, end=3, device=torch.device("cpu"))
    # By logits a token 2 after 2 adds 5 and a 1 after 2 adds 6; before SHORTEST tokens nothing may end. The path 0 2 2 2 1 has
    # 3 + 5 + 5 + 6 = 19, the path 0 2 2 2 2 has 18, and then its end adds 9: 27 / 6 = 4.5. Every further 2 adds 5, so longer
    # ones do better, up to the longest: 0, then 28 times 2, then an end, (3 + 27 x 5 + 9) / 30 = 4.9.
    assert first == second == [0, *[2] * 28]
    assert max(asked) == 2
    assert len(asked) == writing.LONGEST - 1


def test_a_class_of_ones_own_writes_with_generate() -> None:
    class Own:
        def generate(self, images: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(images), 4, dtype=torch.long)

    assert writing.writes_captions(Own())
    assert not writing.writes_captions(object())
    tokenizer = Keeps()
    assert writing.write_captions(Own(), tokenizer, torch.zeros(2, 3, 4, 4)) == ["words here"] * 2
    assert tokenizer.seen == [[1, 1, 1, 1]] * 2
    with pytest.raises(ClipevalError, match="a tokenizer with `decode`"):
        writing.write_captions(Own(), object(), torch.zeros(2, 3, 4, 4))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A retrieval folder of six pictures, as clip_benchmark lays it out."""
    folder = tmp_path / "data"
    (folder / "test").mkdir(parents=True)
    (folder / "dataset_type.txt").write_text("retrieval")
    (folder / "test" / "nshards.txt").write_text("1")
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for number, several in enumerate(PEOPLES[:6]):
            picture = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(picture, "PNG")
            text = "\n".join(one.replace("\n", " ") for one in several).encode()
            for name, content in ((f"s{number}.png", picture.getvalue()), (f"s{number}.txt", text)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return tmp_path


def words(root: Path, model: str, *more: str) -> list[str]:
    own = [f"tasks.{task}.data.path={root / 'data'}" for task in ("mscoco", "mscoco-captioning")]
    places = [f"out={root / 'run'}", f"cache.root={root / 'cache'}", "runtime.workers=1", *own]
    tasks = ["+task@tasks.mscoco=mscoco", "+task@tasks.mscoco-captioning=mscoco_captions-captioning"]
    return ["run", "suite=none", *tasks, "model=open_clip", f"model.name={model}", *places, *more]


@needs_java
def test_a_coca_is_run_recorded_and_verified(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = write_tiny_model(tmp_path / "model", kind="coca")
    assert main(words(root, name)) == 0
    folder = RunFolder(root / "run")
    record = folder.record("mscoco-captioning")
    frame = folder.predictions(record)
    assert (record.protocol, record.metric, record.samples) == ("captioning", "CIDEr", 6)
    assert set(record.metrics) == {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr"}
    assert all(pair is not None for pair in record.intervals.values())
    # The same images, once as embeddings and once as captions: two stores, and what is written is the model's.
    assert len(list((root / "cache" / "images").iterdir())) == 2
    assert folder.record("mscoco").metrics["mean_recall@1"] is not None
    model = open_clip.create_model(name).eval()
    transform = open_clip.image_transform(32, is_train=False)
    with tarfile.open(root / "data" / "test" / "0.tar") as tar:
        images = torch.stack([transform(Image.open(tar.extractfile(f"s{n}.png"))) for n in range(6)])
    with torch.inference_mode():
        written = writing.write_captions(model, open_clip.SimpleTokenizer(), images)
    assert list(frame["caption"]) == written
    assert len(set(written)) > 1
    assert frame["references"][1][0] == "two cats sleeping on the couch"
    capsys.readouterr()

    assert main(["verify", str(folder.path)]) == 0
    assert "2 of 2: holds" in capsys.readouterr().out
    assert "MSCOCO Captions, captioning" in report([folder.path], "md")
    files = write_report([folder.path], tmp_path / "out", "clip_benchmark")
    content = next(data for data in map(json.loads, (p.read_text() for p in files)) if data["task"] == "captioning")
    assert content["dataset"] == "wds/mscoco_captions"
    assert content["metrics"]["CIDEr"] == record.value
    # The page lists it too; and its protocol has nothing to compute again.
    assert "MSCOCO Captions, captioning" in report([folder.path], "html")
    assert main(words(root, name)) == 0
    assert "nothing to compute" in capsys.readouterr().err


def test_a_model_that_cannot_write_is_refused_before_anything_runs(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = write_tiny_model(tmp_path / "model")
    assert main(words(root, name)) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "MSCOCO Captions, captioning asks for captions" in error
    assert "coca_ViT-B-32" in error
    assert not (root / "run").exists()


@pytest.mark.parametrize(
    ("what", "message"),
    [("java", "there is no `java` on PATH"), ("pycocoevalcap", r"pip install 'clipeval\[captioning\]'")],
)
def test_what_is_missing_is_named_while_planning(
    what: str,
    message: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if what == "java":
        monkeypatch.setattr(scoring.shutil, "which", lambda name: None)
    else:
        monkeypatch.setattr(scoring.importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(scoring.shutil, "which", lambda name: "/usr/bin/java")
    with pytest.raises(ClipevalError, match=message):
        CocoScorer().check()
    name = write_tiny_model(tmp_path / "model", kind="coca")
    assert main(words(root, name)) == 1
    assert "captioning needs" in capsys.readouterr().err
    assert not (root / "run").exists()


@pytest.mark.parametrize("task", ["mscoco_captions", "flickr30k", "flickr8k"])
def test_protocol_captioning_asks_any_retrieval_task(task: str) -> None:
    source = "data.source=clip_benchmark"
    config = compose(["suite=none", f"+task@tasks.{task}={task}", "protocol=captioning", source])
    own = compose(["suite=none", f"task={task}-captioning", source])
    # Of one name, so that it is one record however it was asked for.
    assert list(config.tasks) == list(own.tasks) == [f"{task}-captioning"]
    node, other = config.tasks[f"{task}-captioning"], own.tasks[f"{task}-captioning"]
    assert node == other
    assert make_task(task, node).output == "captions"


def test_a_broken_java_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ClipevalError, match="Java"):
        CocoScorer()(WRITTEN[:2], PEOPLES[:2])


@needs_java
def test_an_empty_caption_keeps_its_place() -> None:
    assert scoring._tokenise(["", "A dog.", "", "", "!", "two\nlines", ""]) == [
        "",
        "a dog",
        "",
        "",
        "",
        "two lines",
        "",
    ]
    frame = CocoScorer()(["a dog"], [["a dog"]])
    assert isinstance(frame, pd.DataFrame)
    with pytest.raises(ClipevalError, match="no reference caption holds a word"):
        CocoScorer()(["a dog"], [["!"]])
