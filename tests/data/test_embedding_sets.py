"""A miniature of each set that is scored on embeddings alone, in its makers' layout, through the command line.

What is expected is computed here from the files, in the words of each set's own program, with open_clip's own transform.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import spearmanr
from sklearn import cluster, metrics

from clipeval.cli.main import main
from clipeval.configs.catalog import suite_tasks
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.data.config import data_config
from clipeval.data.lock import Lock, write_lock
from clipeval.data.split import open_split
from scripts.tiny_model import write_tiny_model


def picture(seed: int, form: str = "PNG", size: tuple[int, int] = (48, 40)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


class Bench:
    """The model, as open_clip has it, and the root that the sets are written to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        write_tiny_model(root / "model")
        self.name = f"local-dir:{root / 'model'}"
        model, _, self.transform = open_clip.create_model_and_transforms(self.name)
        self.model, self.tokenizer = model.eval(), open_clip.get_tokenizer(self.name)

    @torch.no_grad()
    def images(self, sources: Sequence[bytes | Image.Image], raw: bool = False) -> np.ndarray:
        opened = [one if isinstance(one, Image.Image) else Image.open(io.BytesIO(one)) for one in sources]
        rows = torch.stack([self.model.encode_image(self.transform(one.convert("RGB"))[None])[0] for one in opened])
        return (rows if raw else F.normalize(rows, dim=-1)).numpy()

    @torch.no_grad()
    def texts(self, texts: Sequence[str], raw: bool = False) -> np.ndarray:
        rows = torch.stack([self.model.encode_text(self.tokenizer([text]))[0] for text in texts])
        return (rows if raw else F.normalize(rows, dim=-1)).numpy()

    def parquet(self, path: str, rows: list[dict[str, Any]]) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), target)
        folder = path.partition("/")[0]
        if "--" in folder:  # what `clipeval download` leaves beside a hub's files
            write_lock(self.root / folder, Lock(folder.replace("--", "/"), None, None, "files", {}))

    def run(self, *words: str, out: str = "run") -> dict[str, dict[str, Any]]:
        how = [f"data.root={self.root}", f"out={self.root / out}", f"cache.root={self.root / 'cache'}"]
        model = ["model=open_clip", f"model.name={self.name}", "runtime.workers=0", "runtime.device=cpu"]
        assert main(["run", *words, *model, *how]) == 0
        records = (self.root / out / "records").glob("*.json")
        return {path.stem: json.loads(path.read_text()) for path in records}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("embeddings"))


def cell(data: bytes) -> dict[str, Any]:
    return {"bytes": data, "path": None}


CLUSTERING = {
    "mieb_cifar10": ("mteb--cifar10", "test", "img", "label"),
    "mieb_cifar100": ("mteb--cifar100", "test", "img", "fine_label"),
    "mieb_imagenet10": ("mteb--imagenet-10", "test", "image", "label"),
    "mieb_imagenet_dog15": ("mteb--imagenet-dog-15", "test", "image", "label"),
    "mieb_tiny_imagenet": ("mteb--tiny-imagenet", "valid", "image", "label"),
}


def test_clustering_as_mteb_has_it(bench: Bench) -> None:
    words, labels, drawn = [], {}, {}
    for number, (task, (folder, split, image, label)) in enumerate(CLUSTERING.items()):
        labels[task] = [(i * 7 + number) % (3 + number) for i in range(40)]
        drawn[task] = [picture(100 * number + one * 3 + i % 3) for i, one in enumerate(labels[task])]
        rows = [{image: cell(data), label: one} for data, one in zip(drawn[task], labels[task], strict=True)]
        bench.parquet(f"{folder}/data/{split}-00000-of-00001.parquet", rows)
        words.append(f"+task@tasks.{task}={task}")
    found = bench.run("suite=none", *words, out="clustering")
    assert set(found) == set(CLUSTERING)
    for task, record in found.items():
        rows = bench.images(drawn[task], raw=True)
        fitted = cluster.MiniBatchKMeans(
            n_clusters=len(set(labels[task])), batch_size=500, n_init="auto", random_state=42
        ).fit(rows)
        expected = metrics.normalized_mutual_info_score(labels[task], fitted.labels_)
        assert record["metrics"]["nmi"] == pytest.approx(expected, abs=1e-6), task
        low, high = record["intervals"]["nmi"]
        assert low <= record["metrics"]["nmi"] <= high


