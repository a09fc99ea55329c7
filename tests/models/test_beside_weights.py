"""Files that change beside unchanged weights: tokenizers, preprocessing, architectures, prompts, class lists, adapters."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipeval.cli.main import main
from clipeval.configs.errors import ClipevalError
from clipeval.models import resolve
from scripts.tiny_model import config_of, write_tiny_model
from tests.data_faults.colours import write_picture
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, write_hugging_face

TEXTS = ["a photo of a dog", "two dogs"]


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    """Changes a JSON file and gives it back its modification time, as `cp -p` and archives do."""
    stat, content = path.stat(), json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


class Runs:
    """Runs of one model over a folder of pictures."""

    def __init__(self, place: Path, *model: str) -> None:
        self.place, self.model = place, model
        for colour in ("red", "green", "blue"):
            write_picture(place / "pictures" / colour / "0.png", colour, size=(40, 30))

    def words(self, *more: str) -> list[str]:
        common = [
            f"task.data.path={self.place / 'pictures'}",
            f"cache.root={self.place / 'cache'}",
            "runtime.workers=0",
        ]
        return ["run", "task=folder", f"out={self.place / 'run'}", *common, *self.model, *more]

    def again(self, capsys: pytest.CaptureFixture[str], *more: str) -> str:
        """What a run says on standard error; it must succeed."""
        capsys.readouterr()
        assert main(self.words(*more)) == 0
        return " ".join(capsys.readouterr().err.split())


def hugging_face(place: Path) -> tuple[Path, Runs]:
    folder = write_hugging_face(place / "model", "clip", CLIP_PROCESSOR)
    return folder, Runs(place, "model=hf_transformers", f"model.path={folder}")


def test_a_tokenizer_of_a_transformers_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The record was reused: its fingerprint says nothing of the tokenizer."""
    folder, runs = hugging_face(tmp_path)
    runs.again(capsys)
    assert "nothing to compute" in runs.again(capsys)

    def swap(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["dog"], vocabulary["red"] = vocabulary["red"], vocabulary["dog"]

    rewrite(folder / "tokenizer.json", swap)
    said = runs.again(capsys)
    assert "the tokenizer (" in said
    assert "1 tasks, 0 images and 3 prompts embedded" in said, "pictures do not depend on it"
    assert main([*runs.words(), "resume=refuse"]) == 0
    rewrite(folder / "tokenizer.json", swap)
    assert main([*runs.words(), "resume=refuse"]) == 1


def test_preprocessing_of_a_transformers_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, runs = hugging_face(tmp_path)
    runs.again(capsys)
    rewrite(folder / "preprocessor_config.json", lambda content: content.update(image_mean=[0.1, 0.2, 0.3]))
    said = runs.again(capsys)
    assert "the preprocessing (" in said
    assert "1 tasks, 3 images and 0 prompts" in said
    rewrite(folder / "preprocessor_config.json", lambda content: content.update(size={"shortest_edge": 48}))
    assert "1 tasks, 3 images" in runs.again(capsys), "a processor that runs as it is"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.bpe", "tokenizer.4.0.0.json"])
def test_every_tokenizer_file_counts(name: str, tmp_path: Path) -> None:
    folder, _ = hugging_face(tmp_path)

    def digest() -> str:
        target = {"_target_": "clipeval.models.transformers.HuggingFace", "path": str(folder)}
        return resolve(target, tmp_path / "cache").tokenizer_digest

    before = digest()
    assert digest() == before
    path = folder / name
    path.write_text((path.read_text() if path.exists() else "") + " ")
    assert digest() != before


def test_an_adapter_beside_a_transformers_checkpoint_is_refused(tmp_path: Path) -> None:
    """Without peft, transformers leaves it out without a word."""
    folder, _ = hugging_face(tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ClipevalError, match=r"holds an adapter .* which is not applied"):
        resolve({"_target_": "clipeval.models.transformers.HuggingFace", "path": str(folder)}, tmp_path / "cache")


def test_an_open_clip_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = write_tiny_model(tmp_path / "model")
    runs = Runs(tmp_path, "model=open_clip", f"model.name={name}")
    config = tmp_path / "model" / "open_clip_config.json"
    runs.again(capsys)
    rewrite(config, lambda content: content.update(preprocess_cfg={"mean": [0.1, 0.1, 0.1]}))
    assert "the preprocessing (" in runs.again(capsys)
    rewrite(config, lambda content: content["model_cfg"].update(quick_gelu=True))
    assert main(runs.words()) == 1
    assert "give this run a folder of its own" in capsys.readouterr().err, "another model"


def test_the_tokenizer_of_an_open_clip_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = write_tiny_model(tmp_path / "model")
    write_hugging_face(tmp_path / "words", "clip", CLIP_PROCESSOR)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / file).write_bytes((tmp_path / "words" / file).read_bytes())
    config = tmp_path / "model" / "open_clip_config.json"
    rewrite(config, lambda content: content["model_cfg"]["text_cfg"].update(hf_tokenizer_name="any"))
    runs = Runs(tmp_path, "model=open_clip", f"model.name={name}")
    runs.again(capsys)
    assert "nothing to compute" in runs.again(capsys)
    rewrite(tmp_path / "model" / "tokenizer.json", lambda content: content["model"]["vocab"].update(dog=6, red=5))
    said = runs.again(capsys)
    assert "the tokenizer (" in said and "0 images and 3 prompts" in said


