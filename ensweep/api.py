"""The Python API of sweeps: the same as the commands of these names, with data frames as output."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import pandas as pd

from ensemble.candidates.pool import Pool
from ensemble.choice.request import Request, choose_ensemble
from ensemble.choice.result import EnsembleChoice, Method
from ensemble.inference.describe import as_html, as_text
from ensemble.inference.ensemble import Ensemble
from ensemble.presentation.words import doubts_by_task, name_of, verdict
from ensweep.cli.shared.options import EnsembleOptions, as_overrides, dated
from ensweep.cli.shared.place import Place
from mlflow_setup.errors import NothingUsableError
from mlflow_setup.filesystem.opening import folder_to_make, storage_folder
from mlflow_setup.runs.query import find_trials
from mlflow_setup.schema import Outcome
from mlflow_setup.text import counted, setting_text
from search.storage.sweep_folder import find_sweep

if TYPE_CHECKING:
    from search.driver.result import SweepResult

NUM_SHOWN = 10
"""The most trials in the `repr` of a sweep."""


class EnsembleSettings(TypedDict, total=False):
    """Settings of a choice of members: the options of `ensweep ensemble` with these names."""

    method: str  # a selection rule for all tasks
    max_members: int  # per task
    max_cost: float  # millions of parameters of the distinct encoders
    average: Literal["paper", "probabilities", "logits", "standardised"]
    prefer: Literal["score", "balanced", "single"]
    runs: list[str]  # TASK=RUN,RUN: the members, instead of choosing them


def sweep(
    name_or_file: str,
    data_dir: str | Path | None = None,
    *,
    name: str | None = None,
    storage: str | Path = "runs",
    tracking_uri: str | None = None,
    num_samples: int | None = None,
    seed: int | None = None,
    max_hours: float | None = None,
    settings: Mapping[str, Any] | None = None,
) -> "Sweep":
    """Run a sweep, as `ensweep sweep`: many trials, each tracked, weak ones stopped early.

    Args:
        name_or_file: a packaged sweep, such as `selective`, or a YAML file.
        data_dir: the folder with the tasks' files, or its URI.
        name: name of the new sweep; None: the sweep's with date and time.
        storage: the folder for sweeps, or a storage URI.
        tracking_uri: an MLflow server or database; None: `mlflow.db` in the storage folder.
        num_samples: number of trials; None: as the sweep says.
        max_hours: stop after so many hours; the sweep can be resumed.
        settings: of every trial or of the sweep, by dotted name: `{"train.num_epochs": 2}`.

    Raises:
        ConfigError: a setting, the storage folder or MLflow cannot be used as it is.
        DataError: the data has errors.
        NothingUsableError: no trial has finished.
    """
    from search.config.load import read_sweep
    from search.driver.sweep import run_sweep as run

    options = {
        "data.dir": data_dir,
        "search.num_samples": num_samples,
        "search.seed": seed,
        "budget.max_hours": max_hours,
    }
    given = {key: setting_text(value) for key, value in (settings or {}).items()}
    resolved = read_sweep(name_or_file, [*as_overrides(given), *as_overrides(options)])
    place = Place(storage_folder(storage), tracking_uri)
    chosen = name or dated(resolved.name)
    result = run(resolved, chosen, place.storage, place.tracking)
    return _with_result(Sweep(chosen, storage, tracking_uri), result)


class Sweep:
    """A sweep in its storage folder: its trials, and the ensembles that can be made from them.

    Args:
        name: the sweep's name; None: the latest.
        storage: the folder with the sweeps, or a storage URI.
        tracking_uri: an MLflow server or database; None: `mlflow.db` in the storage folder.

    Raises:
        NothingUsableError: there is no such sweep.
    """

    def __init__(
        self,
        name: str | None = None,
        storage: str | Path = "runs",
        tracking_uri: str | None = None,
    ) -> None:
        self.place = Place(storage_folder(storage), tracking_uri)
        self.folder = find_sweep(self.place.storage, name)
        self.name = self.folder.name
        self.result: SweepResult | None = None
        """The result of running it in this process: rungs, usage, why it stopped; else None."""

    def leaderboard(self) -> pd.DataFrame:
        """One row per trial, the best first; baselines have no rank.

        Columns: rank, trial, recipe, outcome, reason, epochs, overall, run_id, folder, seconds (of
        training), num_parameters, ms_per_sentence (to predict dev); the best dev metric of each
        task, such as `dev/sentiment/accuracy`; and the settings in which the trials differ.

        Raises:
            NothingUsableError: no trial is tracked yet.
            ConfigError: MLflow cannot be read.
        """
        from search.reports.leaderboard import leaderboard

        rows = leaderboard(find_trials(self.place.tracking, self.name))
        if not rows:
            raise NothingUsableError(f"no trial of a sweep {self.name!r} is tracked")
        flat = [row.to_json() for row in rows]
        nested = [(row.pop("metrics"), row.pop("params")) for row in flat]
        table = pd.DataFrame(
            [row | metrics | params for row, (metrics, params) in zip(flat, nested, strict=True)]
        )
        return table.astype({"rank": "Int64", "epochs": "Int64"})

    def ensemble(self, **settings: Unpack[EnsembleSettings]) -> "Choice":
        """Choose the members for each task, score them, and log the choice in MLflow.

        Raises:
            NothingUsableError: no run can be a member.
            ConfigError: no such rule, or MLflow cannot be written to.
        """
        from ensemble.choice.pins import pin_members
        from ensemble.choice.tracking import log
        from ensemble.presentation.choice_json import describe
        from ensemble.presentation.figures import pictures

        place = self.place
        request = EnsembleOptions(sweeps=[self.name], **settings).request(place.tracking)
        pool, choice = choose_ensemble(place.tracking, request, place.cache)
        images = pictures(pool, choice)
        pin_members(choice.candidates(Method.SELECTIVE))
        log(place.tracking, request, describe(request, pool, choice), pool, choice, lambda: images)
        return Choice(self, request, pool, choice, images)

    def resume(self, num_more: int = 0) -> "Sweep":
        """Resume the sweep where it was stopped, with `num_more` additional trials, and wait for
        its end.

        Raises:
            ConfigError: another process is running it.
            NothingUsableError: no trial has finished.
        """
        from search.driver.sweep import resume_sweep

        place = self.place
        result = resume_sweep(self.name, place.storage, place.tracking, num_more=num_more)
        return _with_result(self, result)

    def _summary(self) -> tuple[str, pd.DataFrame]:
        try:
            table = self.leaderboard()
        except NothingUsableError:
            return f"Sweep {self.name}: no trial is tracked yet", pd.DataFrame()
        shown = f", the first {NUM_SHOWN}" if len(table) > NUM_SHOWN else ""
        baselines = int(table["rank"].isna().sum())
        beside = f" and {counted(baselines, 'baseline')}" if baselines else ""
        count = counted(len(table) - baselines, "trial")
        return f"Sweep {self.name}: {count}{beside}{shown}", table.head(NUM_SHOWN)

    def __repr__(self) -> str:
        return as_text(*self._summary())

    def _repr_html_(self) -> str:
        return as_html(*self._summary())


@dataclass(frozen=True, repr=False)
class Choice:
    """A chosen ensemble: the members of each task, and their score."""

    sweep: Sweep
    request: Request
    pool: Pool
    choice: EnsembleChoice
    pictures: Mapping[str, bytes]  # file name -> PNG

    @property
    def verdict(self) -> str:
        """A sentence or two: what to ship, its gain, and what a larger ensemble would add."""
        return verdict(self.choice)

    def scores(self) -> pd.DataFrame:
        """One row per task, then `overall`: each method's score on held-out rows, and the selective
        ensemble's gain over the best single run with its 95 % interval."""
        tasks, overall = self.choice.tasks, self.choice.overall
        rows = {
            name: {m: chosen.scores.held_out for m, chosen in task.methods.items()}
            for name, task in tasks.items()
        } | {"overall": {m: scores.held_out for m, scores in overall.items()}}
        gains = {name: task.gains for name, task in tasks.items()} | {"overall": self.choice.gains}
        table = pd.DataFrame.from_dict(
            {
                name: {name_of(method): score for method, score in row.items()}
                | {
                    "gain": gains[name][Method.BEST_SINGLE].value,
                    "low": gains[name][Method.BEST_SINGLE].low,
                    "high": gains[name][Method.BEST_SINGLE].high,
                }
                for name, row in rows.items()
            },
            orient="index",
        )
        return table.rename_axis("task")

    def members(self) -> pd.DataFrame:
        """One row for each task and selected member: its weight, trial, epoch and MLflow run."""
        return pd.DataFrame(
            [
                {
                    "task": name,
                    "member": member.candidate.label,
                    "weight": member.weight,
                    "trial": member.candidate.trial,
                    "epoch": member.candidate.epoch,
                    "run_id": member.candidate.run_id,
                }
                for name, task in self.choice.tasks.items()
                for member in task.selective.members
            ]
        )

    def doubts(self) -> dict[str, str]:
        """Task or `overall` -> why its gain may be zero; without those whose gain is certain."""
        return {name: doubt for name, doubt in doubts_by_task(self.choice).items() if doubt}

    def export(
        self,
        output: str | Path,
        *,
        precision: Literal["fp32", "fp16", "bf16"] = "fp32",
        data_dir: str | Path | None = None,
    ) -> Ensemble:
        """Write the ensemble to a new folder, and load it.

        Args:
            precision: precision of the stored weights. The effect of half precision is measured on
                the dev files in `data_dir`.

        Raises:
            ConfigError: `output` exists already, or half precision without `data_dir`.
            NothingUsableError: a member's weights cannot be read.
        """
        from ensemble.export.write import Refine, export, unchanged
        from ensweep.cli.ensembles.bundle import halving

        refine: Refine = unchanged
        if precision != "fp32":
            refine = halving(precision, None if data_dir is None else str(data_dir))
        place = self.sweep.place
        folder = folder_to_make(output)
        export(place.tracking, self.request, place.cache, folder, refine)
        return Ensemble.load(folder)

    def __repr__(self) -> str:
        return as_text(self.verdict, self.scores())

    def _repr_html_(self) -> str:
        return as_html(self.verdict, self.scores())


def _with_result(sweep: Sweep, result: "SweepResult") -> Sweep:
    sweep.result = result
    if result.stop is None and not result.ended(Outcome.FINISHED):
        raise NothingUsableError(
            f"no trial of sweep {sweep.name} has finished",
            fix="ensweep.Sweep(...).leaderboard() gives the reason of each",
        )
    return sweep
