"""The one typed configuration of a trial: frozen, unknown keys refused, defaults = the baseline.

A dotted name (`optim.lr`) is the field here, the YAML path, the search-space key, the `key=value`
override and the MLflow param. Where the values come from is `trainable.resolve`'s business.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlflow_setup.errors import ConfigError
from mlflow_setup.files import safe_name
from trainable.defects import SHOWN, printable
from trainable.tasks import PAPER_TASKS, Kind, Task

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Data(_Section):
    dir: str = ""
    """Folder with the tasks' files; `ensweep data sample DIR` writes a generated one."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)] = (
        "sentiment",
        "paraphrase",
        "similarity",
    )
    """Names of the tasks to train on, of the paper's four and those declared under `tasks`."""
    on_bad_rows: Literal["error", "skip"] = "error"
    """What to do with defective rows: stop before training, or drop, count and log them."""
    max_train_examples: Annotated[int, Field(ge=1)] | None = None
    """At most this many training examples of each task, drawn with the seed."""
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of each task's training examples, drawn with the seed."""


class Model(_Section):
    encoder: str = "bert-base-uncased"
    """A BERT encoder: a hub name, a local folder, or `minilm` (the packaged MiniLM-L6)."""
    revision: str | None = None
    """Revision of a hub encoder; None: the newest, recorded with the trial."""
    pooling: Literal["pooler", "cls", "mean"] = "pooler"
    """Sentence embedding: tanh pooler over [CLS] (the paper), [CLS] itself, or masked mean."""
    max_length: Annotated[int, Field(ge=4)] | None = None
    """Tokens a sentence is cut at; None: the encoder's limit."""
    shared_fcn: bool = False
    """Two fully-connected layers shared by all tasks (section 4.3, weight-sharing)."""
    nonlinear_heads: bool = False
    """A ReLU before the last layer of the class heads (section 4.3)."""
    paraphrase_structure: bool = False
    """Paraphrase logit from embeddings and their product instead of a dot product."""
    fcn_size: Annotated[int, Field(ge=1, le=65536)] = 256
    """d, the width of the fully-connected layers; the bare baseline's projections are 32 wide."""
    head_dropout: Dropout = 0.3
    """Dropout above the encoder."""
    encoder_dropout: Dropout = 0.1
    """Hidden and attention dropout inside the encoder (the text says 0.3, the code kept 0.1)."""


