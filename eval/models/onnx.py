"""Models exported to ONNX, as optimum lays them out: graphs, processor and tokenizer in one folder, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clipeval.configs.errors import ClipevalError, first_line
from clipeval.models.encoder import Encoder
from clipeval.models.handle import digest_files
from clipeval.models.precision import pick_device
from clipeval.models.transformers import HuggingFace
from clipeval.models.transformers_files import Files
from clipeval.models.transformers_towers import padding_of

EXTRA = "pip install 'clipeval[onnx]'"
BOTH = "model.onnx"
IMAGES, TEXTS = ("vision_model.onnx", "visual.onnx", "image_model.onnx"), ("text_model.onnx", "textual.onnx")
FOLDERS = ("", "onnx")
"""Where in the folder the graphs may lie."""
OUTPUTS = {"image": ("image_embeds", "image_embeddings"), "text": ("text_embeds", "text_embeddings")}
"""Of a graph with several outputs."""


class OnnxFiles(Files):
    """The files of an exported model. Its weights are one graph of both towers, or one of each, and what lies beside them."""

    _model = "onnx"

    @property
    def graphs(self) -> dict[str, Path]:
        """{"image": graph, "text": graph}, of those that are here."""
        for folder in (self.folder / name for name in FOLDERS):
            parts = {
                tower: next((folder / name for name in names if (folder / name).is_file()), None)
                for tower, names in (("image", IMAGES), ("text", TEXTS))
            }
            if all(parts.values()):
                return {tower: path for tower, path in parts.items() if path is not None}
            if (folder / BOTH).is_file():
                return {"image": folder / BOTH, "text": folder / BOTH}
        return {}

    @property
    def weights(self) -> list[Path]:
        """The graphs, and the files with their larger tensors (model.onnx_data)."""
        found = dict.fromkeys(self.graphs.values())
        return [path for graph in found for path in (graph, *sorted(graph.parent.glob(f"{graph.name}[._]*")))]

    @property
    def _nothing(self) -> str:
        return f"{self.path} holds neither {BOTH} nor {IMAGES[0]} and {TEXTS[0]}, in itself or in its folder onnx"

    def _fetch_weights(self) -> None:
        for folder in (f"{name}/" if name else "" for name in FOLDERS):
            pairs = [
                next(filter(None, (self._graph(folder + name) for name in names)), None) for names in (IMAGES, TEXTS)
            ]
            if all(pairs) or self._graph(folder + BOTH):
                return
        raise ClipevalError(f"{self._nothing} on the hub")

    def _graph(self, name: str) -> Path | None:
        found = self._fetched(name, self.revision)
        if found is not None:
            self._fetched(f"{name}_data", self.revision)
        return found


class Onnx(HuggingFace):
    """`model=onnx model.path=FOLDER`: what `optimum-cli export onnx` wrote of a CLIP or SigLIP, or ORG/NAME of the hub.

    The processor and the tokenizer are read as those of a transformers folder; the graphs give the embeddings. Graphs compute
    in the precision that they were exported in, which their content says and no option changes.
    """

    _files: OnnxFiles
    _files_of = OnnxFiles

    def __init__(self, path: str, **given: Any) -> None:
        super().__init__(path, **given)
        if self._asked.image_size is not None:
            raise ClipevalError(
                "model.image_size: the image tower of an exported graph cannot be resized; export it anew"
            )
        self.pretrained = self.pretrained or "ONNX"

    @property
    def weights_digest(self) -> str:
        """See `ModelHandle.weights_digest`."""
        self._require()
        return digest_files(self._files.weights, self._cache, {"config": self._config})

    def load(self, device: str | torch.device = "cpu", precision: str = "fp32", compile: bool = False) -> Encoder:
        """See `ModelHandle.load`.

        Raises:
            ClipevalError: also where onnxruntime is not installed, or the precision is another than the graph's own.
        """
        self._require()
        if precision != "fp32" or compile:
            what = "runtime.compile=true" if compile else f"runtime.precision={precision}"
            raise ClipevalError(f"{what}: an exported graph computes as it was exported; leave it out")
        tokenizer, place = self.tokenizer(), pick_device(device)
        padding = padding_of(tokenizer) if self._kind.masked else None
        towers = Graphs(self._files.graphs, padding, place, self._preprocess.shape)
        return Encoder(towers, tokenizer, self._preprocess, place, precision)


class Graphs:
    """The graphs of both towers under open_clip's method names.

    Args:
        paths: {"image": graph, "text": graph}.
        padding: the token that a masked text tower is not to see; None: it is to see all.
        device: where to run.
        shape: of an image, [3, h, w]; None where the transform does not say it.

    Raises:
        ClipevalError: onnxruntime is not installed, or a graph cannot be read or gives no embeddings.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        padding: int | None,
        device: torch.device,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        self._shape = shape
        try:
            import onnxruntime
        except ImportError:
            raise ClipevalError(f"models exported to ONNX need the package onnxruntime: {EXTRA}") from None
        there = onnxruntime.get_available_providers()
        wanted = {"cuda": "CUDAExecutionProvider"}.get(device.type)
        if wanted is not None and wanted not in there:
            raise ClipevalError(
                f"runtime.device={device}: this onnxruntime runs on {', '.join(there)} only; install onnxruntime-gpu, or set "
                "runtime.device=cpu"
            )
        providers = [name for name in (wanted, "CPUExecutionProvider") if name]
        self._padding, sessions = padding, dict[Path, Any]()
        for path in dict.fromkeys(paths.values()):
            try:
                sessions[path] = onnxruntime.InferenceSession(str(path), providers=providers)
            except Exception as problem:  # noqa: BLE001  (onnxruntime's errors derive from Exception alone)
                line = first_line(problem)[:300]
                raise ClipevalError(f"{path} is no ONNX graph that can be run: {line}") from None
        self._sessions = {tower: sessions[path] for tower, path in paths.items()}
        self._outputs = {tower: _output(session, tower, paths[tower]) for tower, session in self._sessions.items()}

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, h, w] to [B, D]."""
        return self._run("image", {"pixel_values": images})

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, L] to [B, D]."""
        seen = torch.ones_like(tokens) if self._padding is None else (tokens != self._padding).long()
        return self._run("text", {"input_ids": tokens, "attention_mask": seen})

    def _run(self, tower: str, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        session = self._sessions[tower]
        inputs = {}
        for node in session.get_inputs():
            tensor = given.get(node.name)
            if tensor is None:  # of a graph of both towers, the other one's: it has to run, too
                kind = torch.float32 if "float" in node.type else torch.int64
                tensor = torch.zeros(_least(node.shape, node.name, self._shape), dtype=kind)
            half = node.type == "tensor(float16)"
            inputs[node.name] = (tensor.half() if half else tensor).cpu().contiguous().numpy()
        try:
            (rows,) = session.run([self._outputs[tower]], inputs)
        except Exception as problem:  # as above
            line = first_line(problem)[:300]
            raise ClipevalError(f"the {tower} graph refuses its input: {line}") from problem
        return torch.from_numpy(rows).to(next(iter(given.values())).device)


def _output(session: Any, tower: str, path: Path) -> str:
    """The name of a graph's embeddings."""
    wanted, inputs = {"image": "pixel_values", "text": "input_ids"}[tower], [node.name for node in session.get_inputs()]
    if wanted not in inputs:
        raise ClipevalError(
            f"{path} takes {', '.join(inputs)}, and {wanted} was expected of a graph for the {tower} tower"
        )
    names = [node.name for node in session.get_outputs()]
    rows = [node.name for node in session.get_outputs() if len(node.shape or ()) == 2]
    found = next((name for name in OUTPUTS[tower] if name in names), None)
    if found is None and len(rows) == 1 and tower in path.name.replace("vision", "image").replace("visual", "image"):
        found = rows[0]
    if found is None:
        raise ClipevalError(
            f"{path} gives {', '.join(names)}, and {OUTPUTS[tower][0]} was expected: export the towers with their projections"
        )
    return str(found)


def _least(shape: Sequence[Any], name: str, image: Sequence[int] | None) -> list[int]:
    """The smallest input that a graph takes: 1 where it takes any number, and a picture's sides as they are fixed; where the
    graph fixes none, as optimum's do not, its positional embedding does: those of an image as it is made."""
    sides = [side if isinstance(side, int) else 1 for side in shape]
    if name == "pixel_values" and any(not isinstance(side, int) for side in shape[1:]):
        sides = [1, *(image or (3, 224, 224))]
    return sides
