"""Makes results/published/registry.parquet and names.csv from the sources' own files.

    python scripts/published_registry.py --open-clip CLONE --mobileclip CLONE --mteb CLONE

Each CLONE is a git clone (a bare one will do) of mlfoundations/open_clip, apple/ml-mobileclip and embeddings-benchmark/results.
The papers' values stand in results/published/papers.csv, typed by hand. What a column means is said in
results/published/registry.py, what a source is in sources.yaml and in the page named after it.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from clipeval.results.other_forms import MTEB_KEYS
from clipeval.results.published.registry import COLUMNS as REGISTRY
from clipeval.results.published.registry import FOLDER, FULL, sources
from clipeval.results.published.table import AVERAGE, COLUMNS

Row = dict[str, Any]

MOBILECLIP = {
    "mobileclip_s0": ("MobileCLIP-S0", "datacompdr"),
    "mobileclip_s1": ("MobileCLIP-S1", "datacompdr"),
    "mobileclip_s2": ("MobileCLIP-S2", "datacompdr"),
    "mobileclip_b": ("MobileCLIP-B", "datacompdr"),
    "mobileclip_b_lt": ("MobileCLIP-B", "datacompdr_lt"),
    # open_clip has no tag for these three: they are named by their place on the Hub.
    "mobileclip_s3": ("MobileCLIP-S3", "hf-hub:apple/MobileCLIP-S3"),
    "mobileclip_s4": ("MobileCLIP-S4", "hf-hub:apple/MobileCLIP-S4"),
    "mobileclip_l14": ("MobileCLIP-L-14", "hf-hub:apple/MobileCLIP-L-14"),
    "mobileclip2_s0": ("MobileCLIP2-S0", "dfndr2b"),
    "mobileclip2_s2": ("MobileCLIP2-S2", "dfndr2b"),
    "mobileclip2_s3": ("MobileCLIP2-S3", "dfndr2b"),
    "mobileclip2_s4": ("MobileCLIP2-S4", "dfndr2b"),
    "mobileclip2_b": ("MobileCLIP2-B", "dfndr2b"),
    "mobileclip2_l14": ("MobileCLIP2-L-14", "dfndr2b"),
}
"""{a file of Apple's: open_clip's name and tag}."""

APPLE_README = {
    "MobileCLIP2-L/14": "mobileclip2_l14",
    "MobileCLIP-B (LT)": "mobileclip_b_lt",
    "MobileCLIP-L/14": "mobileclip_l14",
}
"""Names of Apple's README that are not their file's in lower case."""

MTEB_MODELS = {
    "QuanSun/EVA02-CLIP-B-16": ("EVA02-B-16", "merged2b_s8b_b131k"),
    "QuanSun/EVA02-CLIP-L-14": ("EVA02-L-14", "merged2b_s4b_b131k"),
    "google/siglip-base-patch16-224": ("ViT-B-16-SigLIP", "webli"),
    "google/siglip-base-patch16-256": ("ViT-B-16-SigLIP-256", "webli"),
    "google/siglip-base-patch16-384": ("ViT-B-16-SigLIP-384", "webli"),
    "google/siglip-base-patch16-512": ("ViT-B-16-SigLIP-512", "webli"),
    "google/siglip-large-patch16-256": ("ViT-L-16-SigLIP-256", "webli"),
    "google/siglip-large-patch16-384": ("ViT-L-16-SigLIP-384", "webli"),
    "google/siglip-so400m-patch14-384": ("ViT-SO400M-14-SigLIP-384", "webli"),
    "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K": ("ViT-B-16", "datacomp_xl_s13b_b90k"),
    "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K": ("ViT-B-32", "datacomp_xl_s13b_b90k"),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": ("ViT-B-32", "laion2b_s34b_b79k"),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": ("ViT-H-14", "laion2b_s32b_b79k"),
    "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K": ("ViT-L-14", "datacomp_xl_s13b_b90k"),
    "laion/CLIP-ViT-L-14-laion2B-s32B-b82K": ("ViT-L-14", "laion2b_s32b_b82k"),
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": ("ViT-bigG-14", "laion2b_s39b_b160k"),
    "laion/CLIP-ViT-g-14-laion2B-s34B-b88K": ("ViT-g-14", "laion2b_s34b_b88k"),
    "openai/clip-vit-base-patch16": ("ViT-B-16-quickgelu", "openai"),
    "openai/clip-vit-base-patch32": ("ViT-B-32-quickgelu", "openai"),
    "openai/clip-vit-large-patch14": ("ViT-L-14-quickgelu", "openai"),
}
"""{MTEB's name of a model, which is its place on the Hub: open_clip's name and tag}."""

CLUSTERS = {name: name for name in ("nmi", "v_measure", "ari", "cluster_accuracy")}
HITS = {f"hit_rate_at_{k}": f"cv_recall_at_{k}" for k in (1, 5, 10)}
RANKS = {f"{name}_at_{k}": f"{name}_at_{k}" for name in ("ndcg", "map", "recall") for k in (1, 5, 10)}
CORRELATIONS = {name: name for name in ("cosine_spearman", "cosine_pearson")}

MTEB_METRICS = {
    **dict.fromkeys(
        [f"{name}Clustering" for name in ("CIFAR10", "CIFAR100", "ImageNet10", "ImageNetDog15", "TinyImageNet")],
        CLUSTERS,
    ),
    **dict.fromkeys(["CUB200I2IRetrieval", "SOPI2IRetrieval"], HITS),
    **{task: {**HITS, **RANKS} for task in ("NIGHTSI2IRetrieval", "CIRRIT2IRetrieval", "FashionIQIT2IRetrieval")},
    **dict.fromkeys([f"STS{year}VisualSTS" for year in range(12, 17)], CORRELATIONS),
}
"""{MTEB's task on embeddings alone, mteb/… here: {our name of a metric: MTEB's at 1.14.15}}. Of the two whose first result is left
out, it left it in for ndcg, map and recall."""

TRANSFORMERS_RECIPE = {"openai": {"recipe": "fp32"}, "google": {"recipe": "fp32"}}
"""MTEB loads the checkpoints of these owners with transformers and without autocast, the others with open_clip and with it."""

TRANSFORMERS = {
    **{name: pair for name, pair in MTEB_MODELS.items() if name.startswith(("openai/", "google/"))},
    "openai/clip-vit-large-patch14-336": ("ViT-L-14-336-quickgelu", "openai"),
    "google/siglip-so400m-patch14-224": ("ViT-SO400M-14-SigLIP", "webli"),
    "google/siglip-base-patch16-256-multilingual": ("ViT-B-16-SigLIP-i18n-256", "webli"),
    "google/siglip2-base-patch16-224": ("ViT-B-16-SigLIP2", "webli"),
    "google/siglip2-base-patch16-256": ("ViT-B-16-SigLIP2-256", "webli"),
    "google/siglip2-base-patch16-384": ("ViT-B-16-SigLIP2-384", "webli"),
    "google/siglip2-base-patch16-512": ("ViT-B-16-SigLIP2-512", "webli"),
    "google/siglip2-base-patch32-256": ("ViT-B-32-SigLIP2-256", "webli"),
    "google/siglip2-large-patch16-256": ("ViT-L-16-SigLIP2-256", "webli"),
    "google/siglip2-large-patch16-384": ("ViT-L-16-SigLIP2-384", "webli"),
    "google/siglip2-large-patch16-512": ("ViT-L-16-SigLIP2-512", "webli"),
    "google/siglip2-so400m-patch14-224": ("ViT-SO400M-14-SigLIP2", "webli"),
    "google/siglip2-so400m-patch14-384": ("ViT-SO400M-14-SigLIP2-378", "webli"),
    "facebook/metaclip-b32-400m": ("ViT-B-32-quickgelu", "metaclip_400m"),
    "facebook/metaclip-b16-400m": ("ViT-B-16-quickgelu", "metaclip_400m"),
    "facebook/metaclip-l14-400m": ("ViT-L-14-quickgelu", "metaclip_400m"),
    "facebook/metaclip-b32-fullcc2.5b": ("ViT-B-32-quickgelu", "metaclip_fullcc"),
    "facebook/metaclip-b16-fullcc2.5b": ("ViT-B-16-quickgelu", "metaclip_fullcc"),
    "facebook/metaclip-l14-fullcc2.5b": ("ViT-L-14-quickgelu", "metaclip_fullcc"),
    "facebook/metaclip-h14-fullcc2.5b": ("ViT-H-14-quickgelu", "metaclip_fullcc"),
}
"""{a Hub name of transformers' checkpoints: open_clip's name and tag of the same weights}."""

HUB = {
    **{
        f"apple/MobileCLIP2-{size}": (f"MobileCLIP2-{size}", "dfndr2b")
        for size in ("S0", "S2", "S3", "S4", "B", "L-14")
    },
    **{f"apple/MobileCLIP-{size}": (f"MobileCLIP-{size}", "datacompdr") for size in ("S0", "S1", "S2", "B")},
    **{
        name: (f"MobileCLIP-{name.rpartition('MobileCLIP-')[2]}", f"hf-hub:{name}")
        for name in ("apple/MobileCLIP-S3", "apple/MobileCLIP-S4", "apple/MobileCLIP-L-14")
    },
    "apple/MobileCLIP-B-LT": ("MobileCLIP-B", "datacompdr_lt"),
}
"""{a place on the Hub that open_clip's table does not have: name and tag}."""


def git(clone: Path, *words: str) -> str:
    """What a git command prints."""
    return subprocess.run(["git", "-C", str(clone), *words], check=True, capture_output=True, text=True).stdout


def show(clone: Path, path: str) -> str:
    """A file's text at HEAD."""
    return git(clone, "show", f"HEAD:{path}")


def shown(clone: Path, paths: Sequence[str]) -> Iterator[str]:
    """The texts of many files at HEAD, by one git process."""
    asked = "".join(f"HEAD:{path}\n" for path in paths).encode()
    done = subprocess.run(
        ["git", "-C", str(clone), "cat-file", "--batch"], input=asked, check=True, capture_output=True
    )
    found, at = done.stdout, 0
    for path in paths:
        head, _, _ = found[at:].partition(b"\n")
        if head.endswith(b"missing"):
            raise SystemExit(f"{clone} holds no {path}")
        start = at + len(head) + 1
        at = start + int(head.split()[-1]) + 1
        yield found[start : at - 1].decode()


def dated(clone: Path, path: str) -> str:
    """The day on which a file last changed."""
    return git(clone, "log", "-1", "--format=%ad", "--date=short", "--", path).strip()


def openclip_38(clone: Path) -> Iterator[Row]:
    """The 38 sets' main metrics and the printed average of 121 models."""
    file = "docs/openclip_results.csv"
    about = {"source": "openclip_38", "file": file, "date": dated(clone, file), "digits": 4}
    for line in csv.DictReader(io.StringIO(show(clone, file))):
        mine = {**about, "model": line["name"], "pretrained": line["pretrained"]}
        for key, (column, metric) in COLUMNS.items():
            yield {**mine, "key": key, "metric": metric, "value": float(line[column])}
        yield {**mine, "key": "datacomp/avg", "metric": "average", "value": float(line[AVERAGE])}


def openclip_retrieval(clone: Path) -> Iterator[Row]:
    """Every recall of Flickr and MSCOCO, every score of WinoGAViL."""
    file = "docs/openclip_retrieval_results.csv"
    about = {"source": "openclip_retrieval", "file": file, "date": dated(clone, file), "digits": 4}
    for line in csv.DictReader(io.StringIO(show(clone, file))):
        mine = {**about, "model": line["name"], "pretrained": line["pretrained"]}
        for column, value in line.items():
            match = re.fullmatch(r"(Flickr|MSCOCO) (image|text) retr\. R@(\d+)", column)
            if match:
                key = {"Flickr": "flickr_1k_test", "MSCOCO": "mscoco_2014_5k_test"}[match[1]]
                key, metric = f"retrieval/{key}_image_text_retrieval", f"{match[2]}_retrieval_recall@{match[3]}"
            elif column.startswith("WinoGAViL "):
                key, metric = "misc/winogavil", column.removeprefix("WinoGAViL ").replace(" ", "_")
            elif column == "Average score":
                key, metric = "retrieval/avg", "average"
            else:
                continue
            yield {**mine, "key": key, "metric": metric, "value": float(value)}


def openclip_multilingual(clone: Path) -> Iterator[Row]:
    """Recalls by language on Crossmodal-3600 and multilingual MSCOCO, and their printed averages."""
    file = "docs/openclip_multilingual_retrieval_results.csv"
    about = {"source": "openclip_multilingual", "file": file, "date": dated(clone, file), "digits": 4}
    for line in csv.DictReader(io.StringIO(show(clone, file))):
        mine = {**about, "model": line["model"], "pretrained": line["version"]}
        for column, value in line.items():
            parts = column.split(" ")
            if len(parts) == 3:
                yield {**mine, "key": f"{parts[0]}/{parts[2]}", "metric": parts[1], "value": float(value)}
            elif column == "avg":
                yield {**mine, "key": "multilingual/avg", "metric": "average", "value": float(value)}


def mobileclip(clone: Path) -> Iterator[Row]:
    """Every metric of Apple's files, and the averages that their README prints."""
    printed = {}
    readme = show(clone, "README.md")
    for name, average in re.findall(r"^\| \[(MobileCLIP[^\]]*)\].*\|\s*([\d.]+)\s*\|\s*$", readme, re.MULTILINE):
        printed[APPLE_README.get(name, name.lower().replace("-", "_"))] = float(average)
    for stem, (model, pretrained) in MOBILECLIP.items():
        file = f"results/{stem}.jsonl"
        about = {"source": "mobileclip", "file": file, "date": dated(clone, file), "digits": FULL}
        mine = {**about, "model": model, "pretrained": pretrained}
        for line in map(json.loads, show(clone, file).splitlines()):
            for metric, value in line["metrics"].items():
                if metric != "main_metric" and value is not None and value == value:
                    key = line["key"].replace("comp/sugarcrepe_", "sugar_crepe/")
                    yield {**mine, "key": key, "metric": metric, "value": float(value)}
        readme_row = {"file": "README.md", "date": dated(clone, "README.md"), "digits": 3}
        yield {**mine, **readme_row, "key": "datacomp/avg", "metric": "average", "value": round(printed[stem] / 100, 3)}


def mteb(clone: Path) -> Iterator[Row]:
    """text_acc of the pair tasks, Winoground's three scores, and the tasks on embeddings alone."""
    tree = git(clone, "ls-tree", "-r", "HEAD", "--name-only", "results/").splitlines()
    files = {}
    for name, task in itertools.product(MTEB_MODELS, [*MTEB_KEYS, *MTEB_METRICS]):
        place = re.compile(rf"results/{re.escape(name.replace('/', '__'))}/[^/]+/{task}\.json")
        (files[name, task],) = filter(place.fullmatch, tree)
    for ((name, task), file), text in zip(files.items(), shown(clone, list(files.values())), strict=True):
        ((scores,),) = json.loads(text)["scores"].values()
        if task in MTEB_KEYS:
            metrics = {"text_acc": "text_acc"}
            if task == "Winoground":  # of one image with several captions the other two are always 0
                metrics |= {"image_acc": "image_acc", "acc": "accuracy"}
        else:
            metrics = MTEB_METRICS[task]
        model, pretrained = MTEB_MODELS[name]
        about = {"source": "mteb", "file": file, "date": dated(clone, file), "model": model, "pretrained": pretrained}
        about |= TRANSFORMERS_RECIPE.get(name.split("/")[0], {})
        for metric, theirs in metrics.items():
            digits = 5 if task in MTEB_METRICS and task.endswith("Retrieval") else FULL
            key = MTEB_KEYS.get(task, f"mteb/{task}")
            yield {**about, "digits": digits, "key": key, "metric": metric, "value": float(scores[theirs])}


def papers() -> Iterator[Row]:
    """What was typed by hand from papers and READMEs."""
    with open(FOLDER / "papers.csv", newline="", encoding="utf-8") as file:
        for line in csv.DictReader(row for row in file if not row.startswith("#")):
            yield {**line, "value": float(line["value"]), "digits": int(line["digits"])}


def names() -> list[dict[str, str]]:
    """Other names of the models that open_clip can load: places on the Hub, transformers' checkpoints, digests of weights."""
    from open_clip.factory import _MODEL_CONFIGS
    from open_clip.pretrained import _PRETRAINED

    from clipeval.models.handle import digest_of

    alias_rows: dict[tuple[str, str], dict[str, str]] = {}

    def add(kind: str, alias: str, model: str, pretrained: str) -> None:
        alias_rows.setdefault((kind, alias), {"kind": kind, "alias": alias, "model": model, "pretrained": pretrained})

    for alias, pair in TRANSFORMERS.items():
        add("hub", alias, *pair)
    for model, tags in _PRETRAINED.items():
        for tag, about in tags.items():
            quick = f"{model}-quickgelu" if about.get("quick_gelu") else model
            named = quick if quick in _PRETRAINED and tag in _PRETRAINED[quick] else model
            if about.get("hf_hub"):
                add("hub", "/".join(about["hf_hub"].split("/")[:2]), named, tag)
            if about.get("quick_gelu"):
                add("quickgelu", f"{model.removesuffix('-quickgelu')} {tag}", named, tag)
            openai = re.search(r"azureedge\.net/clip/models/([0-9a-f]{64})/", about.get("url") or "")
            if openai:
                file = digest_of({"files": [["", openai[1]]]})
                add("weights", digest_of({"file": file, "architecture": _MODEL_CONFIGS[model]}), model, tag)
    for alias, pair in HUB.items():
        add("hub", alias, *pair)
    return list(alias_rows.values())


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--open-clip", "--mobileclip", "--mteb"):
        parser.add_argument(name, type=Path, required=True, metavar="CLONE")
    given = parser.parse_args()
    rows = [
        *openclip_38(given.open_clip),
        *openclip_retrieval(given.open_clip),
        *openclip_multilingual(given.open_clip),
        *mobileclip(given.mobileclip),
        *mteb(given.mteb),
        *papers(),
    ]
    frame = pd.DataFrame(rows)
    frame["recipe"] = frame["recipe"].fillna(frame["source"].map({source.name: source.recipe for source in sources()}))
    # Rows of a model stand together: a reader of one model then reads a fraction of the file.
    frame = frame[list(REGISTRY)].sort_values(["model", "pretrained", "source"], kind="stable").reset_index(drop=True)
    frame = frame.astype(
        {"digits": "int8", **{name: "category" for name in REGISTRY if name not in ("value", "digits")}}
    )
    frame.to_parquet(FOLDER / "registry.parquet", index=False, compression="zstd", row_group_size=4096)
    pd.DataFrame(names()).to_csv(FOLDER / "names.csv", index=False, lineterminator="\n")
    print(frame.groupby("source", observed=True).size().to_string())


if __name__ == "__main__":
    main()
