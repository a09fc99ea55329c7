"""Sets of pairs from the hub: tables and pictures as their makers keep them, or parquet of one split."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipeval.cli.main import main
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.data.lock import read_lock
from clipeval.data.split import open_split
from clipeval.engine.plan import data_config


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_table_and_pictures_are_fetched_as_they_are(hub, tmp_path) -> None:
    """MMVP-VLM; a zip or a CSV beside them is no reason to convert anything, and the hub's own conversion is not asked for."""
    rows = "Question ID,Type,Statement\n1,Texts,one\n2,Texts,two\n"
    files = {"README.md": b"", "Questions.csv": rows.encode(), "MLLM_VLM Images/Texts/1.jpg": picture(1)}
    files["MLLM_VLM Images/Texts/2.jpg"] = picture(2)
    hub.push("MMVP/MMVP_VLM", files)
    hub.push("MMVP/MMVP_VLM", {"default/test/0000.parquet": b""}, branch="refs/convert/parquet")
    words = ["download", "--no-model", "suite=none", "task=mmvp_vlm", f"data.root={tmp_path}"]
    assert main(words) == 0
    folder = tmp_path / "MMVP--MMVP_VLM"
    lock = read_lock(folder)
    assert lock is not None
    assert (lock.form, set(lock.files)) == ("files", set(files) - {"README.md"})
    node = compose(words[2:]).tasks.mmvp_vlm
    split = open_split(data_config(node), str(tmp_path), "test", None)
    assert split.samples.instances == [
        {
            "id": "0",
            "images": ["MLLM_VLM Images/Texts/1.jpg", "MLLM_VLM Images/Texts/2.jpg"],
            "captions": ["a photo of one", "a photo of two"],
            "group": "Texts",
        }
    ]
    hub.requests.clear()
    assert main(words) == 0
    assert hub.requests == []
    (folder / "Questions.csv").write_text(rows.replace("two", "three"))
    with pytest.raises(ClipevalError, match=r"Questions\.csv is not what was downloaded"):
        open_split(data_config(node), str(tmp_path), "test", None)


def test_of_parquet_the_tasks_split(hub, tmp_path, capsys) -> None:
    cells = {"image_1": picture(1), "image_2": picture(2)}
    row = {
        **{k: {"bytes": v, "path": None} for k, v in cells.items()},
        "caption_1": "a red cup",
        "caption_2": "a blue cup",
    }
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row]), sink)
    files = {f"data/{split}-00000-of-00001.parquet": sink.getvalue() for split in ("train", "test")}
    hub.push("stanfordnlp/colorswap", files, gated=True)
    words = ["download", "--no-model", "suite=none", "task=colorswap", f"data.root={tmp_path}"]
    assert main(words) == 1  # its terms have to be accepted first
    hub.repos["stanfordnlp/colorswap"].gated = False
    hub.repos["stanfordnlp/colorswap"].licence = "cc-by-nc-4.0"
    capsys.readouterr()
    assert main(words) == 0
    assert "licence cc-by-nc-4.0" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    lock = read_lock(tmp_path / "stanfordnlp--colorswap")
    assert lock is not None
    assert list(lock.files) == ["data/test-00000-of-00001.parquet"]
    split = open_split(data_config(compose(words[2:]).tasks.colorswap), str(tmp_path), "test", None)
    assert [split.images.read(i) for i in range(2)] == list(cells.values())
    assert split.samples.keys == ["00000000-image_1", "00000000-image_2"]
