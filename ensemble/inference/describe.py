"""The display of a bundle in a notebook and in an interpreter."""

from html import escape

import pandas as pd

from ensemble.bundle.format import Contents
from trainable.config.tasks import Task


def tasks_table(contents: Contents) -> pd.DataFrame:
    """Return a row for each task: its kind, members, and held-out score when they were chosen."""
    rows = {
        name: {
            "kind": entry.task.kind.value,
            "labels": _labels(entry.task),
            "members": len(entry.members),
            "metric": entry.task.metric,
            "held_out": entry.scores.get("selective", {}).get("held_out"),
        }
        for name, entry in contents.tasks.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("task")


def title_of(contents: Contents) -> str:
    """Return e.g. `Ensemble of 6 members on 1 encoder`."""
    num_encoders = len({member.encoder for member in contents.members.values()})
    counts = {"member": len(contents.members), "encoder": num_encoders}
    members, encoders = (f"{n} {word}{'s' * (n != 1)}" for word, n in counts.items())
    return f"Ensemble of {members} on {encoders}"


def as_text(title: str, table: pd.DataFrame) -> str:
    """Return the title and the table as text, numbers with four digits."""
    return f"{title}\n{table.to_string(float_format='{:.4g}'.format, na_rep='')}"


def as_html(title: str, table: pd.DataFrame) -> str:
    """Return the title and the table as HTML, with all text escaped."""
    shown = table.to_html(float_format="{:.4g}".format, na_rep="", border=0, escape=True)
    return f"<p><strong>{escape(title)}</strong></p>\n{shown}"


def _labels(task: Task) -> str:
    if not task.kind.output.has_columns and not task.kind.has_integer_labels:
        return f"{task.min_score:g} to {task.max_score:g}"
    names = [str(name) for name in task.label_names]
    return ", ".join(names[:5]) + (f", and {len(names) - 5} more" if len(names) > 5 else "")
