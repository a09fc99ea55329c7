"""Mixtures of two checkpoints (WiSE-FT) and lengths of embeddings (Matryoshka): several models, one decoding, one encoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipeval.cli.main import main
from clipeval.configs.errors import ClipevalError
from clipeval.decoding.decoders import DecodeJob
from clipeval.engine.stream import ImageStream
from clipeval.models import Encoder, resolve
from clipeval.results.run_folder import RunFolder
from scripts.tiny_model import write_tiny_model
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, write_hugging_face

SUITE = ["suite=none", "+task@tasks.emoji=quickstart_emoji_name", "+task@tasks.pairs=quickstart_emoji_retrieval"]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of one architecture."""
    root = tmp_path_factory.mktemp("two")
    for seed, name in ((1, "first"), (2, "second")):
        write_tiny_model(root / name, seed=seed)
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many images were decoded and encoded, and how many texts."""
    found = {"decoded": 0, "encoded": 0, "texts": 0}
    images, texts, opened = Encoder.encode_images, Encoder.encode_texts, ImageStream.__init__

    def encode_images(self: Encoder, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        found["encoded"] += len(batch)
        return images(self, batch, mixed)

    def encode_texts(self: Encoder, given: Any, **how: Any) -> torch.Tensor:
        found["texts"] += len(given)
        return texts(self, given, **how)

    def init(self: ImageStream, jobs: list[DecodeJob], *rest: Any) -> None:
        found["decoded"] += sum(len(job.indices) for job in jobs)
        opened(self, jobs, *rest)

    monkeypatch.setattr(Encoder, "encode_images", encode_images)
    monkeypatch.setattr(Encoder, "encode_texts", encode_texts)
    monkeypatch.setattr(ImageStream, "__init__", init)
    monkeypatch.setattr("clipeval.engine.evaluation.check_once", lambda *_: None)
    monkeypatch.setattr("clipeval.cluster.checkpoints._fitting", lambda _: 8)  # whatever memory other tests have taken
    return found


def run(*words: str) -> None:
    assert main(["run", *SUITE, "runtime.workers=0", "runtime.device=cpu", "cache.root=cache", *words]) == 0


def metrics(folder: Path) -> dict[str, dict[str, float]]:
    return {record.task: dict(record.metrics) for record in RunFolder(folder).records()}


def words_of(two: Path, name: str = "first") -> list[str]:
    return ["model=open_clip", f"model.name=local-dir:{two / name}", "model.pretrained=null"]


def test_alphas_of_one_decoding(two: Path, here: Path, counted: dict[str, int], capsys: Any) -> None:
    weights = two / "second" / "open_clip_model.safetensors"
    run(*words_of(two), f"model.interpolate={weights}", "model.alpha=[0,0.5,1]")
    folders = {float(p.name.rpartition("alpha-")[2]): p for p in (here / "runs").iterdir() if "alpha-" in p.name}
    assert sorted(folders) == [0, 0.5, 1]
    assert counted["encoded"] == 3 * counted["decoded"] > 0
    table = capsys.readouterr().out
    assert all(f"alpha {alpha}" in table or f"alpha-{alpha}" in table for alpha in ("0", "0.5", "1"))
    for name, alpha in (("first", 0.0), ("second", 1.0)):  # the very numbers of the two ends
        run(*words_of(two, name), f"out={name}")
        assert metrics(here / name) == metrics(folders[alpha])
        frames = [
            RunFolder(folder).predictions(RunFolder(folder).record("emoji")) for folder in (here / name, folders[alpha])
        ]
        pd.testing.assert_frame_equal(*frames, check_exact=True)
    middle = {name: 0.5 * a + 0.5 * b for (name, a), b in zip(*pairs(two), strict=True)}
    copy = here / "middle"
    write_tiny_model(copy)
    save_file(middle, copy / "open_clip_model.safetensors")
    run(*words_of(here, "middle"), "out=mixed")
    assert metrics(here / "mixed") == metrics(folders[0.5])
    records = [RunFolder(folder).record("emoji") for folder in folders.values()]
    assert len({record.fingerprint.weights for record in records}) == 3
    assert {record.model["alpha"] for record in records} == {0, 0.5, 1}
    assert all(f"alpha {record.model['alpha']:g} of {weights}" in record.model["pretrained"] for record in records)


def pairs(two: Path) -> tuple[Any, Any]:
    first, second = (load_file(two / name / "open_clip_model.safetensors") for name in ("first", "second"))
    return first.items(), [second[name] for name in first]


@pytest.mark.parametrize("features", [True, False])
def test_lengths_of_one_encoding(features: bool, two: Path, here: Path, counted: dict[str, int]) -> None:
    keep = f"cache.features={str(features).lower()}"
    run(*words_of(two), "model.dimensions=[4,8,16]", keep)
    folders = {int(p.name.rpartition("dim-")[2]): p for p in (here / "runs").iterdir() if "dim-" in p.name}
    assert sorted(folders) == [4, 8, 16]
    once = dict(counted)
    assert once["encoded"] == once["decoded"] > 0
    run(*words_of(two), "out=whole", keep)
    if not features:
        assert {name: counted[name] - once[name] for name in once} == once
    else:
        assert counted == once  # what is kept is whole
    assert metrics(here / "whole") == metrics(folders[16])
    with resolve({"name": f"local-dir:{two / 'first'}"}, here).load() as encoder:
        texts = encoder.encode_texts(["a dog", "a red cat"])
    short = torch.nn.functional.normalize(texts[:, :4], dim=-1)
    from clipeval.models.shortened import shortened

    torch.testing.assert_close(shortened(texts, 4), short, rtol=0, atol=0)
    records = [RunFolder(folder).record("emoji") for folder in folders.values()]
    assert len({record.fingerprint.weights for record in records}) == 3
    assert {record.model["dimensions"] for record in records} == {4, 8, 16}


def test_a_length_is_that_of_a_cut_projection(two: Path, here: Path, counted: dict[str, int]) -> None:
    """The first four numbers are what a model with the first four columns of its projections gives."""
    write_tiny_model(here / "narrow")
    config = json.loads((here / "narrow" / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 4
    (here / "narrow" / "open_clip_config.json").write_text(json.dumps(config))
    weights = load_file(two / "first" / "open_clip_model.safetensors")
    cut = {
        name: t[:, :4].contiguous() if name in ("visual.proj", "text_projection") else t for name, t in weights.items()
    }
    save_file(cut, here / "narrow" / "open_clip_model.safetensors")
    clips = "+task@tasks.clips=quickstart_emoji_clips"  # whose frames' embeddings are as long as the model makes them
    run(*words_of(here, "narrow"), clips, "out=narrow_run")
    run(*words_of(two), clips, "model.dimensions=4", "out=four")
    assert metrics(here / "narrow_run") == metrics(here / "four")


def test_what_was_added_later_needs_no_encoding(two: Path, here: Path, counted: dict[str, int]) -> None:
    run(*words_of(two), "model.dimensions=[4,8]")
    before = dict(counted)
    run(*words_of(two), "model.dimensions=[4,8,12]")
    assert counted == before
    assert len(list((here / "runs").iterdir())) == 3


def test_lengths_of_mixtures(two: Path, here: Path, counted: dict[str, int]) -> None:
    weights = two / "second" / "open_clip_model.safetensors"
    run(*words_of(two), f"model.interpolate={weights}", "model.alpha=[0,1]", "model.dimensions=[4,16]")
    assert len(list((here / "runs").iterdir())) == 4
    assert counted["encoded"] == 2 * counted["decoded"] > 0


def test_mixtures_of_transformers_models(two: Path, tmp_path: Path) -> None:
    first = write_hugging_face(tmp_path / "a", "clip", CLIP_PROCESSOR)
    second = write_hugging_face(tmp_path / "b", "clip", CLIP_PROCESSOR)
    other = {name: tensor + 0.1 for name, tensor in load_file(second / "model.safetensors").items()}
    save_file(other, second / "model.safetensors", metadata={"format": "pt"})
    base = {"_target_": "clipeval.models.transformers.HuggingFace", "path": str(first)}

    def weights(**more: Any) -> dict[str, torch.Tensor]:
        with resolve({**base, **more}, tmp_path / "cache").load() as encoder:
            return encoder.model.model.state_dict()

    ends = weights(), weights(path=str(second))
    for alpha, wanted in ((0, ends[0]), (1, ends[1]), (0.25, None)):
        found = weights(interpolate=str(second), alpha=alpha)
        for name, tensor in found.items():
            reference = wanted[name] if wanted else 0.75 * ends[0][name] + 0.25 * ends[1][name]
            if tensor.is_floating_point():
                assert torch.equal(tensor, reference), name


def test_nothing_lies_between_two_architectures(two: Path, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "custom", kind="siglip")
    given = {"name": f"local-dir:{two / 'first'}", "alpha": 0.5}
    given["interpolate"] = str(tmp_path / "custom" / "open_clip_model.safetensors")
    with pytest.raises(ClipevalError, match=r"another architecture|does not hold just this model's weights"):
        resolve(given, tmp_path).load()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.interpolate=x.pt"], "needs model.alpha"),
        (["model.alpha=0.5"], "needs model.interpolate"),
        (["model.interpolate=nothing.pt", "model.alpha=0.5"], "model.interpolate=nothing.pt: there is no such file"),
        (["model.alpha=1.5"], "model.alpha=1.5: a number from 0 to 1"),
        (["model.alpha=[0,0]"], "each once"),
        (["model.alpha=[]"], "a number from 0 to 1, or a list of such"),
        (["model.dimensions=0"], "a whole number of at least 1"),
        (["model.dimensions=[4,17]"], "the embeddings of .* have 16 numbers"),
        (["model.dimensions=[4,8]", "--share", "0/2"], "--share cuts the run of one model, and these are 2"),
        (["model.dimensions=[4,8]", "out=one"], "would hold several models"),
    ],
)
def test_bad_words(two: Path, here: Path, words: list[str], said: str, capsys: Any) -> None:
    assert main(["run", *SUITE, "cache.root=cache", *words_of(two), *words]) == 1
    import re

    assert re.search(said, capsys.readouterr().err)
    assert not (here / "runs").exists()


def test_plan_takes_one(two: Path, here: Path, capsys: Any) -> None:
    assert main(["plan", *SUITE, "cache.root=cache", *words_of(two), "model.dimensions=[4,8]"]) == 1
    assert "these are 2 models, which `clipeval run` evaluates" in capsys.readouterr().err
