"""Regret of replayed searches: epochs to reach a target, with intervals, and a figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

TARGETS = (0.05, 0.01)

Results = Mapping[str, Sequence["Trace"]]


@dataclass(frozen=True)
class Trace:
    """The result of a replay."""

    regret: tuple[float, ...]  # after each epoch spent, in the order of the clock
    epochs: tuple[int, ...]  # of each trial, those under way at the end included

    def epochs_to(self, target: float) -> float:
        """The number of epochs until the regret is at most `target`; infinite if it never is."""
        found = (number for number, r in enumerate(self.regret, start=1) if r <= target)
        return next(found, float("inf"))


def row(arm: str, results: Results, max_epochs: int) -> dict[str, Any]:
    """An arm's median epochs to each target, and their ratio to random search's, with 95 %
    intervals over seeds. A replay that misses the target counts with its maximum of epochs."""
    found: dict[str, Any] = {"search": arm}
    for target in TARGETS:
        epochs, of_random = (
            np.minimum([trace.epochs_to(target) for trace in results[name]], max_epochs)
            for name in (arm, "random")
        )
        median = bootstrap((epochs,), np.median, method="percentile", rng=0)
        ratio = bootstrap((epochs, of_random), _ratio, method="percentile", rng=0)
        found[f"{target:.0%}"] = {
            "epochs": float(np.median(epochs)),
            "interval": [float(end) for end in median.confidence_interval],
            "ratio": float(_ratio(epochs, of_random)),
            "ratio_interval": [float(end) for end in ratio.confidence_interval],
            "reached": sum(trace.epochs_to(target) <= max_epochs for trace in results[arm]),
            "seeds": len(epochs),
        }
    found["epochs_per_trial"] = float(
        np.median([sum(trace.epochs) / len(trace.epochs) for trace in results[arm]])
    )
    return found


def draw(results: Results, max_epochs: int, path: Path) -> None:
    """Plot the median regret against epochs, with the interquartile range over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for arm, traces in results.items():
        padded = np.array([_padded(trace, max_epochs) for trace in traces])
        low, median, high = np.percentile(padded, [25, 50, 75], axis=0)
        (line,) = axes.plot(range(1, max_epochs + 1), median, label=arm)
        axes.fill_between(range(1, max_epochs + 1), low, high, color=line.get_color(), alpha=0.15)
    for target in TARGETS:
        axes.axhline(target, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlim=(10, max_epochs), ylim=(min(TARGETS), 2))
    axes.set(xlabel="epochs of all trials", ylabel="normalised regret")
    axes.legend()
    figure.savefig(path, dpi=120)


def _ratio(epochs: np.ndarray, of_random: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(np.median(epochs, axis=axis) / np.median(of_random, axis=axis))


def _padded(trace: Trace, max_epochs: int) -> np.ndarray:
    """The regret after each of `max_epochs` epochs; a replay ends early once it reaches the last
    target."""
    kept = trace.regret[:max_epochs]
    return np.array([*kept, *[kept[-1]] * (max_epochs - len(kept))])
