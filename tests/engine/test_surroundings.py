"""`evaluate()` within a process that has settings of its own: they have no part in the scores, and stay as they were.

What cannot be run as it is is one error, before an image is decoded.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from torch import nn

from clipeval.api import evaluate
from clipeval.configs.errors import ClipevalError
from clipeval.data.images import FileImages
from clipeval.models.float32 import full_float32
from clipeval.preprocess.transforms import Preprocess
from scripts.tiny_model import write_tiny_model
from tests.data.colour_set import write_colours

CLASSES, COUNT = 4, 24
BACKENDS: Any = torch.backends
NODES = {
    "all": BACKENDS,
    "cuda.matmul": BACKENDS.cuda.matmul,
    "cudnn": BACKENDS.cudnn,
    "cudnn.conv": getattr(BACKENDS.cudnn, "conv", None),
    "cudnn.rnn": getattr(BACKENDS.cudnn, "rnn", None),
    "mkldnn.matmul": getattr(BACKENDS.mkldnn, "matmul", None),
    "mkldnn.conv": getattr(BACKENDS.mkldnn, "conv", None),
    "mkldnn.rnn": getattr(BACKENDS.mkldnn, "rnn", None),
}
newer = pytest.mark.skipif(not hasattr(BACKENDS, "fp32_precision"), reason="torch before 2.9")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = write_colours(tmp_path_factory.mktemp("set"), {"train": COUNT, "test": COUNT}, CLASSES)
    (place / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    return place


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def words(folder: Path, *more: str) -> list[str]:
    zero_shot = ["+task@tasks.zero=webdataset", f"tasks.zero.data.path={folder}"]
    probe = ["+task@tasks.probe=quickstart_digits_probe", f"+tasks.probe.data.path={folder}", "tasks.probe.shots=3"]
    sizes = ["tasks.probe.data.samples=null", "tasks.probe.data.classes=null", "+tasks.probe.strength=1.0"]
    return [*zero_shot, *probe, *sizes, *more]


def run(model: nn.Module, name: str, folder: Path, out: Path, *more: str) -> pd.DataFrame:
    """Every score of every image."""
    tokenizer, transform = open_clip.get_tokenizer(name), Preprocess((32, 32))
    given = words(folder, f"cache.root={out / 'cache'}", *(more or ["runtime.workers=0"]))
    evaluate(model, tokenizer, transform, "none", out=out, overrides=given)  # type: ignore[arg-type]
    frames = [pd.read_parquet(out / "predictions" / f"{task}.parquet") for task in ("zero", "probe")]
    assert [len(frame) for frame in frames] == [COUNT, 3 * COUNT]
    return pd.concat(frames)


def same(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    assert found["key"].tolist() == wanted["key"].tolist()
    columns = [c for c in wanted if str(c).startswith("score_")]
    np.testing.assert_allclose(found[columns].to_numpy(float), wanted[columns].to_numpy(float), rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def plain(name: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return run(open_clip.create_model(name), name, folder, tmp_path_factory.mktemp("plain"))


def answer(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except RuntimeError:  # the former interface refuses to answer where the newer one was used
        return "mixed"


def state() -> dict[str, Any]:
    """All that an evaluation could leave behind in a process."""
    tree = {key: node.fp32_precision for key, node in NODES.items() if hasattr(node, "fp32_precision")}
    followed = {}
    if tree:  # what is left open goes on following the whole process's switch
        for setting in ("ieee", "tf32"):
            BACKENDS.fp32_precision = setting
            followed[setting] = {k: NODES[k].fp32_precision for k in tree if k not in ("cudnn.conv", "cudnn.rnn")}
        BACKENDS.fp32_precision = tree["all"]
    return {
        **tree,
        "followed": followed,
        "matmul": answer(torch.get_float32_matmul_precision),
        "cublas": answer(lambda: BACKENDS.cuda.matmul.allow_tf32),
        "allow_tf32": answer(lambda: BACKENDS.cudnn.allow_tf32),
        "accumulation": getattr(BACKENDS.cuda.matmul, "allow_fp16_accumulation", None),
        "cudnn": (BACKENDS.cudnn.enabled, BACKENDS.cudnn.benchmark, BACKENDS.cudnn.deterministic),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": (
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
        ),
        "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
        "threads": torch.get_num_threads(),
    }


@pytest.fixture
def untouched() -> Iterator[None]:
    """Whatever a test sets is undone."""
    former = torch.get_float32_matmul_precision(), BACKENDS.cudnn.allow_tf32
    tree = [(node, node.fp32_precision) for node in NODES.values() if hasattr(node, "fp32_precision")]
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_default_dtype(dtype)
    torch.set_default_device(None if device.type == "cpu" else device)
    torch.set_float32_matmul_precision(former[0])
    BACKENDS.cudnn.allow_tf32 = former[1]
    for node, setting in reversed(tree):
        node.fp32_precision = setting
    if hasattr(BACKENDS.cuda.matmul, "allow_fp16_accumulation"):
        BACKENDS.cuda.matmul.allow_fp16_accumulation = False


def newest(**settings: str) -> None:
    for key, setting in settings.items():
        NODES[key.replace("_", ".")].fp32_precision = setting


def beside_training() -> None:
    torch.set_default_device("meta")
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("high")
    if hasattr(BACKENDS.cuda.matmul, "allow_fp16_accumulation"):
        BACKENDS.cuda.matmul.allow_fp16_accumulation = True


def newer_switches() -> None:
    if hasattr(BACKENDS, "fp32_precision"):
        newest(all="tf32", cudnn_conv="none", mkldnn_matmul="bf16")


OUTSIDE: dict[str, tuple[Callable[[], Any], list[Callable[[], AbstractContextManager[Any]]]]] = {
    "settings": (beside_training, []),
    "bfloat16": (
        lambda: torch.set_default_dtype(torch.bfloat16),
        [torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)],
    ),
    "float64": (lambda: torch.set_default_dtype(torch.float64), [torch.inference_mode, lambda: torch.device("meta")]),
    "newer switches": (newer_switches, []),
}


@pytest.mark.parametrize(
    ("which", "workers"), [("settings", 2), ("bfloat16", 0), ("float64", 0), ("newer switches", 0), ("bfloat16", 2)]
)
def test_what_a_process_has_set_has_no_part_in_scores_and_stays(
    which: str, workers: int, name: str, folder: Path, plain: pd.DataFrame, tmp_path: Path, untouched: None
) -> None:
    model = open_clip.create_model(name).to(memory_format=torch.channels_last)
    strides = [p.stride() for p in model.parameters()]
    seen: list[dict[str, Any]] = []
    model.visual.register_forward_hook(lambda *given: seen.append(inside()))  # type: ignore[operator, union-attr]
    settings, contexts = OUTSIDE[which]
    settings()
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        before = state()
        same(run(model, name, folder, tmp_path, f"runtime.workers={workers}"), plain)
        assert state() == before
    assert seen and all(found == seen[0] for found in seen)
    assert set(seen[0]["tree"].values()) <= {"ieee"} and seen[0]["former"] == ("highest", False, False)
    assert [p.stride() for p in model.parameters()] == strides and model.training


FORMER: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "cublas": lambda: setattr(BACKENDS.cuda.matmul, "allow_tf32", True),
    "no cudnn": lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
}
NEWEST: dict[str, dict[str, str]] = {
    "all tf32": {"all": "tf32"},
    "all bf16": {"all": "bf16"},
    "all ieee": {"all": "ieee"},
    "matmul": {"cuda_matmul": "tf32"},
    "cudnn": {"cudnn": "tf32"},
    "conv ieee": {"cudnn_conv": "ieee", "cudnn_rnn": "ieee"},
    "conv open": {"cudnn_conv": "none", "cudnn_rnn": "none"},
    "mkldnn": {"mkldnn_matmul": "bf16", "mkldnn_conv": "tf32"},
    "a mix": {"all": "tf32", "cuda_matmul": "ieee", "cudnn_conv": "none", "mkldnn_matmul": "bf16"},
}


@newer
@pytest.mark.parametrize("which", [*FORMER, *NEWEST])
@pytest.mark.parametrize("first", [None, "high"])
def test_the_switches_of_both_interfaces_are_off_inside_and_stay(
    which: str, first: str | None, untouched: None
) -> None:
    if first is not None:
        torch.set_float32_matmul_precision(first)
    FORMER.get(which, lambda: None)()
    newest(**NEWEST.get(which, {}))
    before = state()
    for tf32 in (False, True):
        with full_float32():
            with full_float32(tf32):
                found = inside()
                convolutions = "tf32" if tf32 else "ieee"
                assert {found["tree"].pop(key) for key in ("cudnn.conv", "cudnn.rnn")} == {convolutions}
                assert set(found["tree"].values()) == {"ieee"} and found["former"] == ("highest", False, tf32)
            assert set(inside()["tree"].values()) == {"ieee"}
        assert state() == before


def inside() -> dict[str, Any]:
    tree = {key: node.fp32_precision for key, node in NODES.items() if key != "all"}
    former = torch.get_float32_matmul_precision(), BACKENDS.cuda.matmul.allow_tf32, BACKENDS.cudnn.allow_tf32
    return {"tree": tree, "former": former}


@pytest.mark.parametrize("accumulation", [True, False])
def test_half_precision_is_summed_in_float32(accumulation: bool, untouched: None) -> None:
    if not hasattr(BACKENDS.cuda.matmul, "allow_fp16_accumulation"):
        pytest.skip("this torch has no such switch")
    BACKENDS.cuda.matmul.allow_fp16_accumulation = accumulation
    with full_float32():
        assert BACKENDS.cuda.matmul.allow_fp16_accumulation is False
    assert BACKENDS.cuda.matmul.allow_fp16_accumulation is accumulation


class Placed(nn.Module):
    """A model whose code makes tensors and does not say where, as one does under `torch.set_default_device`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.inner, self.devices = open_clip.create_model(name), list[torch.device]()

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        self.devices.append(torch.arange(2).device)
        return self.inner.encode_image(images)  # type: ignore[no-any-return]

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        self.devices.append(torch.zeros(1).device)
        return self.inner.encode_text(tokens)  # type: ignore[no-any-return]


