"""Settings that are valid alone but not together, and settings that have no effect."""

from collections.abc import Iterator

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.paths import safe_name
from mlflow_setup.schema import OVERALL
from mlflow_setup.text import did_you_mean
from mlflow_setup.uris import has_credentials
from trainable.config.config import Config, default_technique_tasks
from trainable.config.tasks import PAPER_TASKS, Kind

STAGE_ORDER = ("fit", "probe", "finetune", "swa")
CLOSED_FORM_STAGES = ("fit",)
"""The stages of a baseline: its heads are fitted in closed form, and no loss is minimised."""

RESERVED = frozenset({OVERALL.rpartition("/")[2]})
"""Names that no task may have: metrics, tables and JSON use them for aggregates over tasks."""


def contradictions(config: Config) -> list[str]:
    """Problems of settings that are valid alone but not together, one sentence each."""
    problems = _bad_tasks(config)
    if problems:
        return problems
    return [
        *_bad_heads(config),
        *_bad_losses(config),
        *_bad_stages(config),
        *_bad_teacher(config),
        *_uris_with_credentials(config),
    ]


def _uris_with_credentials(config: Config) -> Iterator[str]:
    for key, uri in (("data.dir", config.data.dir), ("model.encoder", config.model.encoder)):
        if has_credentials(uri):
            yield (
                f"{key}: the URI holds credentials, and settings are recorded; provide "
                "credentials by the machine's role or environment instead"
            )


def settings_without_effect(config: Config) -> list[str]:
    """Warnings about settings that differ from their default but have no effect."""
    given = config.flat()
    default = type(config)().flat() | default_technique_tasks(given)
    return [
        f"{key}={given[key]} has no effect: {reason}"
        for key, reason in _idle(config)
        if given[key] != default[key]
    ]


def idle_by_stage(config: Config) -> Iterator[tuple[str, str]]:
    """(key, why it has no effect) for the settings of stages that a trial does not have."""
    stages = config.train.stages
    for stage in ("probe", "swa"):
        if stage not in stages:
            yield from (
                (key, f"train.stages has no {stage}")
                for key in config.flat()
                if key.startswith(f"{stage}.")
            )
    if "finetune" not in stages:
        rates = ("lr", "lr_decay", "lr_decay_per_epoch", "warmup_steps")
        for key in (
            *(f"optim.{name}" for name in rates),
            "train.num_epochs",
            "train.finetuned_share",
        ):
            yield key, "train.stages has no finetune"
    if len(stages) == 1:
        yield "train.continue_from", "train.stages has one stage"
        yield "train.early_stopping_epochs", "train.stages has no finetune"
    if not {"finetune", "swa"} & set(stages):
        for key in (
            *("model.encoder_dropout", "optim.head_lr_factor", "optim.layer_decay"),
            *("model.gradient_checkpointing", "model.lora.rank", "model.lora.alpha"),
        ):
            yield key, "no stage in train.stages trains the encoder"


def _idle(config: Config) -> Iterator[tuple[str, str]]:
    """(key, why it has no effect)."""
    loss = config.loss
    yield from idle_by_stage(config)
    for switch, is_on in config.flat().items():
        if switch.endswith(".enabled") and is_on is False:
            section = switch.removesuffix("enabled")
            yield from (
                (key, f"{switch} is false") for key in config.flat() if key.startswith(section)
            )
    for key, names in _tasks_of_losses(config).items():
        if names and not set(names) & set(config.data.tasks):
            yield key, "data.tasks has none of them"
    yield from _losses_without_tasks(config)
    if loss.simcse.enabled and loss.simcse.similarity == "dot":
        yield "loss.simcse.temperature", "loss.simcse.similarity is dot"
    for key, strategy in (("temperature", "temperature"), ("task_order", "round_robin")):
        if config.batching.strategy != strategy:
            yield f"batching.{key}", f"batching.strategy is {config.batching.strategy}"
    if config.distill.enabled and config.distill.teacher != "self":
        yield "distill.num_teachers", "distill.teacher names the teachers"
    model = config.model
    if model.lora.rank is None:
        yield "model.lora.alpha", "model.lora.rank is not set"
    if not model.paraphrase_structure:
        yield "model.paraphrase_difference", "model.paraphrase_structure is false"
    if not (model.shared_fcn or model.nonlinear_heads or model.paraphrase_structure):
        yield "model.fcn_size", "the baseline's heads have a fixed width"
    if model.heads != "paper":
        yield "model.similarity_size", f"model.heads is {model.heads}"


def _losses_without_tasks(config: Config) -> Iterator[tuple[str, str]]:
    """Enabled losses that apply to no trained task, where user-defined tasks are trained."""
    tasks, loss = config.task_records(), config.loss
    if not set(config.tasks) & set(tasks):
        return
    ranked = any(task.kind is Kind.ENTAILMENT for task in tasks.values())
    if loss.mnr.enabled and not ranked and not set(loss.mnr.tasks) & set(tasks):
        yield "loss.mnr.enabled", "no similarity or entailment task is trained"
    if loss.simcse.enabled and not set(loss.simcse.tasks) & set(tasks):
        yield "loss.simcse.enabled", "no task of loss.simcse.tasks is trained"


def _bad_tasks(config: Config) -> list[str]:
    known = PAPER_TASKS | config.tasks
    problems = []
    for name in config.tasks:
        try:
            safe_name(name, "tasks: the task")
        except ConfigError as error:
            problems.append(f"{error.problem}: {error.fix}")
        if name in RESERVED:
            problems.append(
                f"tasks.{name}: the name is reserved for the mean over all tasks; rename the task"
            )
    named = {"data.tasks": config.data.tasks, **_tasks_of_losses(config)}
    named["batching.task_order"] = config.batching.task_order
    if config.pretrain.enabled:
        named["pretrain.tasks"] = config.pretrain.tasks
    for key, names in named.items():
        for name in dict.fromkeys(names):
            if name not in known:
                hint = did_you_mean(name, known)
                problems.append(f"{key}: no task {name!r}{hint}; known: {', '.join(known)}")
        if len(set(names)) < len(names):
            problems.append(f"{key}: a task is named twice in {list(names)}")
    return problems


