"""The images behind a finished run's predictions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from clipeval.configs.resolvers import user_cache
from clipeval.data.config import data_config
from clipeval.data.languages import translate
from clipeval.data.split import open_split
from clipeval.replay.stored_run import StoredRun
from clipeval.results.run_folder import RunFolder

log = logging.getLogger(__name__)


def pictures(folder: str, task: str, keys: Sequence[str]) -> dict[str, bytes]:
    """{key: the encoded image} of some samples of a run; those whose data is not on this machine are left out.

    Nothing of the config is instantiated or fetched, and pictures are only read from the very data that the record was scored on:
    a config that names other files of this machine gets none of them into a page.
    """
    run = RunFolder(folder)
    config = StoredRun.read(run).config
    node = config.tasks.get(task)
    try:
        record = run.record(task, verify=False)
        if node is None or record is None or record.imported is not None:
            return {}
        data, root = data_config(node, config.data), config.data.root
        if not data.location(root).exists():  # `datasets` would look for it on the hub
            return {}
        split_name = str((node.get("splits") or ["test"])[-1])
        split = open_split(data, root, split_name, Path(user_cache()) / "index", on_error=str(config.data.on_error))
        if data.language and not data.captions:
            split = translate(split, data.language, record.key)
    except Exception as problem:  # noqa: BLE001 - whatever is wrong with it, the page says that the picture is not at hand
        log.debug("no pictures of %s: %s", task, problem)
        return {}
    if split.digest not in record.fingerprint.data.split("+"):
        return {}
    index = {key: i for i, key in enumerate(split.samples.keys)}
    return {key: split.images.read(index[key]) for key in keys if key in index}
