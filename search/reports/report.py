"""The report of a sweep: a verdict, then its sections in the order of the page."""

import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from ensemble.presentation.words import verdict
from mlflow_setup.schema import state_of
from mlflow_setup.text import brief, counted, duration, score_text, sentence
from mlflow_setup.tracking.store import Tracking
from search.reports.leaderboard import Row, short_names
from search.reports.pages.content import Report, Section, Table
from search.reports.sections.choice import ensemble_section, front_section
from search.reports.sections.curves import curves_section
from search.reports.sections.data import commands_section, data_section
from search.reports.sections.errors import error_section
from search.reports.sections.facts import Facts, read_facts
from search.reports.sections.searching import (
    history_section,
    importance_section,
    rungs_section,
    settings_section,
)
from search.storage.sweep_folder import SweepFolder

MAX_ROWS = 40
"""Rows of the leaderboard that are not folded."""


def sweep_report(folder: SweepFolder, tracking: Tracking, cache: Path) -> Report:
    """Make the report of a sweep. A section with nothing to show says why.

    Raises:
        NothingUsableError: there is no such sweep, or none of its trials has begun.
        IntegrityError: its file, or a trial's record, is damaged.
    """
    facts = read_facts(folder, tracking, cache)
    errors, answers = error_section(facts)
    sections = [
        leaderboard_section(facts),
        curves_section(facts),
        history_section(facts),
        settings_section(facts),
        importance_section(facts),
        rungs_section(facts),
        front_section(facts),
        ensemble_section(facts, answers),
        errors,
        data_section(facts, answers),
        commands_section(facts),
    ]
    return Report(f"Sweep {folder.name}", _verdict(facts), made_by(), sections)


def made_by() -> str:
    """Return time and version: `2026-11-29 12:00 UTC, ensweep 0.1.0`."""
    return f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, ensweep {version('ensweep')}"


def leaderboard_section(facts: Facts) -> Section:
    """Return the leaderboard with times, sizes and the reasons why trials ended."""
    rows = facts.rows
    metrics = sorted({name for row in rows for name in row.metrics})
    params = list(dict.fromkeys(name for row in rows for name in row.params))
    header = ["#", "trial", "outcome", "overall", *(name.split("/")[1] for name in metrics)]
    numbers = frozenset(range(3, len(header) + 4))
    header += ["epochs", "seconds", "MB", "ms", "why it ended", *short_names(params)]
    best = next((n for n, row in enumerate(rows) if row.rank == 1), None)
    strong = frozenset(n for n, row in enumerate(rows) if row.is_ensemble or n == best)
    cells = [_cells(row, metrics, params) for row in rows]
    lines = [
        "A trial's scores are the best over its epochs on dev, which the search maximises. The "
        "ensemble's are held-out: from dev rows that had no part in choosing it, a stricter test. "
        "seconds: training time of all attempts. MB: float32 weights that predict all tasks. ms: "
        "prediction time of a sentence, measured for a trial while others were training, for the "
        "ensemble without other work; trials that train heads on stored embeddings have none.",
    ]
    tables = [Table(header, cells[:MAX_ROWS], numbers=numbers, strong=strong)]
    if len(cells) > MAX_ROWS:
        rest = cells[MAX_ROWS:]
        tables.append(Table(header, rest, f"{len(rest)} more", numbers, is_folded=True))
    return Section("leaderboard", "Leaderboard", lines, tables=tables)


def _cells(row: Row, metrics: list[str], params: list[str]) -> list[str]:
    return [
        "" if row.rank is None else str(row.rank),
        row.trial,
        row.outcome,
        score_text(row.overall),
        *(score_text(row.metrics.get(name)) for name in metrics),
        "" if row.epochs is None else str(row.epochs),
        "" if row.seconds is None else f"{row.seconds:.0f}",
        "" if row.megabytes is None else f"{row.megabytes:.1f}",
        "" if row.ms_per_sentence is None else f"{row.ms_per_sentence:.1f}",
        row.reason,
        *(brief(row.params.get(name, "")) for name in params),
    ]


def _verdict(facts: Facts) -> list[str]:
    sentences = []
    if facts.choice is not None:
        sentences.append(sentence(verdict(facts.choice.record.choice)))
    else:
        sentences.append(_best_of_trials(facts))
    outcomes = Counter(state_of(past.ended) for past in facts.trials)
    by_outcome = ", ".join(f"{count} {how}" for how, count in outcomes.most_common())
    seconds = sum(row.seconds or 0.0 for row in facts.rows if not row.is_ensemble)
    took = f"; together they trained for {duration(seconds)}" if seconds else ""
    sentences.append(f"{counted(len(facts.trials), 'trial')}: {by_outcome or 'none'}{took}.")
    if facts.choice is not None:
        sentences.append(_best_of_trials(facts))
    else:
        sentences.append(facts.no_choice[0].upper() + facts.no_choice[1:])  # may end in a command
    return sentences


def _best_of_trials(facts: Facts) -> str:
    best = facts.best
    if best is None:
        return "No trial has a score yet."
    values = {past.name: past.best_values[-1] for past in facts.baselines if past.epochs}
    value = best.best_values[-1]
    if best.name in values:
        return f"The baseline {best.name} has {value:.4f} overall on dev; no trial has a score."
    text = f"The best trial is {best.name} with {value:.4f} overall on dev"
    if not values:
        return f"{text}; no baseline was scored."
    first = max(values, key=values.__getitem__)
    gain = value - values[first]
    return f"{text}, {gain:+.4f} compared with the baseline {first} ({values[first]:.4f})."
