"""`import open_clip` after clipeval's own: without torch's compiler and wandb, and all of both is there for who asks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import clipeval.models  # noqa: F401  # puts the finder in place

BEGIN = """
import sys
import clipeval.models, clipeval.preprocess
import open_clip
HEAVY = {"torch._dynamo", "torch._inductor", "wandb"}
assert not HEAVY & set(sys.modules), HEAVY & set(sys.modules)
import torch
"""
WANDB = 'VALUE = "of the package"\ndef log(value): return value\n'


def told(code: str, tmp_path: Path) -> str:
    """What a fresh process, with a package `wandb` in its path, prints."""
    package = tmp_path / "wandb"
    package.mkdir()
    (package / "__init__.py").write_text(WANDB)
    (package / "part.py").write_text("PART = 1\n")
    script = tmp_path / "script.py"
    script.write_text(BEGIN + code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_heavy_comes_with_open_clip_and_what_was_postponed_works(tmp_path: Path) -> None:
    code = """
import inspect, timm.layers.typing, timm.utils.summary, torchvision.ops
assert inspect.getmodule(open_clip.create_model) and not HEAVY & set(sys.modules)  # inspect walks over all modules

assert timm.utils.summary.wandb.log(3) == 3
import wandb, wandb.part
assert wandb.VALUE == "of the package" and wandb.part.PART == 1 and timm.utils.summary.wandb.VALUE == wandb.VALUE

boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
assert torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2).shape == (1, 1, 2, 2)
assert sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu") in (True, False)
import torch._dynamo.utils
assert torch._dynamo.utils.counters is not None and torch.compiler.disable.__module__ == "torch.compiler"

# The compiler leaves a marked function alone, as it leaves one marked by itself.
def graphs(mark):
    inner = mark(lambda x: x.sin() + 1)
    seen = []
    torch._dynamo.reset()
    whole = torch.compile(lambda x: inner(x * 2) * 3, backend=lambda graph, inputs: seen.append(graph) or graph)
    assert torch.equal(whole(torch.ones(2)), (torch.ones(2) * 2).sin().add(1) * 3)
    return ["sin" in graph.code for graph in seen]
mine, own = graphs(timm.layers.typing.disable_compiler), graphs(torch.compiler.disable)
assert mine == own == [False, False], (mine, own)
print("fine")
"""
    assert told(code, tmp_path).strip() == "fine"


def test_a_process_that_has_the_compiler_and_wandb_keeps_them(tmp_path: Path) -> None:
    code = """
import torch._dynamo, wandb
import importlib, timm.utils.summary
again = importlib.reload(timm.utils.summary)
assert again.wandb is sys.modules["wandb"] is wandb
assert importlib.reload(sys.modules["timm.layers.typing"]).disable_compiler is torch.compiler.disable
print("fine")
"""
    assert told(code, tmp_path).strip() == "fine"


@pytest.mark.parametrize("name", ["torchvision.ops.roi_align", "timm.layers.typing", "timm.utils.summary"])
def test_the_modules_that_are_waited_for_are_still_there(name: str) -> None:
    """A release that moves one of them would bring the seconds back."""
    from importlib.util import find_spec

    assert find_spec(name) is not None


KERNELS = "len(torch._C._dispatch_get_registrations_for_dispatch_key('Meta'))"


def test_a_command_has_torch_without_shapes_on_the_device_meta_until_a_model_is_built() -> None:
    code = f"""
import sys
from clipeval.preprocess.quick_imports import need_meta_kernels, postpone_meta_kernels
postpone_meta_kernels()
import torch
assert "torch._refs" not in sys.modules and "torch._decomp" not in sys.modules
few = {KERNELS}
{{asked}}
assert torch.ops.aten.cumsum.default(torch.ones(3, 2, device="meta"), 0).shape == (3, 2)
assert torch._meta_registrations is sys.modules["torch._meta_registrations"] and torch._meta_registrations.activate_meta
print(few, {KERNELS})
need_meta_kernels()
"""
    whole = int(_printed(f"import torch; print({KERNELS})"))
    for asked in ("need_meta_kernels()", "import open_clip", "torch._meta_registrations.activate_meta"):
        few, after = map(int, _printed(code.replace("{asked}", asked)).split())
        assert few < whole - 100 and after >= whole, asked


@pytest.mark.parametrize(
    "part", ["_decomp", "_refs.linalg", "_prims", "_inductor", "_subclasses.fake_tensor", "onnx", "optim.adamw"]
)
def test_whoever_asks_for_a_part_of_torch_gets_it_as_torch_has_it(part: str) -> None:
    """Those parts can be imported in one order only, and some of them want the kernels."""
    code = f"""
import torch, sys, importlib
part = importlib.import_module("torch.{part}")
assert part is sys.modules["torch.{part}"] and part.__spec__.name == "torch.{part}"
torch.optim.AdamW([torch.ones(2, requires_grad=True)]).step()  # brings the compiler
print(len(torch._decomp.decomposition_table), {KERNELS})
"""
    later = "from clipeval.preprocess.quick_imports import postpone_meta_kernels\npostpone_meta_kernels()\n"
    assert _printed(later + code) == _printed(code)


def test_torch_that_is_imported_already_stays_as_it_is() -> None:
    code = "import torch, sys\nfrom clipeval.cli.main import main\nmain(['list', 'models'])\nassert 'torch._refs' in sys.modules"
    assert _printed(code)


def _printed(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