class MNR(_Section):
    enabled: bool = False
    """Multiple negatives ranking (section 4.4): on entailment tasks and on `loss.mnr.tasks`."""
    tasks: tuple[str, ...] = ("similarity",)
    """Similarity tasks whose loss gets the label-weighted form added."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """S(x, y) between task embeddings."""
    scale: Positive = 20.0
    """S is multiplied by this."""
    weight: NonNegative = 1.0
    """Factor of the added loss (the author's code: 10). Entailment batches have this loss alone."""


class SimCSE(_Section):
    enabled: bool = False
    """Unsupervised SimCSE (section 4.4): two dropout views of the same sentences."""
    tasks: tuple[str, ...] = ("similarity",)
    """Similarity tasks that it is added to."""
    similarity: Literal["dot", "cosine"] = "dot"
    """Between the two views' task embeddings; the paper uses the dot product."""
    temperature: Positive = 0.05
    """The cosine is divided by this; no effect with `dot`."""
    weight: NonNegative = 1.0
    """Factor of the added loss (the author's code: 10)."""


class Loss(_Section):
    paraphrase_weight: NonNegative = 1.0
    """Factor of the loss of paraphrase tasks (loss rescaling, section 4.2: 0.1)."""
    mnr: MNR = MNR()
    simcse: SimCSE = SimCSE()


class Batching(_Section):
    strategy: Literal["round_robin", "even"] = "round_robin"
    """One epoch of each task in turn (baseline), or all tasks' batches shuffled together."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 16
    """K, examples a step."""


class Optim(_Section):
    lr: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """AdamW's learning rate in the first epoch."""
    lr_decay: Fraction = 0.0
    """Fraction of the learning rate lost, linearly by epoch, by the end (the paper: 0.8)."""
    weight_decay: NonNegative = 0.0
    """AdamW's decoupled weight decay; not on biases and layer norms."""


class Train(_Section):
    num_epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Passes over all tasks' training examples."""
    eval_batch_size: Annotated[int, Field(ge=1, le=65536)] = 64
    """Examples a forward pass in evaluation."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast, or none; auto: bf16 where the device multiplies it in hardware."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the CUDA device if there is one."""


class Config(_Section):
    """Everything that decides a trial's numbers. The defaults are the paper's baseline."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of initial heads, batches, dropout and subsampling."""
    pretrain: Literal["none"] = "none"
    """Additional pre-training of the encoder before fine-tuning."""
    data: Data = Data()
    model: Model = Model()
    loss: Loss = Loss()
    batching: Batching = Batching()
    optim: Optim = Optim()
    train: Train = Train()
    tasks: dict[str, Task] = {}
    """Tasks of your own: name -> kind, files, columns, num_classes, metric."""

    def task_records(self) -> dict[str, Task]:
        """The tasks that are trained, in the order of `data.tasks`."""
        known = PAPER_TASKS | self.tasks
        return {name: known[name] for name in self.data.tasks}

    def flat(self) -> dict[str, Any]:
        """Dotted name -> JSON value; `from_flat` is its inverse."""
        values = self.model_dump(mode="json")
        if not self.tasks:
            del values["tasks"]
        return flatten(values)


def from_flat(values: Mapping[str, Any], origin: Mapping[str, str] | None = None) -> Config:
    """Validate dotted settings; missing ones take their default.

    Raises:
        ConfigError: all problems at once, each with its key, origin and the nearest valid key.
    """
    problems: list[str] = []
    nested = _nest(values, problems)
    try:
        config = Config.model_validate_json(json.dumps(nested))
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems += [_describe(detail, origin or {}) for detail in details[:SHOWN]]
        raise _refusal(problems, len(details[SHOWN:])) from None
    problems += _contradictions(config)
    if problems:
        raise _refusal(problems, 0)
    return config


def settings_without_effect(config: Config) -> list[str]:
    """Warnings: settings that differ from their default but change nothing as things stand."""
    default, given = Config().flat(), config.flat()
    idle = []
    if not config.loss.mnr.enabled:
        idle += [(key, "loss.mnr.enabled is false") for key in given if "loss.mnr." in key]
    if not config.loss.simcse.enabled:
        idle += [(key, "loss.simcse.enabled is false") for key in given if "loss.simcse." in key]
    elif config.loss.simcse.similarity == "dot":
        idle += [("loss.simcse.temperature", "loss.simcse.similarity is dot")]
    model = config.model
    if not (model.shared_fcn or model.nonlinear_heads or model.paraphrase_structure):
        idle += [("model.fcn_size", "the baseline's heads have a width of their own")]
    return [
        f"{key}={given[key]} has no effect: {reason}"
        for key, reason in idle
        if given[key] != default[key]
    ]


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}; lists and empty mappings are values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def valid_keys() -> list[str]:
    """Every dotted name; a declared task's stand under `tasks.<name>.`."""
    return list(_keys(Config))


