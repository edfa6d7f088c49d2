"""Sweeps from Python: what the commands of the same names do, and tables in place of lines."""

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
from ensweep.cli.shared.options import AskedEnsemble, as_overrides, dated
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
"""Trials of a leaderboard that are shown where a sweep itself is."""


class Asked(TypedDict, total=False):
    """What a choice keeps to, as the options of `ensweep ensemble` of these names."""

    method: str  # a rule of selection for all tasks
    max_members: int  # of a task
    max_cost: float  # millions of parameters of the distinct encoders
    average: Literal["paper", "probabilities", "logits", "standardised"]
    prefer: Literal["score", "balanced", "single"]
    runs: list[str]  # TASK=RUN,RUN: the members, in place of a choice


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
    """Run a sweep: many trials, each tracked, the weak ones stopped early; as `ensweep sweep`.

    Args:
        name_or_file: a packaged sweep, `selective` say, or a YAML file.
        data_dir: the folder with the tasks' files, or its URI.
        name: of the new sweep; None: dated.
        storage: the folder for sweeps.
        tracking_uri: an MLflow server or database; None: `mlflow.db` in the storage folder.
        num_samples: trials; None: as the sweep says.
        max_hours: it stops then, resumably.
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
    return _ended(Sweep(chosen, storage, tracking_uri), result)


class Sweep:
    """A sweep in its storage folder: its trials, and the ensembles that can be made of them.

    Args:
        name: None: the latest.
        storage: the folder with the sweeps.
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
        """Of the run that this process has made: rungs, what was used, why it stopped."""

    def leaderboard(self) -> pd.DataFrame:
        """A row a trial, the best first; baselines have no rank.

        Columns: rank, trial, recipe, outcome, reason, epochs, overall, run_id, folder, seconds (of
        training), num_parameters, ms_per_sentence (of predicting dev); the best dev metric of each
        task, `dev/sentiment/accuracy`; and the settings in which the trials differ.

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

    def ensemble(self, **asked: Unpack[Asked]) -> "Choice":
        """Choose the members of each task, score them, and log the choice in MLflow.

        Raises:
            NothingUsableError: no run can be a member.
            ConfigError: no such rule, or MLflow cannot be written to.
        """
        from ensemble.choice.pins import pin_members
        from ensemble.choice.tracking import log
        from ensemble.presentation.choice_json import describe
        from ensemble.presentation.figures import pictures

        place = self.place
        request = AskedEnsemble(sweeps=[self.name], **asked).request(place.tracking)
        pool, choice = choose_ensemble(place.tracking, request, place.cache)
        images = pictures(pool, choice)
        pin_members(choice.candidates(Method.SELECTIVE))
        log(place.tracking, request, describe(request, pool, choice), pool, choice, lambda: images)
        return Choice(self, request, pool, choice, images)

    def resume(self, num_more: int = 0) -> "Sweep":
        """Go on where it was stopped, with so many more trials; returns when each has ended.

        Raises:
            ConfigError: another process drives it.
            NothingUsableError: no trial has finished.
        """
        from search.driver.sweep import resume_sweep

        place = self.place
        result = resume_sweep(self.name, place.storage, place.tracking, num_more=num_more)
        return _ended(self, result)

    def _shown(self) -> tuple[str, pd.DataFrame]:
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
        return as_text(*self._shown())

    def _repr_html_(self) -> str:
        return as_html(*self._shown())


@dataclass(frozen=True, repr=False)
class Choice:
    """An ensemble that was chosen: the members of each task, and their score."""

    sweep: Sweep
    request: Request
    pool: Pool
    choice: EnsembleChoice
    pictures: Mapping[str, bytes]  # file name -> PNG

    @property
    def verdict(self) -> str:
        """What to ship, what that gains, and what more of it would add."""
        return verdict(self.choice)

    def scores(self) -> pd.DataFrame:
        """A row a task, then `overall`: each method's score on held-out rows, and
        selective's gain over the best single run with its 95 % interval."""
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
        """A row for each task and member that ships: its weight, trial, epoch and MLflow run."""
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
        """Task, or `overall` -> why its gain may be none; those without doubt are left out."""
        return {name: said for name, said in doubts_by_task(self.choice).items() if said}

    def export(
        self,
        output: str | Path,
        *,
        precision: Literal["fp32", "fp16", "bf16"] = "fp32",
        data_dir: str | Path | None = None,
    ) -> Ensemble:
        """Write it to a new folder, as it was chosen.

        Args:
            precision: of the stored weights; what half does is measured on `data_dir`'s dev files.

        Returns:
            The bundle, loaded.

        Raises:
            ConfigError: `output` is there already, or half precision without `data_dir`.
            NothingUsableError: weights are out of reach.
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


def _ended(sweep: Sweep, result: "SweepResult") -> Sweep:
    sweep.result = result
    if result.stop is None and not result.ended(Outcome.FINISHED):
        raise NothingUsableError(
            f"no trial of sweep {sweep.name} has finished",
            fix="ensweep.Sweep(...).leaderboard() gives the reason of each",
        )
    return sweep
