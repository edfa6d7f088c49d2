"""Studies: rows over seeds become first trials of a sweep, equal rows run once, errors in files."""

from dataclasses import replace
from pathlib import Path

import pytest

from mlflow_setup.errors import ConfigError
from mlflow_setup.schema import TrialRecord
from search.ablation.study import STUDIES, StudyConfig, read_study
from trainable.config.parse import from_flat
from trainable.config.strict_yaml import read_settings
from trainable.storage.trial_folder import TrialFolder
from trainable.training.stages import learning_rate

SHORT = ("train.num_epochs=2", "data.dir=.")


def test_packaged_studies_resolve_and_have_a_description() -> None:
    for name in STUDIES.names():
        assert len(str(read_settings(STUDIES.path(name))["description"])) > 20
        study = read_study(name, 2, overrides=SHORT, environment={})
        assert all(len(row.trials) == (0 if row.members else 2) for row in study.rows)
        assert study.sweep.scheduler.name == "none"
        assert study.sweep.search.num_samples == len(study.sweep.first_trials)


def test_figure2_has_every_row_of_the_paper_and_runs_equal_rows_once() -> None:
    study = read_study("figure2", 3, environment={})
    labels = [row.label for row in study.rows]
    wanted = ["even batching", "pre-training", "loss rescaling", "shared architecture", "MNR"]
    wanted += ["SimCSE", "AllNLI", "SMART", "SWA", "self-distillation", "ensemble distillation"]
    wanted += ["weight decay", "head dropout", "sentiment only", "paraphrase only"]
    for technique in [*wanted, "similarity only", "non-linear heads", "paraphrase structure"]:
        assert sum(technique in label and "B3" in label for label in labels) == 1, technique
    by_label = {row.label: row.trials for row in study.rows}
    assert by_label["B2 of 20 epochs"] == by_label["B1 - AllNLI"]
    bases = {row.label: row.bases for row in study.rows if row.bases}
    best = tuple(f"B{n} of 20 epochs" for n in (1, 2, 3, 4))
    assert bases == {
        "B1 - AllNLI": best[:1],
        "selective ensemble": best,  # the paper's +1.3 %, over the best single one
        "simple ensemble": best,
    }
    ensembles = {row.label: dict(row.members) for row in study.rows if row.members}
    assert len(study.sweep.first_trials) == 3 * (len(study.rows) - len(ensembles) - 1)
    tasks = ("sentiment", "paraphrase", "similarity")
    assert ensembles["simple ensemble"] == dict.fromkeys(tasks, best)
    chosen = (best, best[:2], best[:2])
    assert ensembles["selective ensemble"] == dict(zip(tasks, chosen, strict=True))
    assert study.curves_of == "B1 of 20 epochs"
    configs = [from_flat(study.sweep.first(n)[0].settings) for n in range(6)]
    assert [config.seed for config in configs] == [0, 1, 2, 0, 1, 2]


def test_the_study_of_the_paper_combines_those_of_both_figures() -> None:
    def trials(name: str) -> dict[str, dict[str, object]]:
        """Label -> the settings of its first seed."""
        study = read_study(name, 1, environment={})
        names = [f"{n:04d}-{t.recipe}" for n, t in enumerate(study.sweep.first_trials, start=1)]
        return {
            row.label: from_flat(
                study.sweep.first(names.index(str(row.trials[0])))[0].settings
            ).flat()
            for row in study.rows
            if row.trials
        }

    both = trials("paper")
    assert both == trials("figure2") | trials("figure3")
    rows = {row.label: row for row in read_study("paper", 1, environment={}).rows}
    assert rows["B3 - MNR"].table == rows["selective ensemble"].table == "figure2"
    assert rows["baseline + LP-FT"].table == "figure3"
    assert rows["baseline + LP-FT"].bases == ("baseline",)
    assert rows["B3 - MNR"].bases == ("B3",)
    assert rows["B3"].bases == rows["baseline"].bases == ()


@pytest.mark.parametrize("name", ["figure2", "further", "signs"])
def test_ablations_have_ten_epochs_and_a_learning_rate_that_falls_by_4e_7(name: str) -> None:
    study = read_study(name, 1, environment={})
    assert study.sweep.first_trials
    for number in range(len(study.sweep.first_trials)):
        config = from_flat(study.sweep.first(number)[0].settings)
        last = config.train.num_epochs
        assert last == 10 or (name == "figure2" and last == 20)
        rates = [learning_rate(config.optim, epoch, last) for epoch in (1, 2, last)]
        assert rates == pytest.approx([1e-5, 1e-5 - 4e-7, 1e-5 - (last - 1) * 4e-7])


def test_the_study_of_heads_trains_only_heads() -> None:
    study = read_study("heads", 1, environment={})
    configs = [
        from_flat(study.sweep.first(n)[0].settings) for n in range(study.sweep.search.num_samples)
    ]
    assert {config.train.stages for config in configs} == {("probe",)}
    assert len(configs) == len([row for row in study.rows if not row.members])


def test_rows_have_the_folders_of_their_trials(tmp_path: Path) -> None:
    study = read_study("signs", 2, ["b3-no-mnr"], SHORT, {})
    rows = study.rows_in(tmp_path)
    assert [(row.label, [path.name for path in row.trials]) for row in rows] == [
        ("B3", ["0001-b3", "0002-b3"]),
        ("B3 - MNR", ["0003-b3-no-mnr", "0004-b3-no-mnr"]),
    ]
    assert rows[0].trials[0] == tmp_path / "trials" / "0001-b3"


