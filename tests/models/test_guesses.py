"""What a model's loader and tokenizer would do without a word: cut texts, interpolate positions, assume a preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipeval.cli.main import main
from clipeval.configs.errors import ClipevalError
from clipeval.models import from_memory, resolve
from clipeval.models.cuts import Cuts
from clipeval.models.head_files import load_heads
from clipeval.models.positions import interpolated, shapes
from clipeval.models.texts import tokenise
from clipeval.tasks import Samples, zero_shot
from scripts.make_miniature import facts, write_set
from scripts.tiny_model import config_of, write_tiny_model
from tests.data_faults.colours import ColourModel
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, write_hugging_face

WORDS = "word " * 74
"""With the start and the end token 76 tokens."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_tiny_model(tmp_path_factory.mktemp("model")).removeprefix("local-dir:"))


# -- texts that are cut ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opaque", [False, True])
def test_open_clips_tokenizer_cuts_at_77(opaque: bool) -> None:
    tokenizer = open_clip.SimpleTokenizer()
    cuts = Cuts((lambda texts: tokenizer(texts)) if opaque else tokenizer)  # type: ignore[arg-type]
    texts = ["a dog", WORDS, WORDS + "more", WORDS + "more and", "naïve " * 40, WORDS + "more and"]
    assert cuts.of(texts) == [WORDS + "more and", "naïve " * 40]
    assert cuts.context == 77
    for text in (WORDS + "more", WORDS + "more and"):  # what is cut loses its last word, and no other text does
        lost = torch.equal(tokenizer([text]), tokenizer([text.rsplit(" ", 1)[0]]))
        assert lost == (text in cuts.of([text])) or text in cuts.of(texts)
    assert "2 of 5 texts are cut" in cuts.flags(texts)[0]
    assert cuts.flags(["a dog"]) == []


def test_the_first_text_that_is_cut_is_shown_shortened() -> None:
    (flag,) = Cuts(open_clip.SimpleTokenizer()).flags([WORDS * 2])
    assert "such as 'word word" in flag
    assert len(flag) < 200


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_transformers_tokenizers_are_asked_for_the_whole_length(kind: str, tmp_path: Path) -> None:
    folder = write_hugging_face(tmp_path / kind, kind, CLIP_PROCESSOR)
    handle = resolve({"_target_": "clipeval.models.transformers.HuggingFace", "path": str(folder)}, tmp_path)
    fits, long = "a photo of a red dog two dogs a photo of", "a photo of a red dog two dogs a photo of a"
    assert handle.cuts.of([fits, long]) == [long]  # 11 and 12 words, and an end token, of 12
    assert handle.cuts.context == 12


def test_open_clips_hugging_face_tokenizer(tmp_path: Path) -> None:
    from open_clip.tokenizer import HFTokenizer

    folder = write_hugging_face(tmp_path / "clip", "clip", CLIP_PROCESSOR)
    cuts = Cuts(HFTokenizer(str(folder), context_length=6))  # type: ignore[arg-type]
    assert cuts.of(["a photo of a dog", "a photo of a red dog"]) == ["a photo of a red dog"]


def test_a_word_that_fills_the_context_alone() -> None:
    tokenizer = open_clip.SimpleTokenizer(context_length=8)
    assert Cuts(lambda texts: tokenizer(texts)).of(["x1" * 9, "cat"]) == ["x1" * 9]


def test_a_tokenizer_that_refuses_says_which_text() -> None:
    def strict(texts: list[str]) -> torch.Tensor:
        if any(len(text) > 40 for text in texts):
            raise RuntimeError("too long for context length")
        return torch.ones(len(texts), 4, dtype=torch.int64)

    with pytest.raises(ClipevalError, match=r"refuses 'b{41}': too long"):
        tokenise(strict, ["a", "b" * 41])
    model = ColourModel()
    assert from_memory(model, strict, model.transform).tokenizer_digest


# -- through a run, and from the cache ------------------------------------------------------------------------------


def run(root: Path, model: str, *more: str) -> dict[str, Any]:
    words = ["run", "suite=none", "+task@tasks.mnist=mnist", "model=open_clip", f"model.name={model}"]
    words += [f"data.root={root / 'data'}", f"out={root / 'run'}", f"cache.root={root / 'cache'}", "runtime.workers=0"]
    assert main([*words, *more]) == 0
    found: dict[str, Any] = json.loads((root / "run" / "records" / "mnist.json").read_text())
    return found


