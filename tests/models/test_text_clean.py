"""What is done to a text before the tokenizer reads it: by either library, by default as in training, or as asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.models import resolve
from clipeval.models.open_clip_build import build_tokenizer
from clipeval.models.open_clip_text import tokenizer_flags
from clipeval.models.text_clean import clean_function
from scripts.tiny_model import write_tiny_model
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, SIGLIP_PROCESSOR, write_hugging_face
from tests.models.trained_model import write_clip_tokenizer

HF = "clipeval.models.transformers.HuggingFace"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("A photo of a Dog.", "a photo of a dog"),
        ("hot_dog", "hot dog"),
        ("  it's   a\ttest!\n", "its a test"),
        ("jack-o'-lantern (carved)", "jackolantern carved"),
        ("", ""),
        ("a, b; c: d", "a b c d"),
        ("100% #1 @home", "100 1 home"),
        ("NAÏVE café", "naïve café"),
        ("“quoted”", "quoted"),  # straightened by ftfy first, as open_clip does
        ("rock &amp; roll", "rock roll"),
        ("東京、日本。", "東京、日本。"),  # string.punctuation is ASCII's
        ("{}", ""),
    ],
)
def test_big_visions_clean_up(text: str, canonical: str) -> None:
    """`prompt_engineering.canonicalize_text`: underscores, string.punctuation, case, white space."""
    assert clean_function("canonicalize")(text) == canonical
    assert clean_function("canonicalize")(canonical) == canonical


def test_the_other_policies() -> None:
    text = "  A  Photo_of a Dog. &amp;"
    assert clean_function("lower")(text) == "a photo_of a dog. &"
    assert clean_function("whitespace")(text) == "A Photo_of a Dog. &"
    assert clean_function("none")(text) == text
    with pytest.raises(ClipevalError, match="Did you mean: canonicalize"):
        clean_function("canonicalise")


def test_every_siglip_of_open_clip_is_canonicalised_and_its_digest_stands(tmp_path: Path) -> None:
    tags = [(name, tag) for name, tag in open_clip.list_pretrained() if "SigLIP" in name]
    assert len(tags) > 20
    for name, tag in tags:
        handle = resolve({"name": name, "pretrained": tag}, tmp_path)
        assert (handle.text_clean, handle.text_mark) == ("canonicalize", ""), name
        context = open_clip.get_model_config(name)["text_cfg"]["context_length"]
        assert context == (16 if name == "ViT-SO400M-14-SigLIP" else 64)
    assert resolve({"name": "ViT-B-32", "pretrained": "openai"}, tmp_path).text_clean == "lower"
    assert (
        resolve({"name": "xlm-roberta-base-ViT-B-32", "pretrained": "laion5b_s13b_b90k"}, tmp_path).text_clean
        == "whitespace"
    )


@pytest.mark.parametrize("policy", ["canonicalize", "lower", "whitespace", "none"])
def test_open_clip_with_another_policy(policy: str, tmp_path: Path) -> None:
    name = write_tiny_model(tmp_path / "model")
    plain, asked = (resolve({"name": name, "text_clean": p}, tmp_path / "c") for p in (None, policy))
    assert asked.text_clean == asked.identity["text clean-up"] == policy
    same = policy == "lower"  # what it does anyhow
    assert (asked.tokenizer_digest == plain.tokenizer_digest) == same
    assert (asked.text_digest == plain.text_digest) == same
    assert asked.image_digest == plain.image_digest
    assert bool(asked.text_mark) == bool(asked.flags) == (not same)
    text = "A photo_of a dog!"
    raw = resolve({"name": name, "text_clean": "none"}, tmp_path / "c").tokenizer()
    assert torch.equal(asked.tokenizer()([text]), raw([clean_function(policy)(text)]))


def test_a_folder_that_names_siglips_tokenizer_and_no_policy_is_canonicalised(tmp_path: Path) -> None:
    name = write_tiny_model(tmp_path / "model", kind="siglip")
    config = tmp_path / "model" / "open_clip_config.json"
    content = json.loads(config.read_text())
    before = resolve({"name": name}, tmp_path / "c")
    assert (before.text_clean, before.text_mark) == ("lower", "")
    content["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "timm/ViT-B-16-SigLIP"
    config.write_text(json.dumps(content))
    after = resolve({"name": name}, tmp_path / "c")
    assert (after.text_clean, after.text_mark) == ("canonicalize", "canonicalize")


# -- transformers ---------------------------------------------------------------------------------------------------


def test_siglip_is_canonicalised_and_padded_to_full_length(tmp_path: Path) -> None:
    folder = write_hugging_face(tmp_path / "hf", "siglip", SIGLIP_PROCESSOR)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "padding_side": "left"}))  # as Gemma's
    handle = resolve({"_target_": HF, "path": str(folder)}, tmp_path / "c")
    assert handle.text_clean == "canonicalize"
    assert handle.text_mark == "canonicalize, padded at the end"
    tokens = handle.tokenizer()(["A Photo_of: a DOG!", "a photo of a dog"])
    assert tokens.shape == (2, 12)
    assert torch.equal(tokens[0], tokens[1])
    assert tokens[0].tolist() == [2, 3, 4, 2, 5, 9] + [0] * 6


def test_the_digest_of_other_transformers_checkpoints_stands(tmp_path: Path) -> None:
    """A tokenizer that is not OpenAI's cleans as it always did."""
    folder = write_hugging_face(tmp_path / "hf", "clip", CLIP_PROCESSOR)
    handle = resolve({"_target_": HF, "path": str(folder)}, tmp_path / "c")
    assert (handle.text_clean, handle.text_mark) == ("none", "")


