"""A miniature of each of the sets of suite=imagenet_plus in its makers' layout, through the command line.

What is expected is computed here from the files, in the words of each set's own program, with open_clip's own transform.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import open_clip
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.functional import to_pil_image, to_tensor

from clipeval.cli.main import main
from clipeval.configs.catalog import content, suite_tasks
from clipeval.data.imagenet import synsets
from clipeval.data.images import FileImages
from clipeval.data.lock import Lock, write_lock
from scripts.tiny_model import write_tiny_model
from tests.data.test_data import write_tar

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
NAMES = list(open_clip.IMAGENET_CLASSNAMES)
IMAGES = 60
LABELS = sorted([0] * 6 + [478] * 10 + [1, 1, 2, 207, 208, 209, 281, 282, 537, 537] + [5 * k + 3 for k in range(34)])
NUMBERS = [50_000 - 7 * i if i % 3 else 100 + i for i in range(IMAGES)]
EDGES = {0: "fish", 1: "fish", 2: "shark", "fish": "animal", "shark": "fish", "animal": "thing"}


def picture(seed: int, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


class Bench:
    """The model as open_clip has it, with one prompt for each class."""

    def __init__(self, name: str) -> None:
        self.model, _, self.transform = open_clip.create_model_and_transforms(name)
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)
        self.name = name
        self.head = self.of_names(NAMES, "a photo of a {}.")

    @torch.no_grad()
    def of_names(self, names: Sequence[str], template: str) -> torch.Tensor:
        rows = [
            self.model.encode_text(self.tokenizer([template.format(n) for n in names[i : i + 250]]))
            for i in range(0, len(names), 250)
        ]
        return F.normalize(torch.cat(rows), dim=-1)

    @torch.no_grad()
    def logits(
        self, data: Sequence[bytes], head: torch.Tensor | None = None, change: Callable[..., Any] | None = None
    ) -> torch.Tensor:
        steps = self.transform.transforms
        rows = []
        for one in data:
            image = Image.open(io.BytesIO(one)).convert("RGB")
            for step in steps[:-1]:
                image = step(image)
            rows.append(steps[-1](change(image) if change else image))
        images = F.normalize(self.model.encode_image(torch.stack(rows)), dim=-1)
        return images @ (self.head if head is None else head).T

    def best(self, data: Sequence[bytes], **more: Any) -> np.ndarray:
        return self.logits(data, **more).argmax(dim=1).numpy()


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(write_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def data() -> list[bytes]:
    return [picture(i) for i in range(IMAGES)]


def factors() -> list[dict[str, Any]]:
    """Annotations of two thirds of the images; a factor each, `brighter` of none."""
    names = [name for name in content("task", "imagenet_x")["factors"] if name != "brighter"]
    rows = []
    for i in range(IMAGES):
        if i % 3:
            own = {name: int(name == names[i % 5]) for name in [*names, "brighter"]}
            rows.append(
                {"file_name": f"ILSVRC2012_val_{NUMBERS[i]:08d}.JPEG", "class": LABELS[i], **own, "justification": "so"}
            )
    return rows


def accepted() -> list[list[int]]:
    """real.json: of every fourth image no label, of others two."""
    found: list[list[int]] = [[] for _ in range(50_000)]
    for i, (label, number) in enumerate(zip(LABELS, NUMBERS, strict=True)):
        found[number - 1] = [] if i % 4 == 0 else [label, (37 * i) % 1000]
    return found


def write_imagenet(root: Path, data: Sequence[bytes], named: bool = False) -> None:
    members = []
    for i, (one, label) in enumerate(zip(data, LABELS, strict=True)):
        key = f"ILSVRC2012_val_{NUMBERS[i]:08d}" if named else f"s{i:07d}"
        members += [(f"{key}.png", one), (f"{key}.cls", str(label).encode())]
    folder = root / "wds_imagenet1k_test"
    write_tar(folder / "test" / "0.tar", members)
    put(folder / "test" / "nshards.txt", "1\n")
    put(folder / "classnames.txt", "".join(f"{name}\n" for name in NAMES))
    put(folder / "zeroshot_classification_templates.txt", "a photo of a {c}.\n")
    files = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in NUMBERS]
    put(root / "imagenet_x" / "filename_label.csv", [["file_name", "label"], *zip(files, LABELS, strict=True)])
    put(
        root / "imagenet_x" / "prototypical_paths.csv",
        [["file_name", "class"], [files[1], LABELS[1]], [files[2], LABELS[2]]],
    )
    put(root / "imagenet_x" / "imagenet_x_val_top_factor.jsonl", "".join(json.dumps(row) + "\n" for row in factors()))
    put(root / "imagenet_real_labels.json", accepted())
    for i in (3, 4, 5, 40, 41):
        put(root / "hard_imagenet" / "val" / f"{synsets()[LABELS[i]]}_{files[i]}", b"")


def write_hierarchy(root: Path) -> None:
    """Every class below a node of its hundred, but for those of EDGES; distances that are not the tree's own heights."""
    name = lambda node: synsets()[node] if isinstance(node, int) else node  # noqa: E731
    lines = [(name(up), name(node)) for node, up in EDGES.items()]
    lines += [(f"hundred{i // 100}", synsets()[i]) for i in range(1000) if i not in EDGES]
    lines += [("thing", f"hundred{k}") for k in range(10)]
    put(root / "making_better_mistakes" / "imagenet_isa.txt", "".join(f"{a} {b}\n" for a, b in lines))
    heights = {"thing": 15, "animal": 9, "fish": 5, "shark": 2, **{f"hundred{k}": 7 + k for k in range(10)}}
    distances = (
        "".join(f"{min(a, b)} {max(a, b)} {heights[a]}\n" for a, b in lines) + f"{synsets()[0]} {synsets()[0]} 0\n"
    )
    import lzma

    put(root / "making_better_mistakes" / "imagenet_ilsvrc_distances.txt.xz", lzma.compress(distances.encode()))


