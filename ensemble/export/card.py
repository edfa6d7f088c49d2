"""The model card of a bundle: measured scores, the members of each task, and caveats."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from ensemble.bundle.format import PICTURES, Contents
from ensemble.choice.request import Request
from ensemble.choice.result import EnsembleChoice, Method, Scores, TaskChoice
from ensemble.export.modules import main_member
from ensemble.export.places import LOCAL, is_hub_name
from ensemble.presentation.words import doubts_by_task, num_encoders, verdict
from ensemble.selection.combine import Averaged
from ensemble.statistics.bootstrap import Gain
from trainable.config.tasks import Kind, Task

LICENCES = {
    "minilm": "apache-2.0",
    "sentence-transformers/all-MiniLM-L6-v2": "apache-2.0",
    "bert-base-uncased": "apache-2.0",
    "google-bert/bert-base-uncased": "apache-2.0",
}
"""Licences of encoders, from their model cards."""
AVERAGED = {
    Averaged.PAPER: "class probabilities, binary logits and scores",
    Averaged.PROBABILITIES: "probabilities and scores",
    Averaged.LOGITS: "logits and scores",
    Averaged.STANDARDISED: "class probabilities, binary logits and standardised scores",
}
"""What is averaged, in words."""
_HUB_NAMES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Footprint:
    """Size and speed of a bundle, measured where it was written."""

    num_models: int  # that are run for all tasks
    megabytes: float  # of the weights
    seconds_per_1000: float  # dev sentences, all tasks together


def model_card(
    request: Request,
    contents: Contents,
    choice: EnsembleChoice,
    pictures: Sequence[str] = (),
    milliseconds: float | None = None,
) -> str:
    """Return the card as Markdown, with the hub's metadata block in front.

    Args:
        pictures: names of the picture files in the bundle.
        milliseconds: per sentence, on the exporting machine; None: not measured.
    """
    results = {
        name: (task.metric, "dev, cross-fitted", task.selective.scores.held_out)
        for name, task in choice.tasks.items()
    }
    chosen = choice.candidates(Method.SELECTIVE)
    return _render(
        "card.md.jinja",
        f"{'Ensemble' if request.listed else 'Selective ensemble'} of {request.title}",
        contents,
        results,
        of=request.title,
        is_listed=bool(request.listed),
        pictures={name: Path(PICTURES, name).as_posix() for name in pictures},
        rows=[_row(name, task) for name, task in choice.tasks.items()],
        overall=_cells(choice.overall) | {"gains": _gains(choice.gains)},
        verdict=verdict(choice, milliseconds, "the machine that exported it"),
        num_encoders={method.value: num_encoders(choice.candidates(method)) for method in Method},
        millions=f"{choice.cost(chosen) / 1e6:.1f}" if choice.cost.is_in_parameters else None,
        doubts=[f"{name}: {doubt}" for name, doubt in doubts_by_task(choice).items() if doubt],
    )


def compressed_card(contents: Contents, ensemble: Footprint, student: Footprint) -> str:
    """Return the card of a student distilled from an ensemble."""
    results = {
        name: (str(contents.tasks[name].task.metric), "dev", distilled.student)
        for name, distilled in contents.distilled.items()
    }
    title = "One model distilled from an ensemble"
    facts = {"ensemble": ensemble, "student": student}
    return _render("card_compressed.md.jinja", title, contents, results, **facts)


def _render(
    template: str,
    title: str,
    contents: Contents,
    results: Mapping[str, tuple[str, str, float]],
    **facts: object,
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    text = environment.get_template(template).render(
        title=title,
        contents=contents,
        encoders={name: _encoder(member.config) for name, member in contents.members.items()},
        main=main_member(contents),
        labels={
            name: [_plain(label) for label in entry.task.labels]
            for name, entry in contents.tasks.items()
            if entry.task.labels
        },
        linear=[name for name, entry in contents.tasks.items() if entry.intercept is not None],
        averaged=_averaged(contents),
        licences=_licences(contents),
        example=_example(next(iter(contents.tasks.values())).task),
        **facts,
    )
    return f"---\n{_metadata(title, contents, results)}\n---\n\n{text}"


def _metadata(title: str, contents: Contents, results: Mapping[str, tuple[str, str, float]]) -> str:
    """Return the hub's metadata as YAML.

    Args:
        results: task -> (metric, description of the rows, score).
    """
    names = {str(member.config["model.encoder"]) for member in contents.members.values()}
    from_hub = {_HUB_NAMES.get(name, name) for name in names}
    shown = [
        EvalResult(
            task_type="text-classification",
            task_name=name,
            dataset_type=name,
            dataset_name=f"{name} {rows}",
            metric_type=metric,
            metric_value=round(score, 4),
        )
        for name, (metric, rows, score) in results.items()
        if math.isfinite(score)
    ]
    data = ModelCardData(
        model_name=title,
        library_name="ensweep",
        license=UNKNOWN,  # the licence of the training data is not known here
        base_model=sorted(filter(is_hub_name, from_hub)) or None,
        pipeline_tag=_pipeline_tag(contents),
        tags=["ensemble", "multitask", "bert", "sentence-transformers"],
        eval_results=shown or None,
    )
    return str(data.to_yaml())


def _pipeline_tag(contents: Contents) -> str:
    """Return the hub's name for what the bundle does."""
    is_similarity = [entry.task.kind is Kind.SIMILARITY for entry in contents.tasks.values()]
    return "sentence-similarity" if all(is_similarity) else "text-classification"


def _licences(contents: Contents) -> dict[str, str]:
    """Return encoder's display name -> licence."""
    return {
        _encoder(member.config): LICENCES.get(str(member.config["model.encoder"]), UNKNOWN)
        for member in contents.members.values()
    }


def _row(name: str, task: TaskChoice) -> dict[str, Any]:
    return {
        "task": name,
        "metric": task.metric,
        "num_rows": task.num_rows,
        "rule": task.rule.rule,
        "gains": _gains(task.gains),
        **_cells({method: chosen.scores for method, chosen in task.methods.items()}),
    }


def _gains(gains: Mapping[Method, Gain]) -> dict[str, str]:
    return {method.value: gain.describe() for method, gain in gains.items()}


def _cells(scores: Mapping[Method, Scores]) -> dict[str, Any]:
    held_out = {method.value: f"{of_method.held_out:.4f}" for method, of_method in scores.items()}
    return {**held_out, "in_sample": f"{scores[Method.SELECTIVE].in_sample:.4f}"}


def _averaged(contents: Contents) -> str:
    """Return what is averaged, in words; the setting is the same for all tasks and members."""
    first = next(iter(contents.tasks.values())).members[0]
    return AVERAGED[first.transform.averaged]


def _example(task: Task) -> str:
    return '[("a sentence", "and another")]' if task.kind.is_pair else '["a sentence"]'


def _encoder(config: Mapping[str, Any]) -> str:
    """Return the encoder's display name; for a folder, its last part."""
    name = str(config["model.encoder"])
    shown = Path(name).name if Path(name).is_absolute() or name.startswith(LOCAL) else name
    return _plain(shown)


def _plain(name: str) -> str:
    """Return the name without characters that Markdown or HTML would interpret."""
    return "".join(c if c.isalnum() or c in "._-/ " else "?" for c in name)
