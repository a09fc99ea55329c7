"""The check before a run: every deliberate fault is doubted in a line of its own, and no healthy model is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from clipeval.cli.main import main
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.models import from_memory, resolve
from clipeval.models.check import Report, check, check_once, remembered
from clipeval.models.check_pictures import captioned_pictures
from clipeval.models.check_weights import other_activation
from clipeval.models.encoder import Encoder
from clipeval.preprocess.transforms import Preprocess, from_open_clip
from scripts.tiny_model import write_tiny_model
from tests.models.trained_model import CONFIG, PIXELS

HF = "clipeval.models.transformers.HuggingFace"


def doubts(config: dict[str, Any], cache: Path) -> list[str]:
    handle = resolve(config, cache)
    with handle.load() as encoder:
        return [*handle.flags, *check(encoder).doubts]


def in_memory(model: Any, tokenizer: Any, transform: Any) -> Report:
    with from_memory(model, tokenizer, transform).load() as encoder:
        return check(encoder)


PREPROCESS = from_open_clip({**PIXELS, "size": 32})


# -- healthy models -------------------------------------------------------------------------------------------------


def test_the_pictures_are_sixty_and_all_different() -> None:
    pairs = captioned_pictures()
    assert len(pairs) == len({caption for caption, _ in pairs}) == len({data for _, data in pairs}) == 60


def test_no_doubt_about_the_quickstart_model(tmp_path: Path) -> None:
    config = compose(["suite=none"]).model
    handle = resolve(config, tmp_path)
    with handle.load() as encoder:
        before = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
        random = torch.get_rng_state()
        found = check(encoder)
        assert torch.equal(torch.get_rng_state(), random)
        assert all(torch.equal(before[name], tensor) for name, tensor in encoder.model.state_dict().items())
    assert (*handle.flags, *found.doubts) == ()
    assert any("find their own caption first" in fact for fact in found.facts)


def test_no_doubt_about_a_clip_of_either_library(folders: tuple[Path, Path], tmp_path: Path) -> None:
    assert doubts({"name": f"local-dir:{folders[0]}"}, tmp_path) == []
    assert doubts({"_target_": HF, "path": str(folders[1])}, tmp_path) == []


def test_no_doubt_about_a_model_in_memory(model: Any, tokenizer: Any) -> None:
    assert in_memory(model, tokenizer, PREPROCESS).doubts == ()
    assert {type(m).__name__ for m in model.modules() if "GELU" in type(m).__name__} == {"QuickGELU"}  # as it was


# -- faults ---------------------------------------------------------------------------------------------------------


def shuffled(model: Any) -> None:
    """The right weights in the wrong places."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.flatten()[torch.randperm(parameter.numel())].view_as(parameter)


def half_loaded(model: Any) -> None:
    """The image tower of another start, as `strict=False` leaves it where the names have a prefix."""
    torch.manual_seed(1)
    fresh = open_clip.model.CLIP(32, _cfg("vision_cfg"), _cfg("text_cfg"), quick_gelu=True)
    model.visual.load_state_dict(fresh.visual.state_dict())


def _cfg(part: str) -> dict[str, Any]:
    return dict(CONFIG[part])


def zeroed_text(model: Any) -> None:
    for parameter in model.transformer.parameters():
        parameter.data.zero_()
    model.ln_final.weight.data.zero_()


def no_projection(model: Any) -> None:
    model.text_projection = None


def zero_images(model: Any) -> None:
    model.visual.proj.data.zero_()


def nan(model: Any) -> None:
    model.visual.conv1.weight.data[0, 0, 0, 0] = float("nan")


def untrained_scale(model: Any) -> None:
    model.logit_scale.data.fill_(torch.log(torch.tensor(1 / 0.07)))


def scale_without_logarithm(model: Any) -> None:
    model.logit_scale.data.fill_(100.0)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (shuffled, "no better than chance"),
        (half_loaded, "normalisation layers of the image tower are as they were made"),
        (zeroed_text, "text embeddings are zero|different texts have one embedding"),
        (zero_images, "image embeddings are zero"),
        (no_projection, "a projection is missing"),
        (nan, "image embeddings are NaN"),
        (untrained_scale, "as it is before training"),
        (scale_without_logarithm, "trained models have 8 to 250"),
    ],
)
def test_faults_of_weights(fault: Callable[[Any], None], said: str, model: Any, tokenizer: Any) -> None:
    with torch.no_grad():
        fault(model)
    matching(in_memory(model, tokenizer, PREPROCESS).doubts, said)


