"""The faults: each does its damage, runs the command line end to end, and asserts one clear error or a full recovery."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from scripts.tiny_model import write_tiny_model
from tests.faults.bench import HURT, SAMPLES, TASKS, Bench
from tests.faults.server import Done

Case = Callable[[Bench], str]
CASES: dict[str, Case] = {}
"""{name: what to do}; each returns, in a few words, how it ended."""


class Skipped(Exception):  # noqa: N818
    """A fault that cannot be tried here, and why."""


def case(name: str) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES[name] = function
        return function

    return add


def refused(done: Done, pattern: str) -> str:
    """Asserts one clear error, and gives its first line."""
    assert done.status == 1, f"status {done.status}, not 1: {done.err[-600:]}"
    assert "Traceback" not in done.err, done.err[-1500:]
    line = next((line for line in done.err.splitlines() if line.startswith("clipeval: ")), "")
    text = done.err[done.err.index("clipeval: ") :] if line else done.err
    assert re.search(pattern, text, re.DOTALL), f"/{pattern}/ is not in: {text[-600:]}"
    return "refused: " + " ".join(text.split())[10:130]


def recovered(bench: Bench, done: Done, what: str = "recovered") -> str:
    """Asserts a run that ended well with the undisturbed run's records."""
    assert done.status == 0, f"status {done.status}: {done.err[-1500:]}"
    bench.whole()
    return what


# -- stopped ---------------------------------------------------------------------------------------------------------


@case("SIGKILL at random moments, then resume")
def sigkill(bench: Bench) -> str:
    early = 0
    for _ in range(bench.kills):
        bench.fresh()
        done = bench.run(kill_after=bench.random.uniform(0, bench.seconds))
        early += done.status == -9
        before = {p: p.stat().st_mtime_ns for p in (bench.place / "run" / "records").glob("[!.]*.json")}
        done = bench.run()
        recovered(bench, done)
        assert all(p.stat().st_mtime_ns == time for p, time in before.items()), "what was finished was done again"
    return f"{early} of {bench.kills} killed before their end; all records equal"


@case("SIGKILL again and again on one folder")
def sigkill_repeated(bench: Bench) -> str:
    bench.fresh()
    for _ in range(bench.kills):
        bench.run(kill_after=bench.random.uniform(0, bench.seconds))
    return recovered(bench, bench.run(), f"{bench.kills} kills in a row; records equal")


@case("SIGTERM and SIGINT")
def sigterm(bench: Bench) -> str:
    for name, everyone in product(
        ("SIGTERM", "SIGINT"), (False, True)
    ):  # a terminal and Slurm send them to the decoders, too
        bench.fresh()
        done = bench.run(kill_after=bench.seconds * 0.6, signal=name, everyone=everyone)
        assert done.status in (130, 0), f"{name}: status {done.status}: {done.err[-800:]}"
        if done.status == 130:
            assert "the same command goes on" in done.err
            assert "Traceback" not in done.err, done.err[-800:]
        recovered(bench, bench.run())
    return "stops with status 130 and says how to go on; resumed"


@case("8 processes at once on one folder")
def eight(bench: Bench) -> str:
    bench.fresh()
    for done in bench.server.run_all([{"words": bench.words()}] * 8):
        assert done.status == 0, done.err[-800:]
    bench.whole()
    left = [p for p in bench.place.rglob("*") if p.name.endswith((".tmp", ".lock"))]
    assert not left, left
    assert not list((bench.place / "run" / "status").iterdir())
    return "all ended well; one valid record each, nothing left behind"


@case("a decoder killed by the kernel")
def decoder(bench: Bench) -> str:
    bench.fresh()
    for hook in ("kill_a_decoder", "kill_a_decoder_while_weights_load"):
        how = refused(bench.run(hook=hook), "a decoder process died.*runtime.workers")
    recovered(bench, bench.run())
    return how


@case("out of memory on the device")
def memory(bench: Bench) -> str:
    bench.fresh()
    done = bench.run(hook="little_memory")
    assert "batches of 4" in done.err, done.err[-600:]
    recovered(bench, done)
    bench.fresh()
    refused(bench.run(hook="no_memory"), "does not hold one image")
    return "batches halved until they fit; refused where one image does not"


