"""Studies: a named set of recipes, each run over the same seeds, as the trials of one sweep.

    description: B3 with and without dropout in the heads
    config: {train.num_epochs: 10}
    rows:
      - {label: B3, recipe: b3}
      - {label: B3 - head dropout, recipe: b3, model.head_dropout: 0.0}

The first row is the base that the others are compared with. Rows that come to the same
configuration are run once.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_setup.errors import ConfigError
from search.ablation import Arm
from search.searcher import first_trial_name
from search.sweep_config import FirstTrial, SweepConfig
from search.sweep_file import resolve_sweep
from trainable.config import from_flat
from trainable.strict_yaml import read_settings
from trainable.trial import TRIALS

STUDIES = Path(__file__).parent / "studies"
_KEYS = ("description", "config", "rows", "resources")


@dataclass(frozen=True)
class Row:
    """A row of the study: its label, and its trials' numbers in the sweep, one for each seed."""

    label: str
    recipe: str
    trials: tuple[int, ...]  # from 0


@dataclass(frozen=True)
class StudyConfig:
    """A resolved study."""

    sweep: SweepConfig
    rows: tuple[Row, ...]

    def arms(self, sweep_folder: Path) -> list[Arm]:
        """The rows with their trials' folders below the sweep's."""
        names = [
            first_trial_name(number, trial.recipe)
            for number, trial in enumerate(self.sweep.first_trials)
        ]
        return [
            Arm(row.label, row.recipe, tuple(sweep_folder / TRIALS / names[n] for n in row.trials))
            for row in self.rows
        ]


def study_names() -> list[str]:
    """The packaged studies."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def describe_study(name: str) -> str:
    """A packaged study's line."""
    return str(read_settings(STUDIES / f"{name}.yaml").get("description", ""))


def read_study(
    name_or_file: str,
    num_seeds: int,
    only: Sequence[str] | None = None,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> StudyConfig:
    """The study of that name or in that file, over the seeds 0 to `num_seeds` - 1.

    Args:
        only: recipes of the rows to run; the base row is always one of them.

    Raises:
        ConfigError: every problem found; no such study.
    """
    path = _path_of(name_or_file)
    content = read_settings(path)
    unknown = sorted(set(content) - set(_KEYS))
    if unknown:
        raise ConfigError(f"study {path}: no key {', '.join(unknown)}; known: {', '.join(_KEYS)}")
    rows = _choose(_rows(content, path), only)
    if num_seeds < 1:
        raise ConfigError(f"--seeds: at least 1, got {num_seeds}")
    pairs = [{**rest, "seed": seed} for _, rest in rows for seed in range(num_seeds)]
    sweep = resolve_sweep(
        {
            "description": content.get("description", ""),
            "recipe": rows[0][1]["recipe"],
            "config": content.get("config", {}),
            "resources": content.get("resources", {}),
            "first_trials": pairs,
            "scheduler": {"name": "none"},
            "search": {"num_samples": len(pairs)},
        },
        path,
        overrides,
        environment,
    )
    if any("seed" not in trial.overrides for trial in sweep.first_trials):
        raise ConfigError(
            "seed: a study runs over seeds of its own", fix="set their number: --seeds"
        )
    unique, numbers = _without_repeats(sweep)
    search = sweep.search.model_copy(update={"num_samples": len(unique)})
    trials = [tuple(numbers[i : i + num_seeds]) for i in range(0, len(numbers), num_seeds)]
    return StudyConfig(
        sweep.model_copy(update={"first_trials": unique, "search": search}),
        tuple(
            Row(label, rest["recipe"], own) for (label, rest), own in zip(rows, trials, strict=True)
        ),
    )


def _path_of(name: str) -> Path:
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    if name in study_names():
        return STUDIES / f"{name}.yaml"
    near = difflib.get_close_matches(name, study_names(), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ConfigError(f"no study {name!r}{hint}", fix="ensweep studies lists them")


def _rows(content: dict[str, Any], path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(label, recipe and overrides) of each row."""
    given = content.get("rows")
    if not isinstance(given, list) or not given:
        raise ConfigError(f"study {path}: rows must be a list of at least one row, got {given!r}")
    rows = []
    for number, row in enumerate(given, start=1):
        entry = {"recipe": row} if isinstance(row, str) else row
        if not isinstance(entry, dict) or not isinstance(entry.get("recipe"), str):
            raise ConfigError(f"study {path}: row {number} names no recipe: {row!r}")
        rest = {key: value for key, value in entry.items() if key != "label"}
        rows.append((str(entry.get("label", entry["recipe"])), rest))
    return rows


def _choose(
    rows: list[tuple[str, dict[str, Any]]], only: Sequence[str] | None
) -> list[tuple[str, dict[str, Any]]]:
    if only is None:
        return rows
    known = [rest["recipe"] for _, rest in rows]
    unknown = sorted(set(only) - set(known))
    if unknown:
        raise ConfigError(f"--rows: no row {', '.join(unknown)}; known: {', '.join(known)}")
    return rows[:1] + [row for row in rows[1:] if row[1]["recipe"] in only]


def _without_repeats(sweep: SweepConfig) -> tuple[tuple[FirstTrial, ...], list[int]]:
    """The first trials that differ, and for each given one its number among them."""
    seen: dict[str, int] = {}
    unique: list[FirstTrial] = []
    numbers = []
    for number, trial in enumerate(sweep.first_trials):
        key = repr(from_flat(sweep.first(number)[0].settings).flat())
        if key not in seen:
            seen[key] = len(unique)
            unique.append(trial)
        numbers.append(seen[key])
    return tuple(unique), numbers