def matching(found: Any, said: str) -> None:
    assert any(re.search(said, line) for line in found), found
    assert all(len(line.split(": ", 1)) == 2 and ";" in line for line in found if re.search(said, line)), (
        "what: why; fix"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        # of another model, with as many tokens
        (lambda t: torch.where((t > 0) & (t < 49406), t * 7919 % 49000 + 1, t), "no better than chance"),
        (lambda t: torch.stack([row.roll(76 - int(row.argmax())) for row in t]), "pads at the beginning"),
        (lambda t: torch.where(t == 49407, torch.tensor(2), t), "end token is not the highest"),
    ],
)
def test_faults_of_tokens(
    change: Callable[[torch.Tensor], torch.Tensor], said: str, model: Any, tokenizer: Any
) -> None:
    matching(in_memory(model, lambda texts: change(tokenizer(texts)), PREPROCESS).doubts, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: torch.where(t == 49407, torch.tensor(50000), t), "it would read beyond its table"),
        (lambda t: t[:, :16], "texts are cut after 16 tokens, and the text tower has positions for 77"),
    ],
)
def test_tokens_that_the_text_tower_cannot_read(change: Any, said: str, model: Any, tokenizer: Any) -> None:
    with Encoder(model, lambda texts: change(tokenizer(texts)), PREPROCESS) as encoder:
        matching(check(encoder).doubts, said)
    with pytest.raises(ClipevalError, match="take the tokenizer that the model was trained with"):
        in_memory(model, lambda texts: change(tokenizer(texts)), PREPROCESS)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, r"the transform has mean \(0.5, 0.5, 0.5\)"),
        ({"mean": (0.0,) * 3, "std": (1.0,) * 3}, "the transform has mean .*, std"),
        ({"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}, "pixels lie between 0 and 1 before that"),
        ({"resize_mode": "squash"}, "the transform has resize_mode squash"),
        ({"interpolation": "bilinear"}, "the transform has interpolation bilinear"),
        ({"size": 48}, "images are made 48x48, and the image tower's positions are for 32x32"),
    ],
)
def test_faults_of_pixels(pixels: dict[str, Any], said: str, model: Any, tokenizer: Any) -> None:
    own = {**PIXELS, "size": 32, "interpolation": "bicubic", "resize_mode": "shortest"}
    model.visual.preprocess_cfg = {**own, "mean": (0.48, 0.45, 0.4)}  # as create_model_and_transforms leaves it
    seen = from_open_clip({**model.visual.preprocess_cfg, **pixels})
    matching(in_memory(model, tokenizer, seen).doubts, said)


def test_a_siglip_with_the_pixels_of_clip_is_doubted(tmp_path: Path) -> None:
    handle = resolve({"name": write_tiny_model(tmp_path / "m", kind="siglip")}, tmp_path / "cache")
    with handle.load() as encoder:
        matching(check(encoder).doubts, "a SigLIP sees pixels normalised with mean")


def hugging_face(folders: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders[1], tmp_path / "hf"))


