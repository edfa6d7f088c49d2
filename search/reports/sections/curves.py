"""Learning curves of the best trial, in the form of the paper's figures 4 and 5."""

import math
from collections.abc import Sequence

from ensemble.presentation.plot import COLOURS, Panel, Plot, Series
from mlflow_setup.schema import metric_name
from search.ablation.curves import Curve, scaled
from search.reports.pages.content import Section
from search.reports.sections.facts import Facts
from search.storage.history import PastTrial
from trainable.config.parse import from_flat


def curves_section(facts: Facts) -> Section:
    """Return each task's loss and dev score by epoch, unscaled and scaled to [0, 1]."""
    title, best = "Curves", facts.best
    if best is None:
        return Section("curves", title, absent="no trial has completed an epoch yet")
    curves = _curves(best)
    if len(best.epochs) < 2 or not curves:
        why = f"trial {best.name} has only one epoch, so there is no curve"
        return Section("curves", title, absent=why)
    lines = [
        f"Trial {best.name}, the best. Scaled: a task's worst epoch is 0, its best 1. A dotted "
        "line marks a task's best dev score if its training loss still falls afterwards: from "
        "there on it overfits."
    ]
    if best.num_probe_epochs:
        lines.append(f"The first {best.num_probe_epochs} epochs train only the heads.")
    plots = [
        _plot("figure4", "loss", curves, is_loss=True),
        _plot("figure5", "dev score", curves, is_loss=False),
    ]
    return Section("curves", title, lines, plots)


def _curves(best: PastTrial) -> dict[str, Curve]:
    def values(key: str) -> tuple[float, ...]:
        return tuple(epoch.metrics.get(key, math.nan) for epoch in best.epochs)

    tasks = from_flat(best.record.config).task_records()
    return {
        name: Curve(
            str(task.metric),
            values(metric_name("train", name, "loss")),
            values(metric_name("dev", name, "loss")),
            values(metric_name("dev", name, str(task.metric))),
        )
        for name, task in tasks.items()
        if task.is_evaluated
    }


def _plot(name: str, what: str, curves: dict[str, Curve], is_loss: bool) -> Plot:
    raw, relative, marked = list[Series](), list[Series](), list[tuple[float, str]]()
    for number, (task, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        lines = [(f"{task}, {curve.metric}", "both", curve.score)]
        if is_loss:
            lines = [(f"{task}, dev", "both", curve.dev_loss)]
            lines.append((f"{task}, train", "dashed", curve.train_loss))
        for label, style, values in lines:
            if all(map(math.isnan, values)):
                continue
            for series, drawn in ((raw, values), (relative, scaled(values, is_loss))):
                series.append(_series(drawn, label, style, colour))
        if curve.overfits_from is not None:
            marked.append((curve.overfits_from, colour))
    panels = [
        Panel(raw, f"{what}, unscaled", "epoch", what, x_lines=marked),
        Panel(relative, f"{what}, scaled", "epoch", "worst epoch 0, best 1", x_lines=marked),
    ]
    return Plot(name, panels, width=5.6, height=3.4, num_columns=2)


def _series(values: Sequence[float], label: str, style: str, colour: str) -> Series:
    epochs = range(1, len(values) + 1)
    return Series(epochs, values, label, "dashed" if style == "dashed" else "both", colour)
