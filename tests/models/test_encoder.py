"""Encoders: precision, batches, texts whatever their company, and the tokenizer's short cut."""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from torch import nn
from torch.nn import functional

from clipeval.configs.errors import ClipevalError
from clipeval.models import Encoder, ModelHandle, from_memory, image_precision, resolve, text_precision
from clipeval.models.bpe import CachedBpeTokenizer, join_pairs, quicken
from clipeval.models.float32 import full_float32
from clipeval.models.precision import deterministic_algorithms, pick_device
from clipeval.preprocess.transforms import Preprocess
from scripts.tiny_model import write_tiny_model

WORDS = ["a", "photo", "of", "the", "large", "red", "dog", "house", "skateboarding", "antidisestablishmentarianism"]
WORDS += ["12", "!", ","]


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    folder = tmp_path_factory.mktemp("encoder")
    return resolve({"name": write_tiny_model(folder / "tiny")}, folder / "cache")


@pytest.fixture(scope="module")
def encoder(handle: ModelHandle) -> Iterator[Encoder]:
    with handle.load() as encoder:
        yield encoder


def texts(count: int, seed: int = 0) -> list[str]:
    generator = torch.Generator().manual_seed(seed)

    def text() -> str:
        length = int(torch.randint(1, 40, (), generator=generator))
        return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=generator).tolist())

    return [text() for _ in range(count)]


def test_a_text_s_embedding_does_not_depend_on_its_company(encoder: Encoder) -> None:
    many = texts(200)
    together = encoder.encode_texts(many)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(200))
    torch.testing.assert_close(encoder.encode_texts(many[::-1]).flip(0), together, rtol=0, atol=1e-6)
    for i in range(0, 200, 17):
        torch.testing.assert_close(encoder.encode_texts([many[i]])[0], together[i], rtol=0, atol=1e-6)
    repeated = encoder.encode_texts([many[3], many[5], many[3], many[3]])
    assert torch.equal(repeated[0], repeated[2])
    torch.testing.assert_close(repeated, together[[3, 5, 3, 3]], rtol=0, atol=1e-6)


def test_texts_beyond_the_context_are_cut_as_open_clip_cuts_them(encoder: Encoder, handle: ModelHandle) -> None:
    model = open_clip.create_model(handle.name).eval()
    long = ["dog " * n for n in (74, 75, 76, 77, 300)]
    with torch.no_grad():
        expected = functional.normalize(model.encode_text(open_clip.get_tokenizer(handle.name)(long)), dim=-1)
    torch.testing.assert_close(encoder.encode_texts(long), expected, rtol=0, atol=2e-6)


def test_progress_counts_every_text_once(encoder: Encoder) -> None:
    many = texts(300)
    done: list[int] = []
    encoder.encode_texts([*many, *many], progress=done.append)
    assert sum(done) == 600
    assert len(done) > 1


def test_no_texts(encoder: Encoder) -> None:
    assert encoder.encode_texts([]).shape == (0, 16)


