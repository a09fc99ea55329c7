"""Languages and heads, whole runs: each image decoded once for all languages, Babel-ImageNet's classes, kept heads."""

from __future__ import annotations

import io
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from clip_benchmark.metrics import zeroshot_retrieval
from PIL import Image
from safetensors.torch import load_file

from clipeval.cli.main import main
from clipeval.data.images import FileImages
from scripts.tiny_model import write_tiny_model
from tests.data.test_data import write_tar

LANGUAGES = ("de", "en", "es", "fr", "it")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The position of every image that is read."""
    seen: list[int] = []
    read = FileImages.read

    def count(self: FileImages, position: int) -> bytes:
        seen.append(position)
        return read(self, position)

    monkeypatch.setattr(FileImages, "read", count)
    return seen


def picture(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def words(tmp_path: Path, model: str, *more: str) -> list[str]:
    place = [f"data.root={tmp_path}", f"out={tmp_path / 'run'}", f"cache.root={tmp_path / 'cache'}"]
    return ["run", "model=open_clip", f"model.name={model}", *place, "runtime.workers=0", *more]


def records(tmp_path: Path) -> dict[str, dict]:
    return {p.stem: json.loads(p.read_text()) for p in sorted((tmp_path / "run" / "records").glob("*.json"))}


@pytest.fixture
def xtd10(tmp_path: Path) -> Path:
    """Twelve pictures; captions in five languages, one of them without the last two pictures."""
    rng, folder = np.random.default_rng(0), tmp_path / "xtd10"
    (folder / "xtd10" / "images").mkdir(parents=True)
    names = [f"COCO_{i:03d}.png" for i in range(12)]
    for name in names:
        (folder / "xtd10" / "images" / name).write_bytes(picture(rng))
    for language in LANGUAGES:
        used = names[:10] if language == "fr" else names[::-1]
        content = {
            "image_paths": [f"elsewhere/images/{n}" for n in used],
            "annotations": [f"{language} {n}" for n in used],
        }
        (folder / f"xtd10-{language}.json").write_text(json.dumps(content))
    return folder


def test_five_languages_decode_each_image_once(
    xtd10: Path,
    tmp_path: Path,
    model: str,
    decoded: list[int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert main(words(tmp_path, model, "task=xtd10", f"language=[{','.join(LANGUAGES)}]")) == 0
    assert sorted(decoded) == list(range(12)), "12 images, each once for all five languages"
    found = records(tmp_path)
    assert set(found) == {f"xtd10-{language}" for language in LANGUAGES}
    assert [found[f"xtd10-{language}"]["samples"] for language in LANGUAGES] == [12, 12, 12, 10, 12]
    printed = capsys.readouterr().out
    assert all(f"XTD10, {language}" in printed for language in LANGUAGES)


def test_a_language_is_scored_as_clip_benchmark_scores_it(xtd10: Path, tmp_path: Path, model: str) -> None:
    assert main(words(tmp_path, model, "task=xtd10", "language=[fr,de]")) == 0
    import open_clip

    net, _, preprocess = open_clip.create_model_and_transforms(model)
    tokenizer = open_clip.get_tokenizer(model)
    net.eval()
    for language in ("fr", "de"):
        content = json.loads((xtd10 / f"xtd10-{language}.json").read_text())
        pixels = [
            preprocess(Image.open(xtd10 / "xtd10" / "images" / Path(name).name).convert("RGB"))
            for name in content["image_paths"]
        ]
        batch = [(torch.stack(pixels), [[text] for text in content["annotations"]])]
        expected = zeroshot_retrieval.evaluate(net, batch, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
        metrics = records(tmp_path)[f"xtd10-{language}"]["metrics"]
        for name, value in expected.items():
            assert metrics[name] == pytest.approx(value, abs=1e-6), (language, name)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "xtd10-de.json",
            '{"image_paths": ["nowhere.png"], "annotations": ["x"]}',
            "nowhere.png.*not among the 12 pictures",
        ),
        (
            "xtd10-de.json",
            '{"image_paths": ["a"], "annotations": []}',
            "lists image_paths and annotations of one length",
        ),
        ("xtd10-de.json", "[", "expected clip_benchmark's JSON"),
    ],
)
def test_a_damaged_caption_file_is_one_error(
    xtd10: Path, tmp_path: Path, model: str, file: str, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (xtd10 / file).write_text(content)
    assert main(words(tmp_path, model, "task=xtd10", "language=de")) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert pd.Series([told]).str.contains(message).all(), told


def test_a_language_must_be_chosen(xtd10: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path, model, "task=xtd10")) == 1
    assert "choose with language=" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "crossmodal"])
def test_other_caption_files(xtd10: Path, tmp_path: Path, model: str, suffix: str) -> None:
    names = [f"COCO_{i:03d}" for i in range(12)]
    rows = [{"image": f"{n}.png", "caption": f"das Bild {n}"} for n in names]
    if suffix == "csv":
        pd.DataFrame(rows).to_csv(xtd10 / "own-de.csv", index=False)
    elif suffix == "jsonl":
        (xtd10 / "own-de.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    else:
        lines = [{"image/key": n, "de": {"caption": [f"das Bild {n}", "noch eins"]}} for n in names]
        (xtd10 / "own-de.jsonl").write_text("\n".join(json.dumps(row) for row in lines))
    ending = "csv" if suffix == "csv" else "jsonl"
    assert (
        main(
            words(
                tmp_path,
                model,
                "task=xtd10",
                "language=de",
                f"task.data.captions=own-{{language}}.{ending}".replace("{", "\\{").replace("}", "\\}"),
            )
        )
        == 0
    )
    frame = pd.read_parquet(next((tmp_path / "run" / "predictions").glob("*.parquet")))
    assert len(frame) == 24


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """ImageNet's 1,000 classes, and a picture of each of the first 40."""
    rng, folder = np.random.default_rng(1), tmp_path / "wds_imagenet1k_test"
    members = []
    for i in range(40):
        members += [(f"s{i:03d}.png", picture(rng)), (f"s{i:03d}.cls", str(i).encode())]
    write_tar(folder / "test" / "0.tar", members)
    (folder / "test" / "nshards.txt").write_text("1\n")
    (folder / "classnames.txt").write_text("".join(f"class {i}\n" for i in range(1000)))
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    return folder