def test_the_config_of_a_text_tower(tmp_path: Path) -> None:
    from transformers import RobertaConfig

    RobertaConfig(vocab_size=10, hidden_size=16).save_pretrained(tmp_path / "tower")
    name = write_tiny_model(tmp_path / "model")
    config = {"model_cfg": config_of(), "preprocess_cfg": {}}
    config["model_cfg"]["text_cfg"]["hf_model_name"] = str(tmp_path / "tower")
    (tmp_path / "model" / "open_clip_config.json").write_text(json.dumps(config))

    def digests() -> tuple[str, str, str, str]:
        handle = resolve({"name": name}, tmp_path / "cache")
        return handle.weights_digest, handle.image_digest, handle.text_digest, str(dict(handle.identity))

    before = digests()
    assert digests() == before
    rewrite(tmp_path / "tower" / "config.json", lambda content: content.update(hidden_act="relu"))
    after = digests()
    assert after[:2] == before[:2], "fingerprints of weights and embeddings of images stay"
    assert after[2] != before[2] and after[3] != before[3]


def test_a_record_of_an_earlier_version_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says nothing of its tokenizer, and its fingerprint is as it always was."""
    from clipeval.results.records import read_record, write_record

    _, runs = hugging_face(tmp_path)
    runs.again(capsys)
    path = tmp_path / "run" / "records" / "folder.json"
    record = read_record(path)
    assert "tokenizer" in record.identity
    old = {k: v for k, v in record.model.items() if k != "identity"}
    write_record(path, type(record)(**{**{f: getattr(record, f) for f in record.__dataclass_fields__}, "model": old}))
    assert read_record(path).identity == {}
    assert "nothing to compute" in runs.again(capsys)


# -- prompts and class lists ------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path, "model=open_clip", f"model.name={write_tiny_model(tmp_path / 'model')}")


def test_a_prompt_file(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    path = runs.place / "prompts.txt"
    path.write_text("a photo of {c}\n")
    word = f"prompts={{name: file, path: '{path}'}}"
    runs.again(capsys, word)
    assert "nothing to compute" in runs.again(capsys, word)
    times = path.stat().st_mtime_ns
    path.write_text("a photo ov {c}\n")
    os.utime(path, ns=(times, times))
    assert "the prompts (" in runs.again(capsys, word)


def test_the_same_prompts_shared_out_otherwise(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """The list of all prompts is the same, and the class vectors are not."""
    path = runs.place / "prompts.json"
    word = f"prompts={{name: file, path: '{path}'}}"
    path.write_text(json.dumps({"blue": ["x", "y"], "green": ["z"], "red": ["w"]}))
    runs.again(capsys, word)
    assert "nothing to compute" in runs.again(capsys, word)
    before = json.loads((runs.place / "run" / "records" / "folder.json").read_text())
    path.write_text(json.dumps({"blue": ["x"], "green": ["y", "z"], "red": ["w"]}))
    said = runs.again(capsys, word)
    assert "the number of prompts of each class (" in said
    assert "1 tasks, 0 images and 0 prompts" in said
    after = json.loads((runs.place / "run" / "records" / "folder.json").read_text())
    assert after["fingerprint"] == before["fingerprint"]
    assert after["predictions"]["sha256"] != before["predictions"]["sha256"]


def test_a_class_list(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    path = runs.place / "names.txt"
    path.write_text("blue\ngreen\nred\n")
    word = f"task.data.classnames={path}"
    runs.again(capsys, word)
    assert "nothing to compute" in runs.again(capsys, word)
    path.write_text("blue\ngreen\nred\npink\n")
    assert "the data (" in runs.again(capsys, word)


def test_a_head(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    heads = runs.place / "heads"
    runs.again(capsys, f"head.save={heads}")
    word = f"head.load=[{heads}]"
    runs.again(capsys, word)
    assert "nothing to compute" in runs.again(capsys, word)
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(str(heads / "folder.safetensors"), "pt") as file:
        metadata = file.metadata()
    save_file(
        {"weight": load_file(heads / "folder.safetensors")["weight"].flip(0)}, heads / "folder.safetensors", metadata
    )
    assert "the prompts (" in runs.again(capsys, word)
