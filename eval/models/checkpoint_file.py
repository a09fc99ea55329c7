"""Checkpoint files, read without running anything that they hold.

A pickle goes through `torch.load(weights_only=True)`, always. What it holds beside tensors may be of a class that is not allowed
there. Plain data that training scripts keep (an argparse.Namespace, a NumPy scalar, a path, Lightning's hyperparameters) is
replaced by an empty object of our own, whose class is never imported; anything else is refused by its name. A TorchScript
archive is read in the same way: its tensors, and none of its code.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from clipeval.configs.errors import ClipevalError
from clipeval.configs.naming import CHECKPOINT_SUFFIXES
from clipeval.results import safe_json

LFS = b"version https://git-lfs.github.com/spec/"
"""What Git leaves in the place of a large file."""
INDEX = ".index.json"
"""What the name of a sharded checkpoint's index ends with: model.safetensors.index.json, pytorch_model.bin.index.json."""

LEGACY_PICKLES = 5
"""How many pickles in a row a file of torch before 1.6 holds."""

_DATA = re.compile(
    r"""builtins\.(int|float|bool|str|bytes|list|tuple|dict|frozenset|object|slice|range)
      | argparse\.Namespace | types\.SimpleNamespace
      | pathlib\.(Pure)?(Posix|Windows)?Path | pathlib\._local\.\w+Path
      | datetime\.(datetime|date|time|timedelta|timezone) | decimal\.Decimal | uuid\.UUID
      | numpy\.(_?core\.multiarray\.(scalar|_reconstruct) | ndarray | dtype | dtypes\.\w+ | random\.\w+(\.\w+)?)
      | omegaconf\.\w+(\.\w+)* | typing\.Any | enum\.\w+
      | (pytorch_lightning|lightning|lightning_fabric|lightning_utilities)\.[\w.]*(AttributeDict|ModelCheckpoint|EarlyStopping)
      | (pytorch_lightning|lightning)\.[\w.]*(TrainerFn|RunningStage|TrainerStatus|CheckpointConnector)
      | torch\.distributed\.fsdp\.api\.\w+ | torch\.torch_version\.TorchVersion
      | deepspeed\.runtime\.fp16\.loss_scaler\.\w+ | deepspeed\.runtime\.zero\.config\.\w+ | deepspeed\.utils\.\w+\.\w+""",
    re.VERBOSE,
)
"""Classes and functions that only make data. None of them is imported: their objects are left empty."""
_MAPPINGS = re.compile(
    r"collections\.(defaultdict|UserDict)|[\w.]*\.AttributeDict|easydict\.EasyDict|addict\.\w+\.Dict"
)
"""Those whose objects are filled as a dict is."""


