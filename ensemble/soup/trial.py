"""A model soup of a sweep's runs, stored and tracked as a trial of the sweep.

Ingredients are chosen on dev-train only; the reported score is on the other half of dev, *dev-dev*.
`ensweep ensemble` treats the soup as one more candidate.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ensemble.candidates.lineage import SOUP, initialisation_of
from ensemble.soup.averaging import greedy_soup
from ensemble.soup.scoring import HeldOut, Ingredient, SoupScorer
from mlflow_setup.errors import NothingUsableError
from mlflow_setup.runs.query import find_trials
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import OVERALL, Outcome, RunRecord, Tag, best_epoch
from mlflow_setup.tracking.store import Tracking
from trainable.storage.address import trial_at


@dataclass(frozen=True)
class Soup:
    """A soup and its scores."""

    trial: str
    run_id: str
    folder: Path
    ingredients: tuple[str, ...]  # trial@epoch, the best first
    num_sharing: int  # number of runs with the same initialisation, including the ingredients
    tasks: Mapping[str, HeldOut]
    overall: float  # on dev-dev
    single: float  # the best ingredient's overall score on dev-dev


def make_soup(
    tracking: Tracking, sweep: str, data_dir: str | Path, greedy: bool, num_runs: int | None = None
) -> Soup:
    """Average runs with the same initialisation, score the soup on dev, store it and track it.

    If there are several initialisations, the one with the most runs is used. An existing soup of
    the same ingredients is tracked again.

    Args:
        greedy: whether to keep only runs that do not lower the soup's score; else all are kept.
        num_runs: maximum number of runs, the best on dev-train.

    Raises:
        NothingUsableError: no two runs have the same initialisation and weights that can be
            reached, or the greedy soup has only one ingredient.
        DataError: the data is not what the runs were scored on.
        IntegrityError: weights or predictions are damaged.
        PartialError: MLflow cannot be reached; when called again, the soup is tracked.
    """
    sharing = runs_with_common_start(find_trials(tracking, sweep), sweep)[:num_runs]
    best = sharing[0]
    scorer = SoupScorer(best, data_dir)
    kept = greedy_soup(sharing, scorer.score_on_dev_train) if greedy else sharing
    if len(kept) < 2:
        raise NothingUsableError(
            f"no run improves {best.label} on dev-train, so there is nothing to average",
            fix="average all runs with the same initial weights: leave out --greedy",
        )
    trial = scorer.record(sweep, "greedy" if greedy else "uniform", kept, len(sharing))
    run_id = Mirror(tracking, sweep).project(trial.snapshot())
    tasks, of_soup, of_single = scorer.judge(trial, best)
    return Soup(
        trial=trial.path.name,
        run_id=run_id,
        folder=trial.path,
        ingredients=tuple(each.label for each in kept),
        num_sharing=len(sharing),
        tasks=tasks,
        overall=of_soup,
        single=of_single,
    )


def runs_with_common_start(runs: Iterable[RunRecord], sweep: str) -> list[Ingredient]:
    """Return the runs with the most common initialisation, the best on dev-train first.

    Raises:
        NothingUsableError: no two runs have the same initialisation.
    """
    groups: dict[str, list[Ingredient]] = defaultdict(list)
    for run in runs:
        ingredient = _ingredient(run)
        if ingredient is not None:
            key = json.dumps(initialisation_of(ingredient.record), sort_keys=True)
            groups[key].append(ingredient)
    for group in groups.values():
        group.sort(key=lambda each: (-each.dev_train, each.label))
    most = max(groups.values(), key=lambda group: (len(group), group[0].dev_train), default=[])
    if len(most) < 2:
        raise NothingUsableError(
            f"sweep {sweep}: no two runs whose weights can be reached from here have the same "
            "initial weights (encoder, pre-training, architecture, tasks, seed)",
            fix="search only training settings, e.g. optim.lr, with one seed",
        )
    return most


def _ingredient(run: RunRecord) -> Ingredient | None:
    trial = trial_at(run.tags.get(Tag.WEIGHTS_URI, ""))
    ended_well = run.outcome in (Outcome.FINISHED, Outcome.PRUNED)
    if not ended_well or Tag.WEIGHTS_URI not in run.tags or not trial.path.is_dir():
        return None
    record, epochs = trial.trial(), trial.epochs()
    best = best_epoch(epochs, on_dev_train=True) if epochs else None
    if record.recipe == SOUP or best is None or best.epoch not in trial.kept_epochs():
        return None
    return Ingredient(trial, record, best.epoch, best.dev_train[OVERALL])
