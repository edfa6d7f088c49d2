"""Predict the learning curve of any configuration from recorded ones.

A search suggests configurations that have not been trained, and in a space of a dozen settings even
the nearest recorded one is far away. So a Gaussian process over the configurations predicts the
curve; `Landscape.check` compares it with the nearest neighbour by leave-one-out.

Legend: N recorded trials, D coordinates of a configuration, E epochs.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from mlflow_setup.schema import OVERALL
from search.config.space import Parameter, Space

Floats = NDArray[np.float64]
Params = Mapping[str, Any]

NEIGHBOURS = 10
"""The number of nearest recorded trials from which a configuration's noise is drawn."""


@dataclass(frozen=True)
class Recorded:
    """A recorded trial: `overall` on dev by epoch, and seconds per epoch."""

    trial: str
    params: dict[str, Any]
    overall: tuple[float, ...]
    epoch_seconds: float
    origin: Literal["first", "even", "searched"]  # first trial, drawn evenly, or TPE's


def read_curves(path: Path) -> list[Recorded]:
    """The trials that `benchmarks/record_curves.py` recorded and that did not diverge, the first
    trials first."""
    header, *trials = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    num_first = sum("-" in trial["trial"] for trial in trials)  # they are named after their recipes
    origins = ["first"] * num_first + ["even"] * header["even"] + ["searched"] * len(trials)
    found = [
        Recorded(t["trial"], t["params"], tuple(t[OVERALL]), t["epoch_seconds"], origin)
        for t, origin in zip(trials, origins, strict=False)
    ]
    num_epochs = max(len(trial.overall) for trial in found)
    return [trial for trial in found if len(trial.overall) == num_epochs]


class Landscape:
    """Predicts the curves of a space's configurations from recorded trials."""

    def __init__(self, space: Space, recorded: Sequence[Recorded]) -> None:
        self.space, self.recorded = space, recorded
        self.x = np.array([self.coordinates(trial.params) for trial in recorded])  # [N, D]
        self.y = np.array([trial.overall for trial in recorded])  # [N, E]
        kernel = ConstantKernel() * Matern(np.ones(self.x.shape[1]), nu=2.5) + WhiteKernel(0.1)
        self.process = GaussianProcessRegressor(kernel, normalize_y=True)
        with warnings.catch_warnings():  # the length scale of a key without effect diverges
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.process.fit(self.x, self.y)
        self.noise_scale = math.sqrt(self.process.kernel_.k2.noise_level) * self.y.std(
            axis=0
        )  # [E]
        self.reach = self.process.kernel_.k1.k2.length_scale  # [D]
        self.residuals, self.surprises = self._left_out()  # [N, E] each

    def mean(self, points: Sequence[Params]) -> Floats:
        """The expected curves [., E] of points in the unit cube."""
        found = self.process.predict(np.array([self.coordinates(point) for point in points]))
        return np.asarray(found, np.float64)

    def noise(self, params: Params, rng: np.random.Generator) -> Floats:
        """A random deviation from a configuration's expected curve [E].

        The leave-one-out residual curve of one of the nearest recorded trials, divided by its
        predictive standard deviation and multiplied by that of the noise, so that the model's own
        uncertainty, where trials are sparse, does not count as noise.
        """
        nearest = np.argsort(self._distances(self.coordinates(params)))[:NEIGHBOURS]
        return self.noise_scale * self.surprises[rng.choice(nearest)]

    def epoch_seconds(self, params: Params) -> float:
        """The seconds per epoch of the nearest recorded trial."""
        return self.recorded[
            int(np.argmin(self._distances(self.coordinates(params))))
        ].epoch_seconds

    def check(self) -> dict[str, float]:
        """The leave-one-out accuracy for the best overall score of uniformly drawn trials."""
        even = [trial.origin == "even" for trial in self.recorded]
        apart = np.array([self._distances(x) for x in self.x])
        np.fill_diagonal(apart, np.inf)
        nearest = self.y.max(axis=1)[apart.argmin(axis=1)][even]
        process = (self.y - self.residuals).max(axis=1)[even]
        actual = self.y.max(axis=1)[even]
        return {
            "trials": len(self.recorded),
            "drawn evenly": sum(even),
            "process: rank correlation": float(spearmanr(process, actual).statistic),
            "process: rmse": math.sqrt(np.mean((process - actual) ** 2)),
            "nearest: rank correlation": float(spearmanr(nearest, actual).statistic),
            "nearest: rmse": math.sqrt(np.mean((nearest - actual) ** 2)),
            "standard deviation": float(actual.std()),
            "standard deviation of the noise, last epoch": float(self.noise_scale[-1]),
        }

    def coordinates(self, params: Params) -> Floats:
        """A configuration as a point in the unit cube [D]; a missing key becomes 0.5."""
        return np.concatenate([_place(p, params.get(key)) for key, p in self.space.items()])

    def _distances(self, x: Floats) -> Floats:
        """The distance to each recorded trial, in units of the length scales."""
        found = np.linalg.norm((self.x - x) / self.reach, axis=1)
        return np.asarray(found, np.float64)

    def _left_out(self) -> tuple[Floats, Floats]:
        """Leave-one-out residuals of the curves, and the same divided by their predictive standard
        deviation, in closed form (Rasmussen and Williams, "Gaussian Processes for Machine
        Learning", equations 5.12)."""
        inverse = np.linalg.inv(self.process.L_ @ self.process.L_.T)
        variance = 1 / np.diag(inverse)[:, None]  # [N, 1], of curves scaled to 1
        spread = self.y.std(axis=0)
        residuals = inverse @ ((self.y - self.y.mean(axis=0)) / spread) * variance
        return residuals * spread, residuals / np.sqrt(variance)


def _place(parameter: Parameter, value: Any) -> list[float]:
    """A value as coordinates: one for ranges and numeric choices, one-hot for other choices."""
    if parameter.choices is not None:
        if all(isinstance(c, int) and not isinstance(c, bool) for c in parameter.choices):
            ordered = sorted(parameter.choices)  # type: ignore[type-var]
            return [ordered.index(value) / (len(ordered) - 1)]
        if len(parameter.choices) == 2:
            return [float(parameter.choices.index(value))]
        return [float(value == choice) for choice in parameter.choices]
    if value is None:
        return [0.5]
    assert parameter.low is not None and parameter.high is not None  # noqa: PT018
    scale = math.log if parameter.log else float
    low, high = scale(parameter.low), scale(parameter.high)
    return [(scale(value) - low) / (high - low)]