class Inert:
    """Stands in a checkpoint for an object whose class was not imported. `state` is what the object held."""

    state: Any = None

    def __new__(cls, *given: Any, **named: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *given: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _mapping(*given: Any) -> OrderedDict[Any, Any]:
    """In the place of a class of dicts."""
    return OrderedDict()


# What `weights_only` recognises as the class of a stand-in that was called by one of these names.
_mapping.__module__ = __name__


def checkpoint_in(path: Path) -> Path:
    """The checkpoint that a path names: a file, or the one in a folder.

    Raises:
        ClipevalError: there is none, there are several, or it is of a form that holds no whole model.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise ClipevalError(f"the checkpoint {path} is not there")
    files = sorted(child for child in path.iterdir() if child.is_file() and not child.name.startswith("."))
    for found in (
        [file for file in files if file.name.endswith(f".safetensors{INDEX}")],
        [file for file in files if file.name.endswith(INDEX)],
        [file for file in files if file.name.endswith("_model_states.pt")],
        [file for file in files if file.suffix in CHECKPOINT_SUFFIXES and not file.name.endswith("_optim_states.pt")],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            raise ClipevalError(f"{path} holds several checkpoints ({_some(found)}); name one of them")
    if any(file.suffix == ".distcp" for file in path.rglob("*.distcp")):
        raise ClipevalError(
            f"{path} is a checkpoint of torch.distributed in shards; join them first, with `python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} joined.pt`"
        )
    raise ClipevalError(f"{path} holds no checkpoint ({', '.join(CHECKPOINT_SUFFIXES)} or *{INDEX})")


def files_of(path: Path) -> list[Path]:
    """Every file of a checkpoint: itself, and the shards that an index names.

    Raises:
        ClipevalError: the index cannot be read, or a shard is missing.
    """
    return [path, *dict.fromkeys(_shards(path).values())] if path.name.endswith(INDEX) else [path]


def read_checkpoint(path: Path) -> Any:
    """What a checkpoint file holds: mappings, lists and tensors (on the CPU); `Inert` in the place of other objects.

    Raises:
        ClipevalError: the file is damaged, or holds code.
    """
    if path.suffix in (".npz", ".npy"):
        raise ClipevalError(f"{path} is a big_vision checkpoint; convert it to .safetensors first")
    if path.name.endswith(INDEX):
        return _read_shards(path)
    refuse_pointer(path)
    others = [other.name for other in path.parent.glob("mp_rank_*_model_states.pt") if other.name != path.name]
    if others and re.fullmatch(r"mp_rank_\d+_model_states\.pt", path.name):
        raise ClipevalError(
            f"{path} is one part of a model that DeepSpeed or Megatron split ({', '.join(sorted(others)[:3])} beside it); join "
            "the parts first, with the tool of the training code"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if is_torchscript(path):
            return _read_torchscript(path)
        return _read_pickle(path)
    except pickle.UnpicklingError as error:
        raise ClipevalError(_refused(path, error)) from None
    except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        text = str(error)
        cut = "PytorchStreamReader" in text or "central directory" in text or "unexpected eof" in text.lower()
        raise ClipevalError(
            f"{path} is {'truncated or damaged' if cut else 'no checkpoint that can be read'}: {_line(error)}; fetch or save it "
            "anew"
        ) from None
    except Exception as error:  # safetensors' own error derives from Exception alone
        if type(error).__module__.startswith("safetensors"):
            raise ClipevalError(f"{path} is truncated or no safetensors file ({_line(error)}): fetch it anew") from None
        raise


def refuse_pointer(path: Path) -> None:
    """ClipevalError where a file is what Git LFS leaves in the place of a large one, or a page that a browser would show."""
    try:
        with path.open("rb") as file:
            begin = file.read(64)
    except OSError:
        return  # whoever reads it says what is wrong
    if begin.startswith(LFS):
        raise ClipevalError(
            f"{path} is a pointer of Git LFS, and not the file that it stands for: run `git lfs pull` in that folder, or fetch the "
            "file anew (hf download)"
        )
    if begin.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ClipevalError(
            f"{path} is a page of the web ({begin[:15].decode(errors='replace')}…), and not the file: fetch it anew, from the "
            "address that a browser downloads it from"
        )


def is_torchscript(path: Path) -> bool:
    """Whether a file is what torch.jit.save wrote, such as OpenAI's own archives."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/")[-1] == "constants.pkl" for name in archive.namelist())


def torchscript_says(path: Path, word: str) -> bool:
    """Whether a TorchScript archive's sources hold a word. They are read as text."""
    if not is_torchscript(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if "/code/" in name and name.endswith(".py")]
        return any(word.encode() in archive.read(name) for name in names)


def _read_pickle(path: Path) -> Any:
    """Through weights_only, with stand-ins for plain data."""
    with torch.serialization.safe_globals(_stand_ins(_foreign(path))):
        return torch.load(path, map_location="cpu", weights_only=True)


def _foreign(path: Path) -> list[str]:
    """The classes and functions that a pickle names and weights_only does not know; of a file cut short, none."""
    if zipfile.is_zipfile(path):
        return torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    names: set[str] = set()
    with path.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            try:
                names |= torch._weights_only_unpickler.get_globals_in_pkl(file)
            except (ValueError, EOFError, pickle.UnpicklingError):
                break  # no pickle, or one that torch.load will refuse
    known = torch._weights_only_unpickler._get_allowed_globals()
    return sorted(name for name in names if name not in known)


def _stand_ins(names: list[str]) -> list[Any]:
    inert = [(Inert, name) for name in names if _DATA.fullmatch(name) and not _MAPPINGS.fullmatch(name)]
    return [*inert, *((_mapping, name) for name in names if _MAPPINGS.fullmatch(name))]


def _read_torchscript(path: Path) -> Any:
    """An archive's modules as `Inert` objects with their attributes. Its code is not loaded."""
    reader = torch._C.PyTorchFileReader(str(path))
    content = reader.get_record("data.pkl")
    names = torch._weights_only_unpickler.get_globals_in_pkl(io.BytesIO(content))
    modules: list[Any] = [(Inert, name) for name in sorted(names) if name.startswith("__torch__.")]
    with torch.serialization.safe_globals(modules):
        load: Any = torch.serialization._load  # torch.load itself hands such an archive to torch.jit.load, or refuses
        return load(reader, "cpu", torch._weights_only_unpickler, weights_only=True, encoding="utf-8")


def _shards(index: Path) -> dict[str, Path]:
    try:
        names = safe_json.read(index)["weight_map"]
        found = {str(key): index.parent / str(name) for key, name in names.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClipevalError(f"{index} is no index with a `weight_map`: {error!r}") from None
    for shard in dict.fromkeys(found.values()):
        if shard.parent != index.parent or not shard.is_file():
            raise ClipevalError(f"{index} names the shard {shard.name}, which does not lie beside it; fetch it again")
    return found


def _read_shards(index: Path) -> dict[str, Any]:
    wanted, found = _shards(index), {}
    for shard in dict.fromkeys(wanted.values()):
        content = read_checkpoint(shard)
        if not isinstance(content, Mapping):
            raise ClipevalError(f"{shard} is no shard of a state dict: it holds a {type(content).__name__}")
        for name, tensor in content.items():
            if wanted.get(name) == shard:
                found[name] = tensor
    lost = [name for name in wanted if name not in found]
    if lost:
        raise ClipevalError(
            f"{index} names {len(lost)} weights that its shards lack, such as {lost[0]!r} in {wanted[lost[0]].name}: "
            "the shards are of another checkpoint, or one is damaged; fetch them again"
        )
    return found


def tensors_in(content: Any) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    """Every named tensor of a checkpoint, with the names that lead to it: `("state_dict", "visual.conv1.weight")`."""

    def walk(
        value: Any, path: tuple[str, ...], above: tuple[int, ...]
    ) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
        if isinstance(value, torch.Tensor):
            yield path, value
            return
        if isinstance(value, Inert):
            value = value.state
        if not isinstance(value, Mapping) or id(value) in above:
            return
        for name, item in value.items():
            if isinstance(name, str):
                yield from walk(item, (*path, name), (*above, id(value)))

    return walk(content, (), ())


def _refused(path: Path, error: Exception) -> str:
    text = str(error)
    found = re.search(
        r"(?:Unsupported global: |unsupported )GLOBAL ([\w.]+)|Unsupported (?:class|operand) ([\w.]+)", text
    )
    if "weights_only" in text.lower() or "Unsupported" in text or found:
        named = next((name for name in found.groups() if name and not name.isdigit()), None) if found else None
        what = f" ({named})" if named else ""
        return (
            f"{path} holds more than weights{what}; unpickling it could run code, so it is refused."
            " Save the state_dict() alone, best as .safetensors, and give that"
        )
    return f"{path} is no checkpoint that can be read: {_line(error)}"


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def _some(files: list[Path]) -> str:
    return ", ".join(file.name for file in files[:5]) + (", …" if len(files) > 5 else "")
