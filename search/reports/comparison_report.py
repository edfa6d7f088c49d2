"""A report that compares sweeps: best trials, times, and the settings that differ."""

from collections.abc import Sequence

from ensemble.presentation.plot import COLOURS, Panel, Plot, Series
from mlflow_setup.text import brief, duration, score_text, sentence
from search.reports.comparison import CAVEAT, Comparison, Side, compare
from search.reports.pages.content import Report, Section, Table
from search.reports.report import made_by
from search.storage.sweep_folder import SweepFolder


def comparison_report(folders: Sequence[SweepFolder]) -> Report:
    """Make the report; raises as `search.reports.comparison.compare`."""
    comparison = compare(folders)
    names = [side.name for side in comparison.sides]
    return Report(
        f"Sweeps {', '.join(names)}",
        _verdict(comparison),
        made_by(),
        [_best(comparison, names), _time(comparison), _settings(comparison, names)],
    )


def best_rows(comparison: Comparison) -> list[list[str]]:
    """Return the rows of the table: a name, then a cell for each sweep."""
    sides, gains = comparison.sides, comparison.gains
    tasks = list(dict.fromkeys(task for side in sides for task in side.scores))
    rows = [
        ["trials", *(", ".join(f"{n} {how}" for how, n in s.outcomes.items()) for s in sides)],
        ["best trial", *(f"{side.best_trial}@{side.best_epoch}" for side in sides)],
    ]
    rows += [[task, *(score_text(side.scores.get(task)) for side in sides)] for task in tasks]
    for task in tasks:
        cells = (gain[task].describe() if task in gain else "" for gain in gains)
        rows.append([f"difference in {task}", "", *cells])
    at = comparison.common_hours
    rows += [
        ["time", *(duration(3600 * side.hours) for side in sides)],
        ["time to its best", *(duration(3600 * side.hours_to_best) for side in sides)],
        [f"best after {duration(3600 * at)}", *(score_text(side.best_after(at)) for side in sides)],
        ["time of all trials", *(duration(3600 * side.trial_hours) for side in sides)],
    ]
    if any(side.gpu_hours for side in sides):
        rows.append(["GPU-hours", *(f"{side.gpu_hours:.2f}" for side in sides)])
    if any(side.usd for side in sides):
        rows.append(["USD", *(f"{side.usd:.2f}" for side in sides)])
    return rows


def _verdict(comparison: Comparison) -> list[str]:
    first, *others = comparison.sides
    sentences = []
    for side, gains in zip(others, comparison.gains, strict=True):
        gain = gains.get("overall") if set(side.scores) == set(first.scores) else None
        if gain is None:
            sentences.append(f"{side.name} and {first.name} have different tasks: no overall.")
            continue
        is_sure = gain.low > 0 or gain.high < 0
        word = "better" if gain.value > 0 else "worse"
        how = f"is {word} than" if is_sure else "is not clearly better or worse than"
        sentences.append(f"{side.name} {how} {first.name}: {gain.describe()} overall.")
    took = ", ".join(f"{side.name} {duration(3600 * side.hours)}" for side in comparison.sides)
    return [*sentences, f"Time: {took}."]


def _best(comparison: Comparison, names: list[str]) -> Section:
    rows = best_rows(comparison)
    overall = frozenset(n for n, row in enumerate(rows) if row[0] == "overall")
    table = Table(["", *names], rows, strong=overall)
    return Section("best", "The best of each", [sentence(CAVEAT)], tables=[table])


def _time(comparison: Comparison) -> Section:
    marks = [_steps(side, n) for n, side in enumerate(comparison.sides) if side.best_by_hours]
    panel = Panel(marks, "", "minutes since the first trial began", "best overall so far")
    return Section("time", "Best by time", plots=[Plot("best-by-time", [panel], width=8.4)])


def _steps(side: Side, number: int) -> Series:
    """Return the best overall by time as a step function."""
    points = list(side.best_by_hours)
    xs, ys = [60 * points[0][0]], [points[0][1]]
    for at, best in points[1:]:
        xs += [60 * at, 60 * at]
        ys += [ys[-1], best]
    colour = COLOURS[number % len(COLOURS)]
    return Series(xs, ys, side.name, "line", colour, 2)


def _settings(comparison: Comparison, names: list[str]) -> Section:
    title = "Settings that differ"
    if not comparison.settings:
        return Section("settings", title, absent="all settings are equal")
    rows = [[key, *map(brief, values)] for key, values in comparison.settings.items()]
    return Section("settings", title, tables=[Table(["setting", *names], rows)])
