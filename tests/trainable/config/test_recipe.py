"""Recipes, overrides and environment: precedence, origins of values, errors."""

from pathlib import Path
from typing import Any

import pytest

from mlflow_setup.errors import ConfigError
from trainable.config.config import flatten
from trainable.config.constraints import settings_without_effect
from trainable.config.parse import from_flat
from trainable.config.recipe import parse_override, read_recipe, resolve

_NLI = {"loss.mnr.enabled": True, "data.tasks": ["sentiment", "nli"]}


def test_the_baseline_has_the_settings_of_the_paper() -> None:
    config = resolve("baseline", (), {}).config
    assert config == from_flat({})  # the defaults are the baseline
    assert (config.optim.lr, config.train.num_epochs, config.model.head_dropout) == (1e-5, 10, 0.3)
    assert (config.batching.batch_size, config.batching.strategy) == (16, "round_robin")
    assert not config.pretrain.enabled
    assert not config.distill.enabled
    assert config.train.stages == ("finetune",)


def test_precedence_and_origins(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: b3\noptim.lr: 2e-5\nmodel: {fcn_size: 64, head_dropout: 0.1}\n")
    environment = {"ENSWEEP_MODEL__FCN_SIZE": "32", "ENSWEEP_SEED": "5", "ENSWEEP_STORAGE": "x"}
    resolved = resolve(str(path), ["model.head_dropout=0.2"], environment)
    expected = {
        "optim.lr": (2e-5, f"file {path}"),
        "model.fcn_size": (32, "env ENSWEEP_MODEL__FCN_SIZE"),
        "model.head_dropout": (0.2, "command line"),
        "seed": (5, "env ENSWEEP_SEED"),
        "loss.mnr.enabled": (True, "recipe b3"),
        "batching.batch_size": (16, "default"),
    }
    flat = resolved.config.flat()
    assert {key: (flat[key], resolved.origin[key]) for key in expected} == expected
    assert set(resolved.origin) == set(flat)


def test_a_file_extends_another_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: baseline\noptim.lr: 3e-5\n")
    (tmp_path / "top.yaml").write_text("extends: base.yaml\nseed: 3\n")
    config = resolve(str(tmp_path / "top.yaml"), (), {}).config
    assert (config.optim.lr, config.seed) == (3e-5, 3)


def test_relative_paths_in_a_file_are_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path.parent)
    for name in ("mine", "mine/deep"):
        (tmp_path / name).mkdir()
    teacher = "distill: {enabled: true, teacher: 'bundle:b'}\nextends: b3-no-pretraining\n"
    (tmp_path / "mine" / "base.yaml").write_text(
        f"data.dir: ../data\nmodel.encoder: ./enc\n{teacher}"
    )
    (tmp_path / "mine" / "deep" / "top.yaml").write_text("extends: ../base.yaml\nseed: 3\n")
    config = resolve(str(tmp_path / "mine" / "deep" / "top.yaml"), (), {}).config
    assert config.data.dir == str(tmp_path / "data")
    assert config.model.encoder == str(tmp_path / "mine" / "enc")
    assert config.distill.teacher == f"bundle:{tmp_path / 'mine' / 'b'}"
    (tmp_path / "hub.yaml").write_text("model.encoder: enc\ndata.dir: s3://bucket/data\n")
    settings = read_recipe(str(tmp_path / "hub.yaml")).settings  # names and URIs are kept
    assert settings == {"model.encoder": "enc", "data.dir": "s3://bucket/data"}
    given = resolve("baseline", ["data.dir=data"], {}).config
    assert given.data.dir == "data"  # relative to the working directory