def test_cut_prompts_are_flagged_of_cached_embeddings_and_of_heads(
    exported: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    made, make = [], zero_shot.zero_shot_classifier
    monkeypatch.setattr(
        zero_shot, "zero_shot_classifier", lambda *given, **how: made.append(given) or make(*given, **how)
    )

    fact = next(f for f in facts() if f.key == "mnist" or f.key.endswith("/mnist"))
    write_set(tmp_path / "data" / fact.folder, fact, 12, 20, 1, np.random.default_rng(0))
    (tmp_path / "long.txt").write_text(WORDS + "and {c} at last\na photo of {c}\n")
    prompts = ["tasks.mnist.prompts={name: long, path: %s}" % (tmp_path / "long.txt")]
    model, heads = f"local-dir:{exported}", tmp_path / "heads"
    first = run(tmp_path, model, *prompts, f"head.save={heads}")
    assert len(made) == 2, "once while planning, on embeddings of no meaning, and once for scores and file"
    flagged = [flag for flag in first["flags"] if "texts are cut" in flag]
    assert len(flagged) == 1
    assert "10 of 20" in flagged[0]
    (tmp_path / "run" / "records" / "mnist.json").unlink()
    capsys.readouterr()
    again = run(tmp_path, model, *prompts)
    assert "0 images and 0 prompts embedded" in capsys.readouterr().err
    assert [flag for flag in again["flags"] if "texts are cut" in flag] == flagged
    given = run(tmp_path, model, f"head.load=[{heads}]")
    assert any("the head mnist.safetensors: 10 of 20 texts are cut" in flag for flag in given["flags"])
    assert again["ties"]["rule"] == "reference"
    assert again["ties"]["count"] >= 0
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "texts are cut" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("vector", "message"),
    [((float("nan"), 1.0), r"finite vectors for 2 classes"), ((0.0, 0.0), "class vector of 'dog' is zero")],
)
def test_a_head_with_an_unsound_class_vector_is_refused(
    vector: tuple[float, float], message: str, exported: Path, tmp_path: Path
) -> None:
    from clipeval.models.head_files import save_head

    save_head(tmp_path / "mine.safetensors", torch.tensor([[1.0, 0], vector]), ["cat", "dog"], {})
    samples = {"test": Samples(keys=["a"], classnames=["cat", "dog"], metadata=pd.DataFrame())}
    handle = resolve({"name": f"local-dir:{exported}"}, tmp_path)
    with pytest.raises(ClipevalError, match=message):
        load_heads([str(tmp_path)], "mine", samples, handle)


def test_captions_that_fill_their_row_are_counted() -> None:
    from clipeval.tasks import text_rows

    texts = ["a dog", "x" * 508, "x" * 513, "é" * 300, ""]
    assert text_rows.cut(text_rows.to_rows(texts)) == 2
    assert [len(text) for text in text_rows.to_texts(text_rows.to_rows(texts))] == [5, 508, 512, 256, 0]


# -- positions ------------------------------------------------------------------------------------------------------


