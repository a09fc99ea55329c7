"""A miniature of each set of image-text pairs, in its makers' layout, through the command line.

What is expected is computed here from the files, in the words of each set's own program, with open_clip's own transform.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from PIL import Image

from clipeval.cli.main import main
from clipeval.configs.compose import CONFIG_DIR
from clipeval.configs.errors import ClipevalError
from clipeval.data.config import DataConfig
from clipeval.data.lock import Lock, write_lock
from clipeval.data.split import open_split
from scripts.tiny_model import write_tiny_model

SYMMETRIC = OmegaConf.load(CONFIG_DIR / "task" / "_aro_symmetric.yaml").without


def picture(seed: int, form: str = "PNG", size: tuple[int, int] = (48, 40)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


@dataclass
class Bench:
    """The model, as open_clip has it, and the root that the sets are written to."""

    name: str
    root: Path
    _model: Any = None
    _texts: dict[str, np.ndarray] = field(default_factory=dict)

    def image(self, source: Path | bytes, box: Sequence[int] | None = None) -> np.ndarray:
        opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source).convert("RGB")
        if box is not None:
            x, y, w, h = box
            opened = opened.crop((x, y, x + w, y + h))
        model, transform, _ = self._loaded()
        with torch.no_grad():
            return F.normalize(model.encode_image(transform(opened)[None]), dim=-1)[0].numpy()

    def text(self, text: str) -> np.ndarray:
        if text not in self._texts:
            model, _, tokenizer = self._loaded()
            with torch.no_grad():
                self._texts[text] = F.normalize(model.encode_text(tokenizer([text])), dim=-1)[0].numpy()
        return self._texts[text]

    def choice(self, image: np.ndarray, options: Sequence[str]) -> int:
        """np.argmax over the captions, as ARO's, What'sUp's and MTEB's evaluators take it."""
        return int(np.argmax([float(image @ self.text(option)) for option in options]))

    def winoground(self, images: Sequence[np.ndarray], captions: Sequence[str]) -> tuple[bool, bool, bool]:
        c0, c1 = map(self.text, captions)
        i0, i1 = images
        text = bool(i0 @ c0 > i0 @ c1 and i1 @ c1 > i1 @ c0)
        image = bool(i0 @ c0 > i1 @ c0 and i1 @ c1 > i0 @ c1)
        return text, image, text and image

    def _loaded(self) -> Any:
        if self._model is None:
            model, _, transform = open_clip.create_model_and_transforms(self.name)
            self._model = model.eval(), transform, open_clip.get_tokenizer(self.name)
        return self._model

    def write(self, path: str, content: Any) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        elif path.endswith(".csv"):
            with target.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(content)
        elif path.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(content), target)
        else:
            target.write_text(json.dumps(content), encoding="utf-8")
        return target


Expected = Mapping[str, float]
SETS: dict[str, Callable[[Bench], Expected]] = {}


def a_set(builder: Callable[[Bench], Expected]) -> Callable[[Bench], Expected]:
    SETS[builder.__name__] = builder
    return builder


def aro(
    bench: Bench, file: str, of_row: Callable[[int], dict[str, Any]], count: int
) -> list[tuple[dict[str, Any], bool]]:
    rows = []
    for i in range(count):
        bench.write(f"aro/images/{i % 7}.jpg", picture(i % 7, "JPEG"))
        row = {
            "image_id": str(i),
            "image_path": f"{i % 7}.jpg",
            "bbox_x": i % 5,
            "bbox_y": 2,
            "bbox_w": 30 + i % 3,
            "bbox_h": 31,
        }
        same = i % 4 == 0  # a tie
        rows.append(
            {
                **row,
                "true_caption": f"a dog {i} the cat",
                "false_caption": f"a dog {i} the cat" if same else f"the cat {i} a dog",
            }
        )
        rows[-1].update(of_row(i))
    bench.write(f"aro/{file}", rows)
    found = []
    for row in rows:
        image = bench.image(bench.root / "aro/images" / row["image_path"], [row[f"bbox_{k}"] for k in "xywh"])
        found.append((row, bench.choice(image, [row["false_caption"], row["true_caption"]]) == 1))
    return found


@a_set
def aro_relation(bench: Bench) -> Expected:
    names = ["wearing", "to the left of", str(SYMMETRIC[3]), "eating"]
    found = aro(bench, "visual_genome_relation.json", lambda i: {"relation_name": names[i % 4]}, 40)
    each = {n: np.mean([ok for row, ok in found if row["relation_name"] == n]) for n in names if n not in SYMMETRIC}
    return {"macro_text_acc": float(np.mean(list(each.values()))), "text_acc": float(np.mean([ok for _, ok in found]))}


@a_set
def aro_attribution(bench: Bench) -> Expected:
    names = [["red", "round"]] * 26 + [["old", "green"]] * 25 + [["wet", "small"]] * 5
    found = aro(bench, "visual_genome_attribution.json", lambda i: {"attributes": names[i]}, len(names))
    each = [[ok for row, ok in found if row["attributes"] == n] for n in (["red", "round"], ["old", "green"])]
    return {"macro_text_acc": float(np.mean([np.mean(one) for one in each]))}


def mteb(bench: Bench, hub: str, image: str, columns: Sequence[str]) -> Expected:
    rows = [
        {
            image: {"bytes": picture(i % 5), "path": None},
            **{c: f"{c} {i if k else i // 2} of {i % 3}" for k, c in enumerate(columns)},
        }
        for i in range(12)
    ]
    rows[3][columns[1]] = rows[3][columns[0]]  # a tie, which is right
    bench.write(f"{hub.replace('/', '--')}/data/test-00000-of-00001.parquet", rows)
    right = [bench.choice(bench.image(row[image]["bytes"]), [row[c] for c in columns]) == 0 for row in rows]
    return {"text_acc": float(np.mean(right))}


@a_set
def aro_relation_mteb(bench: Bench) -> Expected:
    return mteb(bench, "mteb/ARO-Visual-Relation", "image", ["true_caption", "false_caption"])


@a_set
def aro_coco_order(bench: Bench) -> Expected:
    return mteb(bench, "mteb/ARO-COCO-order", "images", ["correct_caption", *(f"hard_text_{i}" for i in range(1, 5))])


@a_set
def aro_attribution_mteb(bench: Bench) -> Expected:
    return mteb(bench, "mteb/ARO-Visual-Attribution", "image", ["true_caption", "false_caption"])


@a_set
def aro_flickr_order(bench: Bench) -> Expected:
    return mteb(bench, "mteb/ARO-Flickr-Order", "images", ["correct_caption", *(f"hard_text_{i}" for i in range(1, 5))])


@a_set
def sugar_crepe(bench: Bench) -> Expected:
    right: dict[str, list[bool]] = {}
    for k, part in enumerate(["add_att", "swap_obj"]):
        content = {}
        for i in range(6 + 4 * k):
            name = f"{i % 4:012d}.jpg"
            path = bench.write(f"sugar_crepe/val2017/{name}", picture(i % 4, "JPEG"))
            content[str(2 * i)] = {"filename": name, "caption": f"{part} {i}", "negative_caption": f"{part} not {i}"}
            options = [content[str(2 * i)][c] for c in ("caption", "negative_caption")]
            right.setdefault(part, []).append(bench.choice(bench.image(path), options) == 0)
        bench.write(f"sugar_crepe/data/{part}.json", content)
    parts = {f"text_acc_{part}": float(np.mean(one)) for part, one in right.items()}
    return {
        **parts,
        "text_acc": float(np.mean(list(itertools.chain(*right.values())))),
        "macro_text_acc": float(np.mean(list(parts.values()))),
    }


@a_set
def sugar_crepe_pp(bench: Bench) -> Expected:
    itt, tot = [], []
    for part in ("swap_att", "replace_rel"):
        rows = []
        for i in range(8):
            path = bench.write(f"sugar_crepe_pp/images/{i:012d}.jpg", picture(i, "JPEG"))
            rows.append(
                {
                    "id": i,
                    "filename": path.name,
                    "caption": f"{part} {i}",
                    "caption2": f"{i} {part}",
                    "negative_caption": f"no {i}",
                }
            )
            image, (p1, p2, neg) = (
                bench.image(path),
                (bench.text(rows[-1][c]) for c in ("caption", "caption2", "negative_caption")),
            )
            itt.append(image @ p1 > image @ neg and image @ p2 > image @ neg)
            tot.append(p1 @ p2 > p1 @ neg and p1 @ p2 > p2 @ neg)
        bench.write(f"sugar_crepe_pp/data/{part}.json", rows)
    return {"text_acc": float(np.mean(itt)), "caption_acc": float(np.mean(tot))}


@a_set
def mmvp_vlm(bench: Bench) -> Expected:
    kinds, pairs = ["Orientation and Direction", "Texts"], 6
    rows, right = [["Question ID", "Type", "Statement"]], dict.fromkeys(kinds, 0)
    for kind in kinds:
        for _ in range(pairs):
            two = []
            for _ in range(2):
                number = len(rows)
                rows.append([str(number), kind, f"Statement, {number}"])
                two.append(bench.write(f"MMVP--MMVP_VLM/MLLM_VLM Images/{kind}/{number}.jpg", picture(number, "JPEG")))
            (i0, i1), (t0, t1) = map(bench.image, two), (bench.text("a photo of " + row[2]) for row in rows[-2:])
            right[kind] += bool(i0 @ t0 > i1 @ t0 and i1 @ t1 > i0 @ t1)
    bench.write("MMVP--MMVP_VLM/Questions.csv", rows)
    return {"macro_image_acc": float(np.mean([n / pairs for n in right.values()]))}


def whatsup(bench: Bench, table: str, folder: str, slots: Sequence[str]) -> Expected:
    rows, answers = [], {}
    for what in ("beer-bottle_{}_armchair", "bowl_{}_table"):
        for slot in slots:
            name = what.format(slot)
            path = bench.write(f"whatsup/{folder}/{name}.jpeg", picture(len(rows), "JPEG"))
            options = [f"A thing {other} a thing {len(rows)}" for other in (slot, *(s for s in slots if s != slot))]
            rows.append({"image_path": f"data/{folder}/{name}.jpeg", "caption_options": options})
            parts = name.split("_")
            answers.setdefault((parts[0], parts[-1]), {})[parts[1]] = bench.choice(bench.image(path), options) == 0
    bench.write(f"whatsup/{table}", rows)
    names = [slot.split("_")[0] for slot in slots]
    pairs = sum((a[names[0]] and a[names[1]]) + (a[names[2]] and a[names[3]]) for a in answers.values())
    return {
        "text_acc": float(np.mean([ok for a in answers.values() for ok in a.values()])),
        "pair_acc": pairs / (len(rows) / 2),
        "set_acc": sum(all(a.values()) for a in answers.values()) / (len(rows) / 4),
        f"text_acc_{names[2]}": float(np.mean([a[names[2]] for a in answers.values()])),
    }


@a_set
def whatsup_a(bench: Bench) -> Expected:
    return whatsup(bench, "controlled_images_dataset.json", "controlled_images", ["left_of", "right_of", "on", "under"])


@a_set
def whatsup_b(bench: Bench) -> Expected:
    return whatsup(
        bench, "controlled_clevr_dataset.json", "controlled_clevr", ["left_of", "right_of", "in-front_of", "behind"]
    )


def qa(bench: Bench, table: str, image: str, captions: Sequence[str], groups: Sequence[str]) -> Expected:
    rows = [[i % 5 + 1, captions[i % len(captions)], captions[(i + 1) % len(captions)]] for i in range(12)]
    right: dict[str, list[bool]] = {}
    for i, (number, *options) in enumerate(rows):
        path = bench.write(f"whatsup/{image.format(number)}", picture(number, "JPEG"))
        right.setdefault(groups[i % len(groups)], []).append(bench.choice(bench.image(path), options) == 0)
    bench.write(f"whatsup/{table}", rows)
    return {
        "text_acc": float(np.mean(list(itertools.chain(*right.values())))),
        **{f"text_acc_{g}": float(np.mean(v)) for g, v in right.items()},
    }


@a_set
def whatsup_coco_one(bench: Bench) -> Expected:
    captions = ["A photo of a cat on the left", "A photo of a cat on the right"]
    return qa(bench, "coco_qa_one_obj.json", "val2017/{:012d}.jpg", captions, ["left", "right"])


@a_set
def whatsup_gqa_two(bench: Bench) -> Expected:
    captions = ["a cup to the left of a jug", "a cup in front of a jug", "a cup behind a jug", "a cup on top of a jug"]
    return qa(bench, "vg_qa_two_obj.json", "vg_images/{}.jpg", captions, ["left", "front", "behind", "top"])


@a_set
def whatsup_coco_two(bench: Bench) -> Expected:
    captions = ["a cat left of a dog", "a cat right of a dog", "a cat above a dog", "a cat below a dog"]
    return qa(bench, "coco_qa_two_obj.json", "val2017/{:012d}.jpg", captions, ["left", "right", "above", "below"])


@a_set
def whatsup_gqa_one(bench: Bench) -> Expected:
    captions = ["A photo of a cup on the left", "A photo of a cup on the top"]
    return qa(bench, "vg_qa_one_obj.json", "vg_images/{}.jpg", captions, ["left", "top"])


@a_set
def valse(bench: Bench) -> Expected:
    means = []
    for part, source in (("existence", "visual7w"), ("foil-it", "FOIL dataset"), ("counting-small-quant", "visual7w")):
        content, right = {}, []
        for i in range(9):
            path = bench.write(f"valse/images/{source}/{source[0]}_{i}.jpg", picture(i, "JPEG"))
            votes = {"foil": 0, "caption": i % 4, "other": 0}
            row = {
                "dataset": source,
                "image_file": path.name,
                "caption": f"{part} {i}",
                "foil": f"no {part} {i}",
                "mturk": votes,
            }
            content[f"{part}_{i}"] = row
            if row["mturk"]["caption"] >= 2:  # its README
                image = bench.image(path)
                right.append(image @ bench.text(row["caption"]) > image @ bench.text(row["foil"]))
        bench.write(f"valse/data/{part}.json", content)
        means.append(np.mean(right))
    return {"macro_text_acc": float(np.mean(means))}


def quadruples(bench: Bench, count: int, write: Callable[[int], tuple[Sequence[bytes], Sequence[str]]]) -> Expected:
    found = []
    for i in range(count):
        images, captions = write(i)
        found.append(bench.winoground([bench.image(image) for image in images], captions))
    return dict(zip(("text_acc", "image_acc", "acc"), np.mean(found, axis=0).tolist(), strict=True))


@a_set
def colorswap(bench: Bench) -> Expected:
    rows = []

    def one(i: int) -> Any:
        images, captions = (
            [picture(2 * i), picture(2 * i + 1)],
            [f"a red cup {i}, a blue jug", f"a blue cup {i}, a red jug"],
        )
        cells = {f"image_{k + 1}": {"bytes": data, "path": None} for k, data in enumerate(images)}
        rows.append(
            {"id": i, **cells, "caption_1": captions[0], "caption_2": captions[1], "image_source": "midjourney"}
        )
        return images, captions

    expected = quadruples(bench, 12, one)
    bench.write("stanfordnlp--colorswap/data/test-00000-of-00001.parquet", rows)
    bench.write("stanfordnlp--colorswap/data/train-00000-of-00001.parquet", rows[:2])
    return expected


@a_set
def cola(bench: Bench) -> Expected:
    rows = []

    def one(i: int) -> Any:
        images, captions = [picture(2 * i, "JPEG"), picture(2 * i + 1, "JPEG")], [f"large tree {i}", f"tree {i}, large"]
        urls = [f"https://cs-people.bu.edu/array/data/vg_gqa_images/{2 * i + k}.jpg" for k in range(2)]
        for url, data in zip(urls, images, strict=True):
            bench.write(f"cola/vg_gqa_images/{url.rpartition('/')[2]}", data)
        rows.append([urls[0], captions[0], urls[1], captions[1]])
        return images, captions

    expected = quadruples(bench, 12, one)
    bench.write("cola/COLA_multiobjects_matching_benchmark.json", rows)
    return {"image_acc": expected["image_acc"]}  # ColaMultiObjAcc: im0_c0 > im1_c0 and im1_c1 > im0_c1


def eqben_of(bench: Bench, folder: str, table: str) -> Expected:
    rows = []

    def one(i: int) -> Any:
        part = ("eqbenag", "eqbenkubric_cnt", "eqbenyoucook2")[i % 3]
        names = [f"{part}/{i}_{k}.{'npy' if part.endswith('2') else 'png'}" for k in range(2)]
        images = [picture(2 * i), picture(2 * i + 1)]
        for name, data in zip(names, images, strict=True):
            if name.endswith("npy"):
                sink = io.BytesIO()
                np.save(sink, np.asarray(Image.open(io.BytesIO(data)))[:, :, ::-1])  # blue, green, red
                data = sink.getvalue()
            bench.write(f"{folder}/images/{name}", data)
        captions = [f"a hand {i} opens", f"a hand {i} closes"]
        rows.append({"image0": names[0], "image1": names[1], "caption0": captions[0], "caption1": captions[1]})
        return images, captions

    expected = quadruples(bench, 12, one)
    bench.write(f"{folder}/{table}", rows)
    return expected


@a_set
def eqben_mini(bench: Bench) -> Expected:
    return eqben_of(bench, "eqben_vllm", "all_select.json")


@a_set
def eqben(bench: Bench) -> Expected:
    return eqben_of(bench, "eqben", "annotation.json")


@a_set
def naturalbench(bench: Bench) -> Expected:
    rows = []

    def one(i: int) -> Any:
        images, captions = [picture(2 * i, "JPEG"), picture(2 * i + 1, "JPEG")], [f"a man {i} runs", f"a man {i} sits"]
        for k, data in enumerate(images):
            bench.write(f"NaturalBench-Retrieval/images/{i}_{k}.jpg", data)
        names = {f"image_{k}": f"{i}_{k}.jpg" for k in range(2)}
        rows.append({"index": i, **names, "caption_0": captions[0], "caption_1": captions[1]})
        return images, captions

    expected = quadruples(bench, 12, one)
    bench.write("NaturalBench-Retrieval/metadata.json", rows)
    return expected


def crepe(bench: Bench, part: str) -> Expected:
    means = []
    for complexity in (4, 12):
        rows: list[list[Any]] = [["image_id", "x", "y", "width", "height", "caption", "hard_negs"]]
        right = []
        for i in range(6):
            path = bench.write(f"crepe/vg_images/{i}.jpg", picture(i, "JPEG"))
            options = [
                f"{part} {complexity} dogs, {i} cats",
                f"{i} dogs, {complexity} cats",
                f"it's {i} and {complexity}",
            ]
            rows.append([i, 3, 1, 40, 50, options[0], repr(options[1:])])  # the box ends below the picture
            right.append(bench.choice(bench.image(path, (3, 1, 40, 50)), options) == 0)
        bench.write(f"crepe/prod_hard_negatives/{part}/prod_vg_hard_negs_{part}_complexity_{complexity}.csv", rows)
        means.append(np.mean(right))
    return {"macro_text_acc": float(np.mean(means)), "text_acc_4": float(means[0])}


@a_set
def crepe_swap(bench: Bench) -> Expected:
    return crepe(bench, "swap")


@a_set
def crepe_atom(bench: Bench) -> Expected:
    return crepe(bench, "atom")


@a_set
def crepe_negate(bench: Bench) -> Expected:
    return crepe(bench, "negate")


@a_set
def cvqa(bench: Bench) -> Expected:
    return cvqa_in(bench, "What")


@a_set
def cvqa_english(bench: Bench) -> Expected:
    return cvqa_in(bench, "EN")


def cvqa_in(bench: Bench, question: str) -> Expected:
    rows, right = [], {}
    for i in range(16):
        options = [f"option {i} {k}" for k in range(4)]
        row = {
            "image": {"bytes": picture(i % 6), "path": None},
            "ID": str(i),
            "Subset": f"('Telugu', '{i % 2}')",
            "Label": i % 4,
        }
        rows.append(
            {
                **row,
                "Question": f"What {i}?",
                "Options": options,
                "Translated Question": f"EN {i}?",
                "Translated Options": options,
            }
        )
        choice = bench.choice(bench.image(row["image"]["bytes"]), [f"{question} {i}? {option}" for option in options])
        right.setdefault(row["Subset"], []).append(choice == row["Label"])
    bench.write("afaji--cvqa/data/test-00000-of-00001.parquet", rows)
    return {
        "text_acc": float(np.mean(list(itertools.chain(*right.values())))),
        "text_acc_('Telugu', '1')": float(np.mean(right["('Telugu', '1')"])),
    }


@a_set
def scam(bench: Bench) -> Expected:
    templates = [t.replace("{c}", "{}") for t in OmegaConf.load(CONFIG_DIR / "prompts" / "scam.yaml").templates]
    rows, right = [], {}
    for kind in ("SCAM", "NoSCAM", "SynthSCAM"):
        for i in range(8):
            data = picture(100 * len(kind) + i)
            row = {"type": kind, "id": f"{kind}_{i}", "object_label": f"cup {i}", "attack_word": f"taxi {i}"}
            rows.append({"image": {"bytes": data, "path": None}, **row, "postit_area_pct": 0.1})
            both = []
            for word in (row["object_label"], row["attack_word"]):
                mean = np.mean([bench.text(template.format(word)) for template in templates], axis=0)
                both.append(float(bench.image(data) @ (mean / np.linalg.norm(mean))))
            right[kind, i] = both[0] >= both[1]
    bench.write("BLISS-e-V--SCAM/data/train-00000-of-00001.parquet", rows)
    accuracy = {kind: float(np.mean([right[kind, i] for i in range(8)])) for kind in ("SCAM", "NoSCAM", "SynthSCAM")}
    drop = float(np.mean([float(right["NoSCAM", i]) - float(right["SCAM", i]) for i in range(8)]))
    return {**{f"text_acc_{kind}": value for kind, value in accuracy.items()}, "attack_drop": drop}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Expected], Path]:
    root = tmp_path_factory.mktemp("pairs")
    bench = Bench(write_tiny_model(root / "model"), root / "data")
    expected = {name: build(bench) for name, build in SETS.items()}
    for folder in (root / "data").iterdir():  # what `clipeval download` leaves beside a hub's files
        if "--" in folder.name:
            write_lock(folder, Lock(folder.name.replace("--", "/"), None, None, "files", {}))
    words = [f"+task@tasks.{name}={name}" for name in SETS]
    common = [f"data.root={root / 'data'}", f"out={root / 'run'}", f"cache.root={root / 'cache'}", "runtime.workers=0"]
    assert (
        main(
            ["run", "model=open_clip", f"model.name={bench.name}", "runtime.device=cpu", "suite=none", *common, *words]
        )
        == 0
    )
    records = {p.stem: json.loads(p.read_text()) for p in (root / "run" / "records").glob("*.json")}
    return records, expected, root


@pytest.mark.parametrize("name", list(SETS))
def test_a_set_in_its_makers_layout(name: str, both: Any) -> None:
    records, expected, _ = both
    metrics = records[name]["metrics"]
    assert {key: metrics.get(key) for key in expected[name]} == pytest.approx(expected[name], abs=1e-6)
    assert metrics[records[name]["metric"]] is not None


def test_each_picture_is_embedded_once(both: Any) -> None:
    root = both[2] / "data"
    split = open_split(
        DataConfig(
            kind="pairs",
            path=str(root / "valse"),
            tables=("data/*.json",),
            images=("images/{dataset}/{image_file}",),
            captions=("caption", "foil"),
        ),
        None,
        "test",
        None,
    )
    assert (len(split.samples.instances or ()), len(split.images)) == (27, 18)
    assert split.images.read(0) == (root / "valse/images/visual7w/v_0.jpg").read_bytes()


def test_the_run_can_be_verified_and_shown(both: Any, tmp_path: Path) -> None:
    assert main(["verify", str(both[2] / "run")]) == 0
    assert main(["report", str(both[2] / "run"), "--format", "html", "--output", str(tmp_path / "page.html")]) == 0
    table = pd.read_parquet(both[2] / "run" / "predictions" / "scam.parquet")
    assert {"group", "set_id", "text_correct"} <= set(table.columns)


def opened(path: Path, **options: Any) -> Any:
    return open_split(
        DataConfig(kind="pairs", path=str(path), **{"captions": ("a", "b"), **options}), None, "test", None
    )


def own(folder: Path, rows: Any, name: str = "t.json") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "p.png").write_bytes(picture(0))
    (folder / name).write_text(json.dumps(rows) if name.endswith("json") else rows)
    return folder


ROW = {"image": "p.png", "a": "one", "b": "two"}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{**ROW, "image": "q.png"}], {}, r"t\.json, entry '?0'?: the picture 'q\.png' does not exist"),
        ([{**ROW, "a": ""}], {}, r"entry 0: column 'a': the caption is empty"),
        ([{**ROW, "a": None}], {}, r"column 'a': the caption is null"),
        ([ROW], {"captions": ("a", "c")}, r"data\.captions: Unknown column 'c'"),
        ([ROW], {"images": ("{imag}",)}, r"data\.images: Unknown column 'imag'.* Did you mean: image"),
        ([ROW], {"group": "g"}, r"data\.group: Unknown column 'g'"),
        ([{**ROW, "label": -1}], {"correct": "label"}, r"the correct caption is number -1, .*hidden"),
        ([{**ROW, "label": "two"}], {"correct": "label"}, r"column 'label': the number of the correct caption"),
        ([ROW], {"correct": 2}, r"number 2, and there are 0 to 1"),
        (
            [ROW],
            {"correct": (0, 1), "images": ("image", "image", "image")},
            r"data.correct speaks of 2 pictures, and the question has 3",
        ),
        ([ROW], {"rows": 2}, r"1 rows cannot be parted into questions of 2"),
        ([ROW], {"where": {"a": ["two"]}}, r"no row is left of 1 \(data\.where asks for a in \['two'\]\)"),
        ([{**ROW, "x": "y"}], {"box": ("x", "x", "x", "x")}, r"four columns of whole numbers"),
        ([{**ROW, "x": 0}], {"box": ("x", "x", "x", "x")}, r"the box of 0 x 0 pixels is empty"),
        ([ROW], {"captions": ("{a~z+}", "b")}, r"nothing in 'one' fits 'z\+'"),
        ([ROW], {"captions": ("{a~(}", "b")}, r"'\(' is no regular expression"),
        ([ROW], {"captions": ("{a", "b")}, r"a brace is left over"),
        ([ROW], {"captions": ("a[]",)}, r"a list, written as a text, was expected"),
        ([{**ROW, "image": "http://x/p.png"}], {}, r"an address on the network"),
        ([3], {}, r"a JSON list of rows, or an object of them, was expected"),
    ],
)
def test_one_error_with_row_and_column(rows: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ClipevalError, match=message):
        opened(own(tmp_path / "set", rows), **options)


def test_which_table_is_meant(tmp_path: Path) -> None:
    folder = own(tmp_path / "set", [ROW])
    own(folder, "image,a,b\np.png,one,two\n", "u.csv")
    with pytest.raises(ClipevalError, match=r"there is: t\.json, u\.csv. Name those that are meant"):
        opened(folder)
    for table in ("t.json", "u.csv"):
        assert opened(folder, tables=(table,)).samples.instances[0]["captions"] == ["one", "two"]
    with pytest.raises(ClipevalError, match=r"holds no v\.csv"):
        opened(folder, tables=("v.csv",))
    with pytest.raises(ClipevalError, match=r"nowhere does not exist\. Put the set's files there"):
        opened(tmp_path / "nowhere")


def test_rows_that_cannot_be_used_are_left_out_where_asked(tmp_path: Path) -> None:
    folder = own(tmp_path / "set", [ROW, {**ROW, "b": " "}, ROW])
    config = DataConfig(kind="pairs", path=str(folder), captions=("a", "b"))
    split = open_split(config, None, "test", None, on_error="skip")
    assert len(split.samples.instances or ()) == 2
    assert any("1 left out, column 'b': the caption is empty: " in flag for flag in split.flags)


def test_pictures_by_absolute_paths(tmp_path: Path) -> None:
    """In the set's folder or beside it; they are read as those that the table names by relative ones."""
    folder, elsewhere = own(tmp_path / "set", [ROW]), tmp_path / "elsewhere.png"
    elsewhere.write_bytes(picture(1))
    rows = [ROW, {**ROW, "image": str(folder / "p.png")}, {**ROW, "image": str(elsewhere)}]
    split = opened(own(folder, rows), images=("image",))
    asked = [question["images"] for question in split.samples.instances or ()]
    assert asked == [["p.png"], [str(folder / "p.png")], [str(elsewhere)]]
    shown = [split.images.read(split.samples.keys.index(key)) for (key,) in asked]
    assert shown == [picture(0), picture(0), picture(1)]
    assert str(elsewhere) in split.images.location(2)
    with pytest.raises(ClipevalError, match=r"the picture '/nowhere/x\.png' does not exist"):
        opened(own(tmp_path / "other", [{**ROW, "image": "/nowhere/x.png"}]))
