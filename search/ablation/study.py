"""Studies: named sets of recipes, each trained over the same seeds, as the trials of one sweep.

    description: B3 with and without dropout in the heads
    config: {train.num_epochs: 10}
    rows:
      - {label: B3, recipe: b3}
      - {label: B3 - head dropout, recipe: b3, model.head_dropout: 0.0}

The other rows are compared with the first one, unless they name rows above them as `base`: one, or
a list of which the best by overall is taken. Rows that resolve to the same configuration are
trained once. A row may also be an ensemble of rows above it, which needs no trial:

      - {label: both, base: [B3, B3 - head dropout], average: {sentiment: [B3, B3 - head dropout]}}

`curves` is the label of the row whose learning curves are drawn; the first row's by default.
A study may also include several packaged ones. Each is a table of its own, with its first row as
the base of the others:

    include: [figure2, figure3]
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow_setup.errors import ConfigError
from search.ablation.row_results import Row
from search.algorithms.suggestion import first_trial_name
from search.config.load import resolve_sweep
from search.config.sweep_config import FirstTrial, SweepConfig
from trainable.config.config import Config
from trainable.config.packaged import Packaged
from trainable.config.parse import from_flat
from trainable.storage.layout import TRIALS
from trainable.storage.trial_folder import TrialFolder

STUDIES = Packaged(Path(__file__).parent / "studies", "study")
_KEYS = ("description", "config", "rows", "resources", "curves", "include")


@dataclass(frozen=True)
class StudyConfig:
    """A resolved study."""

    sweep: SweepConfig
    rows: tuple[Row, ...]  # their trials are names, not paths
    curves_of: str

    def rows_in(self, sweep_folder: Path) -> list[Row]:
        """Return the rows with the paths of their trials below the sweep's folder."""
        folder = sweep_folder / TRIALS
        return [
            replace(row, trials=tuple(folder / each for each in row.trials)) for row in self.rows
        ]

    def require_trials(self, sweep_folder: Path) -> None:
        """Check that the trials below the sweep's folder are those of this study.

        Raises:
            ConfigError: a trial has other settings than its row, or belongs to no row and seed.
            IntegrityError: a trial's record is damaged.
        """
        wanted = {
            name: from_flat(self.sweep.first(number)[0].settings).flat()
            for number, name in enumerate(_trial_names(self.sweep))
        }
        for path in sorted((sweep_folder / TRIALS).glob("*/config.json")):
            name, record = path.parent.name, TrialFolder(path.parent).trial()
            ran = Config().flat() | record.config  # a setting may be newer than the trial
            given = wanted.get(name, {})
            different = [
                f"{key}={ran.get(key)!r}, given {given.get(key)!r}"
                for key in sorted({*ran, *given})
                if ran.get(key) != given.get(key)
            ]
            if different:
                what = "; ".join(different) if name in wanted else "it belongs to no row and seed"
                raise ConfigError(
                    f"study {sweep_folder.name}: trial {name} ran with other settings: {what}",
                    fix="give the rows, seeds and settings that it ran with",
                )


