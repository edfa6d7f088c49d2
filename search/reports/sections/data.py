"""The sweep's data, and the commands that reproduce it."""

import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_setup.errors import EnsweepError
from mlflow_setup.schema import Outcome
from mlflow_setup.text import setting_text
from search.config.load import SWEEPS, read_sweep
from search.config.sweep_config import SECTIONS
from search.reports.pages.content import Section, Table
from search.reports.sections.answers import Answers, data_folder
from search.reports.sections.facts import Facts
from trainable.config.tasks import Output, Split, Task
from trainable.data.readers import read_split

MAX_CLASSES = 10
"""Largest number of classes whose shares are listed."""


def data_section(facts: Facts, answers: dict[str, Answers]) -> Section:
    """Return rows, labels and fingerprints of each task's files, as they are now."""
    title = "Data"
    if not facts.tasks:
        return Section("data", title, absent="no trial has a task that is scored")
    folder = data_folder(facts)
    rows = [_row(name, task, folder, answers.get(name)) for name, task in facts.tasks.items()]
    header = ["task", "kind", "metric", "train rows", "dev rows", "dev labels", "dev fingerprint"]
    lines = []
    if folder is None:
        lines.append(
            "The data are not in a folder on this machine: dev rows are counted in predictions."
        )
    else:
        lines.append(f"Read from {folder}.")
    skipped = _skipped(facts)
    if skipped:
        lines.append(f"Rows left out for defects: {skipped}.")
    prints = Counter(past.record.data_fingerprint for past in facts.history)
    lines.append(
        "Fingerprint of the trials' data: "
        + ", ".join(f"{name} ({count} trials)" for name, count in prints.most_common(5))
        + "."
    )
    return Section("data", title, lines, tables=[Table(header, rows, numbers=frozenset((3, 4)))])


def commands_section(facts: Facts) -> Section:
    """Return the commands that reproduce the sweep, its ensemble and this report."""
    folder, storage = facts.folder, facts.folder.address_of_storage
    commands = [_sweep_command(facts)]
    if any(facts.folder.path.glob("extensions/*.json")):
        commands.append(f"{folder.command('extend')} --num-samples N")
    if any(past.ended is Outcome.STOPPED for past in facts.history):
        commands.append(folder.command("resume"))
    if facts.choice is not None:
        words = [folder.name, *_options(facts.choice.run.params), "--storage", storage]
        commands.append(shlex.join(["ensweep", "ensemble", *words]))
        output = ["--output", f"{folder.name}-bundle"]
        commands.append(shlex.join(["ensweep", "export", *words, *output]))
    commands.append(folder.command("report"))
    known = (past.record.git_revision for past in facts.history)
    versions = sorted({revision for revision in known if revision})
    lines = [f"{folder.path / 'sweep.yaml'} has the sweep with every setting resolved."]
    if versions:
        lines.append(f"Git revision of the code: {', '.join(versions)}.")
    return Section("commands", "Commands", lines, commands=commands)


def _row(name: str, task: Task, folder: Path | None, answers: Answers | None) -> list[str]:
    train, _ = _read(name, task, "train", folder)
    dev, labels = _read(name, task, "dev", folder)
    fingerprint = "" if answers is None else answers.fingerprint
    if labels is None and answers is not None:
        dev, labels = str(len(answers.ids)), answers.labels
    shares = "" if labels is None else _shares(task, labels)
    return [name, task.kind.value, str(task.metric), train, dev, shares, fingerprint]


def _read(name: str, task: Task, split: Split, folder: Path | None) -> tuple[str, Any]:
    if folder is None:
        return "", None
    try:
        examples, _ = read_split(name, task, split, folder)
    except (EnsweepError, OSError):
        return "", None
    return (str(len(examples)), examples.labels) if len(examples) else ("", None)


def _shares(task: Task, labels: Any) -> str:
    if task.kind.output is Output.SCORE:
        return f"{labels.min():g} to {labels.max():g}, mean {labels.mean():.2f}"
    values, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MAX_CLASSES]
    if len(values) <= MAX_CLASSES:
        order = np.arange(len(values))
    shares = [f"{task.show(values[n])}: {100 * counts[n] / len(labels):.0f} %" for n in order]
    more = f" and {len(values) - len(order)} more" if len(values) > len(order) else ""
    return ", ".join(shares) + more


def _skipped(facts: Facts) -> str:
    """Return the counts of rows left out, by file and defect: `quora-train.csv D07 (3)`."""
    skipped = {
        name: count
        for past in facts.history
        for name, count in past.record.notes.items()
        if " D" in name
    }
    return ", ".join(f"{name} ({count})" for name, count in sorted(skipped.items()))


def _sweep_command(facts: Facts) -> str:
    """Return the command that started the sweep, as far as its file shows: the packaged sweep's
    name, and the settings that differ from it."""
    sweep, folder = facts.sweep, facts.folder
    named = [place.removeprefix("sweep ") for place in sweep.origin.values()]
    name = next((each for each in named if each in SWEEPS.names()), None)
    typed = {
        key: sweep.config[key]
        for key, place in sweep.origin.items()
        if place in ("command line", "environment") and key in sweep.config
    }
    words = ["ensweep", "sweep", name or "SWEEP.yaml", "--name", folder.name]
    words += ["--storage", folder.address_of_storage]
    if name is not None:
        base = read_sweep(name, (), {})
        for section in SECTIONS:
            ours, usual = (getattr(one, section).model_dump(mode="json") for one in (sweep, base))
            typed |= {f"{section}.{k}": v for k, v in ours.items() if v != usual[k]}
    return shlex.join([*words, *(f"{key}={setting_text(value)}" for key, value in typed.items())])


def _options(params: dict[str, str]) -> list[str]:
    """Return the options of `ensweep ensemble` with which the ensemble was chosen."""
    known = ("method", "max_members", "max_cost", "average", "prefer")
    given = [(name, params[name]) for name in known if name in params]
    return [word for name, value in given for word in (f"--{name.replace('_', '-')}", value)]
