"""The description of a sweep's MLflow run: the best trials, a table of them, and summary metrics.

Names, settings and reasons come from data and recipes, so they are escaped as Markdown.
"""

import html
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlflow_setup.runs.usage import USAGE
from mlflow_setup.schema import OVERALL, Outcome, RunRecord, Tag, state_of
from mlflow_setup.text import brief_text, counted, printable, score_text

NOTE = "mlflow.note.content"
"""MLflow's tag for the description of a run or an experiment: Markdown."""
NUM_ROWS = 10
_MAX_SETTINGS = 6
_MAX_NAME = 60  # characters
_BEST = "best/"


@dataclass(frozen=True)
class SweepPage:
    """A sweep and its trials' MLflow runs."""

    sweep: str
    runs: Sequence[RunRecord]
    searched: tuple[str, ...] = ()  # dotted names
    baselines: tuple[str, ...] = ()  # recipes
    runs_path: str = ""  # URL path of a run's page in the UI, up to the run's id
    view_path: str = ""  # URL path of the page that lists the trials
    description: str = ""  # from the sweep's file

    def note(self) -> str:
        """Markdown: the best trial, counts, a table of the best, links and the next command."""
        lines = [self._verdict(), "", f"{self._counts()}."]
        if self.description:
            lines += ["", escaped(self.description)]
        if self._ranked():
            lines += ["", *self._table()]
        links = [f"[All trials, best first]({self.view_path})"] if self.view_path else []
        return "\n".join([*lines, "", *links, "", f"Next: `ensweep ensemble {self.sweep}`"])

    def metrics(self) -> dict[str, float]:
        """The trials' best dev metrics, the gain over the best baseline, the number of trials by
        outcome, and the sum of the resources they used."""
        values: dict[str, float] = {}
        for run in self._ranked():
            for name, value in run.metrics.items():
                if name.startswith(f"{_BEST}dev/"):
                    values[name] = max(value, values.get(name, value))
        gain = self._gain()
        if gain is not None:
            values[f"gain_over_baseline/{OVERALL}"] = gain[1]
        values |= {f"trials/{name}": count for name, count in self._outcomes().items()}
        for run in self.runs:
            for name, value in run.metrics.items():
                if name.startswith(USAGE):
                    values[name] = values.get(name, 0.0) + value
        return values

    def _ranked(self) -> list[RunRecord]:
        """Trials with a score, without the baselines, the best first."""
        scored = [
            run
            for run in self.runs
            if run.tags.get(Tag.RECIPE) not in self.baselines and not math.isnan(run.overall)
        ]
        return sorted(scored, key=lambda run: (-run.overall, run.trial))

    def _gain(self) -> tuple[str, float] | None:
        """The best baseline, and the best trial's score minus that baseline's."""
        ranked = self._ranked()
        scored = [run for run in self.runs if run.tags.get(Tag.RECIPE) in self.baselines]
        scored = [run for run in scored if not math.isnan(run.overall)]
        if not ranked or not scored:
            return None
        best = max(scored, key=lambda run: run.overall)
        return best.trial, ranked[0].overall - best.overall

    def _verdict(self) -> str:
        ranked, gain = self._ranked(), self._gain()
        if not ranked:
            return "**No trial has a score yet.**"
        verdict = f"**Best: {self._link(ranked[0])}, overall {ranked[0].overall:.4f}**"
        if gain is not None:
            verdict += f", {gain[1]:+.4f} over the baseline {escaped(gain[0])}"
        return verdict

    def _counts(self) -> str:
        counts = [f"{count} {name}" for name, count in self._outcomes().items()]
        if not counts:
            return "No trials yet"
        return f"{counted(len(self.runs), 'trial')}: {', '.join(counts)}"

    def _outcomes(self) -> dict[str, int]:
        counts = Counter(state_of(run.outcome) for run in self.runs)
        order = [*(outcome.value for outcome in Outcome), "running"]
        return {name: counts[name] for name in order if counts[name]}

    def _table(self) -> list[str]:
        rows = self._ranked()[:NUM_ROWS]
        names = sorted({n for run in rows for n in run.metrics if n.startswith(f"{_BEST}dev/")})
        scores = [name for name in names if name != f"{_BEST}{OVERALL}"]
        settings = self.searched[:_MAX_SETTINGS]
        header = ["", "trial", "overall", *(name.split("/")[2] for name in scores)]
        header += ["outcome", *_short(settings)]
        lines = [header, ["---"] * len(header)]
        for rank, run in enumerate(rows, start=1):
            values = (run.metrics.get(name) for name in scores)
            cells = [str(rank), self._link(run), f"{run.overall:.4f}"]
            cells += [*map(score_text, values), state_of(run.outcome)]
            cells += [escaped(brief_text(run.params.get(name, ""))) for name in settings]
            lines.append(cells)
        return [f"| {' | '.join(map(_cell, line))} |" for line in lines]

    def _link(self, run: RunRecord) -> str:
        name = escaped(run.trial)
        return f"[{name}]({self.runs_path}{run.run_id})" if self.runs_path else name


def escaped(text: str) -> str:
    """`text` on one line, escaped so that Markdown shows it unchanged."""
    marked = "".join(f"\\{c}" if c in "\\`*_[]|~#" else c for c in printable(text))
    return html.escape(marked, quote=False)


def _cell(text: str) -> str:
    return text or " "


def run_name(trial: str, recipe: str, searched: Mapping[str, object]) -> str:
    """A trial's name in MLflow's lists: its name and its searched settings, in about 60 characters.

    Args:
        searched: dotted name -> value, as chosen by the search; if empty, the recipe is named.
    """
    name = trial if searched or recipe in trial else f"{trial} {recipe}"
    for short, value in zip(_short(searched), searched.values(), strict=True):
        longer = f"{name} {short}={brief_text(value)}"
        if len(longer) > _MAX_NAME:
            break
        name = longer
    return printable(name)


def _short(names: Iterable[str]) -> list[str]:
    """The last parts of dotted names; the whole name where two have the same last part."""
    listed = list(names)
    ends = Counter(name.rpartition(".")[2] for name in listed)
    return [end if ends[end := name.rpartition(".")[2]] == 1 else name for name in listed]