def words_tokenizer(folder: Path, words: list[str], **options: Any) -> None:
    """A tokenizer of whole words in place of a folder's own."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json"):
        (folder / file).unlink(missing_ok=True)
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", *words])} | {"<end>": 49407}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 49407)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=built, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", **options
    ).save_pretrained(folder)


WORDS = ["a", "photo", "of", "dog", "two", "red", "birds", "picture", "the", "sea", "and", "house"]


def test_faults_of_vocabularies(folders: tuple[Path, Path], tmp_path: Path) -> None:
    folder = hugging_face(folders, tmp_path)
    words_tokenizer(folder, WORDS)
    found = doubts({"_target_": HF, "path": str(folder)}, tmp_path)
    matching(found, "knows no capital letters")
    matching(found, r"the tokenizer knows \d+ tokens, and the text tower 49,408")
    words_tokenizer(folder, WORDS[:4])
    matching(doubts({"_target_": HF, "path": str(folder)}, tmp_path), "does not know 8 parts of 3 plain English texts")


def test_faults_of_configs(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """The folder of a checkpoint that was put together by hand."""
    folder = hugging_face(folders, tmp_path)
    target = {"_target_": HF, "path": str(folder)}
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    matching(doubts(target, tmp_path), "pools the token 7, and the tokenizer does not end texts with it")


class Deep(nn.Module):
    """Thirty random layers, in which what one activation does differently from another grows."""

    def __init__(self, act: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        width = 64
        first, layers = nn.Linear(3 * 16 * 16, width), []
        for _ in range(30):
            layer = nn.Linear(width, width)
            nn.init.normal_(layer.weight, std=1.5 / width**0.5)
            layers += [layer, act()]
        self.tower = nn.Sequential(nn.Flatten(), first, *layers)
        self.words = nn.Embedding(60, width)
        self.logit_scale = nn.Parameter(torch.tensor(4.0))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        x = self.tower(images)
        return x - x.mean(dim=1, keepdim=True)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.words(tokens[:, 0])


@pytest.mark.parametrize(("trained", "built"), [("GELU", "GELU"), ("QuickGELU", "QuickGELU"), ("GELU", "QuickGELU")])
def test_a_wrong_activation_is_measured(trained: str, built: str, tmp_path: Path) -> None:
    """A model whose captions are where its pictures lie with the activation that it was trained with."""
    acts = {"QuickGELU": open_clip.transformer.QuickGELU, "GELU": nn.GELU}
    numbers = {caption: i for i, (caption, _) in enumerate(captioned_pictures())}
    seen = Preprocess((16, 16))
    pixels = torch.stack([seen.pixels(data) for _, data in captioned_pictures()])
    with torch.no_grad():
        location = Deep(acts[trained]).eval().encode_image(seen.normalise(pixels))
        model = Deep(acts[built])
        model.words.weight.copy_(location + 0.1 * location.std() * torch.randn_like(location))
    with Encoder(model, lambda texts: torch.tensor([[numbers.get(t, 0)] * 4 for t in texts]), seen) as encoder:
        found = check(encoder).doubts
    assert any("better with" in line for line in found) == (trained != built), found
    if trained != built:
        matching(found, f"better with {trained} than with the {built}")


def test_activations_come_back_after_an_error(model: Any) -> None:
    with pytest.raises(KeyError), other_activation(model) as names:
        assert names == ("QuickGELU", "GELU")
        raise KeyError
    assert "QuickGELU" in {type(module).__name__ for module in model.modules()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.preprocess.mean=0.1"], "model.preprocess.mean"),
        (["model.preprocess.resize_mode=squash"], "model.preprocess.resize_mode"),
        (["model.text_clean=lower"], "model.text_clean"),
        (["model.context_length=16"], "model.context_length"),
    ],
)
def test_what_is_asked_for_instead_is_doubted(words: list[str], said: str, tmp_path: Path) -> None:
    handle = resolve(compose(["suite=none", *words]).model, tmp_path)
    matching(handle.flags, said)


def test_a_model_that_cannot_be_tried_is_doubted_and_not_an_error() -> None:
    class Broken(nn.Module):
        def encode_image(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no kernel for this")

        def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens.float()

    found = in_memory(Broken(), lambda texts: torch.ones(len(texts), 4, dtype=torch.long), Preprocess((8, 8)))
    matching(found.doubts, r"it cannot be tried \(no kernel for this\)")


# -- the command, and the run ---------------------------------------------------------------------------------------


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cache = f"cache.root={tmp_path}"
    assert main(["check", cache, "runtime.device=cpu"]) == 0
    assert "nothing is doubtful" in capsys.readouterr().out
    assert main(["check", cache, "runtime.device=cpu", "model.preprocess.mean=0.1"]) == 1
    assert "(!) model.preprocess.mean=[0.1,0.1,0.1] is asked for" in capsys.readouterr().out
    assert main(["check", cache, "model.text_clean=lowre"]) == 1
    assert "Did you mean: lower" in capsys.readouterr().err


def test_a_run_says_it_first_and_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    name = write_tiny_model(tmp_path / "model")
    words = [
        "run",
        "model=open_clip",
        f"model.name={name}",
        "model.pretrained=null",
        "suite=none",
        "task=quickstart_digits",
    ]
    words += [f"cache.root={tmp_path / 'cache'}", f"out={tmp_path / 'run'}", "runtime.device=cpu", "runtime.workers=0"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert said.count("no better than chance") == 1
    assert said.index("no better than chance") < said.index("[1/1]")
    assert any("chance" in line for line in json.loads((tmp_path / "run" / "run.json").read_text())["model"]["doubts"])
    assert main(words) == 0  # nothing is computed, and it is said again
    assert capsys.readouterr().err.count("no better than chance") == 1


def test_it_is_remembered_by_weights_and_pixels(tmp_path: Path) -> None:
    handle = resolve({"name": write_tiny_model(tmp_path / "model")}, tmp_path / "cache")
    assert remembered(handle, tmp_path / "cache") is None
    with handle.load() as encoder:
        found = check_once(handle, encoder, tmp_path / "cache")
    assert found.doubts
    assert remembered(handle, tmp_path / "cache") == found
    other = resolve({"name": handle.name, "preprocess": {"mean": 0.5}}, tmp_path / "cache")
    assert remembered(other, tmp_path / "cache") is None
