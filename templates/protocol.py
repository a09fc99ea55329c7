"""A protocol: which texts are asked about, and how embeddings become predictions and scores.

Copy it to a module of your own, name its class as `_target_` in a task's YAML, and run with PYTHONPATH and --config-dir:

    defaults: [_task]
    _target_: protocol.Polarity
    key: mine/polarity
    name: MNIST, polarity
    metric: polarity_acc
    chance: 0.5
    data: {folder: wds_mnist_test, samples: 10000, classes: 10}

    PYTHONPATH=mine clipeval run task=polarity --config-dir mine data.root=…

The runner embeds, caches, records and resumes; the statistic brings the interval and what `compare` needs. The contract is
clipeval.tasks.base, one page; clipeval.tasks.statistics has the statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch

from clipeval.tasks.base import Samples, Task
from clipeval.tasks.statistics import Proportion, Statistic


@dataclass(frozen=True)
class Polarity(Task):
    """Does a picture of class c prefer "a photo of c" to "not a photo of c"?"""

    protocol = "polarity"
    version = 1  # raise it when a change can alter a score

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        """Two prompts for each class, the affirmed one first."""
        return [f"{no}a photo of {c}" for c in samples["test"].classnames for no in ("", "not ")]

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        """A row a sample: its key, and 0 where the affirmed text is the nearer.

        Args:
            images: float32 [N, D] of unit length, for each split.
            texts: float32 [2 C, D] of unit length, the embeddings of `prompts` in their order.
            samples: keys, labels and class names of each split.
        """
        test = samples["test"]
        pairs = texts.view(-1, 2, texts.shape[1])[torch.as_tensor(test.labels)]
        scores = torch.einsum("nd,npd->np", images["test"].cpu(), pairs.cpu())
        return pd.DataFrame({"key": test.keys, "prediction": scores.argmax(dim=1).numpy()})

    def statistics(self, predictions: pd.DataFrame) -> Mapping[str, Statistic | None]:
        """Each metric as a statistic of the rows; None where it is undefined."""
        return {"polarity_acc": Proportion(predictions["prediction"] == 0)}
