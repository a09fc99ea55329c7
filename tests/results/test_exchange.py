"""Results of other programs in, and ours out in the forms in which results are exchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from clipeval.cli.main import main
from clipeval.configs.errors import ClipevalError
from clipeval.results import runs
from clipeval.results.exchange import mteb
from clipeval.results.imported import read_results
from clipeval.results.importing import import_results
from clipeval.results.tables import EXCHANGE, report, write_report

SCHEMA = Path(__file__).with_name("every_eval_ever.schema.json")
"""`every_eval_ever/schemas/eval.schema.json` of evaleval/every_eval_ever at 9bce413, under the MIT licence."""


@pytest.fixture(scope="module")
def run(factory, tmp_path_factory):
    """A run of five tasks, some of whose data lie on the Hub."""
    folder = factory.run(
        tmp_path_factory.mktemp("run") / "r", change=lambda task: {"flags": ("a doubt",)} if task == "mnist" else {}
    )
    info = folder.run()
    for task in ("imagenet1k", "mnist"):
        info["config"]["tasks"][task]["data"] = {"hub": f"djghosh/wds_{task}_test", "revision": "0" * 40}
    folder.write_run(info)
    return folder.path


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# In


def mteb_file(folder: Path, task: str, **scores: float) -> Path:
    """A file of embeddings-benchmark/results."""
    entry = {"hf_subset": "default", "languages": ["eng-Latn"], **scores}
    content = {
        "task_name": task,
        "dataset_revision": "134abf9ade6a32f9fdae0e89022ff227a70b87e5",
        "mteb_version": "1.14.15",
        "evaluation_time": 51.9,
        "kg_co2_emissions": None,
        "scores": {"test": [entry]},
    }
    return write(folder / f"{task}.json", content)


def test_mtebs_results(tmp_path):
    folder = tmp_path / "results" / "openai__clip-vit-base-patch32" / "3d74acf"
    mteb_file(
        folder, "SugarCrepe", accuracy=0.0, image_acc=0.0, text_acc=0.7660764455795288, main_score=0.7660764455795288
    )
    mteb_file(folder, "Winoground", accuracy=0.09, image_acc=0.1125, text_acc=0.3125, main_score=0.09)
    mteb_file(folder, "CIFAR10ZeroShot", accuracy=0.8831, main_score=0.8831)
    mteb_file(folder, "CUB200I2IRetrieval", cv_recall_at_1=0.52054, main_score=0.52054)
    write(
        folder / "model_meta.json",
        {"name": "openai/clip-vit-base-patch32", "revision": "3d74acf", "n_parameters": 151277313},
    )
    (found,) = import_results([folder], [f"out={tmp_path / 'run'}"])
    assert found.model["name"] == "openai/clip-vit-base-patch32"
    records = {record.key: record for record in found.records}
    assert set(records) == {"sugar_crepe/all", "winoground", "mteb/CIFAR10ZeroShot", "mteb/CUB200I2IRetrieval"}
    sugar = records["sugar_crepe/all"]
    assert (sugar.metric, sugar.value) == ("text_acc", 0.7660764455795288)
    assert sugar.metrics == {"text_acc": 0.7660764455795288}  # of one image MTEB's other two are always 0
    assert sugar.imported["settings"]["mteb_version"] == "1.14.15"
    assert records["winoground"].metrics == {"acc": 0.09, "image_acc": 0.1125, "text_acc": 0.3125}
    # MTEB's zero-shot sets have other prompts: never in the row of ours.
    assert records["mteb/CIFAR10ZeroShot"].task == "mteb-CIFAR10ZeroShot"
    assert records["mteb/CUB200I2IRetrieval"].metrics["hit_rate_at_1"] == 0.52054
    text = report([tmp_path / "run"], against="published", width=100)
    assert "2 of 2 agree" in text


def test_results_as_lm_evaluation_harness_writes_them(tmp_path):
    content = {
        "results": {"mmmu": {"alias": " - mmmu", "acc,none": 0.4, "acc_stderr,none": 0.01, "acc,strict": 0.3}},
        "config": {"model": "hf", "model_args": "pretrained=org/model,dtype=float16"},
    }
    (found,) = import_results([write(tmp_path / "a.json", content)], [f"out={tmp_path / 'run'}"])
    assert found.model["name"] == "org/model"
    (record,) = found.records
    assert (record.name, record.metrics) == ("mmmu", {"acc": 0.4, "acc@strict": 0.3})
    assert record.imported["settings"] == {"acc_stderr": 0.01, "alias": " - mmmu"}


def test_open_clips_training_results(tmp_path):
    lines = [
        {"imagenet-zeroshot-val-top1": 0.50, "imagenet-zeroshot-val-top5": 0.80, "epoch": 1, "num_samples": 10},
        {
            **{
                "imagenet-zeroshot-val-top1": 0.55,
                "imagenet-zeroshot-val-top5": 0.82,
                "imagenetv2-zeroshot-val-top1": 0.4,
            },
            **{"image_to_text_R@1": 0.3, "text_to_image_R@5": 0.6, "clip_val_loss": 1.2, "epoch": 2, "num_samples": 10},
        },
        {"clip_val_loss": 1.1, "epoch": 3, "num_samples": 10},
    ]
    file = write(tmp_path / "results.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    words = ["model=open_clip", "model.name=ViT-B-32", "model.pretrained=mine", f"out={tmp_path / 'run'}"]
    (found,) = import_results([file], words)
    records = {record.key: record for record in found.records}
    assert records["imagenet1k"].metrics == {"acc1": 0.55, "acc5": 0.82}  # the last epoch with a zero-shot accuracy
    assert records["imagenet1k"].imported["line"] == 2
    assert "2 others are left out" in " ".join(records["imagenet1k"].notes)
    own = records["open_clip_validation"]
    assert own.metric is None  # its data are one's own, and join no average
    assert own.metrics == {"text_retrieval_recall@1": 0.3, "image_retrieval_recall@5": 0.6, "clip_val_loss": 1.2}
    with pytest.raises(ClipevalError, match="does not say whose result it is"):
        import_results([file], [f"out={tmp_path / 'other'}"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"task_name": "A", "scores": {"test": [{"text_acc": 1}]}}, "scores.test has an entry without main_score"),
        ({"task_name": "A", "scores": {}}, "scores holds no split with results"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    with pytest.raises(ClipevalError, match=message):
        read_results([write(tmp_path / "a.json", content)])


# Out


def test_the_hubs_eval_results(run):
    from huggingface_hub import parse_eval_result_entries

    text = report([run], "eval_results")
    entries = {entry.task_id: entry for entry in parse_eval_result_entries(yaml.safe_load(text))}
    assert set(entries) == {"imagenet1k", "mnist"}
    record = runs.load([run])[0].records["imagenet1k"]
    assert entries["imagenet1k"].value == round(record.value, 6)
    assert entries["imagenet1k"].dataset_id == "djghosh/wds_imagenet1k_test"
    assert entries["imagenet1k"].date == "2026-01-02T03:04:05Z"
    assert "95% interval" in entries["imagenet1k"].notes
    assert "a doubt" in entries["mnist"].notes
    assert "# left out, for no data set of the Hub is named: ImageNet v2, ImageNet-A, Caltech-101" in text


def test_no_data_set_of_the_hub_is_an_error(factory, tmp_path):
    folder = factory.run(tmp_path / "r", ["mnist"])
    with pytest.raises(ClipevalError, match="no score on a data set of the Hub"):
        report([folder.path], "eval_results")


def test_model_index_is_read_by_huggingface_hub(run):
    from huggingface_hub.repocard_data import model_index_to_eval_results

    index = yaml.safe_load(report([run], "model-index"))["model-index"]
    _, results = model_index_to_eval_results(index)
    values = {result.dataset_name: result.metric_value for result in results}
    records = runs.load([run])[0].records.values()
    assert values == {record.name: round(record.value, 6) for record in records if record.value is not None}


def test_every_eval_ever_validates_with_its_own_schema(run, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))
    content = json.loads(report([run], "every_eval_ever"))
    validator.validate(content)
    assert report([run], "every_eval_ever") == report([run], "every_eval_ever")
    results = {result["evaluation_name"]: result for result in content["evaluation_results"]}
    assert len(results) == 5
    record = runs.load([run])[0].records["mnist"]
    score = results["MNIST"]["score_details"]
    assert score["score"] == record.value
    assert score["uncertainty"]["confidence_interval"]["lower"] == record.interval[0]
    assert results["MNIST"]["source_data"]["hf_repo"] == "djghosh/wds_mnist_test"
    assert results["ImageNet v2"]["source_data"]["source_type"] == "other"
    assert content["model_info"]["id"] == "open_clip/ViT-Toy-32__toy_s1m"
    # What was imported is documentation, no run of ours.
    folder = tmp_path / "results" / "org__model" / "1"
    mteb_file(folder, "Winoground", accuracy=0.09, main_score=0.09)
    import_results([folder], [f"out={tmp_path / 'in'}"])
    content = json.loads(report([tmp_path / "in"], "every_eval_ever"))
    validator.validate(content)
    assert content["source_metadata"]["source_type"] == "documentation"
    assert content["model_info"]["id"] == "org/model"


def test_mtebs_json_has_what_its_reader_checks_and_comes_back(run, tmp_path):
    """The checks are those of `TaskResult._validate_scores_dict` in mteb's task_result.py."""
    written = write_report([run], tmp_path / "out", "mteb")
    files = [path for path in written if path.name != "model_meta.json"]
    assert len(files) == 5
    for path in files:
        content = json.loads(path.read_text())
        assert {"task_name", "dataset_revision", "mteb_version", "evaluation_time", "scores"} <= content.keys()
        for entry in content["scores"]["test"]:
            assert isinstance(entry["main_score"], float)
            assert isinstance(entry["hf_subset"], str)
            assert entry["languages"] == ["eng-Latn"]
    back = read_results([files[0].parent])
    values = {record.value for record in runs.load([run])[0].records.values()} - {None}
    assert {result.main for result in back} == values
    (loaded,) = runs.load([run])
    with pytest.raises(ClipevalError, match="write them to folders of their own"):
        mteb([loaded, loaded])


