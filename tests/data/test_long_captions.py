"""A miniature of each set of long captions, in its makers' layout, through the command line; recalls computed here."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clipeval.cli.main import main
from clipeval.configs.errors import ClipevalError
from clipeval.data.config import DataConfig
from clipeval.data.split import open_split
from clipeval.models.cuts import Cuts
from scripts.tiny_model import write_tiny_model

LONG = "A wide street runs between two rows of houses. 2.5 metres of it are wet</s>Three people walk there. " * 3
Sets = dict[str, list[tuple[bytes, str]]]


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix in (".jsonl", ".jsonlines"):
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def rejoined(text: str) -> str:
    """LoTLIP's split_caption, joined."""
    parts: list[str] = []
    for line in text.split("\n"):
        for piece in line.split("</s>"):
            parts += [sub.strip() for sub in piece.split(".") if sub.strip()]
    return ". ".join(parts)


def write_sets(root: Path) -> Sets:
    """Writes the files below a root; gives each task's pictures and captions."""
    found: Sets = {}

    def note(task: str, data: bytes, caption: str) -> None:
        found.setdefault(task, []).append((data, caption))

    for i in range(1, 12):
        put(root / f"Urban1k/image/{i}.jpg", picture(i))
        put(root / f"Urban1k/caption/{i}.txt", f"Street {i}. {LONG}\nAnother line.\n")
        note("urban1k", picture(i), f"Street {i}. {LONG}")
    base = root / "dci/densely_captioned_images"
    for i in range(9):
        extra = "" if i == 4 else f"{LONG}\n{i} birds."
        row = {"image": f"sa_{i}.jpg", "short_caption": f"House {i}.", "extra_caption": extra, "mask_data": {}}
        put(base / f"annotations/sa_{i}-data.json", row)
        put(base / f"photos/sa_{i}.jpg", picture(20 + i))
        note("dci", picture(20 + i), rejoined(f"House {i}.\n{extra}"))
    count = 0
    for folder, column in (("DOCCI_Test", "image/key"), ("IIW-400", "image/key"), ("DCI_Test", "image")):
        rows: list[dict[str, Any]] = []
        for i in range(3):
            name = f"{folder}_{i}" + (".jpg" if column == "image" else "")
            rows.append({"IIW": f"{folder} {i}. {LONG}", column: name, "IIW-P5B": None})
            put(root / f"imageinwords/{folder}/{folder}_{i}.jpg", picture(40 + count))
            note("iiw", picture(40 + count), rejoined(rows[-1]["IIW"]))
            count += 1
        put(root / f"imageinwords/{folder}/data.jsonl", rows)
    rows = []
    for i in range(8):
        talk = [{"from": "human", "value": "<image>\nDescribe"}, {"from": "gpt", "value": f"Beach {i}\nwith {LONG}"}]
        rows.append({"id": i, "image": f"sa_000000/images/sa_{i}.jpg", "conversations": talk})
        put(root / "share4v" / rows[-1]["image"], picture(60 + i))
        for task in ("share4v_1k", "share4v_10k"):
            note(task, picture(60 + i), f"Beach {i} with {LONG}")
    put(root / "share4v/share4v_sam_10k.json", rows)
    rows = []
    for i in range(10):
        split = "test" if i % 2 else "train"
        rows.append({"image_file": f"test_{i}.jpg", "split": split, "description": f"Yard {i}. {LONG}"})
        put(root / f"docci/images/test_{i}.jpg", picture(80 + i))
        if i % 2:
            note("docci", picture(80 + i), rows[-1]["description"])
    put(root / "docci/docci_descriptions.jsonlines", rows)
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Sets]:
    root = tmp_path_factory.mktemp("long")
    name, expected = write_tiny_model(root / "model"), write_sets(root / "data")
    words = ["model=open_clip", f"model.name={name}", "runtime.device=cpu", "runtime.workers=0", f"out={root / 'run'}"]
    words += [f"data.root={root / 'data'}", f"cache.root={root / 'cache'}"]
    assert main(["run", "suite=long_captions", *words]) == 0
    return root, name, expected