def test_trials_with_other_settings_are_refused(tmp_path: Path) -> None:
    def study(*overrides: str, rows: str = "b3-no-simcse", seeds: int = 2) -> StudyConfig:
        return read_study("signs", seeds, [rows], [*SHORT, *overrides], {})

    ran = study()
    folders = [folder for row in ran.rows_in(tmp_path) for folder in row.trials]
    for number, folder in enumerate(folders):
        config = from_flat(ran.sweep.first(number)[0].settings).flat()
        record = TrialRecord(folder.name, "s", "b3", config, {}, number % 2, "data", None, 0.0)
        TrialFolder(folder).create(record)
    ran.require_trials(tmp_path)
    older = TrialFolder(folders[0]).trial()  # written before a setting existed
    known = {key: value for key, value in older.config.items() if key != "optim.eps"}
    TrialFolder(folders[0]).relocate(replace(older, config=known))
    ran.require_trials(tmp_path)
    study(seeds=3).require_trials(tmp_path / "nowhere")  # missing trials are reported by `evaluate`
    with pytest.raises(
        ConfigError, match=r"0001-b3 ran with other settings: optim.lr=1e-05, given 0.0001"
    ):
        study("optim.lr=1e-4").require_trials(tmp_path)
    with pytest.raises(
        ConfigError,
        match="0003-b3-no-simcse ran with other settings: it belongs to no row and seed",
    ):
        study(rows="b3-no-mnr").require_trials(tmp_path)
    with pytest.raises(ConfigError, match="0002-b3 ran with other settings: it belongs to no row"):
        study(seeds=1).require_trials(tmp_path)


def test_a_selection_of_rows_has_the_ensembles_whose_members_are_all_in_it() -> None:
    def labels(*only: str) -> list[str]:
        return [row.label for row in read_study("figure2", 1, only, SHORT, {}).rows]

    of_20 = [f"B{n} of 20 epochs" for n in (1, 2, 3, 4)]
    two = ["B3", *of_20[:2], "B1 - AllNLI", "B3 - head dropout"]
    assert labels("b1", "b2") == two
    ensembles = ["selective ensemble", "simple ensemble"]
    four = ["B3", *of_20, "B1 - AllNLI", *ensembles, "B3 - head dropout"]
    assert labels("b1", "b2", "b3", "b4") == [*four, "B3 + self-distillation"]
    assert not set(labels("b1", "b2", "b4")) & set(ensembles)
    assert labels("b3-no-mnr") == ["B3", "B3 - MNR"]


def test_a_study_file_with_overrides_in_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "description: three dropouts\n"
        "config: {optim.lr: 1e-4}\n"
        "rows:\n"
        "  - {label: plain, recipe: baseline}\n"
        "  - {label: less, recipe: baseline, model.head_dropout: 0.1}\n"
        "  - {label: as plain, recipe: baseline, model.head_dropout: 0.3}\n"
    )
    study = read_study(str(path), 1, overrides=SHORT, environment={})
    assert [[path.name for path in row.trials] for row in study.rows] == [
        ["0001-baseline"],
        ["0002-baseline"],
        ["0001-baseline"],
    ]
    configs = [from_flat(study.sweep.first(number)[0].settings) for number in range(2)]
    assert [config.model.head_dropout for config in configs] == [0.3, 0.1]
    assert {config.optim.lr for config in configs} == {1e-4}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rows: []", "at least one row"),
        ("rows: 3", "at least one row"),
        ("rows: [{label: a}]", "row 1 names no recipe"),
        ("rows: [b7]", "no recipe 'b7'"),
        ("rows: [b3]\nspace: {}", "no key space"),
        ("rows: [{label: a, average: {sentiment: [b3]}}]", "row 1 names no recipe"),
        ("rows: [b3, {label: a, average: [b3]}]", "row 2: average must name the members"),
        ("rows: [b3, {label: a, average: {sentiment: [b1]}}]", "must be a list of rows above"),
        ("rows: [b3, {label: a, average: {sentiment: 3}}]", "must be a list of rows above"),
        ("rows: [b3, {label: a, recipe: b1, average: {}}]", "average"),
        ("rows: [b3, {recipe: b1, base: b2}]", "row 2: base must name rows above it"),
        ("rows: [b3, {recipe: b1, base: []}]", "row 2: base must name rows above it"),
        ("rows: [b3, b3]", "two rows have the label b3"),
        ("rows: [b3]\ncurves: b1", "curves: no row 'b1' that is trained"),
        ("rows: [{recipe: b3, optim.lrr: 1}]", "optim.lrr"),
        ("rows: [b3]\nconfig: {optim.lr: -1}", "optim.lr"),
        ("rows: [b3]\ninclude: [figure2]", "include must be a list of packaged studies"),
        ("include: figure2", "include must be a list of packaged studies"),
        ("include: [figure9]", "no study 'figure9'"),
        ("include: [figure2, signs]", "two rows have the label B1 - AllNLI, B3,"),
    ],
)
def test_errors_in_a_study_file_are_reported(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_study(str(path), 2, overrides=SHORT, environment={})


def test_wrong_arguments_are_reported() -> None:
    with pytest.raises(ConfigError, match="there are figure2, "):
        read_study("figur2", 1)
    with pytest.raises(ConfigError, match="no row b9; known: b3"):
        read_study("signs", 1, ["b9"])
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        read_study("signs", 0)
    with pytest.raises(ConfigError, match="sets the seeds itself"):
        read_study("signs", 2, overrides=["seed=3"], environment={})


def test_a_mistake_in_a_row_is_called_one_of_a_study(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("rows: [{label: B3, recipe: b3, optim.lr: -1}]")
    with pytest.raises(ConfigError, match=r"^study .*mine\.yaml: ") as caught:
        read_study(str(path), 1, environment={})
    assert caught.value.fix == "ensweep studies lists complete studies to start from"