def read_study(
    name_or_file: str,
    num_seeds: int,
    only: Sequence[str] | None = None,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> StudyConfig:
    """Read a packaged study or a study's file, over the seeds 0 to `num_seeds` - 1.

    Args:
        only: recipes of the rows to train; the first row is always one of them.

    Raises:
        ConfigError: there is no such study, or it is invalid: every problem found.
    """
    path = STUDIES.path(name_or_file)
    content = _read(name_or_file)
    all_rows = _included(content, path) if "include" in content else _rows(content, path)
    rows = _choose(all_rows, only)
    if num_seeds < 1:
        raise ConfigError(f"--seeds: at least 1, got {num_seeds}")
    trained = [row for row in rows if not row.members]
    trials = [{**row.settings, "seed": seed} for row in trained for seed in range(num_seeds)]
    sweep = resolve_sweep(
        {
            "description": content.get("description", ""),
            "recipe": rows[0].recipe,
            "config": content.get("config", {}),
            "resources": content.get("resources", {}),
            "first_trials": trials,
            "scheduler": {"name": "none"},
            "search": {"num_samples": len(trials), "baselines": False},
        },
        path,
        overrides,
        environment,
        among=STUDIES,
    )
    if any("seed" not in trial.overrides for trial in sweep.first_trials):
        raise ConfigError(
            "seed: a study sets the seeds itself", fix="set their number with --seeds"
        )
    unique, numbers = _without_repeats(sweep)
    search = sweep.search.model_copy(update={"num_samples": len(unique)})
    sweep = sweep.model_copy(update={"first_trials": unique, "search": search})
    paths = [Path(_trial_names(sweep)[number]) for number in numbers]
    own = iter(tuple(paths[i : i + num_seeds]) for i in range(0, len(paths), num_seeds))
    resolved = tuple(row.with_trials(() if row.members else next(own)) for row in rows)
    return StudyConfig(sweep, resolved, _curves_of(content, all_rows, path))


@dataclass(frozen=True)
class _FileRow:
    """A row as it is in the study's file."""

    label: str
    settings: dict[str, Any]  # recipe and overrides
    members: dict[str, tuple[str, ...]]
    bases: tuple[str, ...] = ()
    table: str = ""  # name of the included study that it belongs to

    @property
    def recipe(self) -> str:
        return str(self.settings.get("recipe", ""))

    def with_trials(self, trials: tuple[Path, ...]) -> Row:
        return Row(self.label, self.recipe, trials, self.members, self.bases, self.table)


def _read(name_or_file: str) -> dict[str, Any]:
    content = STUDIES.read(name_or_file)
    unknown = sorted(set(content) - set(_KEYS))
    if unknown:
        raise ConfigError(
            f"study {name_or_file}: no key {', '.join(unknown)}; known: {', '.join(_KEYS)}"
        )
    return content


def _included(content: dict[str, Any], path: Path) -> list[_FileRow]:
    """Return the rows of the packaged studies that a study includes, with their settings."""
    names = content["include"]
    has_own = bool({"rows", "config"} & set(content))
    if has_own or not isinstance(names, list) or not names:
        raise ConfigError(
            f"study {path}: include must be a list of packaged studies, without rows or config "
            f"beside it, got {names!r}"
        )
    rows: list[_FileRow] = []
    for name in map(str, names):
        included = _read(name)
        own = _rows(included, STUDIES.path(name))
        for row in own:
            settings = {**included.get("config", {}), **row.settings} if row.recipe else {}
            bases = row.bases or (() if row is own[0] else (own[0].label,))
            rows.append(replace(row, settings=settings, bases=bases, table=name))
    _require_labels_once(rows, path)
    return rows


def _rows(content: dict[str, Any], path: Path) -> list[_FileRow]:
    given = content.get("rows")
    if not isinstance(given, list) or not given:
        raise ConfigError(f"study {path}: rows must be a list of at least one row, got {given!r}")
    rows: list[_FileRow] = []
    for number, row in enumerate(given, start=1):
        entry = {"recipe": row} if isinstance(row, str) else row
        place = f"study {path}: row {number}"
        bases: tuple[str, ...] = ()
        if isinstance(entry, dict) and "base" in entry:
            entry = dict(entry)
            bases = _bases(entry.pop("base"), rows, place)
        if number > 1 and isinstance(entry, dict) and set(entry) == {"label", "average"}:
            members = _members(entry["average"], rows, place)
            rows.append(_FileRow(str(entry["label"]), {}, members, bases))
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("recipe"), str):
            raise ConfigError(f"{place} names no recipe: {row!r}")
        rest = {key: value for key, value in entry.items() if key != "label"}
        rows.append(_FileRow(str(entry.get("label", entry["recipe"])), rest, {}, bases))
    _require_labels_once(rows, path)
    return rows


def _require_labels_once(rows: Sequence[_FileRow], path: Path) -> None:
    labels = [row.label for row in rows]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ConfigError(f"study {path}: two rows have the label {', '.join(twice)}")


def _bases(given: Any, above: Sequence[_FileRow], place: str) -> tuple[str, ...]:
    """Return the labels in `base`: of rows above that are trained themselves."""
    known = {row.label for row in above if not row.members}
    labels = given if isinstance(given, list) else [given]
    if not (labels and set(map(str, labels)) <= known):
        raise ConfigError(f"{place}: base must name rows above it that are trained, got {given!r}")
    return tuple(map(str, labels))


def _members(given: Any, above: Sequence[_FileRow], place: str) -> dict[str, tuple[str, ...]]:
    """Return task -> labels in `average`: of rows above that are trained themselves."""
    known = {row.label for row in above if not row.members}
    if not isinstance(given, dict) or not given:
        raise ConfigError(f"{place}: average must name the members of each task, got {given!r}")
    for name, labels in given.items():
        if not (isinstance(labels, list) and labels and set(map(str, labels)) <= known):
            raise ConfigError(
                f"{place}: average: {name} must be a list of rows above it, got {labels!r}"
            )
    return {name: tuple(map(str, labels)) for name, labels in given.items()}


def _curves_of(content: dict[str, Any], rows: Sequence[_FileRow], path: Path) -> str:
    label = content.get("curves", rows[0].label)
    labels = [row.label for row in rows if not row.members]
    if label not in labels:
        raise ConfigError(f"study {path}: curves: no row {label!r} that is trained")
    return str(label)


def _choose(rows: list[_FileRow], only: Sequence[str] | None) -> list[_FileRow]:
    """Return the first row, the rows of these recipes with their bases, and every ensemble of rows
    that are among them."""
    if only is None:
        return rows
    known = [row.recipe for row in rows if row.recipe]
    unknown = sorted(set(only) - set(known))
    if unknown:
        raise ConfigError(f"--rows: no row {', '.join(unknown)}; known: {', '.join(known)}")
    chosen = {row.label for row in rows[:1]} | {row.label for row in rows if row.recipe in only}
    for row in reversed(rows):  # a base may itself have a base above it
        chosen |= set(row.bases) if row.label in chosen else set()
    return [
        row
        for row in rows
        if (all(chosen.issuperset(labels) for labels in row.members.values()))
        and (row.members or row.label in chosen)
    ]


def _without_repeats(sweep: SweepConfig) -> tuple[tuple[FirstTrial, ...], list[int]]:
    """Return the distinct first trials, and for each first trial its index among them."""
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


def _trial_names(sweep: SweepConfig) -> list[str]:
    return [first_trial_name(n, trial.recipe) for n, trial in enumerate(sweep.first_trials)]
