"""One's own pictures in a folder for each class: PATH/<class name>/<picture>, or PATH/<split>/<class name>/<picture>."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from configs.errors import ClipevalError
from eval.data.account import Account
from eval.data.images import FileImages
from eval.data.split import DataConfig, named_classes
from tasks.base import Samples

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}


def read(
    config: DataConfig, location: Path, split: str, cache: Path | None, account: Account
) -> tuple[FileImages, Samples]:
    """Every picture below the class folders, sorted by path; a class's name is its folder's, underscores read as spaces."""
    if not location.is_dir():
        raise ClipevalError(
            f"{location} is not a folder; task.data.path names a folder that holds a folder for each class."
        )
    base = location / split if (location / split).is_dir() else location
    paths = sorted(p for p in base.glob("*/**/*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not paths:
        raise ClipevalError(
            f"{base} holds no picture in a class folder; expected {base}/<class name>/<picture>, the picture's name ending "
            f"in one of {', '.join(sorted(EXTENSIONS))}."
        )
    folders = [path.relative_to(base).parts[0] for path in paths]
    given = config.classnames if isinstance(config.classnames, (list, tuple)) else ()
    labels, classnames = named_classes([name.replace("_", " ") for name in folders], given, str(base))
    keys = [str(path.relative_to(base)) for path in paths]
    return whole_files(paths, keys), Samples(keys=keys, labels=labels, classnames=classnames)


def whole_files(paths: list[Path], keys: list[str]) -> FileImages:
    """Images that are files of their own."""
    sizes = np.array([path.stat().st_size for path in paths], dtype=np.int64)
    return FileImages(
        files=[str(path) for path in paths],
        file=np.arange(len(paths), dtype=np.int32),
        offset=np.zeros(len(paths), dtype=np.int64),
        size=sizes,
        keys=keys,
        digest=_content_digest(paths),
    )


def _content_digest(paths: list[Path]) -> str:
    import hashlib

    from eval.data.images import digest_of

    def one(path: Path) -> bytes:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    with ThreadPoolExecutor(max_workers=8) as pool:
        return digest_of(*pool.map(one, paths))
