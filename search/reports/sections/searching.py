"""Plots of the search: scores in the order of the trials, settings, importances, rungs."""

import math
from collections.abc import Sequence

from ensemble.presentation.plot import BLUE, GREEN, GREY, ORANGE, RED, Bars, Panel, Plot, Series
from mlflow_setup.errors import NothingUsableError
from mlflow_setup.schema import Outcome, state_of
from mlflow_setup.text import brief
from search.algorithms.audit import audit_result
from search.algorithms.rungs import new_rungs, restore_rungs
from search.config.space import Parameter
from search.reports.importances import Insight, read_insight
from search.reports.pages.content import Section, Table
from search.reports.sections.facts import Facts
from search.storage.history import PastTrial

OUTCOMES = {
    Outcome.FINISHED: BLUE,
    Outcome.PRUNED: ORANGE,
    Outcome.DIVERGED: RED,
    Outcome.FAILED: RED,
    Outcome.STOPPED: GREY,
}
MAX_LINES = 150
"""Lines in a plot, those of the best trials."""
MAX_NAMES = 30
"""Largest number of trials that are labelled with their names."""


def history_section(facts: Facts) -> Section:
    """Return the best score so far by trial, and a timeline of the trials."""
    scored = facts.scored
    if not scored:
        return Section("history", "History", absent="no trial has completed an epoch yet")
    values = [past.best_values[-1] for past in scored]
    best = [max(values[: n + 1]) for n in range(len(values))]
    places = list(range(1, len(scored) + 1))
    marks: list[Series] = []
    for outcome, colour in OUTCOMES.items():
        own = [n for n, past in enumerate(scored) if past.ended is outcome]
        if own:
            texts = [_hover(scored[n]) for n in own]
            xs, ys = [places[n] for n in own], [values[n] for n in own]
            name = outcome.value
            marks.append(Series(xs, ys, name, "points", colour, texts=texts))
    steps = [n for n in places for _ in range(2)][1:]  # it rises where a trial is better
    heights = [value for value in best for _ in range(2)][:-1]
    marks.append(Series(steps, heights, "best so far", "line", GREEN))
    baselines = {past.name: past.best_values[-1] for past in facts.baselines if past.epochs}
    lowest = min(values) - 0.5 * (max(values) - min(values)) - 0.01  # lower end of the plot
    lines = tuple((value, name) for name, value in baselines.items() if value >= lowest)
    plot = Plot(
        "history",
        [
            Panel(marks, "best overall of each trial", "trial", "dev overall", y_lines=lines),
            _timeline(facts),
        ],
        width=5.6,
        num_columns=2,
    )
    best_at = best.index(best[-1]) + 1
    sentences = [f"The best trial is number {best_at} of the {len(scored)} with a score."]
    below = [f"{name} ({value:.4f})" for name, value in baselines.items() if value < lowest]
    if below:
        sentences.append(f"Below the plot: {', '.join(below)}.")
    return Section("history", "History", sentences, [plot])


def settings_section(facts: Facts) -> Section:
    """Return parallel coordinates, and the score over each searched setting."""
    title = "Settings against score"
    scored = [past for past in facts.trials if past.epochs and past.record.searched]
    if not facts.sweep.space:
        return Section("settings", title, absent="the sweep searches no settings")
    if len(scored) < 2:
        return Section("settings", title, absent="fewer than two trials have a score")
    keys = [key for key in facts.sweep.space if any(key in p.record.searched for p in scored)]
    best_first = sorted(scored, key=lambda past: -past.best_values[-1])[:MAX_LINES]
    slices = [_slice(key, facts.sweep.space[key], scored) for key in keys]
    width = max(8.0, 1.5 * len(keys) + 2)
    parallel = Plot(
        "parallel",
        [_parallel(keys, facts.sweep.space, best_first[::-1])],
        "a line for each trial, darker for better ones; the best in red",
        width=min(width, 13),
        height=4.2,
    )
    caption = "best overall of each trial over the setting's value"
    return Section("settings", title, plots=[parallel, Plot("slice", slices, caption, height=2.8)])


