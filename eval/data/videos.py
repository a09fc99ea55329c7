"""Videos, whose frames are the images: in a folder for each class, or named beside captions in a table.

    kind: videos           PATH/<class name>/<video>, or PATH/<split>/<class name>/<video>
    kind: video_captions   data.tables, data.images: ["{video_id}.mp4"], data.captions: [sentence]: `clipeval.data.caption_rows`

Of each video `data.frames` (8) are embedded, from the first to the last, as evenly as can be: int(i · (N - 1) / (n - 1)) of N
frames, and of one alone the one in the middle (perception_models, apps/pe/clip_benchmark/datasets/video_classification_dataset.py).

PyAV decodes (`pip install 'clipeval[video]'`); of GIF, WebP and APNG Pillow. A class's name is its folder's, underscores read as
spaces and parentheses left out; names that are all written LikeThis are parted.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageSequence

from clipeval.configs.errors import ClipevalError
from clipeval.data.account import Account
from clipeval.data.config import DataConfig
from clipeval.data.image_folder import class_folders
from clipeval.data.images import digest_of
from clipeval.data.made_images import encoded
from clipeval.data.patterns import Pattern
from clipeval.data.pictures import walk, whole_files
from clipeval.data.rows import read_rows, tables, wanted_rows
from clipeval.data.values import Unusable
from clipeval.tasks.base import Samples

FRAMES = 8
ANIMATED = frozenset({".gif", ".webp", ".png", ".apng"})
"""Endings of pictures that move, which Pillow reads."""
VIDEOS = frozenset(
    {".mp4", ".avi", ".mkv", ".webm", ".mov", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".3gp", ".ts", ".ogv"}
)
WHOLE = 0.9
"""The share of what its header promises that a whole video has: headers are off by some frames, and sound may end later."""
_PARTED = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass
class VideoFrames:
    """The frames of V videos, `frames` of each: N = V · frames images.

    Attributes:
        paths: the videos.
        frames: how many of each.
        digest: of the videos' bytes, their order, and which frames are taken.
    """

    paths: Sequence[str]
    frames: int
    digest: str
    _kept: tuple[int, list[bytes]] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.paths) * self.frames

    def read(self, position: int) -> bytes:
        """A frame as PNG, which keeps every pixel. A video is decoded once for all of its frames."""
        video, frame = divmod(position, self.frames)
        if self._kept is None or self._kept[0] != video:
            self._kept = video, [encoded(image) for image in decode(self.paths[video], self.frames)]
        return self._kept[1][frame]

    def location(self, position: int) -> str:
        video, frame = divmod(position, self.frames)
        return f"{self.paths[video]}, frame {frame + 1} of {self.frames}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}


def read(
    config: DataConfig, location: Path, split: str, cache: Path | None, account: Account
) -> tuple[VideoFrames, Samples]:
    """Every video below the class folders, sorted by path.

    Raises:
        ClipevalError: there are no videos, a class has none, classes cannot be named, or PyAV is not installed.
    """
    if config.page and not location.exists():
        raise ClipevalError(f"{location} does not exist. {config.cure}")
    found = class_folders(config, location, split, account, find_videos, "video", _spoken)
    return _split(config, found.paths, found.keys, Samples((), labels=found.labels, classnames=found.classnames))


def read_captions(
    config: DataConfig, location: Path, split: str, cache: Path | None, account: Account
) -> tuple[VideoFrames, Samples]:
    """The rows of a table, each of which names a video and a caption; several may speak of one video.

    Raises:
        ClipevalError: a table, a column or a video is missing, or a caption is empty; `data.on_error=skip` leaves out rows.
    """
    if not location.exists():
        raise ClipevalError(f"{location} does not exist. {config.cure}")
    patterns = {
        "data.images": [Pattern.parse(text, "data.images") for text in config.images],
        "data.captions": [Pattern.parse(text, "data.captions") for text in config.caption_patterns],
    }
    if len(config.images) != 1 or not config.captions:
        raise ClipevalError("data.images must name one video for each row, and data.captions its captions.")

    def check(columns: Sequence[str], where: str) -> None:
        for key, several in patterns.items():
            for pattern in several:
                pattern.check(columns, key, where)

    folder = location if location.is_dir() else location.parent
    rows, _ = read_rows(tables(config, location, split, account), [], check, config, account)
    gathered: dict[str, list[str]] = {}
    for row in wanted_rows(rows, config, location):
        try:
            name = patterns["data.images"][0].text(row.content, "the video's name")
            if not (folder / name).is_file():
                raise Unusable(f"the video {name!r} does not exist in {folder}")
            texts = [
                text for pattern in patterns["data.captions"] for text in pattern.texts(row.content, "the caption")
            ]
        except Unusable as problem:
            account.unusable(row.where, str(problem))
            continue
        gathered.setdefault(name, []).extend(texts)
    if not gathered:
        raise ClipevalError(f"{location}: no caption is left; every row was left out.")
    paths = [folder / name for name in gathered]
    return _split(config, paths, list(gathered), Samples((), captions=list(gathered.values())))


def find_videos(folder: Path, account: Account) -> list[Path]:
    """Every video at any depth, sorted by path; other files are accounted for, thumbnails beside the videos among them."""
    found = []
    for path in walk(folder, account, folder):
        if path.suffix.lower() not in VIDEOS | ANIMATED or not path.is_file():
            account.leave_out(path.relative_to(folder).as_posix(), "not a video")
        elif _is_still(path):
            account.leave_out(path.relative_to(folder).as_posix(), "a still picture, not a video")
        else:
            found.append(path)
    return sorted(found)


def _is_still(path: Path) -> bool:
    """Whether a picture of a kind that can move holds one frame; what cannot be read is a video, of which decoding will speak."""
    if path.suffix.lower() not in ANIMATED:
        return False
    try:
        with Image.open(path) as image:
            return not getattr(image, "is_animated", False)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def decode(path: str, frames: int) -> list[Image.Image]:
    """The frames that are embedded, in RGB.

    Raises:
        ValueError: the video cannot be decoded to its end.
    """
    if Path(path).suffix.lower() in ANIMATED:
        with Image.open(path) as image:
            every = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
        return [every[i] for i in chosen(len(every), frames)]
    av = _av()
    try:
        count = _packets(path)
        found, decoded = _decoded(path, set(chosen(count, frames)))
        if decoded != count:  # not every packet is a frame
            count = decoded
            found, _ = _decoded(path, set(chosen(count, frames)))
    except av.FFmpegError as problem:
        raise ValueError(f"it cannot be decoded ({problem})") from None
    return [found[i] for i in chosen(count, frames)]


def chosen(count: int, frames: int) -> list[int]:
    """The numbers of `frames` frames of `count`, from 0; of fewer some occur twice.

    Raises:
        ValueError: there is no frame.
    """
    if count < 1:
        raise ValueError("it has no frame that can be decoded")
    return [count // 2] if frames == 1 else [int(i * (count - 1) / (frames - 1)) for i in range(frames)]


def _av() -> Any:
    """PyAV, whose types are known only where it is installed."""
    return importlib.import_module("av")


def _packets(path: str) -> int:
    """How many packets the video has.

    Raises:
        ValueError: much less of it is there than its header promises: a download that was broken off decodes without an error.
    """
    av = _av()
    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream, count, end = container.streams.video[0], 0, 0.0
        for packet in container.demux(stream):
            count += bool(packet.size)
            if packet.size and packet.pts is not None:
                end = max(end, float(packet.pts * packet.time_base))
        if stream.frames and count < WHOLE * stream.frames:
            raise ValueError(f"it is cut short: {count} of {stream.frames} frames are there")
        length = (container.duration or 0) / av.time_base
        seconds = (
            (end - (container.start_time or 0) / av.time_base) * count / max(1, count - 1)
        )  # the last frame is shown, too
        if not stream.frames and count > 1 and seconds < WHOLE * length:  # Matroska and WebM count no frames
            raise ValueError(f"it is cut short: {seconds:.1f} of {length:.1f} seconds are there")
        return count


def _decoded(path: str, wanted: set[int]) -> tuple[dict[int, Image.Image], int]:
    """{number: frame} of those that are wanted, and how many there are."""
    found, count = {}, 0
    with _av().open(path) as container:
        for frame in container.decode(container.streams.video[0]):
            if count in wanted:
                found[count] = frame.to_image()
            count += 1
    return found, count


def _spoken(names: Sequence[str]) -> dict[str, str]:
    """{folder: class name}."""
    parted = all(re.fullmatch(r"[A-Z][A-Za-z0-9]*", name) for name in names)
    plain = {name: re.sub("[()]", "", name.replace("_", " ")).strip() for name in names}
    return {name: _PARTED.sub(" ", text) if parted else text for name, text in plain.items()}


def _split(
    config: DataConfig, paths: Sequence[Path], keys: Sequence[str], videos: Samples
) -> tuple[VideoFrames, Samples]:
    """The table of frames; the first of a video has its key, so that it is shown where the video is spoken of."""
    frames = config.frames or FRAMES
    of_av = [path for path in paths if path.suffix.lower() not in ANIMATED]
    if of_av and importlib.util.find_spec("av") is None:
        raise ClipevalError(f"{of_av[0]} is decoded by PyAV, which is not installed: pip install 'clipeval[video]'.")
    names = [[key, *(f"{key}#{i + 1}" for i in range(1, frames))] for key in keys]
    digest = digest_of(whole_files(list(paths), list(keys)).digest, f"{frames} frames, first to last")
    captions = videos.captions
    samples = Samples(
        keys=[name for several in names for name in several],
        labels=None if videos.labels is None else videos.labels.repeat(frames),
        captions=None if captions is None else [several for several in captions for _ in range(frames)],
        instances=[{"id": key, "images": several} for key, several in zip(keys, names, strict=True)],
        metadata=pd.DataFrame(index=range(len(keys) * frames)),
        classnames=videos.classnames,
    )
    return VideoFrames([str(path) for path in paths], frames, digest), samples