def nearest_key(key: str) -> str:
    """` (did you mean optim.lr?)` for optim.Lr, or nothing when no key is close."""
    keys = valid_keys()
    matches = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    if not matches:  # the last part alone may be right: `lr` -> optim.lr
        matches = [name for name in keys if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
    return f" (did you mean {matches[0]}?)" if matches else ""


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")
        elif name == "tasks" and not prefix:
            yield from _keys(Task, "tasks.<name>.")
        else:
            yield f"{prefix}{name}"


def _nest(values: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        branch, (*parents, leaf) = nested, key.split(".")
        for part in parents:
            child = branch.setdefault(part, {})
            if not isinstance(child, dict):
                problems.append(f"{key}: {part} is a value, not a section")
                child = {}
            branch = child
        if value == {}:  # an empty section changes nothing; elsewhere pydantic refuses it
            branch.setdefault(leaf, {})
        elif isinstance(branch.get(leaf), dict):
            problems.append(f"{key}: is a section; set one of its keys")
        else:
            branch[leaf] = value
    return nested


def _refusal(problems: Sequence[str], num_hidden: int) -> ConfigError:
    """The first problems, and the number of all: those given and `num_hidden` more."""
    lines = [printable(problem) for problem in problems[:SHOWN]]
    num_problems = len(problems) + num_hidden
    if num_problems > len(lines):
        lines.append(f"... and {num_problems - len(lines)} more")
    count = "" if num_problems == 1 else f"{num_problems} problems:\n  "
    return ConfigError(
        f"configuration: {count}" + "\n  ".join(lines),
        fix="ensweep config show RECIPE lists every key and its value",
    )


def _describe(detail: Any, origin: Mapping[str, str]) -> str:
    """One of pydantic's errors: key, what is wrong, the value and where it came from."""
    key = ".".join(str(part) for part in detail["loc"])
    place = _place(key, origin)
    if detail["type"] == "extra_forbidden":
        return f"{_short(key)}: no such key{nearest_key(key)}{place}"
    message = _short(detail["msg"].removeprefix("Value error, "))
    value = _short(repr(detail["input"]))
    return f"{_short(key)}: {message[0].lower()}{message[1:]}, got {value}{place}"


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _place(key: str, origin: Mapping[str, str]) -> str:
    """Where the key's value came from: that of a list for its items, of a key for its section."""
    parts = key.split(".")
    parents = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    below = (name for name in origin if name.startswith(f"{key}."))
    found = next((name for name in (*parents, *below) if name in origin), None)
    return "" if found is None else f" ({origin[found]})"


def _contradictions(config: Config) -> list[str]:
    """Settings that are valid one by one and not together."""
    known = PAPER_TASKS | config.tasks
    problems = []
    for name in config.tasks:
        try:
            safe_name(name, "tasks: the task")
        except ConfigError as error:
            problems.append(f"{error.problem}: {error.fix}")
    for name in dict.fromkeys(config.data.tasks):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            problems.append(f"data.tasks: no task {name!r}{hint}; known: {', '.join(known)}")
    if problems:
        return problems
    tasks = config.task_records()
    if len(tasks) < len(config.data.tasks):
        problems.append(f"data.tasks: a task is named twice in {list(config.data.tasks)}")
    if not any(task.is_evaluated for task in tasks.values()):
        problems.append("data.tasks: at least one task needs a metric, to choose an epoch by")
    for name, task in tasks.items():
        if task.kind is Kind.ENTAILMENT and not config.loss.mnr.enabled:
            problems.append(f"data.tasks: {name} has no loss of its own; set loss.mnr.enabled=true")
        owner = tasks.get(task.head or name, task)
        if not task.fits_head_of(owner):
            problems.append(f"tasks.{name}.head: {task.head}'s head is not of its kind and size")
        elif owner is not task and owner.head in tasks:
            problems.append(f"tasks.{name}.head: {task.head} has no head of its own to share")
    for key, chosen in (("mnr", config.loss.mnr), ("simcse", config.loss.simcse)):
        for name in chosen.tasks:
            if name in tasks and tasks[name].kind is not Kind.SIMILARITY:
                problems.append(f"loss.{key}.tasks: {name} is not a similarity task")
    if config.loss.simcse.enabled and not config.model.head_dropout + config.model.encoder_dropout:
        problems.append(
            "loss.simcse.enabled: without any dropout both views are identical; set "
            "model.encoder_dropout or model.head_dropout above 0"
        )
    return problems
