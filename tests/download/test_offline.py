"""After `clipeval download` nothing needs a network: real configs, a hub on loopback, then no socket any more."""

from __future__ import annotations

import csv
import io
import json
import socket
import tarfile
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from clipeval.cli.main import main
from clipeval.configs.compose import compose
from clipeval.data import DataConfig, open_split
from clipeval.download import download
from scripts.tiny_model import write_tiny_model

RNG = np.random.default_rng(0)


def image(form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(buffer, form)
    return buffer.getvalue()


def fill(hub, configs: dict[str, DataConfig], scratch: Path) -> None:
    """Miniatures of three repositories, each in the form that the real one has."""
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for i in range(6):
            for name, content in ((f"{i}.webp", image("WEBP")), (f"{i}.cls", str(i % 2).encode())):
                header = tarfile.TarInfo(name)
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    names = {"classnames.txt": b"airplane\ncar\n", "zeroshot_classification_templates.txt": b"a photo of a {c}.\n"}
    hub.push(configs["cifar10"].hub, names | {"test/nshards.txt": b"1", "test/0.tar": shard.getvalue()})

    rows = [
        {"image": {"bytes": image(), "path": f"{i}.jpg"}, "caption": [f"caption {i} {k}" for k in range(5)]}
        for i in range(4)
    ]
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    table.to_parquet(scratch / "0.parquet")
    flickr = {"TEST/test/0000.parquet": (scratch / "0.parquet").read_bytes()}
    hub.push(configs["flickr"].hub, {"flickr_1k.py": b"script"})
    hub.push(configs["flickr"].hub, flickr, branch="refs/convert/parquet")

    words = ["bison", "beard", "flea", "shave", "tea party"]
    text, archive = io.StringIO(), io.BytesIO()
    writer = csv.writer(text)
    writer.writerow(["", "candidates", "cue", "associations", "ID"])
    writer.writerow([0, json.dumps(words), "pogonophile", json.dumps(words[:2]), 0])
    with zipfile.ZipFile(archive, "w") as images:
        for word in words:
            images.writestr(f"winogavil_images/{word}.jpg", image())
    wino = {"winogavil_dataset.csv": text.getvalue().encode(), "winogavil_images.zip": archive.getvalue()}
    hub.push(configs["winogavil"].hub, wino, gated=True)
    hub.tokens.add("hf_token")


def data_config(data) -> DataConfig:
    return DataConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in dict(data).items()})


@pytest.fixture
def tiny_model(tmp_path) -> str:
    return write_tiny_model(tmp_path / "model")


def test_data_and_model_are_used_without_a_socket(hub, tmp_path, tiny_model, monkeypatch):
    from clipeval.models import resolve

    root = tmp_path / "data"
    words = ["suite=datacomp", "model=open_clip", f"model.name='{tiny_model}'", f"data.root={root}"]
    config = compose(words)
    tasks = {name: data_config(config.tasks[name].data) for name in ("cifar10", "flickr", "winogavil")}
    fill(hub, tasks, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    handle = resolve(dict(config.model), tmp_path / "cache")
    report = download(tasks, root, handle)
    assert [row.status for row in report.rows] == ["fetched", "converted", "converted", "reused"]
    hub.requests.clear()

    def forbid(*_, **__):
        raise AssertionError("a socket was used")

    for name in ("connect", "connect_ex", "send", "sendall", "sendto"):
        monkeypatch.setattr(socket.socket, name, forbid)
    monkeypatch.setattr(socket, "getaddrinfo", forbid)

    assert {row.status for row in download(tasks, root, handle).rows} == {"reused"}
    handle = resolve(dict(config.model), tmp_path / "cache")
    assert handle.missing is None
    with handle.load() as encoder:
        for name, count in (("cifar10", 6), ("flickr", 4), ("winogavil", 5)):
            split = open_split(tasks[name], str(root), "test", tmp_path / "cache")
            pixels = [
                handle.preprocess.pixels(split.images.read(i), tasks[name].convert) for i in range(len(split.images))
            ]
            embeddings = encoder.encode_images(torch.stack(pixels))
            assert embeddings.shape == (count, encoder.embed_dim)
        assert encoder.encode_texts(["a photo of a bison"]).shape == (1, encoder.embed_dim)
    run = ["run", "suite=none", *(f"+task@tasks.{name}={name}" for name in tasks), *words[1:]]
    out = [f"out={tmp_path / 'run'}", f"cache.root={tmp_path / 'cache'}", "runtime.workers=0"]
    assert main([*run, *out]) == 0
    assert {path.stem for path in (tmp_path / "run" / "records").iterdir()} == set(tasks)
    assert hub.requests == []
