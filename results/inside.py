"""Files of a folder that came from elsewhere: their names and links must not lead out of it."""

from __future__ import annotations

from pathlib import Path

from clipeval.configs.errors import ClipevalError


def inside(folder: Path, name: str) -> Path:
    """The path of a file of a run folder, to read or to write. The folder itself may be a link.

    Raises:
        ClipevalError: the name or a link leads out of the folder: it could then read or replace any file of its user's.
    """
    path = folder / name
    place = path.resolve()
    if not place.is_relative_to(folder.resolve()):
        raise ClipevalError(
            f"{path} is, or lies behind, a link out of the run folder, to {place}, and is not followed. If the folder is your own, "
            "put the files themselves there; a link to a whole run folder, as in out=LINK, is followed."
        )
    return path