def run(root: Path, bench: Bench, *more: str, out: str = "run") -> int:
    place = [
        f"data.root={root}",
        f"out={root / out}",
        f"cache.root={root / 'cache'}",
        "runtime.workers=0",
        "runtime.device=cpu",
    ]
    return main(["run", "model=open_clip", f"model.name={bench.name}", *place, *more])


def record(root: Path, task: str, out: str = "run") -> dict[str, Any]:
    return json.loads((root / out / "records" / f"{task}.json").read_text())


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The position of every image that is read to be decoded."""
    found: list[int] = []
    read = FileImages.read
    monkeypatch.setattr(FileImages, "read", lambda self, position: (found.append(position), read(self, position))[1])
    yield found


MADE = ["imagenet_real", "imagenet_x", "imagenet_hierarchy", "hard_imagenet"]


def test_images_that_say_which_they_are_need_no_list(tmp_path: Path, bench: Bench, data: list[bytes]) -> None:
    write_imagenet(tmp_path, data, named=True)
    (tmp_path / "imagenet_x" / "filename_label.csv").unlink()
    assert run(tmp_path, bench, "task=imagenet_real") == 0
    sets = [accepted()[number - 1] for number in NUMBERS]
    wanted = np.mean([p in s for p, s in zip(bench.best(data), sets, strict=True) if s])
    assert record(tmp_path, "imagenet_real")["metrics"]["acc1"] == pytest.approx(wanted)


def test_of_the_predictions_of_a_finished_run(
    tmp_path: Path, bench: Bench, data: list[bytes], seen: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    write_imagenet(tmp_path, data)
    write_hierarchy(tmp_path)
    assert run(tmp_path, bench, "task=imagenet1k") == 0
    words = ["suite=none", *(f"+task@tasks.{task}={task}" for task in MADE)]
    place = [
        f"data.root={tmp_path}",
        f"out={tmp_path / 'run'}",
        "cache.features=false",
        f"cache.root={tmp_path / 'other'}",
    ]
    assert main(["plan", "model=open_clip", f"model.name={bench.name}", *place, "runtime.device=cpu", *words]) == 0
    assert "To embed: 0 images and 0 prompts" in " ".join(capsys.readouterr().out.split())
    seen.clear()
    assert run(tmp_path, bench, "cache.features=false", f"cache.root={tmp_path / 'other'}", *words) == 0
    assert not seen  # no cache, and yet no image is read
    assert "made of the predictions of imagenet1k" in capsys.readouterr().err

    prediction = bench.best(data)
    labels = np.array(LABELS)
    real = record(tmp_path, "imagenet_real")["metrics"]
    sets = [accepted()[number - 1] for number in NUMBERS]
    # reassessed-imagenet's own lines
    assert real["acc1"] == pytest.approx(np.mean([p in s for p, s in zip(prediction, sets, strict=True) if s]))
    assert real["acc1_original"] == pytest.approx(np.mean(prediction == labels))
    five = bench.logits(data).topk(5, dim=1).indices.tolist()
    assert real["acc5"] == pytest.approx(np.mean([bool(set(p) & set(s)) for p, s in zip(five, sets, strict=True) if s]))

    # imagenet_x: load_annotations, compute_factor_accuracies, error_ratio
    frame = pd.DataFrame(factors())
    files = pd.read_csv(tmp_path / "imagenet_x" / "prototypical_paths.csv")["file_name"]
    frame = frame[~frame["file_name"].isin(files)]
    by_file = dict(zip((f"ILSVRC2012_val_{n:08d}.JPEG" for n in NUMBERS), prediction, strict=True))
    right = frame["file_name"].map(by_file) == frame["class"]
    found = record(tmp_path, "imagenet_x")["metrics"]
    assert found["acc1"] == pytest.approx(right.mean())
    for factor in content("task", "imagenet_x")["factors"]:
        inside = right[frame[factor] == 1]
        wanted = inside.mean() if len(inside) else None
        assert found[f"acc1_{factor}"] == (None if wanted is None else pytest.approx(wanted)), factor
        ratio = None if wanted is None else pytest.approx((1 - wanted) / (1 - right.mean()))
        assert found[f"error_ratio_{factor}"] == ratio, factor

    hard = [LABELS[i] == prediction[i] for i in (3, 4, 5, 40, 41)]
    assert record(tmp_path, "hard_imagenet")["metrics"]["acc1"] == pytest.approx(np.mean(hard))

    heights = {"thing": 15, "animal": 9, "fish": 5, "shark": 2, **{f"hundred{k}": 7 + k for k in range(10)}}
    up = lambda node: EDGES.get(node, f"hundred{node // 100}" if isinstance(node, int) else "thing")  # noqa: E731

    def way(node: Any) -> list[Any]:
        return [node] if node == "thing" else [*way(up(node)), node]

    far = []
    for label, answer in zip(LABELS, prediction.tolist(), strict=True):
        common = [a for a, b in zip(way(label), way(answer), strict=False) if a == b]
        far.append(0 if label == answer else heights[common[-1]])
    metrics = record(tmp_path, "imagenet_hierarchy")["metrics"]
    assert metrics["distance"] == pytest.approx(np.mean(far))
    assert metrics["severity"] == pytest.approx(np.mean([d for d in far if d]))
    at_two = [way(a)[:3] == way(b)[:3] for a, b in zip(LABELS, prediction.tolist(), strict=True)]
    assert metrics["acc1_depth_2"] == pytest.approx(np.mean(at_two))
    assert main(["verify", str(tmp_path / "run")]) == 0


def test_without_a_finished_run_the_embeddings_give_the_same(tmp_path: Path, bench: Bench, data: list[bytes]) -> None:
    write_imagenet(tmp_path, data)
    write_hierarchy(tmp_path)
    words = ["suite=none", *(f"+task@tasks.{task}={task}" for task in MADE)]
    assert run(tmp_path, bench, "task=imagenet1k") == 0
    assert run(tmp_path, bench, *words) == 0
    assert run(tmp_path, bench, *words, out="apart") == 0
    for task in MADE:
        one, other = record(tmp_path, task), record(tmp_path, task, "apart")
        assert one["metrics"] == other["metrics"]
        assert one["fingerprint"] == other["fingerprint"]
        tables = [pd.read_parquet(tmp_path / out / "predictions" / f"{task}.parquet") for out in ("run", "apart")]
        pd.testing.assert_frame_equal(tables[0], tables[1][tables[0].columns], check_dtype=False)
    # Other prompts are another classification.
    assert run(tmp_path, bench, "task=imagenet_real", "prompts=openai_imagenet_7", "resume=refuse") == 1


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("imagenet_real", lambda root: (root / "imagenet_x" / "filename_label.csv").unlink(), "task.data.order=FILE"),
        (
            "imagenet_real",
            lambda root: put(root / "imagenet_real_labels.json", [[1], [2000]]),
            "item 2: a list of classes",
        ),
        (
            "imagenet_x",
            lambda root: put(
                root / "imagenet_x" / "filename_label.csv", [["file_name", "label"], *[["x", 0]] * IMAGES]
            ),
            "line 8: the label is 0, and 1 in the set (key 's0000006')",
        ),
        (
            "imagenet_x",
            lambda root: (root / "imagenet_x" / "prototypical_paths.csv").unlink(),
            "prototypical_paths.csv is missing",
        ),
        (
            "imagenet_hierarchy",
            lambda root: put(root / "making_better_mistakes" / "imagenet_isa.txt", "a b\nb c d\n"),
            "line 2",
        ),
        (
            "imagenet_hierarchy",
            lambda root: put(root / "making_better_mistakes" / "imagenet_isa.txt", "a b\n"),
            "has no class 'n01440764'",
        ),
    ],
)
def test_one_error_that_names_file_and_row(
    task: str, change: Callable[[Path], Any], message: str, tmp_path: Path, bench: Bench, data: list[bytes], capsys: Any
) -> None:
    write_imagenet(tmp_path, data)
    write_hierarchy(tmp_path)
    change(tmp_path)
    assert run(tmp_path, bench, f"task={task}") == 1
    assert message in " ".join(capsys.readouterr().err.split())


def of_folders(root: Path, rows: Sequence[tuple[str, int]]) -> list[bytes]:
    """A picture at each path; what it shows depends on the second value."""
    for path, seed in rows:
        put(root / path, picture(seed))
    return [picture(seed) for _, seed in rows]


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory, bench: Bench, data: list[bytes]
) -> Iterator[tuple[Path, dict[str, dict[str, float]]]]:
    """Every set that brings pictures of its own, in one run."""
    root, expected = tmp_path_factory.mktemp("folders"), dict[str, dict[str, float]]()
    wnid = synsets()
    for dir_ in ("matched-frequency", "threshold0.7", "top-images"):
        name = {"matched-frequency": "matched_frequency", "threshold0.7": "threshold", "top-images": "top"}[dir_]
        classes = [k * 111 for k in range(9)]
        rows = [
            (f"imagenetv2-{dir_}-format-val/{c}/{i}.jpeg", 1000 + len(dir_) * 50 + 2 * k + i)
            for k, c in enumerate(classes)
            for i in (0, 1)
        ]
        best = bench.best(of_folders(root, rows))
        expected[f"imagenetv2_{name}"] = {"acc1": float(np.mean(best == np.repeat(classes, 2)))}

    # ImageNet-C: show_performance of hendrycks/robustness, and the mCE of its spreadsheet
    errors = content("task", "imagenet_c")["baseline"]
    rows = [
        (f"imagenet_c/{c}/{s}/{wnid[k]}/p{k}.JPEG", 2000 + 100 * n + 10 * s + k)
        for n, c in enumerate(errors)
        for s in range(1, 6)
        for k in (3, 4, 900)
    ]
    of_folders(
        root, [("imagenet_c/speckle_noise/1/" + wnid[3] + "/p3.JPEG", 1)]
    )  # an extra corruption, which does not count
    best = bench.best(of_folders(root, rows)).reshape(15, 5, 3)
    wrong = (best != np.array([3, 4, 900])).mean(axis=2)
    ce = wrong.mean(axis=1) / np.array(list(errors.values()))
    expected["imagenet_c"] = {
        "macro_acc1": float(1 - wrong.mean()),
        "mce": float(ce.mean()),
        "ce_fog": float(ce[list(errors).index("fog")]),
    }

    # ImageNet-9: in9_eval.py with map_to_in9
    mapping = {str(c): (c * 9 // 1000 if c % 10 else -1) for c in range(1000)}
    put(root / "imagenet_9" / "in_to_in9.json", mapping)
    groups = [f"{g:02d}_thing" for g in range(9)]
    accuracy = {}
    for n, variant in enumerate(("original", "mixed_same", "mixed_rand")):
        rows = [
            (f"imagenet_9/bg_challenge/{variant}/val/{name}/fg_{i}_bg_{n}.JPEG", 4000 + 200 * n + 10 * g + i)
            for g, name in enumerate(groups)
            for i in range(5)
        ]
        best = bench.best(of_folders(root, rows))
        accuracy[variant] = float(np.mean([mapping[str(p)] == k // 5 for k, p in enumerate(best)]))
    put(root / "imagenet_9" / "fg_mask" / "val" / groups[0] / "0.npy", b"no picture")
    gap = accuracy["mixed_same"] - accuracy["mixed_rand"]
    expected["imagenet_9"] = {**{f"acc1_{k}": v for k, v in accuracy.items()}, "bg_gap": gap}

    rows = [
        (f"imagenet_e/{edit}/{wnid[k]}/{k}.jpg", 6000 + 10 * n + k % 10)
        for n, edit in enumerate(("full", "rotate"))
        for k in (10, 21, 32)
    ]
    best = bench.best(of_folders(root, rows)).reshape(2, 3)
    expected["imagenet_e"] = {"macro_acc1": float(np.mean(best == [10, 21, 32]))}

    several = [[5], [17, 3], [88, 2, 999], [40]] * 4
    table = [
        {"image": {"bytes": picture(7000 + i), "path": None}, "label": s, "origin": "x", "english_label": ["a"]}
        for i, s in enumerate(several)
    ]
    target = root / "taesiri--imagenet-hard" / "data" / "validation-00000-of-00001.parquet"
    target.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(table), target)
    write_lock(root / "taesiri--imagenet-hard", Lock("taesiri/imagenet-hard", None, None, "files", {}))
    best = bench.best([picture(7000 + i) for i in range(16)])
    padded = np.array([s + [-1] * (10 - len(s)) for s in several])
    expected["imagenet_hard"] = {"acc1": float(np.mean((best[:, None] == padded).any(axis=1)))}

    write_imagenet(root, data)
    put(root / "imagenet_w" / "SourceHanSerifSC-ExtraLight.otf", FONT.read_bytes())
    clean, marked = bench.best(data), bench.best(data, change=add_watermark)
    labels = np.array(LABELS)
    expected["imagenet_w"] = {
        "acc1": float(np.mean(marked == labels)),
        "acc1_clean": float(np.mean(clean == labels)),
        "gap": float(np.mean(marked == labels) - np.mean(clean == labels)),
        "class_gap": float(np.mean(marked[labels == 478] == 478) - np.mean(clean[labels == 478] == 478)),
    }
    words = ["suite=none", "prompts=simple", *(f"+task@tasks.{task}={task}" for task in expected)]
    assert run(root, bench, *words) == 0
    yield root, expected


def add_watermark(image: torch.Tensor) -> torch.Tensor:
    """`_add_watermark` of Whac-A-Mole's imagenet_w, for the model's 32 pixels."""
    pil = to_pil_image(image).convert("RGBA")
    layer = Image.new("RGBA", pil.size, (255, 255, 255, 0))
    font = ImageFont.truetype(str(FONT), int(32 / 6.22))
    ImageDraw.Draw(layer).text(
        xy=(0.01 * 32, 0.4 * 32), text="捷径捷径捷径", fill=(255, 255, 255, round(0.5 * 255)), font=font
    )
    return to_tensor(Image.alpha_composite(pil, layer).convert("RGB"))


SETS = sorted(set(suite_tasks("imagenet_plus")) - {"imagenet1k", "imagenet_d", *MADE})


@pytest.mark.parametrize("task", SETS)
def test_a_set_in_its_makers_layout(task: str, folders: Any) -> None:
    root, expected = folders
    found = record(root, task)
    assert {name: found["metrics"].get(name) for name in expected[task]} == pytest.approx(expected[task], abs=1e-6)
    assert found["metrics"][found["metric"]] is not None
    assert not any("left out" in flag for flag in found["flags"])


def test_all_of_it_is_verified_and_the_watermark_moves_something(folders: Any) -> None:
    root, _ = folders
    assert main(["verify", str(root / "run")]) == 0
    table = pd.read_parquet(root / "run" / "predictions" / "imagenet_w.parquet")
    assert (table["prediction"] != table["clean"]).any()


def test_imagenet_d_asks_with_its_makers_names_and_prompt(tmp_path: Path, bench: Bench) -> None:
    names = content("task", "imagenet_d")["data"]["classnames"]
    assert len(names) == 113 and names["coffee_or_french_press"] == "coffee or french press"
    folder = list(names)[:20]
    rows = [
        (f"imagenet_d/{part}/{name}/{i}.jpg", 100 * i + n)
        for i, part in enumerate(("background", "texture", "material"))
        for n, name in enumerate(folder)
    ]
    pictures = of_folders(tmp_path, rows)
    put(tmp_path / "imagenet_d" / "questions" / "background.csv", [["question"], ["?"]])
    assert run(tmp_path, bench, "task=imagenet_d") == 0
    best = bench.best(pictures, head=bench.of_names(list(names.values()), "A photo of a {}")).reshape(3, 20)
    found = record(tmp_path, "imagenet_d")["metrics"]
    for part, row in zip(("background", "texture", "material"), best == np.arange(20), strict=True):
        assert found[f"acc1_{part}"] == pytest.approx(row.mean())


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        ("imagenet_c", ["imagenet_c/fog/1/n00000000/a.png"], "the class 'n00000000' is none of ImageNet's"),
        (
            "imagenet_c",
            ["imagenet_c/fogg/1/n01440764/a.png"],
            "holds no picture whose path ends in {corruption}/{severity}/{class}/*",
        ),
        (
            "imagenet_9",
            ["imagenet_9/original/val/00_dog/a.png", "imagenet_9/in_to_in9.json"],
            "1 class folders (00_dog, …), and in_to_in9.json speaks of 2",
        ),
        ("imagenet_w", [], "SourceHanSerifSC-ExtraLight.otf is missing"),
        ("imagenet_d", ["imagenet_d/texture/alarm_clok/a.png"], "alarm_clock"),
        ("imagenet_e", [], "imagenet_e is not a folder"),
    ],
)
def test_what_is_missing_is_named(
    task: str,
    rows: list[str],
    message: str,
    tmp_path: Path,
    bench: Bench,
    data: list[bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_imagenet(tmp_path, data)
    for row in rows:
        put(tmp_path / row, {"0": 0, "1": 1} if row.endswith(".json") else picture(0))
    assert run(tmp_path, bench, f"task={task}", "prompts=simple") == 1
    assert message in " ".join(capsys.readouterr().err.split())