def test_mteb_itself_reads_what_is_written_for_it(tmp_path):
    """Its cache finds the model and the tasks of an imported run, its own by their names, with the scores they were given."""
    mteb_itself = pytest.importorskip("mteb", reason="mteb is not installed; pip install mteb")
    source = tmp_path / "openai__clip-vit-base-patch32" / "3d74acf"
    mteb_file(source, "Winoground", accuracy=0.09, image_acc=0.1125, text_acc=0.3125, main_score=0.09)
    mteb_file(source, "CIFAR10ZeroShot", accuracy=0.8831, main_score=0.8831)
    meta = {"name": "openai/clip-vit-base-patch32", "revision": "3d74acf", "n_parameters": 151277313}
    write(source / "model_meta.json", meta)
    import_results([source], [f"out={tmp_path / 'run'}"])
    write_report([tmp_path / "run"], tmp_path / "out", "mteb")
    results = mteb_itself.ResultCache(cache_path=tmp_path / "out").load_results(validate_and_filter=False)
    (model,) = results.model_results
    assert model.model_name == "openai/clip-vit-base-patch32"
    scores = {result.task_name: result.scores["test"][0]["main_score"] for result in model.task_results}
    assert scores["Winoground"] == 0.09
    assert sorted(scores.values()) == [0.09, 0.8831]