def test_circular_extends_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ConfigError, match="extends itself"):
        resolve(str(tmp_path / "a.yaml"), (), {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim.lr=1e-4", ("optim.lr", 1e-4)),
        ("seed=7", ("seed", 7)),
        ("model.encoder=1234", ("model.encoder", "1234")),
        ("model.revision=null", ("model.revision", None)),
        ("data.tasks=sentiment,nli", ("data.tasks", ["sentiment", "nli"])),
        ("data.tasks=[sentiment]", ("data.tasks", ["sentiment"])),
        ("data.dir=a=b", ("data.dir", "a=b")),
        ("loss.mnr.enabled=true", ("loss.mnr.enabled", True)),
    ],
)
def test_overrides_are_parsed(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


def test_one_error_lists_all_problems_with_origin_and_nearest_key() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(
            "b3",
            ["optim.Lr=1", "model.pooling=men", "train.num_epochs=x", "loss.mnr.enabled=no"],
            {},
        )
    text = str(caught.value)
    for part in (
        "4 problems",
        "optim.Lr: no such key (did you mean optim.lr?) (command line)",
        "model.pooling: input should be 'pooler', 'cls' or 'mean', got 'men'",
        "train.num_epochs",
        "loss.mnr.enabled: input should be a valid boolean, got 'no'",
        "fix: ensweep config show",
    ):
        assert part in text


def test_an_unknown_environment_variable_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"ENSWEEP_OPTIM__RATE: no key optim\.rate"):
        resolve("b3", (), {"ENSWEEP_OPTIM__RATE": "1"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.tasks": ["sentiment", "nli"]}, "nli has no loss of its own"),
        ({"data.tasks": ["nli"], "loss.mnr.enabled": True}, "needs a metric"),
        ({"data.tasks": ["sentimant"]}, "did you mean sentiment"),
        ({"data.tasks": ["sentiment", "sentiment"]}, "named twice"),
        ({"loss.mnr.enabled": True, "loss.mnr.tasks": ["sentiment"]}, "not a labelled pair"),
        ({"loss.smart.tasks": ["nli"], **_NLI}, "nli is not a task with labels"),
        ({"loss.mnr.tasks": ["similarty"]}, r"loss.mnr.tasks.*did you mean similarity"),
        ({"loss.simcse.tasks": ["sentimnt"]}, r"loss.simcse.tasks.*did you mean sentiment"),
        ({"loss.smart.tasks": ["praphrase"]}, r"loss.smart.tasks.*did you mean paraphrase"),
        ({"loss.smart.tasks": ["similarity", "similarity"]}, "loss.smart.tasks: a task is named"),
        (
            {"loss.smart.enabled": True, "loss.smart.init_std": 1.0},
            "must be at most loss.smart.radius",
        ),
        ({"train.stages": ["finetune", "probe"]}, "the order is fit, probe, finetune, swa"),
        ({"train.stages": ["probe", "swa", "swa"]}, "each once"),
        ({"train.stages": ["swa"]}, "add finetune before it"),
        ({"train.finetuned_share": 0.5}, "add probe before it"),
        (
            {"train.stages": ["finetune", "swa"], "train.early_stopping_epochs": 2},
            "whose start is fixed",
        ),
        ({"model.shared_fcn": True, "model.similarity_size": 256}, r"above model\.fcn_size=256"),
        ({"distill.teacher": "b3"}, "must be self, run:ID or bundle:DIR"),
        ({"pretrain.enabled": True, "pretrain.tasks": ["sentimnt"]}, "did you mean sentiment"),
        (
            {
                "tasks.my task.kind": "classification",
                "tasks.my task.files.train": "t",
                "tasks.my task.files.dev": "d",
            },
            "'my task' is not a name",
        ),
        (
            {
                "tasks.overall.kind": "classification",
                "tasks.overall.files.train": "t",
                "tasks.overall.files.dev": "d",
            },
            "tasks.overall: the name is reserved for the mean over all tasks; rename",
        ),
        ({"optim": 1, "optim.lr": 1e-4}, "optim"),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_flat(settings)


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ({"kind": "classification", "files": {"train": "t"}}, "must name a dev file"),
        ({"kind": "paraphrase", "num_classes": 3}, "files"),
        (
            {"kind": "similarity", "files": {"train": "t", "dev": "d"}, "metric": "accuracy"},
            "metric of a similarity task must be one of",
        ),
        (
            {
                "kind": "classification",
                "files": {"train": "t", "dev": "d"},
                "columns": {"sentences": ["a", "b"]},
            },
            "has 1 sentence column",
        ),
        ({"kind": "ranking", "files": {"train": "t", "dev": "d"}}, "tasks.mine.kind"),
        (
            {"kind": "classification", "files": {"train": "t", "dev": "d"}, "clases": 3},
            "tasks.mine.clases: no such key",
        ),
    ],
)
def test_invalid_declarations_of_a_task_are_refused(
    declaration: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        from_flat(flatten({"tasks": {"mine": declaration}}))


@pytest.mark.parametrize(
    ("stages", "head", "encoder", "problem"),
    [
        (["finetune"], 0, 0, "without any dropout both views are identical"),
        (["finetune"], 1e-9, 0, None),
        (["finetune"], 0, 1e-9, None),
        (["probe"], 0, 0, ""),
        (["probe"], 0, 0.1, "a frozen encoder has no dropout"),
        (["probe", "finetune"], 0, 0.1, "a frozen encoder has no dropout"),
        (["probe"], 1e-9, 0, None),
    ],
)
def test_simcse_without_dropout_is_refused(
    stages: list[str], head: float, encoder: float, problem: str | None
) -> None:
    rates = {"model.head_dropout": float(head), "model.encoder_dropout": float(encoder)}
    settings = {"loss.simcse.enabled": True, "train.stages": stages, **rates}
    if problem is None:
        from_flat(settings)
    else:
        with pytest.raises(ConfigError, match=rf"loss\.simcse\.enabled: {problem}.* above 0"):
            from_flat(settings)


def test_settings_without_effect_are_listed() -> None:
    config = resolve("baseline", ["loss.mnr.weight=3", "loss.simcse.temperature=0.1"], {}).config
    assert settings_without_effect(config) == [
        "loss.mnr.weight=3.0 has no effect: loss.mnr.enabled is false",
        "loss.simcse.temperature=0.1 has no effect: loss.simcse.enabled is false",
    ]
    settings = ["loss.simcse.tasks=[paraphrase]", "data.tasks=[sentiment]"]
    assert settings_without_effect(resolve("b3", settings, {}).config) == [
        "loss.simcse.tasks=['paraphrase'] has no effect: data.tasks has none of them",
    ]


def test_a_configuration_is_restored_from_its_flat_form() -> None:
    config = resolve("b1", ["tasks.m={kind: similarity, files: {train: t, dev: d}}"], {}).config
    assert from_flat(config.flat()) == config


def _declaration(kind: str, **more: object) -> dict[str, object]:
    return {"kind": kind, "files": {"train": "t", "dev": "d"}, **more}


@pytest.mark.parametrize(
    ("tasks", "similar", "labelled", "without_effect"),
    [
        ({"mood": _declaration("classification")}, (), ("mood",), ["loss.mnr", "loss.simcse"]),
        (
            {"mood": _declaration("classification"), "sick": _declaration("similarity")},
            ("sick",),
            ("mood", "sick"),
            [],
        ),
        (
            {
                "p": {"kind": "entailment", "files": {"train": "p"}},
                "mood": _declaration("multilabel"),
            },
            (),
            ("mood",),
            ["loss.simcse"],
        ),
    ],
)
def test_techniques_apply_to_the_declared_tasks(
    tasks: dict[str, object],
    similar: tuple[str, ...],
    labelled: tuple[str, ...],
    without_effect: list[str],
) -> None:
    read = read_recipe("b3")
    config = from_flat(read.settings | flatten({"tasks": tasks, "data.tasks": list(tasks)}))
    assert config.loss.mnr.tasks == config.loss.simcse.tasks == similar
    assert config.pretrain.tasks == labelled
    lines = settings_without_effect(config)
    assert [line.split(".enabled")[0] for line in lines if "is trained" in line] == without_effect
    assert from_flat(config.flat()) == config
    named = from_flat(read.settings | flatten({"tasks": tasks}) | {"pretrain.tasks": ["sentiment"]})
    assert named.pretrain.tasks == ("sentiment",)
    assert named.loss.mnr.tasks == ("similarity",)  # the paper's tasks are trained


def test_a_sweep_given_as_a_recipe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my sweep.yaml"
    path.write_text("recipe: b3\nspace: {}\n")
    with pytest.raises(ConfigError, match="is a sweep, not a recipe") as refused:
        read_recipe(str(path))
    assert refused.value.fix == f"ensweep sweep '{path}'"
