"""The `data` part of a task's config: where a set's images are, and what the facts say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from clipeval.configs.addresses import is_address, shown
from clipeval.configs.errors import ClipevalError
from clipeval.preprocess.transforms import Convert

AS_THEY_ARE = ("pairs", "caption_rows", "qrels", "queries", "videos", "video_captions")
"""Kinds of sets whose files are kept as their makers have them, tables of any form beside pictures or videos."""


@dataclass(frozen=True)
class DataConfig:
    """The `data` part of a task's config: where its images are and what the facts say of them."""

    kind: str = "webdataset"
    """webdataset | folder | table | captions | caption_rows | huggingface | pairs | paths | qrels | queries | videos |
    video_captions"""
    folder: str | None = None
    """The set's folder below `data.root`."""
    path: str | None = None
    """The set's folder or file, wherever it is; instead of `folder`."""
    root: str | None = None
    """Another `data.root` for this task alone."""
    samples: int | None = None
    """How many samples the test split has; another count is flagged."""
    classes: int | None = None
    """How many classes there are; another count is flagged."""
    convert: Convert = "rgb_first"
    """rgb_first: to RGB, then resize (webdataset sets). as_decoded: resize, then to RGB (sets from Hugging Face). watermark:
    as rgb_first, and ImageNet-W's watermark in `font`."""
    font: str | None = None
    """Of `convert: watermark`: a file below `data.root`."""
    fields: tuple[str, ...] = ()
    """Names of the values in each sample's metadata."""
    label: str | None = None
    """The column that holds labels, where a table beside the images holds them."""
    caption: str | None = None
    """The column that holds captions, likewise."""
    image: str = "image"
    """The column that names the image, in a table or a Hugging Face set."""
    classnames: tuple[str, ...] | Mapping[str, str] | str | None = None
    """Class names, {label: name}, or a file of them in the set's folder; see `clipeval.data.labels`."""
    instances: str | None = None
    """The file of the split that holds the questions of association and caption selection."""
    captions: str | tuple[str, ...] | None = None
    """A file of captions below the set's folder; `{language}` in it stands for the language. Of pairs: columns or patterns."""
    tables: tuple[str, ...] = ()
    """Pairs: the tables of the set, names or globs below its folder. This and what follows: `clipeval.data.pairs`."""
    images: tuple[str, ...] = ()
    """Pairs: columns or patterns of the pictures."""
    rows: int = 1
    """Pairs: how many rows of the table make a question."""
    correct: str | int | tuple[int, ...] | None = None
    """Pairs: a column or numbers from 0, the captions that are a picture's; None: the i-th is the i-th's."""
    group: str | None = None
    """Pairs: a column or pattern, what macro averages are over."""
    sets: Mapping[str, str] | None = None
    """Pairs: {kind: column or pattern}: questions that count together."""
    where: Mapping[str, Sequence[Any]] | None = None
    """Pairs: {column: values}: the rows that are read."""
    first: int | None = None
    """How many of those rows, from the first; None: all."""
    clean: str | None = None
    """What is done to captions: `clipeval.data.caption_rows`."""
    box: tuple[str, ...] = ()
    """Pairs: columns of left, top, width and height of what is shown of a picture."""
    paths: str | None = None
    """How the pictures' paths end, and what their parts say: `clipeval.data.path_pictures`."""
    accepted: str | None = None
    """What says which classes are right where several are: of a Hugging Face set a column, else a JSON file {class: group}."""
    annotations: str | None = None
    """A file beside the set that says more of ImageNet's validation images: `clipeval.data.annotated`. This and what follows lie
    below `data.root`."""
    order: str | None = None
    """A table of those images in the set's order, where its keys do not name them."""
    exclude: str | None = None
    """A table of images whose annotations are left out."""
    hierarchy: str | None = None
    """A file of the classes' hierarchy, lines `parent child`."""
    heights: str | None = None
    """A file of its nodes' distances; None: heights are those of the hierarchy itself."""
    score: str | None = None
    """Pairs: a column of numbers, how alike two pictures are."""
    relevant: tuple[str, ...] = ()
    """Queries: patterns of the pictures that are sought. This and what follows: `clipeval.data.queries`."""
    junk: tuple[str, ...] = ()
    """Queries: patterns of pictures that do not count."""
    among: tuple[str, ...] = ()
    """Queries: patterns of the pictures that are ranked, where each query has its own."""
    gallery: Mapping[str, str | None] | None = None
    """Queries: {files: a pattern in their rows; null: they are the pictures}: what is ranked."""
    frames: int | None = None
    """Videos: how many frames of each are embedded; None: 8. See `clipeval.data.videos`."""
    language: str | None = None
    """The language of the captions, or of the class names, where there are several."""
    languages: tuple[str, ...] = ()
    """Those there are."""
    hub: str | None = None
    """The data set's repository on the Hugging Face hub."""
    elsewhere: tuple[str, ...] | None = None
    """Where this copy is known to lack a split that the task needs: the sources (`data.source`) whose copies have it."""
    task: str | None = None
    """And what the task is called in its suite."""
    revision: str | None = None
    """The revision to fetch; None: resolved once and recorded."""
    page: str | None = None
    """Where its makers publish a set that is on no hub."""
    sep: str | None = None
    """What separates the columns of a table; None: recognised."""
    encoding: str | None = None
    """The encoding of tables and text files; None: UTF-8, or what a byte order mark says."""
    numeric_classnames: bool = False
    """Whether numbers are meant as class names: "a photo of a 7"."""
    names_as_published: bool = False
    """Whether class names that are empty or repeated are the published set's own, and no reason for a flag."""
    max_pixels: int | None = None
    """The largest image that is decoded, in pixels; None: Pillow's own limit."""
    max_text_chunk: int | None = None
    """The longest text chunk of a PNG that is read, in bytes; None: Pillow's own limit."""
    limit: int | None = None
    """How many samples of the scored split are used, a quick subset: `clipeval.data.subset`; None: all."""

    @property
    def caption_patterns(self) -> tuple[str, ...]:
        """`captions` as columns or patterns, none or several."""
        return (self.captions,) if isinstance(self.captions, str) else self.captions or ()

    def address(self, root: str | None) -> str | None:
        """The set's folder (or file) where it lies elsewhere, as s3://bucket/folder; None where it is on this machine's disks.

        Raises:
            ClipevalError: it cannot be asked whether a repository's folder is there.
        """
        if self.path:
            return self.path if is_address(self.path) else None
        base = self.root or root
        if base is None or not is_address(base):
            return None
        if self.folder:
            return f"{base.rstrip('/')}/{self.folder}"
        if not (self.is_of_hub and self.hub):
            return None
        from clipeval.data import remote
        from clipeval.data.lock import NAME

        fetched = f"{base.rstrip('/')}/{self.hub.replace('/', '--')}"
        return fetched if remote.exists(f"{fetched}/{NAME}") else None

    def place(self, root: str | None) -> str:
        """The set's address or path, for people."""
        address = self.address(root)
        return str(self.location(root)) if address is None else shown(address)

    def location(self, root: str | None) -> Path:
        """The set's folder (or file) on this machine's disks; it must have no `address`.

        Raises:
            ClipevalError: neither `path` nor a folder below a root is given.
        """
        if self.path:
            return Path(self.path).expanduser()
        if self.is_of_hub and self.hub and not self.folder:
            from clipeval.data.lock import NAME

            fetched = self.hub_folder(root)
            if (
                fetched is not None and (fetched / NAME).exists()
            ):  # the lock comes last: before it, a part may be missing
                return fetched
            return Path(self.hub)  # not a path on this machine: the reader takes it from the hub
        base = self.root or root
        if not self.folder:
            raise ClipevalError("a task names neither data.path nor data.folder; say where its images are.")
        if not base:
            raise ClipevalError(
                f"data.root is not set, and the folder {self.folder!r} lies below it. Set data.root=PATH."
            )
        return Path(base).expanduser() / self.folder

    @property
    def is_of_hub(self) -> bool:
        """Whether the hub's files are read as they are, in a folder that is named after the repository."""
        return self.kind in ("huggingface", *AS_THEY_ARE)

    @property
    def cure(self) -> str:
        """What to do where the set is not here, as a sentence."""
        if self.hub:
            return "Fetch it with `clipeval download`, or set data.root or data.path."
        if self.page:
            return (
                f"clipeval does not fetch this set, which its makers publish at {self.page}: put there what `clipeval show` says "
                "of the task, or set data.root or data.path."
            )
        return "Put the set's files there, make it of them with `clipeval convert`, or set data.root or data.path."

    def for_split(self) -> str:
        """What to do where a split is missing, as a sentence."""
        name = self.task or "NAME"
        if self.elsewhere:
            return f"Another copy has it: {' or '.join(f'data.source={source}' for source in self.elsewhere)}."
        if self.elsewhere is not None or self.path:
            return (
                f"No copy of the set that clipeval knows has it. Leave the task out ('~tasks.{name}', or data.on_missing=skip), or "
                f"name a folder of your own that has it: tasks.{name}.data.path=FOLDER, which for one task alone is "
                "task.data.path=FOLDER."
            )
        return "Fetch it with `clipeval download`."

    def hub_folder(self, root: str | None) -> Path | None:
        """Where `clipeval download` keeps a Hugging Face set that has no `folder` of its own; None without a data root."""
        base = self.root or root
        if not (base and self.hub) or is_address(base):
            return None
        return Path(base).expanduser() / (self.folder or self.hub.replace("/", "--"))


OF_ALL_TASKS = ("sep", "encoding", "max_pixels", "max_text_chunk", "limit")
"""What may be said for all tasks at once, as data.sep, or for one, as task.data.sep."""


def data_config(node: DictConfig, common: Mapping[str, Any] | None = None, part: str = "data") -> DataConfig:
    """The `data` part of a task's config, or its `outside`. `common`: the config's own `data`, of all tasks."""
    given = OmegaConf.to_container(node[part], resolve=True)
    assert isinstance(given, dict)
    known = {f.name for f in fields(DataConfig)}
    for key in OF_ALL_TASKS:
        if given.get(key) is None and (common or {}).get(key) is not None:
            given[key] = (common or {})[key]
    values: dict[str, Any] = {str(k): tuple(v) if isinstance(v, list) else v for k, v in given.items() if k in known}
    return DataConfig(**values)