def importance_section(facts: Facts) -> Section:
    """Return the importance of each setting, its uncertainty and its limits."""
    title = "Which settings mattered"
    try:
        insight = read_insight(facts.folder)
    except NothingUsableError as error:
        return Section("importance", title, absent=error.problem)
    importances = {
        key: by_method
        for key, by_method in insight.importances.items()
        if set(by_method.values()) != {None}
    }
    if not importances:
        why = "all finished trials have the same score, or the same settings"
        return Section("importance", title, absent=why)
    keys = list(importances)
    bars = []
    for method, colour in zip(next(iter(importances.values())), (BLUE, ORANGE), strict=True):
        shares = [importances[key][method] or 0.0 for key in keys]
        ranges = [insight.ranges[method].get(key, (0.0, 0.0)) for key in keys]
        low, high = [r[0] for r in ranges], [r[1] for r in ranges]
        bars.append(Bars(keys, shares, method, colour, low, high))
    panel = Panel(bars, "", "importance (share)")
    plot = Plot("importances", [panel], height=0.5 * len(keys) + 1.4, width=8.4)
    return Section("importance", title, _explanation(insight), [plot])


def rungs_section(facts: Facts) -> Section:
    """Return the trials that were stopped at each rung, and the scores by epoch."""
    title = "Rungs: where trials were stopped"
    scored = facts.scored
    if not scored:
        return Section("rungs", title, absent="no trial has completed an epoch yet")
    plot = Plot("intermediate", [_intermediate(scored)], width=8.4, height=3.6)
    rungs = new_rungs(facts.sweep)
    if rungs is None:
        return Section("rungs", title, ["every trial runs to its end: scheduler.name=none"], [plot])
    restore_rungs(rungs, facts.history)
    what = (
        "At a rung a trial continues if its best score so far is not below the cut-off, computed "
        "from the trials that have reached the rung."
    )
    if facts.sweep.search.num_probes:
        what += " Rung 0 is the end of the probe, which trains only heads; epochs count from there."
    rows = []
    for rung in rungs.reached:
        cutoff = rungs.cutoff(rung.arrivals.values()) if rung.arrivals else None
        shown = "" if cutoff is None or rung.number == 0 else f"{cutoff:.4f}"
        cells = (rung.number, rung.epoch, len(rung.arrivals), len(rung.stops))
        rows.append([*map(str, cells), shown, ", ".join(rung.stops)])
    header = ["rung", "epoch", "arrivals", "stops", "cut-off now", "stopped here"]
    audit = audit_result(facts.history)
    lines = [what] if audit is None else [what, audit.describe()]
    if not rows:
        return Section("rungs", title, ["no trial has reached a rung", *lines], [plot])
    table = Table(header, rows, numbers=frozenset(range(5)))
    return Section("rungs", title, lines, [plot], [table])


def _explanation(insight: Insight) -> list[str]:
    count, settings = insight.num_finished, len(insight.importances)
    lines = [
        "PED-ANOVA: which settings the best trials have in common; fANOVA: which settings explain "
        "the variance of all trials' scores. Shares add up to 1 within a method.",
        f"Whiskers: the range over {insight.num_draws} draws of three quarters of the "
        f"{count} finished trials. Where they overlap, the order of two settings is not known.",
        "The search samples good regions more often, so a setting that was narrowed early looks "
        "less important than it is; one that never varied has no bar. Importances hold for this "
        "space and these ranges only.",
    ]
    if count < 10 * settings:
        lines.insert(
            0,
            f"{count} trials are few for {settings} settings: the longest bar is a hint, the "
            f"others say nothing (that would take about {10 * settings} trials).",
        )
    return lines


def _timeline(facts: Facts) -> Panel:
    begun = min(past.record.start_time for past in facts.history)
    ordered = sorted(facts.history, key=lambda past: past.record.start_time)
    last = max((epoch.wall_time for past in ordered for epoch in past.epochs), default=begun)
    unit, scale = ("seconds", 1) if last - begun < 120 else ("minutes", 60)
    marks = []
    for row, past in enumerate(ordered):
        ends = [epoch.wall_time for epoch in past.epochs]
        if past.outcome is not None:
            ends.append(past.outcome.wall_time)
        start = past.record.start_time
        span = [(at - begun) / scale for at in (start, max(ends, default=start))]
        colour = OUTCOMES.get(past.ended or Outcome.STOPPED, GREY)
        texts = [_hover(past)] * 2
        marks.append(Series(span, [row, row], "", "line", colour, 4, texts=texts))
    names = [past.name for past in ordered] if len(ordered) <= MAX_NAMES else [""] * len(ordered)
    return Panel(marks, "when each trial ran", f"{unit} since the start", y_ticks=names)


