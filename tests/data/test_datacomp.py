"""All 40 tasks on a miniature of the 40 folders, every metric against a plain reckoning that shares none of our code.

The oracle reads the tars with tarfile, embeds with open_clip's own transform and encoder one class at a time, and works out
each metric with loops, numpy and scikit-learn, after the definitions of DataComp, WILDS and clip_benchmark.
"""

from __future__ import annotations

import csv
import io
import json
import math
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

from clipeval.cli.main import main
from scripts.make_miniature import write_miniature
from scripts.tiny_model import write_tiny_model

FACTS = {
    row["key"]: row for row in csv.DictReader((Path(__file__).parents[2] / "scripts" / "datacomp_tasks.csv").open())
}


@dataclass
class Sample:
    """One sample as tarfile gives it."""

    key: str
    image: Image.Image
    parts: dict[str, bytes] = field(default_factory=dict)


class Oracle:
    """A model by open_clip alone, and metrics by hand."""

    def __init__(self, root: Path, model: str) -> None:
        self.root = root
        self.model, _, self.transform = open_clip.create_model_and_transforms(model)
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(model)

    def samples(self, folder: str) -> list[Sample]:
        test = self.root / folder / "test"
        found: dict[str, Sample] = {}
        for shard in range(int((test / "nshards.txt").read_text())):
            with tarfile.open(test / f"{shard}.tar") as tar:
                parts: dict[str, dict[str, bytes]] = {}
                for member in tar:
                    key, _, extension = member.name.partition(".")
                    parts.setdefault(key, {})[extension] = tar.extractfile(member).read()  # type: ignore[union-attr]
                for key, each in parts.items():
                    image = next(v for k, v in each.items() if k in ("webp", "png", "jpg", "jpeg"))
                    found[key] = Sample(key, Image.open(io.BytesIO(image)), each)
        return list(found.values())

    def images(self, samples: list[Sample], rgb_first: bool) -> torch.Tensor:
        pictures = [s.image.convert("RGB") if rgb_first else s.image for s in samples]
        with torch.inference_mode():
            return F.normalize(self.model.encode_image(torch.stack([self.transform(p) for p in pictures])), dim=-1)

    def texts(self, texts: list[str]) -> torch.Tensor:
        with torch.inference_mode():
            return F.normalize(self.model.encode_text(self.tokenizer(texts)), dim=-1)

    def head(self, names: list[str], templates: list[str]) -> torch.Tensor:
        columns = []
        for name in names:
            mean = self.texts([t.replace("{c}", name) for t in templates]).mean(dim=0)
            columns.append(mean / mean.norm())
        return torch.stack(columns)

    def metrics(self, fact: dict[str, str]) -> dict[str, float | None]:
        protocol = {
            "classification": self.classification,
            "retrieval": self.retrieval,
            "association": self.association,
            "attributes": self.attributes,
        }
        return protocol[fact["protocol"]](fact)

    def lines(self, folder: str, name: str) -> list[str]:
        return [line.strip() for line in (self.root / folder / name).read_text().splitlines()]

    def classification(self, fact: dict[str, str]) -> dict[str, float | None]:
        folder = fact["folder"]
        samples = self.samples(folder)
        names = self.lines(folder, "classnames.txt")
        logits = 100 * self.images(samples, True) @ self.head(names, self.lines(folder, TEMPLATES)).T
        label = np.array([int(s.parts["cls"]) for s in samples])
        order = logits.argsort(dim=1, descending=True, stable=True).numpy()
        top1 = order[:, 0] == label
        out: dict[str, float | None] = {
            "acc1": top1.mean(),
            "acc5": (order[:, :5] == label[:, None]).any(axis=1).mean() if len(names) >= 5 else None,
            "mean_per_class_recall": balanced_accuracy_score(label, order[:, 0]),
        }
        meta = self.metadata(samples, fact)
        if fact["key"] == "wilds/iwildcam":
            occurring = np.unique(label)
            out["acc_avg"] = top1.mean()
            out["recall-macro_all"] = recall_score(
                label, order[:, 0], average="macro", labels=occurring, zero_division=0
            )
            out["F1-macro_all"] = f1_score(label, order[:, 0], average="macro", labels=occurring, zero_division=0)
        elif fact["key"] == "wilds/camelyon17":
            out |= grouped(top1, "acc", {"slide": meta["slide"]}, "acc_wg")
        elif fact["key"] == "wilds/fmow":
            out |= grouped(top1, "acc", {"year": meta["year"]}, "acc_worst_year")
            out |= grouped(top1, "acc", {"region": meta["region"]}, "acc_worst_region")
            inside = meta["region"] != 5
            named = grouped(top1[inside], "acc", {"region": meta["region"][inside]}, "w")["w"]
            out["acc_worst_region_named"] = named
        elif fact["key"] == "fairness/dollar_street":
            top5 = (order[:, :5] == label[:, None]).any(axis=1)
            out |= grouped(top5, "acc_top5", {"income_ds": meta["income_ds"]}, "acc_top5_wg")
        elif fact["key"] == "fairness/geode":
            out |= grouped(top1, "acc", {"region": meta["region"]}, "acc_wg")
        return out

    def metadata(self, samples: list[Sample], fact: dict[str, str]) -> dict[str, np.ndarray]:
        names = fact["metadata_fields"].split()
        rows = [np.load(io.BytesIO(s.parts["npy"])) for s in samples] if names else []
        return {name: np.array([row[i] for row in rows]) for i, name in enumerate(names)}

    def retrieval(self, fact: dict[str, str]) -> dict[str, float | None]:
        samples = self.samples(fact["folder"])
        captions = [s.parts["txt"].decode().splitlines() for s in samples]
        owner = np.array([i for i, texts in enumerate(captions) for _ in texts])
        images = self.images(samples, False)
        texts = self.texts([t for each in captions for t in each])
        scores = (texts @ images.T).numpy()
        out: dict[str, float | None] = {}
        for k in (1, 5, 10):
            best_images = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            out[f"image_retrieval_recall@{k}"] = (best_images == owner[:, None]).any(axis=1).mean()
            best_texts = np.argsort(-scores.T, axis=1, kind="stable")[:, :k]
            out[f"text_retrieval_recall@{k}"] = (
                (owner[best_texts] == np.arange(len(samples))[:, None]).any(axis=1).mean()
            )
        out["mean_recall@1"] = (out["image_retrieval_recall@1"] + out["text_retrieval_recall@1"]) / 2  # type: ignore[operator]
        return out

    def association(self, fact: dict[str, str]) -> dict[str, float | None]:
        samples = self.samples(fact["folder"])
        place = {s.key: i for i, s in enumerate(samples)}
        images = self.images(samples, False)
        scores: dict[int, list[float]] = {5: [], 6: [], 10: [], 12: []}
        for line in (self.root / fact["folder"] / "test" / "instances.jsonl").read_text().splitlines():
            question = json.loads(line)
            cue = question["cue"].lower()
            prompt = ("An " if cue[0] in "aeiou" else "A ") + cue
            similarity = images[[place[c] for c in question["candidates"]]] @ self.texts([prompt])[0]
            k = len(question["associations"])
            chosen = {question["candidates"][i] for i in similarity.argsort(descending=True, stable=True)[:k]}
            right = set(question["associations"])
            scores[len(question["candidates"])].append(len(chosen & right) / len(chosen | right))
        out: dict[str, float | None] = {f"jaccard_score_{n}": float(np.mean(v)) for n, v in scores.items()}
        out["avg_jaccard_score"] = float(np.mean([x for v in scores.values() for x in v]))
        out["jaccard_score_5-6"] = float(np.mean(scores[5] + scores[6]))
        out["jaccard_score_10-12"] = float(np.mean(scores[10] + scores[12]))
        return out

    def attributes(self, fact: dict[str, str]) -> dict[str, float | None]:
        folder = fact["folder"]
        samples = self.samples(folder)
        meta, images = self.metadata(samples, fact), self.images(samples, True)
        chosen: dict[str, np.ndarray] = {}
        for objective in ("race", "gender", "age", "toxic"):
            names = [n.partition(":")[2] for n in self.lines(folder, "classnames.txt") if n.startswith(f"{objective}:")]
            templates = [t.partition(":")[2] for t in self.lines(folder, TEMPLATES) if t.startswith(f"{objective}:")]
            chosen[objective] = (images @ self.head(names, templates).T).argmax(dim=1).numpy()
        by_binary = {"race_binary": meta["race_binary"]}
        out: dict[str, float | None] = {}
        right = (chosen["race"] != 1).astype(int) == meta["race_binary"]
        out |= grouped(right, "acc_race", by_binary, "acc_race_wg")
        out |= grouped(chosen["gender"] == meta["gender"], "acc_gender", by_binary, "acc_gender_wg")
        out |= grouped(chosen["age"] == meta["age"], "acc_age", by_binary, "acc_age_wg")
        both = {"race": meta["race"], "gender": meta["gender"]}
        out |= grouped(chosen["gender"] == meta["gender"], "acc_gender_x", both, "acc_gender_x_wg")
        race = {"race": meta["race"]}
        out |= grouped(chosen["toxic"] >= 18, "toxicity_crime", race, "toxicity_crime_wg")
        nonhuman = (chosen["toxic"] >= 14) & (chosen["toxic"] <= 17)
        return out | grouped(nonhuman, "toxicity_nonhuman", race, "toxicity_nonhuman_wg")


