"""What is remembered of installed packages: the same as they say, asked again whenever they could say something else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipeval.models.facts import Facts, package_stamp
from scripts.tiny_model import config_of, write_tiny_model
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, write_hugging_face

HANDLES = """
import json, sys
from clipeval.configs.errors import ClipevalError
from clipeval.models import resolve

def said(cfg, cache):
    if sys.argv[3] == "cold":  # each as if it were the first
        for module in [m for m in sys.modules if m == "transformers" or m.split(".")[0] == "open_clip"]:
            del sys.modules[module]
    handle = resolve(cfg, cache)
    names = ("weights_digest", "tokenizer_digest", "image_digest", "text_digest", "slug", "flags", "missing", "outputs")
    return {**{name: getattr(handle, name) for name in names}, "identity": dict(handle.identity),
            "pixels": handle.preprocess.describe(), "architecture": handle.architecture}

answers = [said(cfg, sys.argv[2]) for cfg in json.loads(sys.argv[1])]
print(json.dumps([answers, [p for p in ("open_clip", "transformers", "torchvision") if p in sys.modules]]))
"""


def said(models: list[dict[str, Any]], cache: Path, how: str) -> list[Any]:
    command = [sys.executable, "-c", HANDLES, json.dumps(models), str(cache), how]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_what_is_remembered_is_what_the_packages_say(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny")
    write_hugging_face(tmp_path / "hugging", "clip", CLIP_PROCESSOR)
    own = tmp_path / "architectures"
    own.mkdir()
    (own / "Tiny-Test.json").write_text(json.dumps(config_of()))
    checkpoint = str(tmp_path / "tiny" / "open_clip_model.safetensors")
    models = [
        {"name": f"local-dir:{tmp_path / 'tiny'}"},
        {"name": "ViT-B-32", "pretrained": "random"},
        {"name": "ViT-B-32-quickgelu", "pretrained": "random", "preprocess": {"mean": [0.5, 0.5, 0.5]}},
        {"_target_": "clipeval.models.transformers.HuggingFace", "path": str(tmp_path / "hugging")},
        {"name": "Tiny-Test", "pretrained": checkpoint, "config_dir": str(own)},
    ]
    cold, imported = said(models, tmp_path / "cache", "cold")
    assert imported == ["open_clip", "transformers", "torchvision"]
    assert said(models, tmp_path / "cache", "warm") == [cold, []]
    # One's own architecture changes, and so does what is said of it.
    (own / "Tiny-Test.json").write_text(json.dumps(config_of(size=64)))
    changed, imported = said(models[-1:], tmp_path / "cache", "warm")
    assert changed[0]["architecture"] == config_of(size=64)
    assert changed[0]["weights_digest"] != cold[-1]["weights_digest"]
    assert imported == ["open_clip", "transformers", "torchvision"]


def test_an_answer_is_asked_for_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer() -> dict[str, Any]:
        asked.append("")
        return {"size": (224, 224)}

    for _ in range(2):
        facts = Facts(tmp_path, {"package": "1"})
        found = facts.ask("size", answer)
        assert found == {"size": [224, 224]}
        found["size"].clear()  # whoever has an answer may change it
        assert facts.ask("size", answer) == {"size": [224, 224]}
    assert len(asked) == 1
    Facts(tmp_path, {"package": "2"}).ask("size", answer)
    Facts(tmp_path, None).ask("size", answer)
    Facts(tmp_path, None).ask("size", answer)
    assert len(asked) == 4


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", "\x00", "cut", "edited", "another"])
def test_a_damaged_file_is_written_anew(damage: str, tmp_path: Path) -> None:
    Facts(tmp_path, {"package": "1"}).ask("size", lambda: 224)
    (path,) = (tmp_path / "facts").iterdir()
    whole = path.read_text()
    changed = {
        "cut": whole[: len(whole) // 2],
        "edited": whole.replace("224", "336"),
        "another": whole.replace('"package": "1"', '"package": "2"'),
    }
    path.write_text(changed.get(damage, damage))
    assert Facts(tmp_path, {"package": "1"}).ask("size", lambda: 224) == 224
    assert path.read_text() == whole
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_only_what_json_says_is_kept(tmp_path: Path) -> None:
    facts = Facts(tmp_path, {"package": "1"})
    for value in ({1: "a"}, float("nan"), Path("x"), object):
        assert facts.ask("value", lambda value=value: value) == value or value != value  # type: ignore[misc]
    assert facts.ask("guess", lambda: "a.bin", keep=lambda name: name != "a.bin") == "a.bin"
    assert not (tmp_path / "facts").exists()


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "facts").write_text("a file in the place of the folder")
    assert Facts(tmp_path, {"package": "1"}).ask("size", lambda: 224) == 224


def test_the_stamp_of_a_package_follows_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "somebodys_package"
    (package / "configs").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('it is not imported')")
    (package / "configs" / "a.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)

    def stamp() -> str | None:
        package_stamp.cache_clear()
        return package_stamp(package.name)

    assert stamp() is None  # it was written a moment ago, and could change once more without another time
    monkeypatch.setattr("clipeval.results.stamp.SETTLED", -1.0)
    seen = [stamp()]
    (package / "configs" / "a.json").write_text("[]")
    seen.append(stamp())
    (package / "b.py").write_text("")
    seen.append(stamp())
    (package / "b.py").unlink()
    seen.append(stamp())
    assert None not in seen
    assert len(set(seen)) == 3 and seen[3] == seen[1]
    package_stamp.cache_clear()
    assert package_stamp("no_such_package_anywhere") is None
