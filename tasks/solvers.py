"""Linear classifiers on embeddings: two recipes for training one, and the search for their regularisation.

    adamw   clip_benchmark's: a linear layer, AdamW, cosine rate, no warm-up
    lbfgs   the CLIP paper's: logistic regression by L-BFGS, the L2 penalty swept

Everything random comes from a generator of its own, so that neither the caller's random state nor other work matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from clipeval.tasks.host_rows import Rows, block_size, blocks, index_device

COARSE, FINE = 7, 97
"""The first look at a range of strengths, and its finest grid: 8 steps a decade over 12 decades, or 12 over 8."""


@dataclass(frozen=True)
class LinearClassifier:
    """A classifier: logits are x @ weight.T + bias.

    Attributes:
        weight: float32 [C, D].
        bias: float32 [C].
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [N, C] for float32 [N, D]."""
        return x @ self.weight.T + self.bias


def search_log_grid(scores: Callable[[Sequence[float]], Sequence[float]], first: float, last: float) -> float:
    """The strength that scores best: coarse steps over the whole range, then ever finer ones around the peak.

    The search of the CLIP paper (Radford et al. 2021, appendix A.3) as clip_benchmark carries it out: 7 points, then three
    at a time, 8, 4, 2 and 1 steps of a 97-point grid apart. Of equal scores the first wins; if none is above 0, the least.

    Args:
        scores: the score of each of several strengths; those asked for together may be trained together.
        first, last: exponents of 10 at the ends of the range.

    Returns:
        A point of `np.logspace(first, last, 97)`.
    """
    grid = np.logspace(first, last, FINE).tolist()

    def peak(places: Sequence[int]) -> int:
        best, most = 0, 0.0
        for place, score in zip(places, scores([grid[p] for p in places]), strict=True):
            if most < score:
                best, most = place, score
        return best

    best, step = peak(range(0, FINE, (FINE - 1) // (COARSE - 1))), 8
    while step > 0:
        best = peak([max(best - step, 0), best, min(best + step, FINE - 1)])
        step //= 2
    return float(grid[best])


def adamw(
    x: Rows,
    y: torch.Tensor,
    classes: int,
    decays: Sequence[float],
    *,
    seed: int,
    epochs: int = 10,
    rate: float = 0.1,
    batch_size: int = 64,
) -> list[LinearClassifier]:
    """Trains one classifier for each weight decay, all in one pass over the same batches.

    The order of batches and the first weights are those of clip_benchmark's `train` with the same seed: a DataLoader that
    shuffles, under `torch.manual_seed(seed)`. Without its mixed precision.

    Args:
        x: float32 [N, D], on any device.
        y: int64 [N].
        classes: C.
        decays: W weight decays.
        seed, epochs, rate, batch_size: of the training.

    Returns:
        W classifiers, in order.
    """
    generator = torch.Generator().manual_seed(seed)
    weight, bias = _first_weights(x.shape[1], classes, generator)
    layers = [
        (weight.to(x.device, copy=True).requires_grad_(), bias.to(x.device, copy=True).requires_grad_()) for _ in decays
    ]
    optimizer = torch.optim.AdamW(
        [{"params": pair, "weight_decay": decay} for pair, decay in zip(layers, decays, strict=True)], lr=rate
    )
    length = -(-len(x) // batch_size)
    for epoch in range(epochs):
        for i, rows in enumerate(torch.split(_shuffled(len(x), generator).to(index_device(x)), batch_size)):
            now = 0.5 * (1 + np.cos(np.pi * (epoch * length + i) / (epochs * length))) * rate
            for group in optimizer.param_groups:
                group["lr"] = now
            # One product for all of them; their losses add up, and their gradients stay apart.
            logits = F.linear(x[rows], torch.cat([w for w, _ in layers]), torch.cat([b for _, b in layers]))
            losses = F.cross_entropy(
                logits.view(len(rows), len(layers), classes).transpose(1, 2),
                y[rows, None].expand(-1, len(layers)),
                reduction="none",
            )
            optimizer.zero_grad()
            losses.mean(dim=0).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return [LinearClassifier(w.detach(), b.detach()) for w, b in layers]


def lbfgs(
    x: Rows,
    y: torch.Tensor,
    classes: int,
    strength: float,
    start: LinearClassifier | None = None,
    most: int = 1000,
) -> LinearClassifier:
    """Multinomial logistic regression with an L2 penalty on the weights, none on the bias.

    Minimises C sum_i CE(y_i, W x_i + b) + |W|^2 / 2, as scikit-learn's `LogisticRegression(C=strength)` does.

    Args:
        x: float32 [N, D], on any device; the loss and its gradient are computed there, block by block where they are many.
        y: int64 [N].
        classes: how many.
        strength: C, the inverse of the penalty.
        start: a classifier to start from, such as that of a neighbouring strength; None: zeros.
        most: iterations.
    """
    from scipy.optimize import minimize

    scale = 1.0 / (strength * len(x))  # the mean of the losses keeps the numbers near 1, whatever N and C
    shape, size = (classes, x.shape[1]), classes * x.shape[1]
    rows = block_size(x, classes)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        both = torch.from_numpy(flat).float().to(x.device)  # in this order: Apple's GPUs take no float64
        weight, bias = both[:size].view(shape).requires_grad_(), both[size:].requires_grad_()
        total, slope = 0.0, np.zeros(len(flat))
        for part, wanted in zip(blocks(x, rows), torch.split(y, rows), strict=True):
            loss = F.cross_entropy(F.linear(part, weight, bias), wanted) * (len(part) / len(x))
            gradients = torch.autograd.grad(loss, (weight, bias))
            total += loss.item()
            slope += np.concatenate([_float64(g) for g in gradients])
        slope[:size] += scale * flat[:size]
        return total + 0.5 * scale * float(flat[:size] @ flat[:size]), slope

    first = np.zeros(size + classes)
    if start is not None:
        first = np.concatenate([_float64(part) for part in (start.weight, start.bias)])
    options = {"maxiter": most, "ftol": 64 * np.finfo(np.float64).eps, "gtol": 1e-5}
    solution = torch.from_numpy(minimize(objective, first, jac=True, method="L-BFGS-B", options=options).x)
    solution = solution.float().to(x.device)
    return LinearClassifier(solution[:size].view(shape), solution[size:])


def _float64(part: torch.Tensor) -> np.ndarray:
    """A float32 tensor of any device as float64 [n]; made on the CPU, since Apple's GPUs have no float64."""
    return np.asarray(part.detach().cpu().numpy().astype(np.float64).ravel())