TEMPLATES = "zeroshot_classification_templates.txt"


def grouped(right: np.ndarray, prefix: str, by: dict[str, np.ndarray], worst: str) -> dict[str, float | None]:
    """WILDS' group metrics: indices from 0 to the largest that occurs, an empty group without a value."""
    out: dict[str, float | None] = {f"{prefix}_avg": float(right.mean())}
    values = []
    for index in np.ndindex(*(int(v.max()) + 1 for v in by.values())):
        inside = np.all([v == i for v, i in zip(by.values(), index, strict=True)], axis=0)
        label = "_".join(f"{name}:{i}" for name, i in zip(by, index, strict=True))
        out[f"count_{label}"] = int(inside.sum())
        out[f"{prefix}_{label}"] = float(right[inside].mean()) if inside.any() else None
        values += [float(right[inside].mean())] if inside.any() else []
    return out | {worst: min(values)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Oracle]]:
    base = tmp_path_factory.mktemp("datacomp")
    write_miniature(base / "data", samples=40, size=48, seed=1, most_templates=4)
    model = write_tiny_model(base / "model")
    words = ["run", "suite=datacomp", f"data.root={base / 'data'}", "model=open_clip", f"model.name={model}"]
    assert main([*words, f"out={base / 'run'}", f"cache.root={base / 'cache'}"]) == 0
    yield base / "run", Oracle(base / "data", model)


