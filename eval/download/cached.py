"""DataComp's hf_cache, converted: the one part of its download folder that cannot be used as it is.

    python -m clipeval.download.cached ROOT/hf_cache nlphuji/winogavil ROOT/wds_misc-winogavil_test

`clipeval download data.root=ROOT` does the same by itself where ROOT/hf_cache holds a set whose folder is missing, and
needs no network for it. DataComp's script loads Flickr, MSCOCO and WinoGAViL with `datasets`, which keeps them as Arrow
tables in `hf_cache/<org>___<name>/<config>/<version>/<hash>/<name>-test.arrow`, and their images inside those tables or
below `hf_cache/downloads/extracted/`, to which the tables point by absolute paths. Where the cache has been moved since,
the part of the path from `downloads/` on is looked for in the cache as it lies now. The cache is left as it was.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa

from clipeval.configs.errors import ClipevalError
from clipeval.data.lock import Lock, entry_of
from clipeval.download.convert import ROWS, Row, convert_rows
from clipeval.download.shards import SHARD_SIZE, install, room_for

CACHE = "hf_cache"
"""The cache's folder below DataComp's download folder."""


def cached_tables(cache: Path, hub: str) -> list[Path]:
    """The Arrow tables of a repository's test split in a cache of `datasets`, the newest preparation's; [] if none."""
    found = [
        path
        for path in (cache / hub.replace("/", "___")).glob("**/*.arrow")
        if "test" in path.stem and not path.name.startswith(("cache-", "tmp")) and path.parent.suffix != ".incomplete"
    ]
    if not found:
        return []
    newest = max(found, key=lambda path: (path.stat().st_mtime, str(path))).parent
    return sorted(path for path in found if path.parent == newest)


def convert_cached(cache: Path, hub: str, folder: Path, shard_size: int = SHARD_SIZE) -> Lock:
    """Converts a set from DataComp's hf_cache into the one layout and locks it.

    Args:
        cache: DataComp's hf_cache.
        hub: the set's repository, as nlphuji/winogavil.
        folder: the folder to make.

    Returns:
        The lock, whose `hub` and `revision` are null: the cache does not say which revision it holds.

    Raises:
        ClipevalError: the cache does not hold the set, or not all of it.
    """
    tables = cached_tables(cache, hub)
    if not tables:
        raise ClipevalError(
            f"{cache} holds no test split of {hub} (expected {cache / hub.replace('/', '___')}/**/*test*.arrow)."
        )
    made = room_for(folder)

    def read(name: str) -> bytes:
        parts = PurePosixPath(name).parts
        places = [Path(name)]
        if "downloads" in parts:
            places.append(cache.joinpath(*parts[len(parts) - 1 - parts[::-1].index("downloads") :]))
        for place in places:
            if place.is_file():
                return place.read_bytes()
        raise ClipevalError(f"{tables[0]} points to {name}, which is gone; {hub} has to be fetched from the hub.")

    form = convert_rows(arrow_rows(tables), made, str(tables[0]), shard_size, read)
    return install(made, folder, form, source={path.relative_to(cache).as_posix(): entry_of(path) for path in tables})


def arrow_rows(paths: list[Path]) -> Iterator[Row]:
    """The rows of Arrow tables as `datasets` keeps them (the stream format), a few at a time."""
    for path in paths:
        try:
            with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as batches:
                for batch in batches:
                    for start in range(0, batch.num_rows, ROWS):
                        yield from batch.slice(start, ROWS).to_pylist()
        except pa.ArrowInvalid as problem:
            raise ClipevalError(f"{path} is not a whole Arrow table ({problem}).") from None


def main(arguments: list[str]) -> int:
    """The command of the module's docstring."""
    if len(arguments) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        lock = convert_cached(Path(arguments[0]), arguments[1], Path(arguments[2]))
    except ClipevalError as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"{arguments[2]}: {lock.form}, {len(lock.files)} files, digest {lock.digest[:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
