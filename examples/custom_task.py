"""A protocol of your own, on bundled data: python examples/custom_task.py

It asks whether a picture prefers the true "a photo of …" to the false "not a photo of …". templates/ has the files to copy.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from clipeval.tasks.base import Task
from clipeval.tasks.statistics import Proportion


@dataclass(frozen=True)
class Polarity(Task):
    """Does a picture of class c prefer "a photo of c" to "not a photo of c"?"""

    protocol = "polarity"
    version = 1

    def prompts(self, samples):
        return [f"{no}a photo of the digit {c}" for c in samples["test"].classnames for no in ("", "not ")]

    def predict(self, images, texts, samples):
        test = samples["test"]
        pairs = texts.view(-1, 2, texts.shape[1])[torch.as_tensor(test.labels)]
        scores = torch.einsum("nd,npd->np", images["test"].cpu(), pairs.cpu())
        return pd.DataFrame({"key": test.keys, "prediction": scores.argmax(dim=1).numpy()})

    def statistics(self, predictions):
        return {"polarity_acc": Proportion(predictions["prediction"] == 0)}


if __name__ == "__main__":
    from clipeval.cli.main import main

    sys.path.insert(0, str(Path(__file__).parent))
    task = {
        "_target_": "custom_task.Polarity",
        "key": "mine/polarity",
        "name": "Polarity of digits",
        "metric": "polarity_acc",
        "chance": 0.5,
        "data.root": "${bundled:data}",
        "data.folder": "wds_quickstart_digits_test",
        "data.samples": 450,
        "data.classes": 10,
    }
    words = [
        "suite=none",
        "+task@tasks.polarity=_task",
        *(f"tasks.polarity.{key}={value}" for key, value in task.items()),
    ]
    sys.exit(main(["run", *words, *sys.argv[1:]]))