def test_babel_imagenet_asks_about_the_classes_that_have_a_name(
    imagenet: Path, tmp_path: Path, model: str, decoded: list[int]
) -> None:
    assert main(words(tmp_path, model, "task=babel_imagenet", "language=[BS,NE]")) == 0
    assert sorted(decoded) == list(range(40))
    names = json.loads(files("clip_benchmark").joinpath("datasets", "babel_imagenet.json").read_text("utf-8"))
    for language in ("BS", "NE"):
        places, classnames = names[language]
        record = records(tmp_path)[f"babel_imagenet-{language}"]
        asked = [place for place in places if place < 40]
        assert record["samples"] == len(asked)
        assert record["classes"] == len(classnames)
        frame = pd.read_parquet(tmp_path / "run" / record["predictions"]["file"])
        assert frame["label"].tolist() == [places.index(place) for place in asked]
        assert frame["key"].tolist() == [f"s{place:03d}" for place in asked]


def test_heads_are_kept_used_again_and_averaged(
    imagenet: Path, tmp_path: Path, model: str, decoded: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    heads = tmp_path / "heads"
    assert main(words(tmp_path, model, "task=imagenet1k")) == 0
    first = records(tmp_path)["imagenet1k"]
    assert main(words(tmp_path, model, "task=imagenet1k", f"head.save={heads / 'own'}")) == 0, "kept afterwards, too"
    other = ("task=imagenet1k", "prompts=simple", f"head.save={heads / 'simple'}", f"out={tmp_path / 'simple'}")
    assert main(words(tmp_path, model, *other)) == 0
    assert len(decoded) == 40
    loaded = ("task=imagenet1k", f"head.load=[{heads / 'own'}]", f"out={tmp_path / 'again'}")
    assert main(words(tmp_path, model, *loaded)) == 0
    again = json.loads((tmp_path / "again" / "records" / "imagenet1k.json").read_text())
    assert again["metrics"] == first["metrics"]
    assert again["prompts"]["name"] == "head of folder"
    assert again["fingerprint"]["prompts"] != first["fingerprint"]["prompts"]
    one, two = (load_file(heads / name / "imagenet1k.safetensors")["weight"] for name in ("own", "simple"))
    both = ("task=imagenet1k", f"head.load=[{heads / 'own'},{heads / 'simple'}]", f"out={tmp_path / 'both'}")
    both = (*both, f"head.save={heads / 'both'}")
    assert main(words(tmp_path, model, *both)) == 0
    mean = load_file(heads / "both" / "imagenet1k.safetensors")["weight"]
    torch.testing.assert_close(mean, F.normalize((one + two) / 2, dim=1))
    assert len(decoded) == 40


def test_languages_ask_clip_benchmarks_names_and_their_heads_average(
    imagenet: Path, tmp_path: Path, model: str, decoded: list[int]
) -> None:
    heads = tmp_path / "heads"
    assert main(words(tmp_path, model, "task=imagenet1k", "language=[it,jp]", f"head.save={heads}")) == 0
    folder = files("clip_benchmark").joinpath("datasets")
    for language in ("it", "jp"):
        classes, templates = (
            json.loads(folder.joinpath(f"{language}_{what}.json").read_text("utf-8"))["imagenet1k"]
            for what in ("classnames", "zeroshot_classification_templates")
        )
        record = records(tmp_path)[f"imagenet1k-{language}"]
        assert record["prompts"]["classnames"] == classes
        assert record["prompts"]["templates"] == len(templates)
    kept = [heads / f"imagenet1k-{language}.safetensors" for language in ("it", "jp")]
    both = (
        "task=imagenet1k",
        f"head.load=[{kept[0]},{kept[1]}]",
        f"head.save={heads / 'both'}",
        f"out={tmp_path / 'both'}",
    )
    assert main(words(tmp_path, model, *both)) == 0
    mean = load_file(heads / "both" / "imagenet1k.safetensors")["weight"]
    one, two = (load_file(file)["weight"] for file in kept)
    torch.testing.assert_close(mean, F.normalize((one + two) / 2, dim=1))
    assert len(decoded) == 40


def test_a_head_of_other_classes_or_another_tower_is_known(
    imagenet: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    heads = tmp_path / "heads"
    assert main(words(tmp_path, model, "task=imagenet1k", f"head.save={heads}")) == 0
    stranger = write_tiny_model(tmp_path / "stranger", seed=5)
    place = (f"out={tmp_path / 'stranger-run'}", f"head.load=[{heads}]")
    assert (
        main([w for w in words(tmp_path, stranger, "task=imagenet1k") if not w.startswith("out=")] + list(place)) == 0
    )
    assert "another text tower" in " ".join(capsys.readouterr().out.split())
    lines = (imagenet / "classnames.txt").read_text().splitlines()
    (imagenet / "classnames.txt").write_text("\n".join(["something else", *lines[1:]]) + "\n")
    assert main(words(tmp_path, model, "task=imagenet1k", f"head.load=[{heads}]")) == 1
    assert "'class 0' for 'something else'" in " ".join(capsys.readouterr().err.split())
    assert main(words(tmp_path, model, "task=imagenet1k", f"head.load=[{tmp_path / 'nowhere'}]")) == 1
    assert "does not exist" in capsys.readouterr().err