def resized(exported: Path, folder: Path, **how: Any) -> str:
    """The tiny model's weights under an architecture of another size."""
    folder.mkdir()
    config = json.loads((exported / "open_clip_config.json").read_text())
    for part, values in how.items():
        config["model_cfg"][part].update(values)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(load_file(exported / "open_clip_model.safetensors"), folder / "open_clip_model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (exported / name).exists():
            (folder / name).write_bytes((exported / name).read_bytes())
    return f"local-dir:{folder}"


def test_positions_that_are_interpolated_are_flagged_and_those_that_fit_are_not(exported: Path, tmp_path: Path) -> None:
    assert resolve({"name": f"local-dir:{exported}"}, tmp_path).flags == []
    larger = resolve({"name": resized(exported, tmp_path / "large", vision_cfg={"image_size": 64})}, tmp_path)
    assert len(larger.flags) == 1
    assert "from 2x2 to 4x4 patches" in larger.flags[0]
    with larger.load() as encoder:  # the claim is true: open_clip did so
        assert encoder.model.visual.positional_embedding.shape[0] == 17
    shorter = resolve({"name": resized(exported, tmp_path / "short", text_cfg={"context_length": 32})}, tmp_path)
    assert [flag for flag in shorter.flags if "from 77 to 32 tokens" in flag] == shorter.flags
    with shorter.load() as encoder:
        assert encoder.model.positional_embedding.shape[0] == 32


@pytest.mark.parametrize("kind", ["clip", "custom", "siglip", "last", "resnet", "coca", "scaled"])
def test_every_tower_fits_its_own_checkpoint(kind: str, tmp_path: Path) -> None:
    name = write_tiny_model(tmp_path / kind, kind=kind)
    assert interpolated(Path(name.removeprefix("local-dir:")) / "open_clip_model.safetensors", config_of(kind)) == []


@pytest.mark.parametrize("form", ["zip", "legacy", "nested", "prefixed"])
def test_pickled_checkpoints_are_looked_into_as_well(form: str, exported: Path, tmp_path: Path) -> None:
    weights: dict[str, Any] = load_file(exported / "open_clip_model.safetensors")
    content: dict[str, Any] = weights
    if form == "nested":
        content = {
            "epoch": 3,
            "state_dict": weights,
            "optimizer": {"state": {"positional_embedding": torch.ones(3, 3)}},
        }
    elif form == "prefixed":
        content = {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=form != "legacy")
    assert shapes(tmp_path / "a.pt")
    assert interpolated(tmp_path / "a.pt", config_of()) == []
    (flag,) = interpolated(tmp_path / "a.pt", config_of(size=64))
    assert "from 2x2 to 4x4" in flag


def test_what_cannot_be_read_is_left_to_the_loader(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"no checkpoint")
    (tmp_path / "a.safetensors").write_bytes(b"none either")
    assert interpolated(tmp_path / "a.pt", config_of()) == []
    assert interpolated(tmp_path / "a.safetensors", config_of()) == []


# -- preprocessing --------------------------------------------------------------------------------------------------


def test_a_preprocessing_that_is_assumed_is_flagged(exported: Path, tmp_path: Path) -> None:
    content = json.loads((exported / "open_clip_config.json").read_text())
    assert content["preprocess_cfg"]["mean"]
    name = resized(exported, tmp_path / "mute")
    del content["preprocess_cfg"]
    (tmp_path / "mute" / "open_clip_config.json").write_text(json.dumps(content))
    mute = resolve({"name": name}, tmp_path)
    assert len(mute.flags) == 1
    assert "says nothing of the mean and std" in mute.flags[0]
    given = resolve({"name": name, "preprocess": {"mean": [0.5] * 3, "std": [0.5] * 3}}, tmp_path)
    assert given.flags == []
    assert given.preprocess.mean == (0.5, 0.5, 0.5)  # type: ignore[union-attr]
    assert given.image_digest != mute.image_digest


def test_weights_that_a_transformers_model_has_no_use_for_are_an_error(tmp_path: Path) -> None:
    folder = write_hugging_face(tmp_path / "clip", "clip", CLIP_PROCESSOR)
    file = folder / "model.safetensors"
    save_file({**load_file(file), "adapter.weight": torch.ones(2)}, file, metadata={"format": "pt"})
    handle = resolve({"_target_": "clipeval.models.transformers.HuggingFace", "path": str(folder)}, tmp_path)
    with pytest.raises(ClipevalError, match=r"1 weights that a CLIPModel has not .*adapter\.weight"):
        handle.load()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_transformers_model_judges_labels_by_its_own_scale(kind: str, tmp_path: Path) -> None:
    """SigLIP by a sigmoid with its bias, CLIP by a softmax; both at the scale that the checkpoint holds, not at 100."""
    folder = write_hugging_face(tmp_path / kind, kind, CLIP_PROCESSOR)
    handle = resolve({"_target_": "clipeval.models.transformers.HuggingFace", "path": str(folder)}, tmp_path)
    cosines = torch.tensor([[0.1, 0.2, 0.3]])
    with handle.load() as encoder:
        model = encoder.model.model
        logits = model.logit_scale.exp() * cosines
        expected = torch.sigmoid(logits + model.logit_bias) if kind == "siglip" else logits.softmax(dim=1)
        assert encoder.scale is not None
        assert torch.allclose(encoder.probabilities(cosines), expected)