def test_openais_tokenizer_reads_texts_as_open_clips(tmp_path: Path) -> None:
    folder = write_hugging_face(tmp_path / "hf", "clip", CLIP_PROCESSOR)
    write_clip_tokenizer(folder)
    handle = resolve({"_target_": HF, "path": str(folder), "context_length": 12}, tmp_path / "c")
    assert handle.text_clean == "lower"
    texts = ["A photo of a DOG.", "rock &amp; roll", "it’s “naïve”", "  two\n dogs ", "hot_dog 12", "ﬁsh"]
    ours = open_clip.SimpleTokenizer(context_length=12)(texts)
    assert torch.equal(handle.tokenizer()(texts).argmax(dim=1), ours.argmax(dim=1))
    for row, mine in zip(ours, handle.tokenizer()(texts), strict=True):
        length = int(row.argmax()) + 1
        assert torch.equal(row[:length], mine[:length])
    raw = resolve({"_target_": HF, "path": str(folder), "text_clean": "none"}, tmp_path / "c")
    assert raw.text_mark == ""
    assert raw.tokenizer_digest != handle.tokenizer_digest


# -- overrides ------------------------------------------------------------------------------------------------------


def of(tmp_path: Path, **asked: Any) -> Any:
    return resolve({"name": f"local-dir:{tmp_path / 'model'}", **asked}, tmp_path / "c")


def test_overrides_are_flagged_and_change_what_they_must(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model", preprocess={"mean": (0.5,) * 3})
    plain = of(tmp_path)
    asked = of(tmp_path, preprocess={"mean": [0.1, 0.2, 0.3], "resize_mode": "squash", "size": None})
    assert asked.preprocess.mean == (0.1, 0.2, 0.3)
    assert asked.preprocess.resize_mode == "squash"
    assert asked.preprocess.std == plain.preprocess.std
    assert asked.preprocess.digest != plain.preprocess.digest
    assert asked.weights_digest == plain.weights_digest
    assert any("model.preprocess.mean=[0.1,0.2,0.3]" in flag for flag in asked.flags)
    assert asked.describe()["preprocess"] == {"mean": [0.1, 0.2, 0.3], "resize_mode": "squash"}
    same = of(tmp_path, preprocess={"mean": 0.5})
    assert same.flags == plain.flags == []
    assert same.image_digest == plain.image_digest
    for key, value in {"image_size": 48, "context_length": 20}.items():
        other = of(tmp_path, **{key: value})
        assert other.weights_digest != plain.weights_digest
        assert any(f"model.{key}={value} is asked for" in flag for flag in other.flags)
        assert other.slug != plain.slug
        with other.load() as encoder:
            images = encoder.encode_images(torch.zeros(1, *other.preprocess.shape, dtype=torch.uint8))
            assert images.shape == (1, 16)
            assert encoder.encode_texts(["a"]).shape == (1, 16)
            assert encoder.tokenizer(["a"]).shape == (1, value if key == "context_length" else 77)
            assert encoder.model.visual.grid_size == ((3, 3) if key == "image_size" else (2, 2))


def test_image_size_resizes_as_open_clips_force_image_size(tmp_path: Path) -> None:
    name = write_tiny_model(tmp_path / "model")
    reference = open_clip.create_model(name, force_image_size=64)
    with of(tmp_path, image_size=64).load() as encoder:
        theirs, ours = reference.visual.positional_embedding, encoder.model.visual.positional_embedding
        torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-6)
    with pytest.raises(ClipevalError, match="image_size=64 resizes"):
        of(tmp_path, preprocess={"size": 64}).load()


