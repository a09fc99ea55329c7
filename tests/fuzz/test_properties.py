"""Properties that hold for any input: the tar index against tarfile, the words of a command line, damaged records."""

from __future__ import annotations

import io
import json
import random
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.data.tar_index import index_tars
from clipeval.results.records import DamagedRecord, read_record
from tests.fuzz.fuzz_tar_index import campaign, mutate
from tests.results.factory import run as write_run

IMAGES = ("webp", "png", "jpg", "jpeg", "JPG")
KEY = st.text(st.characters(blacklist_characters="./\0", blacklist_categories=["Cs"]), min_size=1, max_size=40)
SAMPLE = st.tuples(
    st.sampled_from(IMAGES),
    st.binary(max_size=1500),
    st.none() | st.integers(0, 1000),
    st.none() | st.text(max_size=30),
    st.none() | st.lists(st.integers(-(2**62), 2**62), max_size=5),
)
FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEY, SAMPLE, max_size=6), FORMATS, st.booleans())
def test_index_says_what_tarfile_says(samples: dict, kind: int, others: bool) -> None:
    if kind == tarfile.USTAR_FORMAT:
        samples = {key: value for key, value in samples.items() if len(key.encode()) < 90}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for key, (extension, data, label, text, values) in samples.items():
            add(f"{key}.{extension}", data)
            if others:
                add(f"{key}.json", b"{")
            if label is not None:
                add(f"{key}.cls", str(label).encode())
            if text is not None:
                add(f"{key}.txt", text.encode())
            if values is not None:
                array = io.BytesIO()
                np.save(array, np.array(values, dtype=np.int64))
                add(f"{key}.npy", array.getvalue())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "0.tar")
        path.write_bytes(buffer.getvalue())
        for _ in range(2):  # read, then from the cache
            (index,) = index_tars([path], Path(folder, "cache"))
            assert index.keys == list(samples)
            whole = buffer.getvalue()
            rows = zip(samples.values(), index.offset, index.size, index.cls, index.txt, index.npy, strict=True)
            for (_, data, label, text, values), offset, size, cls, txt, npy in rows:
                assert whole[offset : offset + size] == data
                assert cls == (None if label is None else str(label))
                assert txt == text
                assert (npy is None) == (values is None)
                assert npy is None or npy.tolist() == values


def test_mutated_tars_give_an_index_or_one_error(tmp_path: Path) -> None:
    tried, sound = campaign(5, seed=1, folder=tmp_path)
    assert 0 < sound < tried, "both kinds were met"


WORD = st.one_of(
    st.text(max_size=30),
    st.builds(
        "{}={}".format,
        st.sampled_from(
            ["model", "suite", "task", "tasks.x", "data.root", "out", "runtime.workers", "slurm.array", "resume"]
        ),
        st.text(max_size=15),
    ),
    st.builds(
        "{}{}={}".format,
        st.sampled_from(["+", "++", "~", ""]),
        st.text("abc._@:-", max_size=10),
        st.text("1a[]{}'\",$", max_size=8),
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(WORD, max_size=2))
def test_any_words_compose_or_give_one_error(words: list[str]) -> None:
    try:
        config = compose(words)
    except ClipevalError as problem:
        assert str(problem).strip()
        return
    assert config.tasks is not None
    assert isinstance(config.runtime.deterministic, bool)


def test_a_damaged_record_is_never_a_wrong_one(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    task = folder.tasks()[0]
    path = folder.path / "records" / f"{task}.json"
    whole = path.read_bytes()
    truth = read_record(path).to_json()
    random_, refused = random.Random(0), 0
    for _ in range(1500):
        path.write_bytes(mutate(whole, random_))
        try:
            found = read_record(path)
        except ClipevalError as problem:  # damaged, or (its schema field hit) of another schema
            assert isinstance(problem, DamagedRecord) or "schema" in str(problem)
            refused += 1
            continue
        assert found.to_json() == truth, "only what changes nothing (white space) may be read"
    assert refused > 1000
    path.write_bytes(json.dumps(json.loads(whole)).encode())
    assert read_record(path).to_json() == truth
    path.write_bytes(whole.replace(b'"samples": ', b'"samples": 1', 1))
    with pytest.raises(DamagedRecord, match="digest"):
        read_record(path)
