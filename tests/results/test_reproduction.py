"""The verdict on runs that are right, noisy, or wrong in one known way."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from clipeval.results import runs
from clipeval.results.against import against_published
from clipeval.results.against_block import block
from clipeval.results.causes import causes
from clipeval.results.judgement import drift, precision_effect, simultaneous, verdict_of
from clipeval.results.reproduction import _judged, reproduce, same_recipe

RETRIEVAL = ("retrieval", "association")


@pytest.fixture(scope="module")
def published_run(factory, tmp_path_factory):
    """A run that holds a published model's own figures; its protocols are those of the tasks."""

    def make(name="ViT-B-32-256", pretrained="datacomp_s34b_b86k"):
        folder = factory.published(tmp_path_factory.mktemp("run") / "r", name, pretrained)
        (run,) = runs.load([folder.path])
        records = {}
        for task, record in run.records.items():
            protocol = (
                "association"
                if "winogavil" in task
                else "retrieval"
                if record.group == "retrieval"
                else "classification"
            )
            records[task] = dataclasses.replace(record, protocol=protocol)
        return dataclasses.replace(run, records=records)

    return make


def changed(run, change, config=None, model=None):
    """The run with `change(record)` giving fields of each record that differ, where it gives any."""
    records = {task: dataclasses.replace(record, **change(record)) for task, record in run.records.items()}
    about = {**run.model, **(model or {})}
    info = {**run.info, "model": about, "config": {**run.info.get("config", {}), **(config or {})}}
    return dataclasses.replace(run, records=records, info=info)


def moved(record, by, half=0.004):
    """Fields of a record whose main metric lies elsewhere, with an interval about it."""
    value = min(1.0, max(0.0, record.value + by))
    return {"metrics": {record.metric: value}, "intervals": {record.metric: (value - half, value + half)}}


def first_line(run):
    return block(against_published(run)).headline


def test_a_right_run_reproduces_and_has_no_cause(published_run):
    run = published_run()
    found = reproduce(run)
    assert first_line(run) == "38 of 38 reproduce: 38 to the printed digit"
    assert (found.outside, found.drift, causes(run, found)) == ([], None, [])


def test_every_published_metric_is_judged_not_only_the_main_ones(published_run):
    def change(record):
        if record.key != "retrieval/flickr_1k_test_image_text_retrieval":
            return {}
        recalls = {"image_retrieval_recall@1": 0.6, "text_retrieval_recall@5": 0.9509}
        return {
            "metrics": {**record.metrics, **recalls},
            "intervals": {**record.intervals, "image_retrieval_recall@1": (0.58, 0.62)},
        }

    run = changed(published_run(), change)
    found = reproduce(run)
    (flickr,) = [line for line in found.lines if line.metric == "image_retrieval_recall@1"]
    assert (flickr.verdict, flickr.figure.source, flickr.figure.value) == ("outside", "openclip_retrieval", 0.6492)
    text = " ".join(block(against_published(run)).remarks)
    assert "Other published metrics of these tasks" in text
    assert first_line(run).startswith("38 of 38 reproduce")


def noisy(found, rng, scale=1.0):
    """The verdict on a run whose values are drawn around the published ones, as other samples of the same size would give."""
    lines = []
    for line in found.lines:
        sd = 0.004
        value = line.figure.value + scale * sd * rng.standard_normal()
        lines.append(dataclasses.replace(line, measured=value, interval=(value - 1.96 * sd, value + 1.96 * sd)))
    return _judged(lines)


def test_fewer_than_one_in_twenty_noisy_runs_raises_an_alarm(published_run):
    found, rng = reproduce(published_run()), np.random.default_rng(0)
    results = [noisy(found, rng) for _ in range(1000)]
    alarms = sum(bool(result.outside) or result.drift is not None for result in results)
    assert alarms < 50
    assert alarms > 5  # the bound is not met by judging nothing


def test_a_small_loss_on_every_task_is_seen_though_each_is_within(published_run):
    base, rng = reproduce(published_run()), np.random.default_rng(1)
    lines = [
        dataclasses.replace(
            line, measured=line.figure.value - 0.004, interval=(line.figure.value - 0.012, line.figure.value + 0.004)
        )
        for line in base.lines
    ]
    found = _judged(lines)
    assert found.outside == []
    assert found.drift < -3
    assert sum(noisy(base, rng).drift is not None for _ in range(300)) < 15


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-16-quickgelu"])
def test_a_missing_quickgelu_is_recognised(published_run, name):
    """OpenAI's B/16 without QuickGELU; DFN's B/16 with it, of which the published row has none."""
    if name == "ViT-B-16":
        run = changed(published_run("ViT-B-16", "openai"), lambda record: moved(record, -0.04))
        words = "trained with QuickGELU, and ViT-B-16 has none"
    else:
        run = changed(published_run("ViT-B-16", "dfn2b"), lambda record: moved(record, 0.03), model={"name": name})
        words = "the published row ViT-B-16 dfn2b was made without QuickGELU"
    found = reproduce(run)
    first = causes(run, found)[0]
    assert (first.name, first.seen) == ("activation", True)
    assert words in first.evidence
    other = "ViT-B-16-quickgelu" if name == "ViT-B-16" else "ViT-B-16"
    assert f" model.name={other} " in first.command
    assert first.command.count("model.name=") == 1
    assert "NOT THE SAME MODEL" in block(against_published(run)).remarks[0]


