"""The published tables, and which of their columns is which task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from clipeval.results.published.names import published_names

ROUNDING = 0.00005
"""Half of the last printed digit: a published 0.7279 stands for anything from 0.72785 to 0.72795."""

AVERAGE = "Average perf. on 38 datasets"

COLUMNS: Mapping[str, tuple[str, str]] = {
    "vtab/caltech101": ("Caltech-101", "mean_per_class_recall"),
    "cifar10": ("CIFAR-10", "acc1"),
    "vtab/cifar100": ("CIFAR-100", "acc1"),
    "vtab/clevr_count_all": ("CLEVR Counts", "acc1"),
    "vtab/clevr_closest_object_distance": ("CLEVR Distance", "acc1"),
    "country211": ("Country211", "acc1"),
    "vtab/dtd": ("Describable Textures", "acc1"),
    "vtab/eurosat": ("EuroSAT", "acc1"),
    "fgvc_aircraft": ("FGVC Aircraft", "mean_per_class_recall"),
    "food101": ("Food-101", "acc1"),
    "gtsrb": ("GTSRB", "acc1"),
    "imagenet1k": ("ImageNet 1k", "acc1"),
    "imagenet_sketch": ("ImageNet Sketch", "acc1"),
    "imagenetv2": ("ImageNet v2", "acc1"),
    "imagenet-a": ("ImageNet-A", "acc1"),
    "imagenet-o": ("ImageNet-O", "acc1"),
    "imagenet-r": ("ImageNet-R", "acc1"),
    "vtab/kitti_closest_vehicle_distance": ("KITTI Vehicle Distance", "acc1"),
    "mnist": ("MNIST", "acc1"),
    "objectnet": ("ObjectNet", "acc1"),
    "vtab/flowers": ("Oxford Flowers-102", "mean_per_class_recall"),
    "vtab/pets": ("Oxford-IIIT Pet", "mean_per_class_recall"),
    "voc2007": ("Pascal VOC 2007", "acc1"),
    "vtab/pcam": ("PatchCamelyon", "acc1"),
    "renderedsst2": ("Rendered SST2", "acc1"),
    "vtab/resisc45": ("RESISC45", "acc1"),
    "cars": ("Stanford Cars", "acc1"),
    "stl10": ("STL-10", "acc1"),
    "sun397": ("SUN397", "acc1"),
    "vtab/svhn": ("SVHN", "acc1"),
    "retrieval/flickr_1k_test_image_text_retrieval": ("Flickr", "mean_recall@1"),
    "retrieval/mscoco_2014_5k_test_image_text_retrieval": ("MSCOCO", "mean_recall@1"),
    "misc/winogavil": ("WinoGAViL", "jaccard_score_10-12"),
    "wilds/iwildcam": ("iWildCam", "F1-macro_all"),
    "wilds/camelyon17": ("Camelyon17", "acc1"),
    "wilds/fmow": ("FMoW", "acc_worst_region"),
    "fairness/dollar_street": ("Dollar Street", "acc_top5_wg"),
    "fairness/geode": ("GeoDE", "acc_wg"),
}
"""{DataComp's key: (column, the metric that the column holds)}."""

SHIFTS = ("imagenet_sketch", "imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet")
"""The keys of the six distribution shifts of ImageNet."""


@cache
def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name(name))


def table() -> pd.DataFrame:
    """121 rows: name, pretrained, params (M), FLOPs (B), the printed average, and the 38 columns of `COLUMNS`."""
    return _read("published_openclip_38.csv").copy()


def profile() -> pd.DataFrame:
    """85 architectures: model, image_size, mparams, gflops and more."""
    return _read("published_openclip_profile.csv").copy()


def find(name: str | None, pretrained: str | None, **more: str | None) -> pd.Series[Any] | None:
    """The row of a model, by any of its names (`names.published_names`, `more` its others); None when it is not among the 121."""
    rows = _read("published_openclip_38.csv")
    for item in published_names(name, pretrained, **more):
        matching = rows[(rows["name"] == item.model) & (rows["pretrained"] == item.pretrained)]
        if not matching.empty:
            return matching.iloc[0]
    return None


def value(row: pd.Series[Any], key: str) -> float:
    """A row's figure for a task. Raises KeyError for a task without a column."""
    return float(row[COLUMNS[key][0]])


def average(keys: Sequence[str]) -> pd.Series[Any]:
    """Every model's mean over some tasks, in the table's order: as printed for all 38, recomputed for fewer."""
    rows = _read("published_openclip_38.csv")
    if set(keys) == set(COLUMNS):
        return rows[AVERAGE].copy()
    return rows[[COLUMNS[key][0] for key in keys]].mean(axis=1)


def flops(name: str | None) -> float | None:
    """An architecture's GFLOPs for one image and one text; None where it was not profiled."""
    rows = _read("published_openclip_profile.csv")
    matching = rows.loc[rows["model"] == name, "gflops"]
    return None if matching.empty else float(matching.iloc[0])