def _tasks_of_losses(config: Config) -> dict[str, tuple[str, ...]]:
    """Key -> the tasks that the setting adds a loss to; () for all of them."""
    loss = config.loss
    return {
        "loss.mnr.tasks": loss.mnr.tasks,
        "loss.simcse.tasks": loss.simcse.tasks,
        "loss.smart.tasks": loss.smart.tasks or (),
    }


def _bad_heads(config: Config) -> Iterator[str]:
    tasks = config.task_records()
    model = config.model
    if model.shared_fcn and (model.similarity_size or model.fcn_size + 1) <= model.fcn_size:
        yield (
            f"model.similarity_size: must be above model.fcn_size={model.fcn_size} with "
            f"model.shared_fcn, got {model.similarity_size}"
        )
    if model.heads != "paper":
        for key in ("shared_fcn", "nonlinear_heads", "paraphrase_structure"):
            if getattr(model, key):
                yield f"model.{key}: belongs to the paper's heads; model.heads is {model.heads}"
        for name, task in tasks.items():
            if task.kind is Kind.ENTAILMENT and "fit" in config.train.stages:
                yield f"data.tasks: the stage fit needs labels, and {name} has none"
    if not any(task.is_evaluated for task in tasks.values()):
        yield "data.tasks: at least one task needs a metric, to choose the best epoch"
    for name, task in tasks.items():
        if task.kind is Kind.ENTAILMENT and not config.loss.mnr.enabled:
            yield f"data.tasks: {name} has no loss of its own; set loss.mnr.enabled=true"
        owner = tasks.get(task.head or name, task)
        if not task.fits_head_of(owner):
            yield f"tasks.{name}.head: {task.head}'s head does not fit: its kind or size differs"
        elif owner is not task and owner.head in tasks:
            yield f"tasks.{name}.head: {task.head} has no head of its own to share"


def _bad_losses(config: Config) -> Iterator[str]:
    tasks, loss = config.task_records(), config.loss
    for key, names in _tasks_of_losses(config).items():
        kinds, required = _LABELLED, "a task with labels"
        if key == "loss.mnr.tasks":
            kinds, required = _PAIRS, "a labelled pair task"
        for name in names:
            if name in tasks and tasks[name].kind not in kinds:
                yield f"{key}: {name} is not {required}"
    if loss.simcse.enabled:
        yield from _identical_views(config)
    if loss.smart.enabled and loss.smart.init_std > loss.smart.radius:
        yield "loss.smart.init_std: must be at most loss.smart.radius, which bounds the noise"


def _identical_views(config: Config) -> Iterator[str]:
    """SimCSE without dropout, whose two views are identical."""
    model = config.model
    if model.head_dropout == model.encoder_dropout == 0:
        yield (
            "loss.simcse.enabled: without any dropout both views are identical; set "
            "model.encoder_dropout or model.head_dropout above 0"
        )
    elif "probe" in config.train.stages and model.head_dropout == 0:
        yield (
            "loss.simcse.enabled: a frozen encoder has no dropout, so in the stage probe both "
            "views are identical; set model.head_dropout above 0"
        )


def _bad_stages(config: Config) -> Iterator[str]:
    stages = config.train.stages
    if list(stages) != [stage for stage in STAGE_ORDER if stage in stages]:
        yield f"train.stages: the order is {', '.join(STAGE_ORDER)}, each once; got {list(stages)}"
    elif "fit" in stages and config.model.heads == "paper":
        yield "train.stages: fit is for linear heads; set model.heads=linear"
    elif config.model.heads == "constant" and stages != CLOSED_FORM_STAGES:
        yield "model.heads: constant heads can only be fitted: set train.stages=[fit]"
    elif config.distill.enabled and stages == CLOSED_FORM_STAGES:
        yield "distill.enabled: the stage fit uses labels only; add probe or finetune after it"
    elif stages[0] == "swa":
        yield "train.stages: swa averages the weights of a trained model; add finetune before it"
    elif config.train.finetuned_share < 1 and stages[0] == "finetune":
        yield (
            "train.finetuned_share: fine-tuning would start from random heads; add probe before "
            "it, or set train.finetuned_share=1"
        )
    optim = config.optim
    if optim.lr_decay and optim.lr_decay_per_epoch is not None:
        yield (
            f"optim.lr_decay={optim.lr_decay} and "
            f"optim.lr_decay_per_epoch={optim.lr_decay_per_epoch}: the learning rate has one decay "
            "at most; set optim.lr_decay=0 or optim.lr_decay_per_epoch=null"
        )
    if config.train.early_stopping_epochs is not None and "swa" in stages:
        yield "train.early_stopping_epochs: not together with the stage swa, whose start is fixed"


def _bad_teacher(config: Config) -> Iterator[str]:
    teacher = config.distill.teacher
    if not (teacher == "self" or (teacher.startswith(("run:", "bundle:")) and teacher[-1] != ":")):
        yield f"distill.teacher: must be self, run:ID or bundle:DIR, got {teacher!r}"


_PAIRS: tuple[Kind, ...] = (Kind.PARAPHRASE, Kind.SIMILARITY)
_LABELLED: tuple[Kind, ...] = tuple(kind for kind in Kind if kind.output.metrics)