@pytest.mark.parametrize("format", ["mteb", "clip_benchmark"])
def test_a_format_of_many_files_needs_a_folder(run, format, capsys):
    assert main(["report", str(run), "--format", format]) == 1
    assert "name a folder for them with --output" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["model-index", "eval_results", "every_eval_ever"])
def test_a_format_of_one_model_takes_one_run(run, format):
    with pytest.raises(ClipevalError, match="is about one model, and 2 runs were given"):
        report([run, run], format)


@pytest.mark.parametrize("format", EXCHANGE)
def test_every_form_says_what_is_missing_or_skipped(format, factory, tmp_path, capsys):
    folder = factory.run(
        tmp_path / "r", ["mnist", "imagenet1k"], planned=["mnist", "imagenet1k", "imagenetv2", "caltech101"]
    )
    info = folder.run()
    info["config"]["tasks"]["mnist"]["data"] = {"hub": "djghosh/wds_mnist_test"}
    folder.write_run({**info, "skipped": {"imagenetv2": "its folder does not exist"}}, opened=[])
    output = tmp_path / "out"
    assert main(["report", str(folder.path), "--format", format, "--output", str(output)]) == 0
    text = capsys.readouterr().err if format == "mteb" else output.read_text()
    assert "PARTIAL: 2 of 4 tasks; 1 skipped" in text
    assert "INCOMPLETE: 1 of 4 tasks are missing: Caltech-101" in text
