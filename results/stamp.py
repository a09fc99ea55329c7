"""Whether a file is still the one that was read: by its size, its times and its inode, without reading it again.

The modification time alone does not say so: `cp -p`, `rsync -t` and `os.utime` restore it. The change time cannot be set.
"""

from __future__ import annotations

import os
import time

SETTLED = 2.0
"""Seconds after which a file's times tell one content from the next, however coarse the file system's clock is."""


def stamp(stat: os.stat_result) -> tuple[int, int, int, int]:
    """Size, times and inode: equal for the same content, once it is `settled`."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def settled(stat: os.stat_result) -> bool:
    """Whether the file was left alone for long enough that another content would have another stamp."""
    return time.time() - max(stat.st_mtime_ns, stat.st_ctime_ns) / 1e9 > SETTLED