def _parallel(keys: Sequence[str], space: dict[str, Parameter], ranked: list[PastTrial]) -> Panel:
    """Return parallel coordinates; a line skips the settings that its trial does not have."""
    values = [past.best_values[-1] for past in ranked]
    low, high = min(values), max(values)
    marks, last = [], len(ranked) - 1
    for n, past in enumerate(ranked):
        share = (values[n] - low) / ((high - low) or 1)
        own = [key if key in past.record.searched else None for key in keys]
        heights = [key and _height(space[key], past.record.config.get(key)) for key in own]
        points = [(x, y) for x, y in enumerate(heights) if isinstance(y, float) and y == y]
        points.append((len(keys), share))
        colour, width = (RED, 2.5) if n == last else (_shade(share), 1.2)
        xs, ys = [x for x, _ in points], [y for _, y in points]
        texts = [_hover(past)] * len(points)
        marks.append(Series(xs, ys, "", "line", colour, width, texts=texts))
    notes: list[tuple[float, float, str]] = []
    for place, key in enumerate(keys):
        ends = space[key].corners
        if space[key].choices is None:
            notes += [(place, -0.07, brief(ends[0])), (place, 1.04, brief(ends[1]))]
        else:
            steps = (_height(space[key], end) for end in ends)
            notes += [
                (place, {0.0: -0.07, 1.0: 1.04}.get(y, y + 0.03), brief(end))
                for y, end in zip(steps, ends, strict=True)
            ]
    notes += [(len(keys), -0.07, f"{low:.4f}"), (len(keys), 1.04, f"{high:.4f}")]
    return Panel(marks, ticks=[*keys, "overall"], notes=notes, hides_y=True)


def _height(parameter: Parameter, value: object) -> float:
    """Return the position of a value on its axis, in [0, 1]; NaN if it has none."""
    if value is None and None not in (parameter.choices or ()):
        return math.nan
    if parameter.choices is not None:
        places = [n for n, choice in enumerate(parameter.choices) if choice == value]
        return places[0] / max(1, len(parameter.choices) - 1) if places else math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    low, high = (float(end) for end in parameter.corners)  # type: ignore[arg-type]
    if parameter.log:
        if value <= 0:
            return math.nan
        low, high, value = math.log(low), math.log(high), math.log(value)
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _shade(share: float) -> str:
    """Return a colour between light (0) and dark blue (1)."""
    light, dark = (198, 219, 239), (8, 48, 107)
    return "#" + "".join(
        f"{round(a + (b - a) * share):02x}" for a, b in zip(light, dark, strict=True)
    )


def _slice(key: str, parameter: Parameter, scored: list[PastTrial]) -> Panel:
    with_key = [past for past in scored if key in past.record.searched]
    ys = [past.best_values[-1] for past in with_key]
    texts = [_hover(past) for past in with_key]
    values = [past.record.config.get(key) for past in with_key]
    if parameter.choices is not None:
        names = [brief(choice) for choice in parameter.choices]
        xs: list[float] = [names.index(brief(v)) if brief(v) in names else math.nan for v in values]
        marks = [Series(xs, ys, style="points", texts=texts)]
        return Panel(marks, key, ticks=names)
    xs = [float(v) if isinstance(v, int | float) else math.nan for v in values]
    marks = [Series(xs, ys, style="points", texts=texts)]
    return Panel(marks, key, is_log=parameter.log)


def _intermediate(scored: list[PastTrial]) -> Panel:
    shown = sorted(scored, key=lambda past: -past.best_values[-1])[:MAX_LINES]
    marks, named = [], set[str]()
    for past in shown:
        name = state_of(past.ended)
        colour = OUTCOMES.get(past.ended or Outcome.STOPPED, GREY)
        epochs, texts = range(1, len(past.epochs) + 1), [_hover(past)] * len(past.epochs)
        label = "" if name in named else name
        marks.append(Series(epochs, past.best_values, label, "both", colour, 1.0, texts=texts))
        named.add(name)
    return Panel(marks, "best overall so far", "epoch", "dev overall")


def _hover(past: PastTrial) -> str:
    value = f"{past.best_values[-1]:.4f}" if past.epochs else "no score"
    how = "running" if past.outcome is None else f"{past.outcome.outcome}: {past.outcome.reason}"
    settings = ", ".join(f"{k}={brief(past.record.config.get(k))}" for k in past.record.searched)
    return f"{past.name}: {value}, {how}" + (f"; {settings}" if settings else "")