def test_a_models_code_makes_tensors_where_the_model_is(
    name: str, folder: Path, tmp_path: Path, untouched: None
) -> None:
    """Which the process's default device was meant for; everything else is made on the CPU."""
    model = Placed(name)
    torch.set_default_device("meta")
    run(model, name, folder, tmp_path)
    assert set(model.devices) == {torch.device("cpu")}


def test_training_goes_on_within_the_same_autocast(name: str, folder: Path, tmp_path: Path) -> None:
    """Autocast remembers the weights that it has cast: not those of before, and not so that they get no gradient."""
    model = open_clip.create_model(name)
    images, weight = torch.rand(2, 3, 32, 32), model.visual.transformer.resblocks[0].mlp.c_fc.weight
    with torch.autocast("cpu", torch.bfloat16):
        model.encode_image(images).sum().backward()
        with torch.no_grad():
            weight.mul_(-1.0)
        found = run(model, name, folder, tmp_path / "within", "runtime.workers=0", "runtime.precision=bf16")
        weight.grad = None
        model.encode_image(images).sum().backward()
    assert weight.grad is not None and float(weight.grad.abs().max()) > 0
    same(found, run(model, name, folder, tmp_path / "after", "runtime.workers=0", "runtime.precision=bf16"))


def half_tower(model: nn.Module) -> nn.Module:
    model.visual.to(torch.bfloat16)  # type: ignore[operator, union-attr]
    return model


