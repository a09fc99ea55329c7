"""What the page shows of each protocol's mistakes, from predictions that the protocols themselves made."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clipeval.results import runs
from clipeval.results.page.mistakes import FALSE, FOUND, MISSED, mistakes
from clipeval.tasks import Association, Attributes, MultiLabel, Retrieval, Selection
from clipeval.tasks.base import Samples

KEYS = ["a", "b", "c", "d"]
CORNERS = torch.eye(4)


@pytest.fixture
def shown(factory, tmp_path):
    """What the page makes of a task's predictions: `shown(task, texts, samples)`, the images being the four corners."""

    def call(task, texts, samples, **config):
        table = Samples(keys=KEYS, **samples)
        predictions = task.score({"test": CORNERS}, torch.as_tensor(texts).float(), {"test": table}).predictions
        folder = factory.run(tmp_path / "run", ["mnist"])
        record = dataclasses.replace(
            folder.record("mnist"),
            protocol=task.protocol,
            metric=task.metric,
            prompts={"classnames": list(table.classnames)},
        )
        folder.write(record, predictions)
        folder.write_run({"model": folder.run()["model"], "config": {"tasks": {"mnist": config}}})
        run = runs.load([folder.path])[0]
        asked = []

        def pictures(path, name, keys):
            asked.extend(keys)
            sink = io.BytesIO()
            Image.new("RGB", (30, 30), "teal").save(sink, "PNG")
            return dict.fromkeys(keys, sink.getvalue())

        return mistakes(run, run.records["mnist"], pictures), asked

    return call


def pairs(found):
    return [(example.truth, example.said) for example in found.examples]


def test_retrieval_shows_the_captions(shown):
    """Image c's own caption is last for it, and d's third."""
    texts = [[1, 0, 0.9, 0.2], [0, 1, 0.5, 0.8], [0, 0, 0.1, 0.9], [0, 0, 0.2, 0.5]]
    task = Retrieval(key="r", name="R", metric="mean_recall@1")
    found, asked = shown(task, texts, {"captions": [[f"of {key}"] for key in KEYS]})
    assert pairs(found) == [("of c (number 4)", "of a"), ("of d (number 3)", "of c")]
    assert asked == ["c", "d"]
    assert all(example.picture.startswith("data:image/webp") for example in found.examples)


def test_association_frames_what_was_found_missed_and_taken_wrongly(shown, monkeypatch):
    from clipeval.results.page import mistakes as module

    framed = []
    monkeypatch.setattr(module, "montage", lambda contents, size, frames: framed.append(frames))
    instances = [
        {"id": "easy", "cue": "sky", "candidates": KEYS, "associations": ["a"]},
        {"id": "hard", "cue": "bug", "candidates": KEYS, "associations": ["a", "b"]},
    ]
    task = Association(key="a", name="A", metric="avg_jaccard_score")
    found, asked = shown(task, [[1, 0, 0, 0], [0, 0.9, 0.2, 0.8]], {"instances": instances})
    assert pairs(found) == [("cue: bug", "1 of 2 found")]
    assert asked == ["a", "b", "d"]
    assert framed == [(MISSED, FOUND, FALSE)]


def test_selection_shows_both_captions(shown):
    instances = [{"id": key, "images": [key], "captions": [f"of {key}", f"not of {key}"]} for key in KEYS[:2]]
    found, asked = shown(
        Selection(key="s", name="S", metric="text_acc"),
        [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0.2, 0, 0], [0, 0.7, 0, 0]],
        {"instances": instances},
    )
    assert pairs(found) == [("of b", "not of b")]
    assert asked == ["b"]


def test_attributes_show_the_main_metrics_objective_under_the_labels_of_the_data(shown):
    """The classes of `race` stand for white and not white; d is white and is taken for another."""
    attributes = [
        {"objective": "age", "label": "age", "by": ["race"]},
        {"objective": "race", "label": "race", "by": ["age"], "relabel": {1: 0}, "otherwise": 1},
    ]
    lines = ["age:young", "age:old", "race:black", "race:white", "race:other"]
    task = Attributes(key="f", name="F", metric="acc_race_avg", attributes=attributes)
    metadata = pd.DataFrame({"age": [0, 0, 1, 1], "race": [1, 0, 1, 0]})
    texts = [[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]
    samples = {"classnames": lines, "templates": ["age:{c}", "race:{c}"], "metadata": metadata}
    found, asked = shown(task, texts, samples, attributes=attributes)
    assert pairs(found) == [("white", "black / other")]
    assert asked == ["d"]
    assert [(item.name, item.right, item.samples) for item in found.worst] == [("white", 1, 2), ("black / other", 2, 2)]
    assert found.legend == "Shown for race."


def test_multilabel_shows_the_surest_absent_label(shown):
    labels = np.array([[1, 0], [1, 1], [0, 1], [0, 1]])
    texts = [[0.5, 0.9, 0.2, 0.9], [0.1, 0, 0.4, 0.3]]
    task = MultiLabel(key="m", name="M", metric="mean_average_precision")
    found, asked = shown(task, texts, {"labels": labels, "classnames": ["cat", "dog"], "templates": ["{c}"]})
    assert pairs(found) == [("dog", "cat")]
    assert asked == ["d"]