def sample_few_shot(y: np.ndarray, shots: int | None, seed: int) -> np.ndarray:
    """int64 [n] of the samples to train on: `shots` of each class, drawn as clip_benchmark does after `manual_seed(seed)`.

    Raises:
        ValueError: a class has fewer.
    """
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).numpy()
    if shots is None:
        return np.asarray(order)
    short = [(int(c), int(n)) for c, n in zip(*np.unique(y, return_counts=True), strict=True) if n < shots]
    if short:
        raise ValueError(
            f"{shots} shots were asked for, and class {short[0][0]} has {short[0][1]} training samples "
            f"({len(short)} classes have too few); use fewer shots"
        )
    taken = np.zeros(int(y.max()) + 1, dtype=np.int64)
    chosen = []
    for place in order:
        if taken[y[place]] < shots:
            taken[y[place]] += 1
            chosen.append(place)
    return np.asarray(chosen)


def _first_weights(width: int, classes: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """As torch.nn.Linear draws them."""
    weight, bias = torch.empty(classes, width), torch.empty(classes)
    torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(width)
    torch.nn.init.uniform_(bias, -bound, bound, generator=generator)
    return weight, bias


def _shuffled(n: int, generator: torch.Generator) -> torch.Tensor:
    """One epoch's order, drawn from `generator` as a DataLoader that shuffles draws it from the global one."""
    torch.empty((), dtype=torch.int64).random_(generator=generator)  # its workers' seed, which nobody uses
    seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