def test_transformers_overrides(tmp_path: Path) -> None:
    folder = write_hugging_face(tmp_path / "hf", "clip", CLIP_PROCESSOR)
    target = {"_target_": HF, "path": str(folder)}
    plain, asked = (resolve({**target, "image_size": s}, tmp_path / "c") for s in (None, 64))
    assert asked.preprocess.size == (64, 64)
    assert asked.weights_digest != plain.weights_digest
    with asked.load() as encoder:
        assert encoder.encode_images(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, 8)
    squashed = resolve({**target, "preprocess": {"resize_mode": "squash"}}, tmp_path / "c")
    assert squashed.preprocess.resize_mode == "squash"
    assert squashed.flags
    with pytest.raises(ClipevalError, match="has 12 positions"):
        resolve({**target, "context_length": 20}, tmp_path / "c")
    odd = write_hugging_face(tmp_path / "odd", "clip", {**CLIP_PROCESSOR, "size": {"shortest_edge": 40}})
    with pytest.raises(ClipevalError, match=r"preprocess\.mean: its image processor resizes"):
        resolve({**target, "path": str(odd), "preprocess": {"mean": 0.5}}, tmp_path / "c")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.text_clean=lowr", "Did you mean: lower"),
        ("+model.preprocess.men=0.5", "Did you mean: model.preprocess.mean"),
        ("model.preprocess.mean=[0.5,0.5]", "a number, or three, one a channel"),
        ("model.preprocess.std=0", "a number above 0"),
        ("model.preprocess.size=0", "a whole number of pixels"),
        ("model.preprocess.interpolation=lanczos", "bicubic or bilinear|Available: bicubic, bilinear"),
        ("model.preprocess.fill_color=256", "from 0 to 255"),
        ("model.image_size=abc", "a whole number of pixels"),
        ("model.context_length=0", "of at least 1"),
    ],
)
def test_overrides_that_are_none(word: str, message: str) -> None:
    with pytest.raises(ClipevalError, match=message):
        compose(["suite=none", word])


def test_run_folders_tell_texts_and_sizes_apart() -> None:
    words = ["suite=none", "model=vit_b_32_openai"]
    assert compose(words).model.slug == "ViT-B-32-quickgelu__openai"
    more = [*words, "model.text_clean=none", "model.context_length=20", "model.image_size=[224,336]"]
    assert compose(more).model.slug == "ViT-B-32-quickgelu__openai__text-none__context-20__size-224x336"


def test_an_openvision_without_its_tokenizer_mode_is_flagged(tmp_path: Path) -> None:
    """As the configs in the authors' repository have it: open_clip then reads texts otherwise than the model was trained."""
    text = {
        "context_length": 80,
        "vocab_size": 32000,
        "hf_tokenizer_name": "bert-base-uncased",
        "tokenizer_kwargs": {"strip_sep_token": True},
        "pool_type": "last",
        "no_causal_mask": True,
    }
    assert "tokenizer_mode" in tokenizer_flags(text)[0]
    assert tokenizer_flags({**text, "tokenizer_mode": "clips"}) == []
    flagged = [
        name for name in open_clip.list_models() if tokenizer_flags(open_clip.get_model_config(name)["text_cfg"])
    ]
    assert flagged == []  # CLIPA's, which are alike but for their length, among them
    write_tiny_model(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= text
    (tmp_path / "m" / "open_clip_config.json").write_text(json.dumps(config))
    assert any("tokenizer_mode" in flag for flag in resolve({"name": f"local-dir:{tmp_path / 'm'}"}, tmp_path).flags)


def test_tokenizers_of_one_vocabulary_keep_what_is_their_own() -> None:
    """Each as open_clip makes it alone, whatever the others were asked."""
    made = {
        (context, policy): build_tokenizer({"context_length": context}, policy, None, "a model")
        for context in (8, 77)
        for policy in ("lower", "whitespace")
    }
    texts = ["A Photo  of a CAT", "a photo of a cat"]
    for (context, policy), tokenizer in made.items():
        alone = open_clip.SimpleTokenizer(context_length=context, clean=policy)
        assert torch.equal(tokenizer(texts), alone(texts)), (context, policy)
    caches = [tokenizer.cache for tokenizer in made.values()]  # type: ignore[attr-defined]
    assert len({id(cache) for cache in caches}) == len(made)