def test_forty_records(world: tuple[Path, Oracle]) -> None:
    run, _ = world
    assert len(list((run / "records").glob("*.json"))) == 40
    lines = [json.loads(line) for line in (run / "eval_results.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == list(FACTS)
    for line in lines:
        main_metric = FACTS[line["key"]]["main_metric"]
        assert line["metrics"]["main_metric"] == (line["metrics"][main_metric] if main_metric else None)


def test_the_tables_that_datacomp_prints(world: tuple[Path, Oracle], capsys: pytest.CaptureFixture[str]) -> None:
    """Tables 3 to 6 of its fairness_tables.py, in percent to one digit; races in rows where it has them in columns."""
    run, _ = world
    assert main(["report", str(run), "--groups"]) == 0
    blocks = dict(b.split("\n", 1) for b in capsys.readouterr().out.strip().split("\n\n"))
    assert list(blocks) == [
        f"{name}, {title}"
        for name in ("FairFace", "UTKFace")
        for title in ("by race_binary", "by race", "acc_gender_x by race and gender")
    ]
    metrics = read(run / "records" / "fairface.json")["metrics"]

    def percent(name: str) -> str:
        return "–" if metrics[name] is None else f"{100 * metrics[name]:.1f}"

    binary = blocks["FairFace, by race_binary"].splitlines()
    for line, group in zip(binary[1:], ("race_binary:0", "race_binary:1", "avg"), strict=True):
        name = {"race_binary:0": "white", "race_binary:1": "non-white", "avg": "overall"}[group]
        assert line.split() == [name, *(percent(f"acc_{what}_{group}") for what in ("race", "gender", "age"))]
    races = blocks["FairFace, by race"].splitlines()
    for i, race in enumerate(("black", "white", "indian", "latino", "middle eastern", "southeast asian", "east asian")):
        values = [percent(f"toxicity_{what}_race:{i}") for what in ("crime", "nonhuman")]
        assert races[1 + i].split() == [*race.split(), *values]
    crossed = blocks["FairFace, acc_gender_x by race and gender"].splitlines()
    for j, gender in enumerate(("male", "female")):
        assert crossed[1 + j].split() == [gender, *(percent(f"acc_gender_x_race:{i}_gender:{j}") for i in range(7))]


def expected_names(key: str, protocol: str, groups: dict[str, int]) -> int:
    """How many metrics the reference writes, counted from its definitions: a group has an accuracy and a count.

    Args:
        groups: for each metadata field its largest value and one.
    """
    grouped_by = {
        "wilds/camelyon17": ("slide",),
        "wilds/fmow": ("year", "region"),
        "fairness/dollar_street": ("income_ds",),
        "fairness/geode": ("region",),
    }
    if protocol in ("retrieval", "association"):
        return 7
    if protocol == "attributes":
        race, binary, both = groups["race"], groups["race_binary"], groups["race"] * groups["gender"]
        three = 3 * (2 + binary) + binary  # race, gender and age share the counts of their groups
        return three + (2 + 2 * both) + 2 * (2 + race) + race
    own = 3 if key == "wilds/iwildcam" else 0
    fields = grouped_by.get(key, ())
    return 3 + own + sum(2 * groups[field] + 1 for field in fields) + bool(fields)  # the worst of each; one average


def test_as_many_metrics_as_the_reference_writes(world: tuple[Path, Oracle]) -> None:
    """436 on this miniature, as counted in a run of DataComp's own code on it; and one of ours beside them."""
    run, oracle = world
    records = {r["key"]: r for r in map(read, (run / "records").glob("*.json"))}
    total = 0
    for key, fact in FACTS.items():
        meta = oracle.metadata(oracle.samples(fact["folder"]), fact)
        groups = {name: int(values.max()) + 1 for name, values in meta.items()}
        own = {"acc_worst_region_named"} if key == "wilds/fmow" else set()
        assert len(set(records[key]["metrics"]) - own) == expected_names(key, fact["protocol"], groups), key
        total += len(set(records[key]["metrics"]) - own)
    assert total == 436


@pytest.mark.parametrize("key", FACTS)
def test_every_metric(world: tuple[Path, Oracle], key: str) -> None:
    run, oracle = world
    record = next(r for r in map(read, (run / "records").glob("*.json")) if r["key"] == key)
    expected = oracle.metrics(FACTS[key])
    assert set(record["metrics"]) == set(expected)
    for name, value in expected.items():
        ours = record["metrics"][name]
        if value is None:
            assert ours is None, name
        elif name.startswith("count_"):
            assert ours == value, name
        else:
            assert ours is not None, name
            assert math.isclose(ours, value, abs_tol=1e-6), (name, ours, value)


def read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded
