"""The documentation is true: the guides' commands run as they stand there, the reference is whole, and the site builds.

A block marked `sh` is run in a folder that holds what the guides speak of, on miniatures; one marked `console` needs a network, a
GPU or a cluster, and its commands are parsed and composed. Blocks that begin with `# PATH` are files of the reader's own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from clipeval.cli.main import _parser, main
from clipeval.cluster.shares import parse_share
from clipeval.configs.compose import compose
from scripts.make_miniature import facts, write_set
from scripts.tiny_model import config_of, write_tiny_model

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ["get_started.md", *(f"guides/{path.name}" for path in sorted((DOCS / "guides").glob("*.md")))]
FIRST = ["get_started.md", "guides/datacomp_sets.md"]
"""What they leave, the others look at."""
BUNDLED = ROOT / "eval" / "bundled" / "data"


def blocks(page: str, kind: str) -> list[str]:
    text = (DOCS / page).read_text("utf-8")
    found = re.findall(rf"^( *)```{kind}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def commands(page: str, kind: str) -> list[str]:
    lines = [line for block in blocks(page, kind) for line in block.splitlines()]
    assert all(line.startswith("clipeval ") for line in lines if line), page
    return [line.partition("  #")[0].strip() for line in lines if line]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, warm: Callable[[Path], Path]) -> Iterator[Path]:
    """A folder with everything that the guides speak of; the embeddings of the default run lie in the cache."""
    base = tmp_path_factory.mktemp("docs")
    warm(base / "kept")
    rng = np.random.default_rng(0)
    for fact in facts():
        if fact.key.startswith(("vtab/", "wilds/")):  # what the guides run of DataComp's sets
            write_set(base / "data" / fact.folder, fact, 8, 40, 1, rng, 2)
    (base / "shards").symlink_to(BUNDLED / "wds_quickstart_digits_test")
    rows = []
    for label in ("playing music", "playing sports"):
        (base / "pictures" / label).mkdir(parents=True)
        for i in range(3):
            path = base / "pictures" / label / f"{i}.png"
            Image.new("RGB", (40, 30), (60 * i, 90, 200 if "music" in label else 20)).save(path)
            rows.append({"image": str(path), "caption": f"picture {i} of {label}", "label": label})
    frame = pd.DataFrame(rows)
    frame[["image", "caption"]].to_csv(base / "captions.csv", index=False)
    splits = {"class_id": [0] * 3 + [1] * 3, "split": ["train", "val", "test"] * 2}
    frame[["image", "label"]].assign(**splits).to_csv(base / "labels.csv", index=False)
    (base / "names.txt").write_text("playing music\nplaying sports\n")
    frame[["image", "label"]].to_parquet(base / "rows.parquet")
    pairs = [{"image": row["image"], "right": row["caption"], "wrong": "something else"} for row in rows]
    (base / "rows.json").write_text(json.dumps(pairs))
    (base / "templates.txt").write_text("a photo of a {c}.\na drawing of a {c}.\n")
    (base / "archs").mkdir()
    (base / "archs" / "Tiny.json").write_text(json.dumps(config_of()))
    (base / "checkpoints").mkdir()
    weights = load_file(
        Path(write_tiny_model(base / "tiny").removeprefix("local-dir:")) / "open_clip_model.safetensors"
    )
    for epoch in (1, 2):
        torch.save(
            {"state_dict": {k: v * epoch for k, v in weights.items()}}, base / "checkpoints" / f"epoch_{epoch}.pt"
        )
    (base / "eval_results.jsonl").write_text(
        json.dumps(
            {
                "key": "vtab/caltech101",
                "dataset": "Caltech-101",
                "metrics": {"acc1": 0.5, "acc5": 0.8, "main_metric": 0.5},
            }
        )
    )
    theirs = {
        "dataset": "wds/vtab/caltech101",
        "model": "ViT-B-32",
        "pretrained": "openai",
        "task": "zeroshot_classification",
    }
    (base / "clip_benchmark").mkdir()
    (base / "clip_benchmark" / "result.json").write_text(
        json.dumps({**theirs, "metrics": {"acc1": 0.5, "acc5": 0.8, "mean_per_class_recall": 0.5}, "language": "en"})
    )
    for page in PAGES:
        for kind in ("yaml", "python"):
            for block in blocks(page, kind):
                if named := re.match(r"# ([\w./-]+\.(?:yaml|py))", block):
                    (base / named[1]).parent.mkdir(parents=True, exist_ok=True)
                    (base / named[1]).write_text(block.partition("\n")[2])
    before, environment = os.getcwd(), dict(os.environ)
    os.chdir(base)
    os.environ["CLIPEVAL_CACHE"] = str(base / "kept")
    yield base
    os.chdir(before)
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.parametrize(
    "page", sorted(PAGES, key=lambda page: (page not in FIRST, FIRST.index(page) if page in FIRST else 0))
)
def test_the_commands_run_as_they_stand(page: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in commands(page, "sh"):
        status = main(shlex.split(line)[1:])
        said = capsys.readouterr()
        assert status == 0 or (line.startswith("clipeval check") and status == 1), f"{line}\n{said.out}\n{said.err}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "console")])
def test_the_others_parse_and_compose(page: str) -> None:
    for line in commands(page, "console"):
        words = shlex.split(line.replace("…", "X"))[1:]
        arguments, rest = _parser().parse_known_args(words)
        if words[0] in ("run", "plan", "download", "submit"):
            rest = [re.sub(r"^(model=\w+),.*", r"\1", re.sub(r"glob\(.*\)", "epoch_1.pt", word)) for word in rest]
            assert compose(rest, arguments.config_dir).tasks, line
        elif words[0] == "watch":
            assert compose([*rest, "model.pretrained=X"] if rest else ["task=mnist"]).tasks


def test_the_blocks_of_python_are_python() -> None:
    for page in [*PAGES, "reference/python.md"]:
        for block in blocks(page, "python"):
            compile(block, page, "exec")


def test_every_key_of_the_config_has_a_meaning(hooks: ModuleType) -> None:
    found = [(key, meaning) for _, keys in hooks.config_keys() for key, _, _, meaning in keys]
    assert len(found) > 100
    assert [key for key, meaning in found if len(meaning) < 4] == []


def test_every_command_and_option_has_one(hooks: ModuleType) -> None:
    text = hooks.command_reference()
    assert {"run", "plan", "download", "compare", "watch"} <= set(re.findall(r"^## clipeval (\w+)", text, re.MULTILINE))
    assert "| `--share I/N|slurm` |" in text
    assert not re.search(r"^\| `[^`]*` \|  \|$", text, re.MULTILINE), "an option without help"


def test_every_metric_of_the_quickstart_is_explained() -> None:
    page = (DOCS / "reference" / "metrics.md").read_text("utf-8")
    known = set(re.findall(r"`([\w@:-]+)`", page))
    records = json.loads((ROOT / "tests" / "golden" / "quickstart.json").read_text())
    for name in {metric for record in records.values() for metric in record["metrics"]}:
        plain = re.sub(r"(recall)@\d+", r"\1@k", name)
        forms = {name, plain, re.sub(r"seed:\d+", "seed:S", name), re.sub(r"^acc_\w+?_(avg|wg)$", r"acc_F_\1", name)}
        forms |= {re.sub(r"^acc_\w+:\d+$", "acc_G_F:V", name), re.sub(r"^count_\w+:\d+$", "count_F:V", name)}
        forms |= {re.sub(r"^((?:text_|image_)?acc)_.+$", r"\1_G", name)}
        forms |= {re.sub(r"^acc_\w+_wg$", "acc_G_wg", name), "mean_recall@1" if name == "mean_recall@1" else name}
        assert forms & known, name


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="pip install 'clipeval[docs]'")
def test_the_site_builds_and_its_links_hold(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    config = (tmp_path / "site" / "reference" / "config.html").read_text()
    assert "runtime.precision" in config
    assert "made:" not in config
    assert "Evaluates <code>model</code> on a suite" in (tmp_path / "site" / "reference" / "python.html").read_text()


def test_the_job_of_kubernetes() -> None:
    (block,) = [block for block in blocks("guides/kubernetes.md", "yaml") if "batch/v1" in block]
    job = yaml.safe_load(block)["spec"]
    (container,) = job["template"]["spec"]["containers"]
    command = container["args"][0].replace("clipeval run", "printf '%s\\n'", 1)
    environment = {**os.environ, "JOB_COMPLETION_INDEX": "3"}
    words = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True).stdout.split("\n")
    arguments, rest = _parser().parse_known_args(["run", *filter(None, words)])
    assert parse_share(arguments.share) == (3, job["completions"])
    assert len(compose(rest).tasks) == 40


def test_the_image_is_made_of_what_is_here() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert any(line.startswith("RUN scripts/install ") for line in lines)
    left_out = (ROOT / ".dockerignore").read_text().split()
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"].values()
    assert not {*packaged, "scripts", "constraints.txt", "pyproject.toml", "README.md", "LICENSE"} & set(left_out)