@case("a clock that jumps")
def clock(bench: Bench) -> str:
    bench.fresh()
    recovered(bench, bench.run(hook="jumping_clock"))
    for number, path in enumerate(sorted(p for p in (bench.place / "run").rglob("*") if p.is_file())):
        os.utime(path, (0, 0) if number % 2 else (4e9, 4e9))
    done = bench.run(hook="jumping_clock")
    assert "all results are up to date" in done.err, done.err[-600:]
    return recovered(bench, done, "no difference; nothing computed again")


# -- disks -----------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system in memory, of the given size."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Skipped(f"mounting wants root ({done.stderr.strip()[:60]})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def remount(place: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True)


@case("a full disk")
def full(bench: Bench) -> str:
    bench.fresh()
    with small_disk(bench.place / "disk", "64m") as disk:
        out = (f"out={disk / 'run'}",)
        assert bench.run(*out, tasks=TASKS[:1]).status == 0
        (disk / "ballast").write_bytes(b"\0" * (63 << 20))
        with suppress(OSError), (disk / "more").open("wb", buffering=0) as file:  # until it is full
            while True:
                file.write(b"\0" * 4096)
        how = refused(bench.run(*out), "No space left.*make room")
        assert bench.records(disk / "run") == {TASKS[0]: bench.truth[TASKS[0]]}
        (disk / "ballast").unlink()
        done = bench.run(*out)
        assert done.status == 0, done.err
        assert bench.records(disk / "run") == bench.truth
    return how


@case("a disk that fills with embeddings")
def full_cache(bench: Bench) -> str:
    bench.fresh()
    with small_disk(bench.place / "disk", "16k") as disk:
        how = refused(bench.run(f"cache.root={disk}"), "No space left")
        remount(disk, "size=64m")
        done = bench.run(f"cache.root={disk}")
        recovered(bench, done)
    return how


@case("a read-only folder")
def read_only(bench: Bench) -> str:
    bench.fresh()
    with small_disk(bench.place / "disk", "64m") as disk:
        out = (f"out={disk / 'run'}",)
        assert bench.run(*out, tasks=TASKS[:1]).status == 0
        remount(disk, "ro")
        how = refused(bench.run(*out), "[Rr]ead-only file system.*out=")
        assert bench.records(disk / "run") == {TASKS[0]: bench.truth[TASKS[0]]}
    return how


# -- data ------------------------------------------------------------------------------------------------------------


def members(tar: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(tar) as file:
        return [(m.name, file.extractfile(m).read()) for m in file]  # type: ignore[union-attr]


def write(tar: Path, content: list[tuple[str, bytes]]) -> None:
    with tarfile.open(tar, "w") as file:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def shard(bench: Bench) -> Path:
    return bench.hurt / "test" / "0.tar"


def hurt(bench: Bench, damage: Callable[[Path], None], pattern: str) -> str:
    """Finishes one task, damages the other's data, and asserts that it is refused and the first one stands."""
    bench.fresh()
    assert bench.run(tasks=TASKS[:1]).status == 0
    damage(shard(bench))
    how = refused(bench.run(), pattern)
    bench.kept()
    assert HURT not in bench.records()
    return how


def with_image(data: bytes) -> Callable[[Path], None]:
    """Damage: the shard's third image is `data`."""

    def damage(tar: Path) -> None:
        content = members(tar)
        places = [i for i, (name, _) in enumerate(content) if not name.endswith((".cls", ".npy", ".txt"))]
        name = content[places[2]][0]
        content[places[2]] = (name, data)
        write(tar, content)

    return damage


def png(size: tuple[int, int]) -> bytes:
    """A PNG that declares a size, and holds next to nothing."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


@case("a truncated tar")
def truncated(bench: Bench) -> str:
    return hurt(bench, lambda tar: tar.write_bytes(tar.read_bytes()[:-12_000]), r"0\.tar is not a whole tar.*download")


@case("a tar with a bit flipped in a header")
def flipped_header(bench: Bench) -> str:
    def damage(tar: Path) -> None:
        with tarfile.open(tar) as file:
            offset = file.getmembers()[4].offset
        data = bytearray(tar.read_bytes())
        data[offset + 125] ^= 4
        tar.write_bytes(bytes(data))

    return hurt(bench, damage, r"0\.tar is not a whole tar")


@case("a tar with a bit flipped in an image")
def flipped_image(bench: Bench) -> str:
    def damage(tar: Path) -> None:
        with tarfile.open(tar) as file:
            offset = next(m.offset_data for m in file if m.name.endswith(".png"))
        data = bytearray(tar.read_bytes())
        data[offset + 2] ^= 64
        tar.write_bytes(bytes(data))

    return hurt(bench, damage, r"0\.tar, key 's\d+'.*on_error=skip")


@case("a tar that changes after it was indexed")
def changed(bench: Bench) -> str:
    bench.fresh()
    assert bench.run().status == 0
    with tarfile.open(shard(bench)) as file:
        offset = next(m.offset_data for m in file if m.name.endswith(".cls"))
    data = bytearray(shard(bench).read_bytes())
    data[offset] = ord("0") if data[offset] != ord("0") else ord("1")
    shard(bench).write_bytes(bytes(data))
    done = bench.run("resume=refuse")
    how = refused(done, f"{HURT}.*resume=")
    done = bench.run()
    assert done.status == 0, done.err
    bench.kept()
    assert bench.records()[HURT]["fingerprint"] != bench.truth[HURT]["fingerprint"]
    return how


@case("a corrupt image")
def corrupt(bench: Bench) -> str:
    return hurt(bench, with_image(b"not a picture at all"), r"0\.tar, key 's\d+'")


@case("an empty image")
def empty(bench: Bench) -> str:
    return hurt(bench, with_image(b""), r"0\.tar, key 's\d+'.*empty")


@case("a decompression bomb")
def bomb(bench: Bench) -> str:
    return hurt(bench, with_image(png((60_000, 60_000))), r"0\.tar, key 's\d+'")


@case("unreadable images left out (data.on_error=skip)")
def skipped(bench: Bench) -> str:
    bench.fresh()
    with_image(b"not a picture at all")(shard(bench))
    done = bench.run("data.on_error=skip")
    assert done.status == 0, done.err[-800:]
    record = bench.records()[HURT]
    assert record["samples"] == bench.truth[HURT]["samples"] - 1
    assert any("1 of" in flag and "left out" in flag and "0.tar" in flag for flag in record["flags"]), record["flags"]
    assert "left out" in done.out, "the table says it too"
    return "counted, listed and flagged, in the table too"


@case("an animated image")
def animated(bench: Bench) -> str:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "webp", save_all=True, append_images=frames[1:], duration=50)
    bench.fresh()
    with_image(buffer.getvalue())(shard(bench))
    done = bench.run()
    assert done.status == 0, done.err[-800:]
    assert bench.records()[HURT]["samples"] == bench.truth[HURT]["samples"]
    return "its first frame is taken"


@case("a pickle hidden among the members")
def hidden_pickle(bench: Bench) -> str:
    bench.fresh()
    canary = bench.place / "opened"
    trap = pickle.dumps(Trap(str(canary)))
    content = members(shard(bench))
    key = content[0][0].split(".")[0]
    write(shard(bench), [(f"{key}.pyd", trap), (f"{key}.pkl", trap), (f"{key}.pickle", trap), *content])
    done = bench.run()
    assert done.status == 0, done.err[-800:]
    assert not canary.exists(), "the pickle was opened"
    array = io.BytesIO()
    import numpy as np

    np.save(array, np.array([Trap(str(canary))], dtype=object), allow_pickle=True)
    write(shard(bench), [*content, (f"{key}.npy", array.getvalue())])
    refused(bench.run(), "npy member")
    assert not canary.exists(), "the pickle was opened"
    bench.kept()
    return "never opened; refused where it poses as an array"


class Trap:
    """Unpickling one leaves a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@case("member names with .. and absolute paths")
def names(bench: Bench) -> str:
    bench.fresh()
    content = members(shard(bench))
    keys = list(dict.fromkeys(name.split(".")[0] for name, _ in content))
    other = {keys[0]: "../../../climbed", keys[1]: str(bench.place / "absolute")}
    before = {p for p in bench.root.rglob("*") if "climbed" in p.name or "absolute" in p.name}
    write(
        shard(bench), [(other.get(n.split(".")[0], n.split(".")[0]) + "." + n.split(".", 1)[1], d) for n, d in content]
    )
    done = bench.run()
    assert done.status == 0, done.err[-800:]
    assert {p for p in bench.root.rglob("*") if "climbed" in p.name or "absolute" in p.name} == before
    assert bench.records()[HURT]["samples"] == bench.truth[HURT]["samples"]
    return "names only; nothing is written there"


@case("wrong labels")
def labels(bench: Bench) -> str:
    def damage(tar: Path) -> None:
        content = [(n, b"77" if n.endswith(".cls") and i == 0 else d) for i, (n, d) in enumerate(sorted(members(tar)))]
        write(tar, content)

    return hurt(bench, damage, "label 77.*classes")


@case("a label that is no number")
def words_for_labels(bench: Bench) -> str:
    def damage(tar: Path) -> None:
        content = [(n, b"cat" if n.endswith(".cls") and i < 3 else d) for i, (n, d) in enumerate(sorted(members(tar)))]
        write(tar, content)

    return hurt(bench, damage, "'cat' for a label")


@case("class names in another encoding")
def encoding(bench: Bench) -> str:
    def damage(tar: Path) -> None:
        (tar.parents[1] / "classnames.txt").write_bytes("café\n".encode("latin-1"))

    return hurt(bench, damage, "classnames.txt, line 1: not utf-8")


# -- models ----------------------------------------------------------------------------------------------------------


def checkpoint(bench: Bench, name: str, content: Callable[[Path], None]) -> tuple[Done, Path]:
    """A run of a damaged copy of the model, after a task by the sound one."""
    bench.fresh()
    assert bench.run(tasks=TASKS[:1]).status == 0
    folder = bench.place / name
    folder.mkdir()
    (folder / "open_clip_config.json").write_bytes((bench.root / "model" / "open_clip_config.json").read_bytes())
    content(folder)
    done = bench.run(f"model.name=local-dir:{folder}", f"out={bench.place / 'other'}")
    bench.kept()
    assert not list((bench.place / "other").glob("records/*.json"))
    return done, folder


def weights(bench: Bench) -> dict[str, torch.Tensor]:
    return load_file(bench.root / "model" / "open_clip_model.safetensors")


@case("a checkpoint with NaN")
def nans(bench: Bench) -> str:
    def content(folder: Path) -> None:
        state = weights(bench)
        next(t for t in state.values() if t.is_floating_point() and t.ndim > 1)[0, 0] = float("nan")
        save_file(state, folder / "open_clip_model.safetensors")

    return refused(checkpoint(bench, "nan", content)[0], "NaN")


@case("a checkpoint of another architecture")
def architecture(bench: Bench) -> str:
    def content(folder: Path) -> None:
        write_tiny_model(bench.place / "resnet", kind="resnet")
        source = bench.place / "resnet" / "open_clip_model.safetensors"
        (folder / source.name).write_bytes(source.read_bytes())

    return refused(checkpoint(bench, "other-architecture", content)[0], "another architecture")


@case("a truncated checkpoint")
def truncated_checkpoint(bench: Bench) -> str:
    def safe(folder: Path) -> None:
        data = (bench.root / "model" / "open_clip_model.safetensors").read_bytes()
        (folder / "open_clip_model.safetensors").write_bytes(data[: len(data) // 2])

    def pt(folder: Path) -> None:
        torch.save(weights(bench), folder / "whole.pt")
        data = (folder / "whole.pt").read_bytes()
        (folder / "whole.pt").unlink()
        (folder / "open_clip_pytorch_model.bin").write_bytes(data[: len(data) // 2])

    how = refused(checkpoint(bench, "half", safe)[0], "truncated|no checkpoint")
    refused(checkpoint(bench, "half-pt", pt)[0], "truncated|no checkpoint")
    return how


@case("a checkpoint that holds code")
def code(bench: Bench) -> str:
    canary = bench.root / "checkpoint-opened"

    def content(folder: Path) -> None:
        torch.save({"state_dict": weights(bench), "extra": Trap(str(canary))}, folder / "open_clip_pytorch_model.bin")

    how = refused(checkpoint(bench, "code", content)[0], "could run code.*refused")
    assert not canary.exists(), "its code ran"
    return how


# -- what was written before -----------------------------------------------------------------------------------------


def damage_and_redo(bench: Bench, pattern: str, damage: Callable[[bytes], bytes], say: str) -> str:
    bench.fresh()
    assert bench.run().status == 0
    paths = sorted(bench.place.glob(pattern))
    assert paths, pattern
    paths[0].write_bytes(damage(paths[0].read_bytes()))
    done = bench.run()
    assert say in done.err, done.err[-800:]
    return recovered(bench, done, "noticed and made again")


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@case("a damaged record")
def record(bench: Bench) -> str:
    damage_and_redo(bench, f"run/records/{HURT}.json", lambda data: data[:-30], "damaged")
    return damage_and_redo(
        bench, f"run/records/{HURT}.json", lambda data: data.replace(b'"acc1": 0.', b'"acc1": 1.', 1), "damaged"
    )


@case("damaged predictions")
def predictions(bench: Bench) -> str:
    return damage_and_redo(bench, f"run/predictions/{HURT}.parquet", flip, "damaged")


@case("a damaged run.json")
def run_json(bench: Bench) -> str:
    bench.fresh()
    assert bench.run().status == 0
    (bench.place / "run" / "run.json").write_text('{"schema": 1, "mod')
    return recovered(bench, bench.run(), "written again; the records stand")


@case("a damaged cache entry")
def cache(bench: Bench) -> str:
    for kind in ("images", "texts"):
        bench.fresh()
        assert bench.run().status == 0
        for path in (bench.place / "run" / "records").glob("*.json"):
            path.unlink()
        entry = sorted(bench.place.glob(f"cache/{kind}/*/*.npy"))[0]
        entry.write_bytes(flip(entry.read_bytes()))
        done = bench.run()
        assert "is damaged" in done.err, done.err[-800:]
        recovered(bench, done)
    return "noticed by its digest and made again"


@case("a damaged index")
def index(bench: Bench) -> str:
    for harm in (flip, lambda data: data[:-100], lambda data: b""):
        bench.fresh()
        assert bench.run(tasks=TASKS[:1]).status == 0
        for entry in bench.place.glob("cache/index/*.npz"):
            entry.write_bytes(harm(entry.read_bytes()))
        recovered(bench, bench.run())
    return "read again from the tar"


@case("a run folder of another model")
def another_model(bench: Bench) -> str:
    bench.fresh()
    assert bench.run().status == 0
    other = write_tiny_model(bench.place / "other", seed=9)
    how = refused(bench.run(f"model.name={other}"), "holds results of.*out=")
    bench.whole()
    return how


@case("a run folder of another version or schema")
def another_version(bench: Bench) -> str:
    bench.fresh()
    assert bench.run().status == 0
    path = bench.place / "run" / "run.json"
    run = json.loads(path.read_text())
    path.write_text(json.dumps({**run, "code": {**run["code"], "version": "0.0.9"}}))
    how = refused(bench.run(), "was written by clipeval 0.0.9.*out=")
    path.write_text(json.dumps({**run, "schema": 99}))
    refused(bench.run(), "schema 99")
    path.write_text(json.dumps(run))
    record = bench.place / "run" / "records" / f"{HURT}.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "schema": 99}))
    refused(bench.run(), "schema 99")
    return how


assert SAMPLES > 32, "more than one batch a task"