def watch(
    encoder: Encoder, sharing: bool, monkeypatch: pytest.MonkeyPatch, seen: Callable[[torch.Tensor], None]
) -> None:
    """Shows `seen` the tokens of every batch that the text tower is given, by the way that is asked for."""
    assert encoder.shares
    original, shared = encoder._encode_text, encoder._text._shared
    assert shared is not None

    def whole(tokens: torch.Tensor) -> torch.Tensor:
        seen(tokens)
        return original(tokens)

    def once(tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        seen(tokens)
        return shared(tokens, lengths)

    assert encoder._text._call is not None
    monkeypatch.setattr(encoder._text._call, "encode", whole)
    monkeypatch.setattr(encoder._text, "_shared", once if sharing else None)


@pytest.mark.parametrize("sharing", [True, False])
def test_short_batches_are_short(encoder: Encoder, sharing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tower is given: no batch longer than its longest text, no batch beyond the budget."""
    shapes: list[tuple[int, ...]] = []
    watch(encoder, sharing, monkeypatch, lambda tokens: shapes.append(tuple(tokens.shape)))
    encoder.encode_texts(["a dog"] * 3 + [f"a photo of {i}" for i in range(500)])
    assert sum(rows for rows, _ in shapes) == 501
    # start, a, photo, of, up to three digits, end; and start, a, dog, end
    assert max(length for _, length in shapes) == 8
    assert max(rows * length for rows, length in shapes) <= 2048


@pytest.mark.parametrize("sharing", [True, False])
def test_texts_that_do_not_fit_are_embedded_in_smaller_batches(
    encoder: Encoder, sharing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    many, most = texts(60), 3
    expected, done = encoder.encode_texts(many), []

    def full(tokens: torch.Tensor) -> None:
        if len(tokens) > most:
            raise torch.OutOfMemoryError

    watch(encoder, sharing, monkeypatch, full)
    torch.testing.assert_close(encoder.encode_texts(many, progress=done.append), expected, rtol=0, atol=1e-6)
    assert sum(done) == 60
    most = 0
    with pytest.raises(ClipevalError, match="memory does not hold one text"):
        encoder.encode_texts(["a dog"])


@pytest.mark.parametrize("precision", ["bf16", "fp16", "datacomp"])
def test_lower_precision_is_near(precision: str, handle: ModelHandle, encoder: Encoder) -> None:
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    some = texts(20)
    with handle.load(precision=precision) as lower:
        assert lower.trims
        for got, expected in (
            (lower.encode_images(images, mixed=True), encoder.encode_images(images)),
            (lower.encode_texts(some), encoder.encode_texts(some)),
        ):
            assert got.dtype == torch.float32
            torch.testing.assert_close(got.norm(dim=1), torch.ones(len(got)), rtol=0, atol=1e-6)
            cosine = (got * expected).sum(dim=1)
            assert float(cosine.min()) > 0.99
            assert not torch.equal(got, expected)
        if precision == "datacomp":
            assert torch.equal(lower.encode_images(images), encoder.encode_images(images))
        else:
            assert torch.equal(lower.encode_images(images), lower.encode_images(images, mixed=True))


def test_autocast_of_the_caller_does_not_reach_in(encoder: Encoder) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    plain = encoder.encode_images(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder.encode_images(images), plain)


def test_precision_settings_come_back() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with full_float32():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")
def test_settings_of_the_newer_interface_come_back() -> None:
    """Which the former one neither shows nor, mixed with it, always answers for."""
    parts = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul]
    before, legacy = [part.fp32_precision for part in parts], torch.get_float32_matmul_precision()
    try:
        for part, setting in zip(parts, ("tf32", "tf32", "bf16"), strict=True):
            part.fp32_precision = setting
        with full_float32():
            assert [part.fp32_precision for part in parts] == ["ieee"] * 3
        assert [part.fp32_precision for part in parts] == ["tf32", "tf32", "bf16"]
    finally:
        torch.set_float32_matmul_precision(legacy)
        for part, setting in zip(parts, before, strict=True):
            part.fp32_precision = setting


def test_overlapping_blocks_never_show_the_callers_setting() -> None:
    """As a scorer's thread beside the stream: from its first block to its last it sees full float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    inside, outside, seen = threading.Event(), threading.Event(), list[str]()

    def score() -> None:
        with full_float32():
            inside.set()
            while not outside.is_set():
                seen.append(torch.get_float32_matmul_precision())

    try:
        with full_float32():
            scorer = threading.Thread(target=score)
            scorer.start()
            inside.wait()
        for _ in range(200):
            with full_float32():
                pass
        outside.set()
        scorer.join()
        assert set(seen) == {"highest"} and torch.get_float32_matmul_precision() == "high"
    finally:
        outside.set()
        torch.set_float32_matmul_precision(before)


def test_deterministic_algorithms_are_cudas_and_go_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    assert not before[0]
    with deterministic_algorithms(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with deterministic_algorithms(torch.device("cuda:1")):
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
        assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert before == (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def test_a_precision_may_be_another_machines() -> None:
    """`clipeval submit` plans for a GPU where there is none."""
    assert (
        text_precision("datacomp", "cuda") == "amp-fp16" and image_precision("datacomp", True, "cuda:3") == "amp-fp16"
    )


def test_precision_names() -> None:
    assert [image_precision(p, True, "cpu") for p in ("fp32", "bf16", "fp16", "datacomp")] == [
        "fp32",
        "bf16",
        "fp16",
        "amp-bf16",
    ]
    assert image_precision("datacomp", False, "cpu") == "fp32"
    assert text_precision("datacomp", "cpu") == "amp-bf16"
    with pytest.raises(ClipevalError, match="fp32, bf16, fp16, datacomp"):
        image_precision("fp8", False, "cpu")
    with pytest.raises(ClipevalError, match="no device"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ClipevalError, match="not on this machine"):
            pick_device("cuda:3")


def test_tf32_of_convolutions_is_a_precision_of_its_own(handle: ModelHandle, encoder: Encoder) -> None:
    """On CUDA: elsewhere it is `datacomp`, and so are its keys. Nothing else is in TF32."""
    assert image_precision("datacomp_tf32", False, "cuda:1") == "fp32-tf32conv"
    assert image_precision("datacomp_tf32", True, "cuda") == "amp-fp16" == text_precision("datacomp_tf32", "cuda")
    for device, mixed in (("cpu", True), ("cpu", False), ("mps", False)):
        assert image_precision("datacomp_tf32", mixed, device) == image_precision("datacomp", mixed, device)
    assert image_precision("datacomp", False, "cuda") == "fp32"
    images, seen = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), list[tuple[str, bool]]()
    before = torch.backends.cudnn.allow_tf32
    for kind in ("datacomp", "datacomp_tf32"):
        with handle.load(precision=kind) as other:
            image = other._image
            other._image = lambda batch, image=image: (  # type: ignore[misc]
                seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)) or image(batch)
            )
            assert torch.equal(other.encode_images(images), encoder.encode_images(images))
    assert seen == [("highest", False), ("highest", True)] and torch.backends.cudnn.allow_tf32 == before


def test_a_batch_s_memory_format_does_not_matter(encoder: Encoder) -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    last = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(encoder.encode_images(last), encoder.encode_images(images), rtol=0, atol=1e-6)


def test_compiled_image_tower(handle: ModelHandle, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without its compiler: the batches it is given are all of one shape, and the answers the same."""
    shapes = []

    def compile_(function: object, dynamic: bool) -> object:
        def call(images: torch.Tensor) -> torch.Tensor:
            shapes.append(len(images))
            return function(images)  # type: ignore[no-any-return, operator]

        return call

    monkeypatch.setattr(torch, "compile", compile_)
    images = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    with handle.load(compile=True) as compiled:
        with (
            compiled.uncompiled()
        ):  # a trial of a larger batch is neither compiled nor what later ones are filled up to
            torch.testing.assert_close(compiled.encode_images(images), encoder.encode_images(images), rtol=0, atol=1e-6)
        for part in (images[:5], images[5:]):
            torch.testing.assert_close(compiled.encode_images(part), encoder.encode_images(part), rtol=0, atol=1e-6)
    assert shapes == [5, 5]


class Bad(nn.Module):
    """A model whose methods give what they should not."""

    def __init__(self, image: object, text: object):
        super().__init__()
        self._image, self._text = image, text

    def encode_image(self, images: torch.Tensor) -> object:
        return self._image

    def encode_text(self, tokens: torch.Tensor) -> object:
        return self._text


def test_models_that_answer_wrongly() -> None:
    def tokenizer(lines: list[str]) -> torch.Tensor:
        return torch.zeros(len(lines), 8, dtype=torch.long)

    with pytest.raises(ClipevalError, match=r"encode_text must give a tensor \[batch, dimensions\], got \[3\]"):
        from_memory(Bad(None, torch.zeros(3)), tokenizer, Preprocess((8, 8))).load()
    with pytest.raises(ClipevalError, match="no method encode_image"):
        from_memory(object(), tokenizer, Preprocess((8, 8)))
    with pytest.raises(ClipevalError, match=r"integers \[1, context length\]"):
        from_memory(Bad(None, torch.zeros(1, 3)), lambda lines: torch.zeros(2, 8), Preprocess((8, 8))).load()


# -- the tokenizer's short cut -----------------------------------------------------------------------------------------

REFERENCE = SimpleTokenizer()
QUICK = CachedBpeTokenizer(SimpleTokenizer())


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(st.text(), st.text(st.characters(max_codepoint=127)), st.sampled_from(WORDS)), min_size=1, max_size=4
    )
)
def test_quick_tokens_are_open_clip_s(lines: list[str]) -> None:
    assert torch.equal(QUICK(lines), REFERENCE(lines))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "a  photo\tof\na cat",
        "it's <start_of_text> a <END_OF_TEXT> don't",
        "&amp; &lt;b&gt; AT&T",
        "schÃ¶n 東京 ﬁne “quotes” \x1b[31mred\x1b[0m",
        "word " * 100,
        "x" * 500,
        "a.b!!c??  12ab34",
        "\u00a0non\u3000breaking\u2028spaces\x1cx\x85y",
    ],
)
def test_quick_tokens_of_odd_texts(text: str) -> None:
    assert torch.equal(QUICK([text, "a"]), REFERENCE([text, "a"]))


@settings(max_examples=200, deadline=None)
@given(st.text("日本語写真の猫犬中文照片かがカガé한국어사진aあ゛ ", min_size=20, max_size=120))
def test_a_text_without_spaces_has_open_clip_s_tokens(line: str) -> None:
    assert QUICK._encode(line) == REFERENCE.encode(line)


@settings(max_examples=500, deadline=None)
@given(st.text("abc", min_size=1, max_size=24), st.randoms(use_true_random=False))
def test_pairs_are_joined_as_open_clip_joins_them_whatever_their_ranks(token: str, rng: random.Random) -> None:
    parts = ["".join(letters) for size in (1, 2, 3) for letters in itertools.product("abc", repeat=size)]
    pairs = [(first, second) for first in parts for second in (*parts, *(f"{part}</w>" for part in parts))]
    ranks = {pair: rank for rank, pair in enumerate(rng.sample(pairs, 400))}
    plain: Any = SimpleNamespace(cache={}, bpe_ranks=ranks)
    assert join_pairs(token, ranks) == SimpleTokenizer.bpe(plain, token).split(" ")


def test_only_the_plain_tokenizer_is_quickened() -> None:
    assert isinstance(quicken(SimpleTokenizer()), CachedBpeTokenizer)
    for other in (SimpleTokenizer(clean="canonicalize"), SimpleTokenizer(reduction_mask="simple"), REFERENCE.encode):
        assert quicken(other) is other
    short = SimpleTokenizer(context_length=8)
    line = "a photo of a very small red cat on the grass"
    assert torch.equal(quicken(short)([line]), short([line]))