def no_text(model: nn.Module) -> nn.Module:
    model.transformer.to("meta")  # type: ignore[operator, union-attr]
    return model


class Raises(Placed):
    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        raise KeyError("patches")


UNFIT: dict[str, tuple[Callable[[nn.Module], nn.Module], str, str]] = {
    "bfloat16 at fp32": (lambda m: m.bfloat16(), "fp32", r"weights are bfloat16 .* set runtime\.precision=bf16, or"),
    "float16 at fp32": (lambda m: m.half(), "fp32", r"weights are float16 .* set runtime\.precision=fp16, or"),
    "bfloat16 at fp16": (lambda m: m.bfloat16(), "fp16", r"set runtime\.precision=bf16, or"),
    "float16 at bf16": (lambda m: m.half(), "bf16", r"set runtime\.precision=fp16, or"),
    "bfloat16 at datacomp": (
        lambda m: m.bfloat16(),
        "datacomp",
        r"weights are bfloat16 .* set runtime\.precision=bf16",
    ),
    "float64 at fp32": (lambda m: m.double(), "fp32", r"weights are float64 .*: give a copy in float32"),
    "float64 at bf16": (lambda m: m.double(), "bf16", r"weights are float64 .*: give a copy in float32"),
    "one tower": (half_tower, "fp32", r"32 of 61 weights are bfloat16 \(visual\.class_embedding first\)"),
    "meta": (lambda m: m.to("meta"), "fp32", r"61 of 61 weights are on the meta device, which holds no numbers"),
    "one tower on meta": (no_text, "bf16", r"24 of 61 weights are on the meta device"),
    "its code fails": (
        lambda m: Raises("local-dir:" + str(m.folder)),
        "fp32",
        r"encode_image fails on one blank image of 32x32 pixels: KeyError: 'patches' \(.*test_surroundings\.py, line",
    ),
}


@pytest.mark.parametrize("which", UNFIT)
def test_what_cannot_be_run_is_one_error_before_an_image_is_decoded(
    which: str, name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: FileImages, position: int) -> bytes:
        raise AssertionError("an image is read")

    monkeypatch.setattr(FileImages, "read", read)
    change, precision, said = UNFIT[which]
    model = open_clip.create_model(name)
    model.folder = name.removeprefix("local-dir:")
    model = change(model)
    before = state()
    with pytest.raises(ClipevalError, match=said):
        run(model, name, folder, tmp_path, "runtime.workers=0", f"runtime.precision={precision}")
    assert state() == before and model.training is True


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16"), (torch.float32, "bf16")]
)
def test_a_model_in_half_precision_is_run_in_it_and_stays_as_it_was(
    dtype: torch.dtype, precision: str, name: str, folder: Path, plain: pd.DataFrame, tmp_path: Path
) -> None:
    model = open_clip.create_model(name).to(dtype)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    found = run(model, name, folder, tmp_path, "runtime.workers=0", f"runtime.precision={precision}")
    scores = [frame[frame["seed"].isna()]["score_1"].to_numpy(float) for frame in (found, plain)]
    assert 0 < float(np.abs(scores[0] - scores[1]).max()) < 1.0, "a hundredth of a cosine"
    assert all(value.dtype == dtype and torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_towers_on_two_devices_are_named(name: str) -> None:
    """Where there is no second device: the one that holds no numbers, in a model that brings them when they are needed."""
    from clipeval.models.trial import device_of, placement

    model = open_clip.create_model(name)
    assert placement(model) == "" and device_of(model) == torch.device("cpu")
    model.transformer.to("meta")
    said = placement(model)
    assert "on cpu, meta, and images and tokens are given to cpu" in said and "move the model to one device" in said