def test_other_prompts_are_recognised(published_run):
    def change(record):
        if record.protocol in RETRIEVAL:
            return {}
        return {**moved(record, -0.03), "prompts": {"name": "simple", "digest": "d" * 64, "templates": 1}}

    run = changed(published_run(), change, config={"prompts": {"name": "simple"}})
    first = causes(run, reproduce(run))[0]
    assert (first.name, first.seen) == ("prompts", True)
    assert "simple" in first.evidence
    assert " prompts=null " in first.command


def test_another_precision_is_recognised(published_run):
    rng = np.random.default_rng(2)

    def change(record):
        fields = moved(record, 0.009 * rng.choice([-1, 1]), half=0.001)
        return {
            **fields,
            "samples": 50_000,
            "fingerprint": dataclasses.replace(record.fingerprint, precision="bf16/bf16"),
        }

    run = changed(published_run(), change)
    first = causes(run, reproduce(run))[0]
    assert (first.name, first.seen) == ("precision", True)
    assert "runtime.precision=datacomp" in first.command


def test_text_that_was_not_cleaned_is_recognised(published_run):
    model = {"_target_": "clipeval.models.transformers.HuggingFace", "path": "/models/siglip-base-patch16-224"}
    run = changed(
        published_run("ViT-B-16-SigLIP", "webli"),
        lambda record: moved(record, -0.04) if record.protocol in RETRIEVAL else {},
        config={"model": model},
        model={"name": "siglip-base-patch16-224", "pretrained": None},
    )
    found = reproduce(run)
    assert len(found.scored(main=True)) == 38  # found by the folder's name
    first = causes(run, found)[0]
    assert (first.name, first.seen) == ("text clean-up", True)
    assert "model.text_clean=canonicalize" in first.command


def test_other_data_are_recognised(published_run):
    def change(record):
        return {**moved(record, -0.05), "flags": ("9,000 samples, 10,000 expected",)} if record.task == "mnist" else {}

    run = changed(published_run(), change)
    first = causes(run, reproduce(run))[0]
    assert (first.name, first.seen) == ("data revision", True)
    assert "9,000 samples" in first.evidence
    assert "+task@tasks.mnist=mnist" in first.command


@pytest.mark.parametrize(("how", "config"), [("fast", True), ("fast", False), ("nvjpeg", True), ("nvjpeg", False)])
def test_another_decoder_is_recognised(published_run, how, config):
    """By what the run was asked for, or by its records alone."""
    rng = np.random.default_rng(3)

    def change(record):
        fields = moved(record, 0.012 * rng.choice([-1, 1]), half=0.002)
        return {**fields, "fingerprint": dataclasses.replace(record.fingerprint, preprocess=f"0f3a/{how}/rgb_first")}

    run = changed(published_run(), change, **({"config": {"runtime": {"preprocess": how}}} if config else {}))
    first = causes(run, reproduce(run))[0]
    assert (first.name, first.seen) == ("image decoding", True) and f"preprocess={how} decodes" in first.evidence
    assert "runtime.preprocess=exact" in first.command


def test_sources_stand_side_by_side_and_contradictions_are_said(published_run):
    run = published_run("ViT-B-32-quickgelu", "metaclip_400m")
    found = reproduce(run)
    (imagenet,) = [line for line in found.lines if line.task == "imagenet1k"]
    assert [figure.source for figure in imagenet.figures] == ["openclip_38", "metaclip"]
    assert [figure.value for figure in imagenet.figures] == [0.6558, 0.655]
    assert imagenet.disagree  # 0.6558 is no 65.5 %
    assert "The sources DISAGREE on 1 of" in " ".join(block(against_published(run)).remarks)
    same = dataclasses.replace(
        imagenet, figures=(imagenet.figures[0], dataclasses.replace(imagenet.figures[1], value=0.656))
    )
    assert not same.disagree


def test_what_recipes_mean(published_run):
    record = published_run().records["mnist"]

    def made(precision, protocol="classification"):
        return dataclasses.replace(
            record, protocol=protocol, fingerprint=dataclasses.replace(record.fingerprint, precision=precision)
        )

    assert same_recipe(made("fp32/amp-fp16"), "datacomp")
    assert same_recipe(made("amp-fp16/amp-fp16", "retrieval"), "datacomp")
    assert not same_recipe(made("fp32/fp32"), "datacomp")
    assert not same_recipe(made("bf16/bf16"), "fp32")
    assert same_recipe(made("fp32"), "fp32")
    assert not same_recipe(made("fp32/fp32"), "unknown")


def test_the_arithmetic():
    assert verdict_of(0.784, 0.7844, None, digits=3) == "exact"
    assert verdict_of(0.784, 0.7846, None, digits=3) == "unknown"
    assert verdict_of(0.5, 0.5000009, None, digits=17) == "exact"
    assert verdict_of(0.5, 0.51, (0.505, 0.515), factor=2.1) == "within"
    assert verdict_of(0.5, 0.51, (0.505, 0.515), slack=0.006) == "within"
    assert simultaneous(1) == pytest.approx(1.0478, abs=1e-3)
    assert simultaneous(38) == pytest.approx(1.672, abs=2e-2)
    assert precision_effect(10_000) == pytest.approx(1.96 * (0.0056 / 10_000) ** 0.5, rel=1e-3)
    assert precision_effect(None) == 0
    assert drift([(0.001, (0.002, 0.002), 0.00005)] * 2) is None