def test_any_classification_can_be_clustered_and_no_text_is_embedded(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(24):
        path = bench.root / "mine" / f"class {i % 3}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i))
    mine = ["task=folder", f"task.data.path={bench.root / 'mine'}"]
    bench.run(*mine, out="plain")
    capsys.readouterr()
    how = [f"cache.root={bench.root / 'cache'}", "model=open_clip", f"model.name={bench.name}", "runtime.device=cpu"]
    assert main(["plan", *mine, "protocol=clustering", *how, f"out={bench.root / 'clustered'}"]) == 0
    assert "To embed: 0 images and 0 prompts" in " ".join(capsys.readouterr().out.split())
    found = bench.run(*mine, "protocol=clustering", out="clustered")
    assert found["folder-clustering"]["metric"] == "nmi"
    assert main(["verify", str(bench.root / "clustered")]) == 0


Expected = dict[str, float]


def visual_sts(bench: Bench) -> dict[str, Expected]:
    """mteb/rendered-sts12 to 16: two pictures and a score a row; many pictures occur twice."""
    found = {}
    for number, year in enumerate(range(12, 17)):
        a = [picture(1000 + number * 50 + i % 7) for i in range(20)]
        b = [picture(2000 + number * 50 + i % 9) for i in range(20)]
        gold = [((i * 13 + number) % 11) / 2 for i in range(20)]
        rows = [{"sentence1": cell(x), "sentence2": cell(y), "score": s} for x, y, s in zip(a, b, gold, strict=True)]
        bench.parquet(f"mteb--rendered-sts{year}/data/test-00000-of-00001.parquet", rows)
        cosines = (bench.images(a) * bench.images(b)).sum(axis=1)
        found[f"visual_sts{year}"] = {"cosine_spearman": float(spearmanr(gold, cosines)[0])}
    return found


def first_of(scores: np.ndarray, left_out: Sequence[int] = ()) -> list[int]:
    return [i for i in np.argsort(-scores, kind="stable").tolist() if i not in left_out]


MTEB = {
    "cub200": ("mteb--cub200_retrieval", "hit_rate_at_1", True, False, "data"),
    "sop": ("mteb--stanford-online-products", "hit_rate_at_1", True, False, "qrels"),
    "nights": ("mteb--mbeir_nights_task4", "ndcg_at_10", False, False, "default"),
    "cirr_mteb": ("mteb--mbeir_cirr_task7", "ndcg_at_10", False, True, "qrels"),
    "fashioniq_mteb": ("mteb--mbeir_fashioniq_task7", "ndcg_at_10", False, True, "qrels"),
}


def mteb_retrieval(bench: Bench) -> dict[str, Expected]:
    """corpus, queries and qrels; queries are documents as well where the first is skipped. A text that is not asked is there."""
    found = {}
    for number, (task, (folder, metric, skips, composed, qrels)) in enumerate(MTEB.items()):
        documents = [picture(3000 + 100 * number + i) for i in range(14)]
        queries = documents[:6] if skips else [picture(3500 + 100 * number + i) for i in range(6)]
        texts = [f"now a dog {i}" for i in range(6)]
        relevant = [[(i + 7) % 14, (i + 8) % 14][: 1 + i % 2] for i in range(6)]
        ids = [{"id": f"c{i}"} if number % 2 else {"_id": f"c{i}"} for i in range(14)]
        bench.parquet(
            f"{folder}/corpus/test-00000-of-00001.parquet",
            [{**one, "image": cell(data), "modality": "image"} for one, data in zip(ids, documents, strict=True)],
        )
        bench.parquet(
            f"{folder}/queries/test-00000-of-00001.parquet",
            [{"id": f"q{i}", "image": cell(queries[i]), "text": texts[i]} for i in range(6)]
            + [{"id": "not asked", "image": cell(queries[0]), "text": "x"}],
        )
        pairs = [{"query-id": f"q{i}", "corpus-id": f"c{j}", "score": 1} for i in range(6) for j in relevant[i]]
        pairs.append({"query-id": "q0", "corpus-id": "c5", "score": 0})
        bench.parquet(f"{folder}/{qrels}/test-00000-of-00001.parquet", pairs)
        rows, asked, scores = bench.images(documents), bench.images(queries, raw=composed), []
        words = bench.texts(texts, raw=composed)  # which MTEB adds as long as they are
        assert not composed or np.abs(np.linalg.norm(asked, axis=1) / np.linalg.norm(words, axis=1) - 1).max() > 0.1
        for i in range(6):
            vector = asked[i] + words[i] if composed else asked[i]
            order = first_of(rows @ vector)[int(skips) :]
            ranks = [order.index(j) for j in relevant[i] if j in order]
            if metric == "hit_rate_at_1":
                scores.append(float(0 in ranks))
            else:
                ideal = sum(1 / np.log2(j + 2) for j in range(len(relevant[i])))
                scores.append(sum(1 / np.log2(r + 2) for r in ranks if r < 10) / ideal)
        found[task] = {metric: float(np.mean(scores))}
    return found


def landmarks(bench: Bench) -> dict[str, Expected]:
    """gallery.json and queries.json, as the command in _landmarks.yaml makes them of the pickle; jpg/."""
    found = {}
    for number, (folder, short) in enumerate((("roxford5k", "roxford"), ("rparis6k", "rparis"))):
        jpg = bench.root / folder / "jpg"
        jpg.mkdir(parents=True)
        names = [f"place_{i:06d}" for i in range(12)]
        pictures = [picture(5000 + number * 100 + i, "JPEG") for i in range(15)]
        for name, data in zip([*names, "query_0", "query_1", "query_2"], pictures, strict=True):
            (jpg / f"{name}.jpg").write_bytes(data)
        queries = [
            {"query": "query_0", "box": [3, 2, 30, 31], "easy": names[:2], "hard": names[2:5], "junk": names[5:7]},
            {"query": "query_1", "box": [0, 0, 25, 40], "easy": [], "hard": names[7:9], "junk": []},
            {"query": "query_2", "box": [8, 5, 33, 30], "easy": names[9:10], "hard": names[3:5], "junk": [names[0]]},
        ]
        (bench.root / folder / "gallery.json").write_text(json.dumps(names))
        (bench.root / folder / "queries.json").write_text(json.dumps(queries))
        rows, asked = bench.images(pictures[:12]), []
        for one, data in zip(queries, pictures[12:], strict=True):
            x, y, w, h = one["box"]
            asked.append(Image.open(io.BytesIO(data)).convert("RGB").crop((x, y, x + w, y + h)))
        cosines = bench.images(asked) @ rows.T
        for level, (right, wrong) in {
            "easy": (("easy",), ("junk", "hard")),
            "medium": (("easy", "hard"), ("junk",)),
            "hard": (("hard",), ("junk", "easy")),
        }.items():
            aps = []
            for one, scores in zip(queries, cosines, strict=True):
                ok, junk = ([names.index(n) for kind in kinds for n in one[kind]] for kinds in (right, wrong))
                if not ok:
                    continue
                order = first_of(scores, junk)
                ranks = sorted(order.index(i) for i in ok)
                before = [1.0 if r == 0 else j / r for j, r in enumerate(ranks)]
                aps.append(sum(b + (j + 1) / (r + 1) for j, (b, r) in enumerate(zip(before, ranks, strict=True))))
                aps[-1] /= 2 * len(ok)
            found[f"{short}_{level}"] = {"map": float(np.mean(aps))}
    return found


def recall(cosines: np.ndarray, targets: Sequence[int], k: int, left_out: Sequence[Sequence[int]] = ()) -> float:
    hits = [targets[i] in first_of(scores, left_out[i] if left_out else ())[:k] for i, scores in enumerate(cosines)]
    return float(np.mean(hits))


def cirr(bench: Bench) -> dict[str, Expected]:
    """captions/, image_splits/ and img_raw/ as the README of Cuberick-Orion/CIRR shows them; dev/ holds more pictures."""
    names = [f"dev-{i}-0-img{i % 2}" for i in range(12)]
    pictures = [picture(6000 + i) for i in range(13)]
    for name, data in zip([*names, "dev-99-0-img0"], pictures, strict=True):
        target = bench.root / "cirr" / "img_raw" / "dev" / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    rows = []
    for i in range(8):
        members = [names[(i + j) % 12] for j in range(6)]
        rows.append(
            {
                "pairid": 100 + i,
                "reference": names[i],
                "target_hard": members[1 + i % 5],
                "target_soft": {members[1]: 1.0},
                "caption": f"show {i} dogs, not one",
                "img_set": {"id": i, "members": members, "reference_rank": 0, "target_rank": 1},
            }
        )
    for folder in ("captions", "image_splits"):
        (bench.root / "cirr" / folder).mkdir(parents=True)
    (bench.root / "cirr/captions/cap.rc2.val.json").write_text(json.dumps(rows))
    paths = {name: f"./dev/{name}.png" for name in names}
    (bench.root / "cirr/image_splits/split.rc2.val.json").write_text(json.dumps(paths))
    gallery = bench.images(pictures[:12])
    asked = gallery[:8] + bench.texts([row["caption"] for row in rows])
    cosines, targets = asked @ gallery.T, [names.index(row["target_hard"]) for row in rows]
    inside = [[i for i in range(12) if names[i] not in row["img_set"]["members"]] for row in rows]
    return {
        "cirr": {f"recall_at_{k}": recall(cosines, targets, k, [[i] for i in range(8)]) for k in (1, 5, 10)},
        "cirr_subset": {
            f"recall_at_{k}": recall(cosines, targets, k, [[i, *inside[i]] for i in range(8)]) for k in (1, 2, 3)
        },
    }


def circo(bench: Bench) -> dict[str, Expected]:
    """annotations/val.json and unlabeled2017/ as miccunifi/CIRCO has them."""
    folder = bench.root / "circo" / "unlabeled2017"
    folder.mkdir(parents=True)
    pictures = [picture(7000 + i, "JPEG") for i in range(15)]
    for i, data in enumerate(pictures):
        (folder / f"{100 + i:012}.jpg").write_bytes(data)
    rows = []
    for i in range(6):
        truths = [100 + (i + 2 + j) % 15 for j in range(1 + i % 3)]
        target = {"reference_img_id": 100 + i, "target_img_id": truths[0], "gt_img_ids": truths, "id": i}
        rows.append({**target, "relative_caption": f"has {i} cats", "shared_concept": "pets", "semantic_aspects": []})
    (bench.root / "circo/annotations").mkdir()
    (bench.root / "circo/annotations/val.json").write_text(json.dumps(rows))
    gallery = bench.images(pictures)
    asked = gallery[:6] + bench.texts([row["relative_caption"] for row in rows])
    aps = []
    for row, vector in zip(rows, asked, strict=True):
        labels = np.isin([100 + i for i in first_of(gallery @ vector)], row["gt_img_ids"])
        precisions = np.cumsum(labels) * labels / np.arange(1, len(labels) + 1)
        aps.append(precisions[:5].sum() / min(len(row["gt_img_ids"]), 5))
    return {"circo": {"map_at_5": float(np.mean(aps))}}


def fashioniq(bench: Bench) -> dict[str, Expected]:
    """captions/cap.CATEGORY.val.json and image_splits/split.CATEGORY.val.json, a list of names; images/."""
    found = {}
    for folder in ("captions", "image_splits", "images"):
        (bench.root / "fashioniq" / folder).mkdir(parents=True)
    for number, category in enumerate(("dress", "shirt", "toptee")):
        names = [f"B{number}{i:03d}" for i in range(60)]
        pictures = [picture(8000 + 100 * number + i, size=(34, 33)) for i in range(60)]
        for name, data in zip(names, pictures, strict=True):
            (bench.root / "fashioniq/images" / f"{name}.png").write_bytes(data)
        rows = [
            {"target": names[(i * 7 + 3) % 60], "candidate": names[i], "captions": [f"is {i} red", "longer sleeves"]}
            for i in range(9)
        ]
        (bench.root / f"fashioniq/captions/cap.{category}.val.json").write_text(json.dumps(rows))
        (bench.root / f"fashioniq/image_splits/split.{category}.val.json").write_text(json.dumps(names))
        gallery = bench.images(pictures)
        cosines = (gallery[:9] + bench.texts([" and ".join(row["captions"]) for row in rows])) @ gallery.T
        targets = [names.index(row["target"]) for row in rows]
        found[f"fashioniq_{category}"] = {f"recall_at_{k}": recall(cosines, targets, k) for k in (10, 50)}
    return found


def genecis(bench: Bench) -> dict[str, Expected]:
    """genecis/CHANGE_object.json of facebookresearch/genecis, and COCO's val2017/."""
    (bench.root / "genecis/genecis").mkdir(parents=True)
    (bench.root / "genecis/val2017").mkdir()
    pictures = [picture(9000 + i, "JPEG") for i in range(30)]
    for i, data in enumerate(pictures):
        (bench.root / "genecis/val2017" / f"{500 + i:012d}.jpg").write_bytes(data)
    rows_of, found = bench.images(pictures), {}
    for number, kind in enumerate(("change", "focus")):
        rows = [
            {
                "condition": f"{kind} wall {i}",
                "gallery": [{"val_image_id": 500 + (i + 2 + j) % 30} for j in range(14)],
                "reference": {"val_image_id": 500 + i},
                "target": {"val_image_id": 500 + (i + 20 + number) % 30},
            }
            for i in range(10)
        ]
        (bench.root / f"genecis/genecis/{kind}_object.json").write_text(json.dumps(rows))
        hits = []
        for i, vector in enumerate(rows_of[:10] + bench.texts([row["condition"] for row in rows])):
            ids = [rows[i]["target"]["val_image_id"], *(one["val_image_id"] for one in rows[i]["gallery"])]
            hits.append([0 in first_of(rows_of[[one - 500 for one in ids]] @ vector)[:k] for k in (1, 2, 3)])
        found[f"genecis_{kind}_object"] = {f"recall_at_{k}": float(np.mean(hits, axis=0)[k - 1]) for k in (1, 2, 3)}
    return found


@pytest.fixture(scope="module")
def expected(bench: Bench) -> dict[str, Expected]:
    found: dict[str, Expected] = {}
    for build in (visual_sts, mteb_retrieval, landmarks, cirr, circo, fashioniq, genecis):
        found |= build(bench)
    return found


def test_each_set_against_its_own_program(bench: Bench, expected: dict[str, Expected]) -> None:
    suite = set(suite_tasks("embeddings"))
    assert set(expected) | set(CLUSTERING) == suite
    found = bench.run("suite=none", *(f"+task@tasks.{task}={task}" for task in expected), out="sets")
    assert set(found) == set(expected)
    for task, values in expected.items():
        for metric, value in values.items():
            assert found[task]["metrics"][metric] == pytest.approx(value, abs=1e-6), (task, metric)
    assert main(["verify", str(bench.root / "sets")]) == 0


BAD: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "no such picture": (
        "cirr/captions/cap.rc2.val.json",
        lambda rows: [{**rows[0], "reference": "dev-77-0-img0"}, *rows[1:]],
        r"cirr.*cap\.rc2\.val\.json, entry 0.*dev-77-0-img0\.png' does not exist",
    ),
    "not in the gallery": (
        "cirr/captions/cap.rc2.val.json",
        lambda rows: [{**rows[0], "target_hard": "dev-99-0-img0"}, *rows[1:]],
        r"query '0' seeks 'img_raw/dev/dev-99-0-img0\.png', which is not in data\.gallery",
    ),
    "no text": (
        "cirr/captions/cap.rc2.val.json",
        lambda rows: [{**rows[0], "caption": " "}, *rows[1:]],
        r"cap\.rc2\.val\.json, entry 0.*'caption'.*empty",
    ),
    "no column": (
        "cirr/captions/cap.rc2.val.json",
        lambda rows: [{k: v for k, v in row.items() if k != "target_hard"} for row in rows],
        r"cap\.rc2\.val\.json: data\.relevant: .*target_hard",
    ),
    "no rows": ("cirr/captions/cap.rc2.val.json", lambda _: [], r"cap\.rc2\.val\.json: there is no row in it"),
    "no gallery": ("cirr/image_splits/split.rc2.val.json", None, r"cirr holds no image_splits/split.rc2.val.json"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.usefixtures("expected")
def test_one_error_names_what_is_wrong(bench: Bench, case: str) -> None:
    path, change, message = BAD[case]
    file = bench.root / path
    before = file.read_text()
    try:
        file.unlink()
        if change is not None:
            file.write_text(json.dumps(change(json.loads(before))))
        with pytest.raises(ClipevalError, match=message):
            open_split(data_config(compose(["suite=none", "task=cirr"]).tasks.cirr), str(bench.root), "test", None)
    finally:
        file.write_text(before)


def rewritten(path: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    pq.write_table(pa.Table.from_pylist(change(pq.read_table(path).to_pylist())), path)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("qrels", lambda rows: [{**rows[0], "corpus-id": "c99"}, *rows[1:]], "'q0' name the document 'c99'"),
        ("qrels", lambda rows: [{**rows[0], "query-id": "q99"}, *rows[1:]], "name the query 'q99'"),
        ("qrels", lambda rows: [{**rows[0], "score": None}, *rows[1:]], r"row 0, column 'score'"),
        ("qrels", lambda rows: [{"query": r["query-id"]} for r in rows], "column.*query-id"),
        ("corpus", lambda rows: [{**rows[0], "image": None}, *rows[1:]], r"row 0, column 'image'"),
        ("corpus", lambda rows: [*rows, rows[0]], r"row \d+, column '_?id': '.*' is also the id of .*row 0"),
        ("queries", lambda rows: [*rows, rows[0]], r"row \d+, column 'id': 'q0' is also the id of .*row 0"),
        ("corpus", lambda rows: [{"pic": r["image"], "id": r["id"]} for r in rows], "column.*image"),
    ],
)
@pytest.mark.usefixtures("expected")
def test_one_error_of_mtebs_tables(bench: Bench, part: str, change: Any, message: str) -> None:
    path = bench.root / "mteb--stanford-online-products" / part / "test-00000-of-00001.parquet"
    before = path.read_bytes()
    try:
        rewritten(path, change)
        with pytest.raises(ClipevalError, match=message):
            open_split(data_config(compose(["suite=none", "task=sop"]).tasks.sop), str(bench.root), "test", None)
    finally:
        path.write_bytes(before)


@pytest.mark.usefixtures("expected")
def test_a_score_that_is_none_is_named(bench: Bench) -> None:
    path = bench.root / "mteb--rendered-sts12" / "data" / "test-00000-of-00001.parquet"
    before = path.read_bytes()
    try:
        rewritten(path, lambda rows: [*rows[:3], {**rows[3], "score": None}, *rows[4:]])
        with pytest.raises(ClipevalError, match=r"row 3.*column 'score': a number was expected"):
            node = compose(["suite=none", "task=visual_sts12"]).tasks.visual_sts12
            open_split(data_config(node), str(bench.root), "test", None)
    finally:
        path.write_bytes(before)


def test_a_gallery_is_a_mapping() -> None:
    with pytest.raises(ClipevalError, match=r"data\.gallery=.x.: .files: pattern or null.*was expected"):
        compose(["suite=none", "task=cirr", "task.data.gallery=x"])
