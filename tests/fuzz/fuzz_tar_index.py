"""A fuzz target for the tar index: whatever the bytes, an index or one ClipevalError, no other exception and no hang.

python -m tests.fuzz.fuzz_tar_index --seconds 60          # mutations of sound tars; with atheris installed:
python -m tests.fuzz.fuzz_tar_index --atheris -- corpus/  # guided by coverage
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

from clipeval.configs.errors import ClipevalError
from clipeval.data.tar_index import index_tars


def sound_tar(random_: random.Random) -> bytes:
    """A small tar of the kinds that the index reads, and some that it does not."""
    buffer = io.BytesIO()
    kind = random_.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for number in range(random_.randrange(1, 5)):
            key = random_.choice(["s", "a/b", "é" * 40, "x" * 90]) + str(number)
            for extension in random_.sample(["png", "cls", "npy", "txt", "json", "pyd"], random_.randrange(1, 5)):
                data = random_.randbytes(random_.randrange(40)) if extension != "cls" else b"3"
                if extension == "npy":
                    array = io.BytesIO()
                    np.save(array, np.arange(random_.randrange(4)))
                    data = array.getvalue()
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def mutate(data: bytes, random_: random.Random) -> bytes:
    """A few bytes changed, cut, repeated or put in."""
    out = bytearray(data)
    for _ in range(random_.randrange(1, 6)):
        place = random_.randrange(len(out) + 1)
        match random_.randrange(5):
            case 0 if out:
                out[min(place, len(out) - 1)] ^= 1 << random_.randrange(8)
            case 1:
                del out[place : place + random_.randrange(600)]
            case 2:
                out[place:place] = random_.randbytes(random_.randrange(600))
            case 3:
                out[place : place + 12] = random_.choice([b"00000000000\0", b"77777777777\0", b"\x80" + b"\xff" * 11])
            case _:
                start = random_.randrange(len(out) + 1) // 512 * 512
                out[place // 512 * 512 : place // 512 * 512 + 512] = out[start : start + 512]
    return bytes(out)


def try_one(data: bytes, folder: Path) -> bool:
    """Whether the bytes were taken for a sound tar. Anything but an index or a ClipevalError is raised."""
    path = folder / "0.tar"
    path.write_bytes(data)
    try:
        (index,) = index_tars([path], None)
    except ClipevalError as problem:
        assert str(path) in str(problem), "an error names its file"
        return False
    ends = index.offset + index.size
    assert len(index.keys) == len(index.offset) == len(index.cls) == len(index.npy)
    assert (index.offset >= 0).all() and (index.size >= 0).all() and (ends <= len(data)).all(), "ranges lie in the file"
    return True


def campaign(seconds: float, seed: int = 0, folder: Path | None = None) -> tuple[int, int]:
    """(tars tried, tars that were sound); raises on the first that breaks the promise, the bytes kept in `folder`."""
    with tempfile.TemporaryDirectory() as scratch:
        random_, tried, sound = random.Random(seed), 0, 0
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            data = mutate(sound_tar(random_), random_)
            try:
                sound += try_one(data, Path(scratch))
            except Exception:
                kept = (folder or Path.cwd()) / f"crash-{seed}-{tried}.tar"
                kept.write_bytes(data)
                print(f"breaks: {kept}", file=sys.stderr)
                raise
            tried += 1
    return tried, sound


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--atheris", action="store_true")
    arguments, rest = parser.parse_known_args()
    if arguments.atheris:
        import atheris

        scratch = Path(tempfile.mkdtemp())
        atheris.Setup(
            [sys.argv[0], *(word for word in rest if word != "--")], lambda data: try_one(data, scratch) and None
        )
        atheris.Fuzz()
    tried, sound = campaign(arguments.seconds, arguments.seed)
    print(
        f"{tried:,} tars tried, {sound:,} of them sound; every other one refused with one error (seed {arguments.seed})"
    )


if __name__ == "__main__":
    main()
