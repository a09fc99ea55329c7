"""The README's commands are true: every one parses and composes, and those for own data and own models are run."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import canonicalize_text
from PIL import Image
from safetensors.torch import load_file

from clipeval.cli.main import _parser, main
from clipeval.configs.catalog import group_options
from clipeval.configs.compose import compose
from scripts.make_miniature import facts, write_set
from scripts.tiny_model import config_of, write_tiny_model
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, SIGLIP_PROCESSOR, write_hugging_face

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN_DATA, OWN_MODEL = (
    (ROOT / "docs" / "guides" / f"{name}.md").read_text("utf-8") for name in ("own_data", "own_model")
)
COMPOSED = ("run", "plan", "download", "submit")
CLASSES = ("playing music", "playing sports")
TEMPLATE = "a photo of a {c}."
OWN = """
import torch
from torch import nn
from torchvision.transforms.functional import pil_to_tensor
class MyModel(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.image, self.words = nn.Linear(27, 16), nn.Embedding(128, 16)
    def transform(self, image):
        return pil_to_tensor(image.convert("RGB").resize((3, 3))).float() / 255
    def encode_image(self, images):
        return self.image(images.flatten(1))
    def encode_text(self, tokens):
        return self.words(tokens).sum(dim=1)
    def tokenizer(self, texts):
        return torch.tensor([[ord(c) % 128 for c in text[:40].ljust(40)] for text in texts])
"""


def commands(text: str = README) -> list[str]:
    """The lines of code that begin with clipeval, without their remarks and what stands in square brackets."""
    lines = re.findall(r"^(?:    )?(clipeval .*)$", text, re.MULTILINE)
    return [re.sub(r"\[--.*?\](?= |$)", "", line.partition("  #")[0].partition(" # ")[0]).strip() for line in lines]


@pytest.mark.parametrize("line", commands())
def test_every_command_is_one(line: str, tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    mine = "defaults: [_classification]\nkey: mine\nname: Mine\ndata: {folder: wds_mine}\n"
    (tmp_path / "task" / "mine.yaml").write_text(mine)
    words = [str(tmp_path) if word == "DIR" else word for word in shlex.split(line.replace("…", "X"))[1:]]
    arguments, rest = _parser().parse_known_args(words)
    if words[0] not in COMPOSED:
        assert not rest or arguments.overrides
        return
    rest = [re.sub(r"glob\(.*\)", "epoch_1.pt", word) for word in rest]
    several = getattr(arguments, "multirun", False) or words[0] == "submit"
    rest = [re.sub(r"^(model=\w+),.*", r"\1", word) for word in rest] if several else rest
    assert compose(rest, arguments.config_dir).tasks


@pytest.mark.parametrize("words", re.findall(r"`(model=[^`…]+)`", README + OWN_MODEL))
def test_every_way_to_say_a_model_composes(words: str) -> None:
    assert compose(["suite=none", *words.split()]).model.name


def test_what_it_names_is_there() -> None:
    for path in re.findall(r"(?:`|\]\()((?:configs|docs|eval|tasks|results|scripts)/[\w./-]*)", README):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"prompts=(\w+)", README):
        assert name in group_options("prompts")


# -- own data: the README's own lines, run ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures() -> list[tuple[str, int, Image.Image]]:
    """Name, class and picture, in the order of a sorted folder."""
    rng = np.random.default_rng(5)
    found = []
    for label in range(2):
        for i in range(7):
            pixels = rng.integers(0, 256, (5, 6, 3)) // 2 + 120 * label
            image = Image.fromarray(pixels.astype(np.uint8)).resize((40 + i, 50 - 2 * i))
            found.append((f"{i}.png", label, image))
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def vectors(model: str, pictures: list) -> tuple[torch.Tensor, Callable[[list[str]], torch.Tensor]]:
    """Embeddings of the pictures, and a function for texts, by open_clip alone."""
    net, _, transform = open_clip.create_model_and_transforms(model)
    net.eval()
    tokenizer = open_clip.get_tokenizer(model)
    with torch.inference_mode():
        images = F.normalize(net.encode_image(torch.stack([transform(p) for _, _, p in pictures])), dim=-1)

    def texts(lines: list[str]) -> torch.Tensor:
        with torch.inference_mode():
            return F.normalize(net.encode_text(tokenizer(lines)), dim=-1)

    return images, texts


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(base: Path, pictures: list) -> Path:
    for name, label, image in pictures:
        (base / CLASSES[label].replace(" ", "_")).mkdir(parents=True, exist_ok=True)
        (base / CLASSES[label].replace(" ", "_") / name).write_bytes(png(image))
    return base


def write_tar(base: Path, pictures: list, members: Callable[[int, int], tuple[str, bytes]], **files: str) -> Path:
    (base / "test").mkdir(parents=True)
    with tarfile.open(base / "test" / "0.tar", "w") as tar:
        for i, (_, label, image) in enumerate(pictures):
            for extension, data in (("png", png(image)), members(i, label)):
                info = tarfile.TarInfo(f"s{i:03}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    (base / "test" / "nshards.txt").write_text("1")
    for name, text in files.items():
        (base / f"{name}.txt").write_text(text)
    return base


def write_parquet(path: Path, pictures: list) -> Path:
    import datasets

    rows = {"image": [image for *_, image in pictures], "label": [label for _, label, _ in pictures]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
    return path


def captions_of(i: int) -> list[str]:
    return [f"picture {i} of a {word}" for word in ("dog", "band", "ball")[: 1 + i % 3]]


def write_captions(path: Path, pictures: list) -> Path:
    for i, (*_, image) in enumerate(pictures):
        (path.parent / f"c{i}.png").write_bytes(png(image))
    rows = [(f"c{i}.png", captions_of(i)) for i in range(len(pictures))]
    if path.suffix == ".csv":
        pairs = [(name, text) for name, texts in rows for text in texts]
        pd.DataFrame(pairs, columns=["image", "caption"]).to_csv(path, index=False)
    else:
        path.write_text("".join(json.dumps({"image": name, "caption": texts}) + "\n" for name, texts in rows))
    return path


def run(line: str, tmp_path: Path, model: str, *more: str) -> tuple[dict, pd.DataFrame]:
    """Runs a line of the README with a tiny model; gives its record and predictions."""
    words = shlex.split(line)[1:]
    common = [f"out={tmp_path / 'run'}", f"cache.root={tmp_path / 'cache'}", "runtime.workers=0"]
    given = [] if any(word.startswith("model=") for word in words) else ["model=open_clip", f"model.name={model}"]
    assert main([*words, *given, *common, *more]) == 0
    (record,) = (tmp_path / "run" / "records").glob("*.json")
    return json.loads(record.read_text()), pd.read_parquet(tmp_path / "run" / "predictions" / f"{record.stem}.parquet")


def line_of(*parts: str) -> str:
    (found,) = [line for line in commands(OWN_DATA) if all(part in line for part in parts) and "://" not in line]
    return found


@pytest.mark.parametrize("kind", ["folder", "webdataset", "hf_dataset"])
def test_own_labelled_pictures(kind: str, tmp_path: Path, pictures: list, model: str, vectors: tuple) -> None:
    images, texts = vectors
    if kind == "folder":
        path, name = write_folder(tmp_path / "own", pictures), "pictures"
    elif kind == "webdataset":
        files = {"classnames": "\n".join(CLASSES), "zeroshot_classification_templates": TEMPLATE}
        path = write_tar(tmp_path / "own", pictures, lambda i, label: ("cls", str(label).encode()), **files)
        name = "shards"
    else:
        path, name = write_parquet(tmp_path / "rows.parquet", pictures), "rows.parquet"
    line = line_of(f"task={kind}", "task.data.path").replace(f"task.data.path={name}", f"task.data.path={path}")
    record, frame = run(line, tmp_path, model)
    best = (images @ texts([TEMPLATE.replace("{c}", c) for c in CLASSES]).T).argmax(dim=1).tolist()
    labels = [label for _, label, _ in pictures]
    assert frame["prediction"].tolist() == best
    assert frame["label"].tolist() == labels
    assert record["metrics"]["acc1"] == pytest.approx(np.mean(np.array(best) == labels))
    assert record["metrics"]["acc5"] is None
    assert record["prompts"]["name"] == ("folder" if kind == "webdataset" else "simple")
    assert record["prompts"]["classnames"] == list(CLASSES)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_own_captions(suffix: str, tmp_path: Path, pictures: list, model: str, vectors: tuple) -> None:
    images, texts = vectors
    path = write_captions(tmp_path / f"captions.{suffix}", pictures)
    record, _ = run(line_of("task=captions").replace("captions.csv", str(path)), tmp_path, model)
    owner = [i for i in range(len(pictures)) for _ in captions_of(i)]
    scores = texts([text for i in range(len(pictures)) for text in captions_of(i)]) @ images.T
    for k in (1, 5):
        to_image = [owner[j] in scores[j].topk(k).indices.tolist() for j in range(len(owner))]
        to_text = [i in [owner[j] for j in scores[:, i].topk(k).indices] for i in range(len(pictures))]
        assert record["metrics"][f"image_retrieval_recall@{k}"] == pytest.approx(np.mean(to_image))
        assert record["metrics"][f"text_retrieval_recall@{k}"] == pytest.approx(np.mean(to_text))


def test_multilabel_pictures(tmp_path: Path, pictures: list, model: str, vectors: tuple) -> None:
    """VOC 2007's multi-label form, on a folder of that layout."""
    from sklearn.metrics import average_precision_score

    images, texts = vectors
    truth = np.random.default_rng(2).integers(0, 2, (len(pictures), 3))

    def member(i: int, label: int) -> tuple[str, bytes]:
        buffer = io.BytesIO()
        np.save(buffer, truth[i])
        return "npy", buffer.getvalue()

    names = ["dog", "cat", "bus"]
    files = {"classnames": "\n".join(names), "zeroshot_classification_templates": TEMPLATE}
    path = write_tar(tmp_path / "own", pictures, member, **files, dataset_type="multilabel")
    record, _ = run(f"clipeval run task=voc2007_multilabel task.data.path={path}", tmp_path, model)
    scores = (images @ texts([TEMPLATE.replace("{c}", c) for c in names]).T).numpy()
    expected = np.mean([average_precision_score(truth[:, c], scores[:, c]) for c in range(3)])
    assert record["metric"] == "mean_average_precision"
    assert record["metrics"]["mean_average_precision"] == pytest.approx(expected, abs=1e-6)
    assert record["flags"] == [
        "14 samples, where the full set has 4,952",
        "3 classes, where the full set has 20",
    ]


def test_classify(tmp_path: Path, pictures: list, model: str, vectors: tuple, capsys: pytest.CaptureFixture) -> None:
    folder = write_folder(tmp_path / "own", pictures)
    words = shlex.split(line_of("clipeval classify"))[1:]
    words = [str(folder) if word == "pictures" else word for word in words]
    assert main([*words, "--json", "model=open_clip", f"model.name={model}"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(shown) == len(pictures)
    assert set(CLASSES) <= set(re.findall(r"playing \w+", json.dumps(shown[0])))


# -- own models: the README's own words, run --------------------------------------------------------------------------


def expected(images: Callable, texts: Callable, pictures: list) -> list[int]:
    with torch.inference_mode():
        rows = F.normalize(torch.cat([images(picture) for *_, picture in pictures]), dim=-1)
        head = F.normalize(texts([TEMPLATE.replace("{c}", c) for c in CLASSES]), dim=-1)
    return (rows @ head.T).argmax(dim=1).tolist()


@pytest.fixture
def folder(tmp_path: Path, pictures: list) -> str:
    return f"clipeval run task=folder task.data.path={write_folder(tmp_path / 'own', pictures)}"


def words_of(*parts: str) -> str:
    (found,) = [words for words in re.findall(r"`(model=[^`…]+)`", OWN_MODEL) if all(part in words for part in parts)]
    return found


@pytest.mark.parametrize(("kind", "processor"), [("clip", CLIP_PROCESSOR), ("siglip", SIGLIP_PROCESSOR)])
def test_a_transformers_folder(kind: str, processor: dict, tmp_path: Path, folder: str, pictures: list) -> None:
    import transformers

    path = write_hugging_face(tmp_path / "hf", kind, processor)
    record, frame = run(f"{folder} {words_of('hf_transformers').replace('FOLDER', str(path))}", tmp_path, "")
    net = transformers.AutoModel.from_pretrained(path).eval()
    process = transformers.AutoImageProcessor.from_pretrained(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)

    def images(picture: Image.Image) -> torch.Tensor:
        pixels = process(images=picture, return_tensors="pt")["pixel_values"]
        return getattr(out := net.get_image_features(pixel_values=pixels), "pooler_output", out)

    def texts(lines: list[str]) -> torch.Tensor:
        clean = canonicalize_text if kind == "siglip" else str.lower
        tokens = tokenizer([clean(t) for t in lines], padding="max_length", max_length=12, return_tensors="pt")
        return getattr(out := net.get_text_features(input_ids=tokens["input_ids"]), "pooler_output", out)

    assert frame["prediction"].tolist() == expected(images, texts, pictures)
    assert record["model"]["name"] == "hf"


def test_an_architecture_of_ones_own(tmp_path: Path, folder: str, pictures: list, model: str, vectors: tuple) -> None:
    archs = tmp_path / "archs"
    archs.mkdir()
    (archs / "Tiny-Readme.json").write_text(json.dumps(config_of()))
    checkpoint = tmp_path / "epoch_32.pt"
    torch.save(
        {"state_dict": load_file(Path(model.removeprefix("local-dir:")) / "open_clip_model.safetensors")}, checkpoint
    )
    assert "`model.config_dir=FOLDER`" in OWN_MODEL
    words = words_of("epoch_32.pt").replace("/path/epoch_32.pt", str(checkpoint)).replace("ViT-B-32", "Tiny-Readme")
    record, frame = run(f"{folder} {words} model.config_dir={archs}", tmp_path, "")
    images, texts = vectors
    assert (
        frame["prediction"].tolist()
        == (images @ texts([TEMPLATE.replace("{c}", c) for c in CLASSES]).T).argmax(1).tolist()
    )
    assert record["model"]["pretrained"] == str(checkpoint)


def test_a_class_of_ones_own(tmp_path: Path, folder: str, pictures: list) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "module.py").write_text(OWN)
    words = words_of("model=custom")
    out = [f"out={tmp_path / 'run'}", f"cache.root={tmp_path / 'cache'}", "runtime.workers=0"]
    repository = str(Path(__file__).parents[1])
    script = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {repository!r}]; from clipeval.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", script, *shlex.split(folder)[1:], *words.split(), *out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    space: dict = {}
    exec(OWN, space)
    net = space["MyModel"]()
    frame = pd.read_parquet(tmp_path / "run" / "predictions" / "folder.parquet")
    ours = expected(
        lambda p: net.encode_image(net.transform(p)[None]), lambda t: net.encode_text(net.tokenizer(t)), pictures
    )
    assert frame["prediction"].tolist() == ours


@pytest.fixture
def wilds(tmp_path: Path) -> Iterator[Path]:
    rng = np.random.default_rng(0)
    for fact in facts():
        if fact.key.startswith("wilds/"):
            write_set(tmp_path / "datacomp" / fact.folder, fact, 20, 40, 1, rng)
    yield tmp_path / "datacomp"


def test_the_lines_of_python(wilds: Path, model: str) -> None:
    lines = re.findall(r"^    ((?:from clipeval import|table = ).*)$", README, re.MULTILINE)
    code = "\n".join(lines).replace("/data/datacomp", str(wilds)).replace('suite="datacomp"', 'suite="wilds"')
    net, _, transform = open_clip.create_model_and_transforms(model)
    space = {"model": net.train(), "tokenizer": open_clip.get_tokenizer(model), "transform": transform}
    exec(code, space)
    assert space["table"]["name"].tolist() == ["iWildCam", "Camelyon17", "FMoW"]
    assert net.training
