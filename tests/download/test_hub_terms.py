"""What `clipeval show task=…` says of a set's licence and gating: as the hub says now, or as it said."""

import json
import re

from rich.filesize import decimal

from clipeval.cli.main import main
from clipeval.configs.hub_terms import known
from clipeval.download.fetch import download
from tests.download.test_download import REPO, config, pets

PETS = "djghosh/wds_vtab-pets_test"


def shown(capsys, task: str) -> str:
    assert main(["show", f"task={task}", "--format", "json"]) == 0
    return str(json.loads(capsys.readouterr().out)["licence"])


def test_show_asks_the_hub_and_remembers(hub, monkeypatch, capsys):
    assert "the hub was not to be reached" in shown(capsys, "pets")  # it knows no such repository
    hub.push(PETS, pets(), gated=True)
    hub.repos[PETS].licence = "cc-by-sa-4.0"
    size = decimal(sum(len(content) for content in pets().values()))
    assert shown(capsys, "pets").startswith(f"licence cc-by-sa-4.0; gated; {size} on the hub (its page, 20")
    hub.repos[PETS].licence = None
    assert shown(capsys, "pets").startswith("no licence is stated; gated")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.repos[PETS].licence = "mit"
    assert shown(capsys, "pets").startswith("no licence is stated; gated")  # what it said when it could be asked


def test_a_download_is_remembered_as_well(hub, tmp_path, monkeypatch):
    hub.push(REPO, pets())
    hub.repos[REPO].licence = "mit"
    download({"pets": config()}, tmp_path, None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.requests.clear()
    said = known(REPO)
    assert said is not None and re.match(r"licence mit; [\d.]+ [kM]?B on the hub \(its page, 20", said)
    assert hub.requests == []


def test_bundled_sets_ask_nobody(hub, capsys):
    assert "comes with clipeval" in shown(capsys, "quickstart_digits")
    assert hub.requests == []


def test_a_models_licence_is_its_presets_or_its_pages(hub, monkeypatch, capsys):
    def licence(*words: str) -> str:
        assert main(["show", *words, "--format", "json"]) == 0
        return str(json.loads(capsys.readouterr().out)["licence"])

    assert licence("model=vit_b_16_metaclip_400m") == "CC-BY-NC-4.0"
    assert hub.requests == []
    mine = ["model=hf_transformers", "model.path=lab/clip"]
    assert licence(*mine) == "see the page of its weights"
    hub.push("lab/clip", {"model.safetensors": b"weights"})
    hub.repos["lab/clip"].card = {"license": "other", "license_name": "apple-amlr"}
    assert licence(*mine).startswith("licence apple-amlr (its page, 20")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert licence(*mine).startswith("licence apple-amlr (its page, 20")
    assert main(["show", *mine]) == 0
    assert "licence" in capsys.readouterr().out
