"""Videos through the command line: frames as PyAV decodes them, the sets' layouts, and what cannot be decoded."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clipeval.cli.main import main
from clipeval.configs.catalog import suite_tasks
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.data.config import data_config
from clipeval.data.split import open_split
from clipeval.data.videos import chosen, decode
from scripts.tiny_model import write_tiny_model

av = pytest.importorskip("av")


def pictures(count: int, seed: int) -> list[np.ndarray]:
    """A coloured square that wanders over noise; no two frames are alike."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        pixels = rng.integers(0, 60, (48, 64, 3), dtype=np.uint8)
        pixels[4:30, i * 3 % 40 : i * 3 % 40 + 20] = [40 + 20 * (seed % 9), 250 - 5 * i, 10 + 9 * i]
        found.append(pixels)
    return found


def write(
    path: Path, frames: Sequence[np.ndarray], codec: str = "mpeg4", options: dict[str, str] | None = None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        first, *rest = [Image.fromarray(frame) for frame in frames]
        first.save(path, save_all=True, append_images=rest)
        return
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def every_frame(path: Path) -> list[Image.Image]:
    with av.open(str(path)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def test_which_frames() -> None:
    assert chosen(17, 8) == [0, 2, 4, 6, 9, 11, 13, 16]
    assert chosen(3, 8) == [0, 0, 0, 0, 1, 1, 1, 2]
    assert (chosen(9, 1), chosen(9, 2)) == ([4], [0, 8])
    with pytest.raises(ValueError, match="no frame"):
        chosen(0, 8)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
def test_frames_are_those_of_the_stream(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, pictures(23, 1))
    every = every_frame(tmp_path / name)
    assert len(every) == 23
    found = decode(str(tmp_path / name), 8)
    expected = [every[int(i * 22 / 7)] for i in range(8)]
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.avi", "a.mkv"])
def test_a_download_that_was_broken_off_is_no_shorter_video(tmp_path: Path, name: str) -> None:
    """FFmpeg decodes what is there of one, and says nothing."""
    path, noise = tmp_path / name, np.random.default_rng(0)
    frames = [noise.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(60)]
    write(path, frames, options={"movflags": "faststart"} if name in ("a.mp4", "a.mov") else {})
    assert len(decode(str(path), 8)) == 8
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(ValueError, match="it is cut short: "):
        decode(str(path), 8)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_frames_are_a_whole_video(tmp_path: Path, count: int) -> None:
    for name in ("a.mp4", "a.avi", "a.mkv"):
        write(tmp_path / name, pictures(count, 1))
        assert len(decode(str(tmp_path / name), 8)) == 8


def test_a_still_picture_beside_videos_is_none(place: Path, tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / "own" / "ab"[i] / "x.gif", pictures(5, i))
    Image.new("RGB", (8, 8)).save(tmp_path / "own" / "a" / "thumbnail.png")
    words = ["task=videos", f"task.data.path={tmp_path / 'own'}", *how(place, "still")]
    assert main(["run", *words]) == 0
    record = json.loads((place / "still" / "records" / "videos.json").read_text())
    assert record["samples"] == 2
    assert any("1 left out, a still picture, not a video: a/thumbnail.png" in flag for flag in record["flags"])


def test_a_picture_that_moves_needs_no_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = [np.full((8, 8, 3), 20 * i, dtype=np.uint8) for i in range(9)]
    write(tmp_path / "x" / "a.gif", flat)
    write(tmp_path / "y" / "b.gif", flat[::-1])
    assert [np.asarray(one)[0, 0, 0] for one in decode(str(tmp_path / "x" / "a.gif"), 3)] == [0, 80, 160]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    node = compose(["suite=none", "task=videos", f"task.data.path={tmp_path}"]).tasks.videos
    assert len(open_split(data_config(node), None, "test", None).images) == 16
    write(tmp_path / "y" / "c.mp4", pictures(5, 1))
    with pytest.raises(ClipevalError, match=r"c\.mp4 is decoded by PyAV.*pip install 'clipeval\[video\]'"):
        open_split(data_config(node), None, "test", None)


CLASSES = {
    "k400": ("k400/val", ["riding a bike", "passing American football (in game)", "abseiling"], ".mp4"),
    "k600": ("k600/val", ["riding_a_bike", "waving hand"], ".mp4"),
    "k700": ("k700/val", ["cutting cake", "yoga"], ".mkv"),
    "ucf101": ("ucf101", ["ApplyEyeMakeup", "YoYo", "TaiChi"], ".avi"),
    "hmdb51": ("hmdb51", ["brush_hair", "cartwheel"], ".avi"),
}
SPOKEN = {
    "k400": ["abseiling", "passing American football in game", "riding a bike"],
    "k600": ["riding a bike", "waving hand"],
    "k700": ["cutting cake", "yoga"],
    "ucf101": ["Apply Eye Makeup", "Tai Chi", "Yo Yo"],
    "hmdb51": ["brush hair", "cartwheel"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("video")
    write_tiny_model(root / "model")
    for number, (folder, classes, ending) in enumerate(CLASSES.values()):
        for i, name in enumerate(classes):
            for j in range(3):
                write(root / folder / name / f"clip {j}{ending}", pictures(9 + 4 * j, 10 * number + i + j))
    rows = [["key", "vid_key", "video_id", "sentence"]]
    for i in range(6):
        write(root / "msrvtt/videos/all" / f"video{i}.mp4", pictures(10 + i, 100 + i))
        rows.append([f"ret{i}", f"msr{i}", f"video{i}", f"a person plays with {i} dogs, outside"])
    with (root / "msrvtt/MSRVTT_JSFUSION_test.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def how(root: Path, out: str) -> list[str]:
    model = ["model=open_clip", f"model.name=local-dir:{root / 'model'}", "runtime.device=cpu", "runtime.workers=2"]
    return [*model, f"data.root={root}", f"out={root / out}", f"cache.root={root / 'cache'}"]


@torch.no_grad()
def expected(root: Path) -> dict[str, dict[str, float]]:
    """perception_models, in its own steps, with open_clip's transform."""
    name = f"local-dir:{root / 'model'}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    model, tokenizer, found = model.eval(), open_clip.get_tokenizer(name), {}

    def frames(path: Path) -> torch.Tensor:
        every = every_frame(path)
        return torch.stack([transform(every[int(i * (len(every) - 1) / 7)]) for i in range(8)])

    for task, (folder, classes, ending) in CLASSES.items():
        templates = compose(["suite=none", f"task={task}"]).tasks[task].prompts.templates
        head = []
        for spoken in SPOKEN[task]:
            rows = model.encode_text(tokenizer([template.replace("{c}", spoken) for template in templates]))
            mean = F.normalize(rows, dim=-1).mean(dim=0)
            head.append(mean / mean.norm())
        order, hits = sorted(classes), []
        for name_ in order:
            for path in sorted((root / folder / name_).glob(f"*{ending}")):
                feature = F.normalize(model.encode_image(frames(path)).mean(dim=0), dim=-1)
                hits.append(int((torch.stack(head) @ feature).argmax()) == order.index(name_))
        found[task] = {"acc1": float(np.mean(hits))}
    videos = torch.stack(
        [
            F.normalize(model.encode_image(frames(root / f"msrvtt/videos/all/video{i}.mp4")), dim=-1).mean(dim=0)
            for i in range(6)
        ]
    )
    texts = F.normalize(
        model.encode_text(tokenizer([f"a person plays with {i} dogs, outside" for i in range(6)])), dim=-1
    )
    scores = texts @ videos.T
    found["msr_vtt"] = {
        f"{name}_retrieval_recall@{k}": float((rows.topk(k).indices == torch.arange(6)[:, None]).any(1).float().mean())
        for k in (1, 5)
        for name, rows in (("video", scores), ("text", scores.T))
    }
    return found


def test_each_set_against_perception_models(place: Path) -> None:
    assert main(["run", "suite=video", *how(place, "run")]) == 0
    values = expected(place)
    assert set(values) == set(suite_tasks("video"))
    for task, metrics in values.items():
        found: dict[str, Any] = json.loads((place / "run" / "records" / f"{task}.json").read_text())
        for name, value in metrics.items():
            assert found["metrics"][name] == pytest.approx(value, abs=1e-6), (task, name)
    assert main(["verify", str(place / "run")]) == 0
    assert main(["report", str(place / "run"), "--format", "html", "--output", str(place / "page.html")]) == 0


def test_class_names(place: Path) -> None:
    for task, names in SPOKEN.items():
        node = compose(["suite=none", f"task={task}"]).tasks[task]
        split = open_split(data_config(node), str(place), node.splits[-1], None)
        assert list(split.samples.classnames) == names
        count = 3 * len(names)
        assert len(split.samples.instances or ()) == count and len(split.images) == 8 * count
        assert any(f"{len(names)} classes" in flag for flag in split.flags)


def test_a_damaged_video_is_named_or_left_out(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        write(tmp_path / "own" / "abc"[i] / "x.mp4", pictures(12, i))
    (tmp_path / "own" / "b" / "y.mp4").write_bytes(b"no video" * 100)
    words = ["task=videos", f"task.data.path={tmp_path / 'own'}", "task.data.frames=4", *how(place, "damaged")]
    assert main(["run", *words]) == 1
    assert "b/y.mp4, frame 1 of 4: it cannot be decoded" in " ".join(capsys.readouterr().err.split()).replace("- ", "-")
    assert main(["run", *words, "data.on_error=skip"]) == 0
    record = json.loads((place / "damaged" / "records" / "videos.json").read_text())
    assert any("4 of 16 images left out" in flag for flag in record["flags"])
    assert record["n"] == 3 if "n" in record else True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: [*rows[:2], [*rows[2][:2], "video77", rows[2][3]]],
            r"line 3: the video .*video77\.mp4.*does not exist",
        ),
        (lambda rows: [rows[0], [*rows[1][:3], ""]], r"line 2: .*caption is empty"),
        (lambda rows: [[*rows[0][:3], "text"], *rows[1:]], r"data\.captions: .*sentence"),
    ],
)
def test_one_error_names_the_row(place: Path, change: Any, message: str) -> None:
    path = place / "msrvtt/MSRVTT_JSFUSION_test.csv"
    before = path.read_text()
    try:
        rows = list(csv.reader(before.splitlines()))
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(change(rows))
        with pytest.raises(ClipevalError, match=message):
            open_split(data_config(compose(["suite=none", "task=msr_vtt"]).tasks.msr_vtt), str(place), "test", None)
    finally:
        path.write_text(before)
