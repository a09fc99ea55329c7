"""A miniature of each set that is scored on embeddings alone, in its makers' layout, through the command line.

What is expected is computed here from the files, in the words of each set's own program, with open_clip's own transform.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn import cluster, metrics

from clipeval.cli.main import main
from clipeval.data.lock import Lock, write_lock
from scripts.tiny_model import write_tiny_model


def picture(seed: int, form: str = "PNG", size: tuple[int, int] = (48, 40)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


class Bench:
    """The model, as open_clip has it, and the root that the sets are written to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        write_tiny_model(root / "model")
        self.name = f"local-dir:{root / 'model'}"
        model, _, self.transform = open_clip.create_model_and_transforms(self.name)
        self.model, self.tokenizer = model.eval(), open_clip.get_tokenizer(self.name)

    @torch.no_grad()
    def images(self, sources: Sequence[bytes | Image.Image]) -> np.ndarray:
        opened = [one if isinstance(one, Image.Image) else Image.open(io.BytesIO(one)) for one in sources]
        rows = [self.model.encode_image(self.transform(one.convert("RGB"))[None])[0] for one in opened]
        return F.normalize(torch.stack(rows), dim=-1).numpy()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        rows = [self.model.encode_text(self.tokenizer([text]))[0] for text in texts]
        return F.normalize(torch.stack(rows), dim=-1).numpy()

    def parquet(self, path: str, rows: list[dict[str, Any]]) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), target)
        folder = path.partition("/")[0]
        if "--" in folder:  # what `clipeval download` leaves beside a hub's files
            write_lock(self.root / folder, Lock(folder.replace("--", "/"), None, None, "files", {}))

    def run(self, *words: str, out: str = "run") -> dict[str, dict[str, Any]]:
        how = [f"data.root={self.root}", f"out={self.root / out}", f"cache.root={self.root / 'cache'}"]
        model = ["model=open_clip", f"model.name={self.name}", "runtime.workers=0", "runtime.device=cpu"]
        assert main(["run", *words, *model, *how]) == 0
        records = (self.root / out / "records").glob("*.json")
        return {path.stem: json.loads(path.read_text()) for path in records}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("embeddings"))


def cell(data: bytes) -> dict[str, Any]:
    return {"bytes": data, "path": None}


CLUSTERING = {
    "mieb_cifar10": ("mteb--cifar10", "test", "img", "label"),
    "mieb_cifar100": ("mteb--cifar100", "test", "img", "fine_label"),
    "mieb_imagenet10": ("mteb--imagenet-10", "test", "image", "label"),
    "mieb_imagenet_dog15": ("mteb--imagenet-dog-15", "test", "image", "label"),
    "mieb_tiny_imagenet": ("mteb--tiny-imagenet", "valid", "image", "label"),
}


def test_clustering_as_mteb_has_it(bench: Bench) -> None:
    words, labels, drawn = [], {}, {}
    for number, (task, (folder, split, image, label)) in enumerate(CLUSTERING.items()):
        labels[task] = [(i * 7 + number) % (3 + number) for i in range(40)]
        drawn[task] = [picture(100 * number + one * 3 + i % 3) for i, one in enumerate(labels[task])]
        rows = [{image: cell(data), label: one} for data, one in zip(drawn[task], labels[task], strict=True)]
        bench.parquet(f"{folder}/data/{split}-00000-of-00001.parquet", rows)
        words.append(f"+task@tasks.{task}={task}")
    found = bench.run("suite=none", *words, out="clustering")
    assert set(found) == set(CLUSTERING)
    for task, record in found.items():
        rows = bench.images(drawn[task])
        fitted = cluster.MiniBatchKMeans(
            n_clusters=len(set(labels[task])), batch_size=500, n_init="auto", random_state=42
        ).fit(rows)
        expected = metrics.normalized_mutual_info_score(labels[task], fitted.labels_)
        assert record["metrics"]["nmi"] == pytest.approx(expected, abs=1e-6), task
        low, high = record["intervals"]["nmi"]
        assert low <= record["metrics"]["nmi"] <= high


def test_any_classification_can_be_clustered_and_no_text_is_embedded(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(24):
        path = bench.root / "mine" / f"class {i % 3}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i))
    mine = ["task=folder", f"task.data.path={bench.root / 'mine'}"]
    bench.run(*mine, out="plain")
    capsys.readouterr()
    how = [f"cache.root={bench.root / 'cache'}", "model=open_clip", f"model.name={bench.name}", "runtime.device=cpu"]
    assert main(["plan", *mine, "protocol=clustering", *how, f"out={bench.root / 'clustered'}"]) == 0
    assert "To embed: 0 images and 0 prompts" in " ".join(capsys.readouterr().out.split())
    found = bench.run(*mine, "protocol=clustering", out="clustered")
    assert found["folder-clustering"]["metric"] == "nmi"
    assert main(["verify", str(bench.root / "clustered")]) == 0