@pytest.mark.parametrize("task", ["urban1k", "dci", "docci", "iiw", "share4v_1k", "share4v_10k"])
def test_recalls_are_those_of_the_makers_files(task: str, ran: tuple[Path, str, Sets]) -> None:
    root, name, expected = ran
    model, _, transform = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    with torch.no_grad():
        pictures = torch.stack([transform(Image.open(io.BytesIO(data))) for data, _ in expected[task]])
        images = F.normalize(model.eval().encode_image(pictures), dim=-1)
        texts = F.normalize(model.encode_text(tokenizer([text for _, text in expected[task]])), dim=-1)
    scores, own = texts @ images.T, torch.arange(len(images))
    metrics = json.loads((root / "run/records" / f"{task}.json").read_text())["metrics"]
    recalls = {"image": scores.argmax(dim=1) == own, "text": scores.argmax(dim=0) == own}
    for direction, hits in recalls.items():
        assert metrics[f"{direction}_retrieval_recall@1"] == pytest.approx(hits.float().mean().item(), abs=1e-6)


def test_the_record_says_how_much_of_the_captions_is_read(ran: tuple[Path, str, Sets]) -> None:
    root, name, expected = ran
    tokenizer = open_clip.get_tokenizer(name)
    lengths = [len(tokenizer.encode(text)) + 2 for _, text in expected["dci"]]
    share, mean = np.mean([length > 77 for length in lengths]), np.mean(lengths)
    assert 0 < share < 1
    record = json.loads((root / "run/records/dci.json").read_text())
    assert record["notes"] == [
        f"share_cut ({share:.1%}) of the captions are cut; they have mean_tokens ({mean:.1f}; the model reads 77) tokens on "
        "average."
    ]
    assert any("texts are cut" in flag for flag in record["flags"])


def test_of_a_tokenizer_that_only_gives_rows_lengths_are_its_parts() -> None:
    simple = open_clip.get_tokenizer("ViT-B-32")
    known, unknown = Cuts(simple), Cuts(lambda texts: simple(texts))
    for text in ("a", "a street with houses", LONG):
        assert unknown.length(text) == known.length(text)
    assert unknown.described("mean_tokens", ["a"]) == "mean_tokens (3.0; the model reads 77)"
    assert unknown.described("no value", ["a"]) == "no value"


def test_another_run_computes_nothing(ran: tuple[Path, str, Sets], capsys: pytest.CaptureFixture[str]) -> None:
    root, name, _ = ran
    words = ["model=open_clip", f"model.name={name}", f"out={root / 'run'}", f"data.root={root / 'data'}"]
    words += ["runtime.device=cpu", f"cache.root={root / 'cache'}"]
    assert main(["plan", "suite=long_captions", *words]) == 0
    assert "6 done, 0 to compute" in " ".join(capsys.readouterr().out.split())


def opened(path: Path, **options: Any) -> Any:
    return open_split(DataConfig(kind="caption_rows", path=str(path), **options), None, "test", None)


def test_errors_name_the_row(tmp_path: Path) -> None:
    put(tmp_path / "p.jpg", picture(0))
    two = [{"image": "p.jpg", "caption": "one"}, {"image": "p.jpg", "caption": "two"}]
    put(tmp_path / "t.json", {"annotations": two})
    assert opened(tmp_path).samples.captions == [["one", "two"]]
    put(tmp_path / "t.json", [{"image": "p.jpg", "caption": " "}])
    with pytest.raises(ClipevalError, match=r"t\.json, entry 0: column 'caption': the caption is empty"):
        opened(tmp_path)
    put(tmp_path / "t.json", [{"image": "q.jpg", "caption": "one"}])
    with pytest.raises(ClipevalError, match=r"entry 0: the picture 'q\.jpg' does not exist"):
        opened(tmp_path)
    put(tmp_path / "t.json", [{"image": "p.jpg", "caption": "\nsecond line"}])
    with pytest.raises(ClipevalError, match="the caption is empty"):
        opened(tmp_path, clean="first_line")
    with pytest.raises(ClipevalError, match=r"data\.images: Unknown column 'picture'"):
        opened(tmp_path, images=("picture",))
    with pytest.raises(ClipevalError, match="one picture for each row"):
        opened(tmp_path, images=("image", "image"))
