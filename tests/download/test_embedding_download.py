"""Sets that are scored on embeddings, from the hub: parquet of the split that is asked for, of each of MTEB's three tables."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from clipeval.cli.main import main
from clipeval.configs.compose import compose
from clipeval.data.config import data_config
from clipeval.data.lock import read_lock
from clipeval.data.split import open_split


def picture(seed: int) -> dict[str, object]:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def parquet(rows: list[dict[str, object]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def opened(task: str, root, hub, files: dict[str, bytes], name: str):
    """The split that a task has after `clipeval download`, and the files that were fetched for it."""
    hub.push(name, files)
    words = ["suite=none", f"task={task}", f"data.root={root}", "task.data.revision=null"]
    assert main(["download", "--no-model", *words]) == 0
    lock = read_lock(root / name.replace("/", "--"))
    assert lock is not None
    node = compose(words).tasks[task]
    split = node.splits[-1]
    return open_split(data_config(node), str(root), split, None), set(lock.files)


def test_mtebs_three_tables(hub, tmp_path) -> None:
    rows = {
        "corpus": [{"id": f"c{i}", "image": picture(i)} for i in range(3)],
        "queries": [{"id": "q0", "image": picture(0)}],
        "data": [{"query-id": "q0", "corpus-id": "c2", "score": 1}],
    }
    files = {f"{part}/test-00000-of-00001.parquet": parquet(several) for part, several in rows.items()}
    train = {f"{part}/train-00000-of-00001.parquet": files[f"{part}/test-00000-of-00001.parquet"] for part in rows}
    split, fetched = opened("cub200", tmp_path, hub, {**files, **train}, "mteb/cub200_retrieval")
    assert fetched == set(files)
    assert len(split.images) == 3  # the query is a document too, and embedded once
    assert list(split.samples.metadata["documents"]) == [("c0",), ("c1",), ("c2",)]
    key = split.samples.keys[0]
    assert split.samples.instances == [{"id": "q0", "images": [key], "relevant": {"c2": 1.0}}]


def test_rendered_sentences_and_clusters(hub, tmp_path) -> None:
    pair = [{"sentence1": picture(i), "sentence2": picture(i + 5), "score": i / 2} for i in range(3)]
    files = {"data/test-00000-of-00001.parquet": parquet(pair)}
    split, fetched = opened("visual_sts12", tmp_path, hub, files, "mteb/rendered-sts12")
    assert fetched == set(files)
    assert [one["score"] for one in split.samples.instances or ()] == [0, 0.5, 1]
    labelled = [{"image": picture(i), "label": i % 2} for i in range(4)]
    files = {f"data/{split}-00000-of-00001.parquet": parquet(labelled) for split in ("train", "valid")}
    split, fetched = opened("mieb_tiny_imagenet", tmp_path, hub, files, "mteb/tiny-imagenet")
    assert fetched == {"data/valid-00000-of-00001.parquet"}
    assert split.samples.labels is not None and split.samples.labels.tolist() == [0, 1, 0, 1]
