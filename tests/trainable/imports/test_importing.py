"""Importing user data into a folder that can be trained on: splits, files, declarations."""

import random
from collections import Counter
from pathlib import Path

import pytest

from mlflow_setup.errors import ConfigError, DataError
from search.config.load import read_sweep
from trainable.config.recipe import data_tasks, resolve
from trainable.data.dataset import read_dataset, read_directory
from trainable.imports.finding import Given
from trainable.imports.importing import Import, plan_import
from trainable.imports.sources import Form
from trainable.imports.splitting import Cut

MOODS = ["negative", "neutral", "positive"]


def _reviews(path: Path, num_rows: int = 200, seed: int = 0) -> Path:
    """CSV with commas in cells, duplicate texts, and rows without a label or a sentence."""
    draw = random.Random(seed)
    lines = ["Review,When,Rating"]
    for row in range(num_rows):
        lines.append(f'"film {row % 150}, it was {draw.choice(MOODS)}",monday,{MOODS[row % 3]}')
    lines += ["no label here,monday,", ",monday,neutral"]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_plan_is_described_and_writes_nothing(tmp_path: Path) -> None:
    planned = plan_import(str(_reviews(tmp_path / "reviews.csv")))
    described = {what: finding for what, finding, _ in planned.describe()}
    assert described["label"].startswith("Rating: negative 67, neutral 67, positive 66")
    assert described["not used"] == "When"
    assert described["rows"].startswith("train 140, dev 40, test 20; dev and test cut by a hash")
    assert [f for what, f, _ in planned.describe() if what == "left out"] == [
        "1 row(s) without a label: reviews.csv:202",
        "1 row(s) without a sentence: reviews.csv:203",
    ]
    assert not (tmp_path / "data").exists()


def test_which_label_means_a_paraphrase_is_said(tmp_path: Path) -> None:
    rows = "".join(f"one {n},other {n},{'gleich' if n % 2 else 'anders'}\n" for n in range(40))
    (tmp_path / "pairs.csv").write_text(f"text1,text2,label\n{rows}")
    planned = plan_import(str(tmp_path / "pairs.csv"), given=Given(kind="paraphrase"))
    said = {what: finding for what, finding, _ in planned.describe()}
    assert said["label"] == "label: anders 20, gleich 20; gleich means a paraphrase"


def test_splits_are_seeded_and_stratified_and_keep_duplicates_together(tmp_path: Path) -> None:
    def split_of(planned: Import) -> dict[str, str]:
        return {
            text.lower(): split for split, rows in planned.splits.items() for _, (text,), _ in rows
        }

    path = _reviews(tmp_path / "reviews.csv")
    planned = plan_import(str(path))
    for part, share in {"dev": 0.2, "test": 0.1}.items():
        counts = Counter(label for _, _, label in planned.splits[part])  # type: ignore[index]
        assert all(abs(counts[mood] - share * 67) <= 2 for mood in MOODS)
    texts = [text for rows in planned.splits.values() for _, (text,), _ in rows]
    assert len(set(texts)) == len(split_of(planned)) < len(texts)  # a text is in one split only
    lines = path.read_text().splitlines()
    duplicate = lines[5].replace("film", "FILM")
    path.write_text("\n".join([lines[0], duplicate, *reversed(lines[1:])]) + "\n")
    reordered = split_of(plan_import(str(path)))
    moved = sum(reordered[text] != split for text, split in split_of(planned).items())
    assert moved <= 4  # in another order of the rows
    other = split_of(plan_import(str(path), cut=Cut(seed=1)))
    assert sum(other[text] != reordered[text] for text in reordered) > 20
    without_test = plan_import(str(path), cut=Cut(dev=0.5, test=0))
    assert set(without_test.splits) == {"train", "dev"}
    assert abs(len(without_test.splits["dev"]) - 100) <= 2
    for invalid in (Cut(dev=0), Cut(dev=0.6, test=0.4)):
        with pytest.raises(ConfigError):
            plan_import(str(path), cut=invalid)


def test_the_written_folder_needs_no_further_settings(tmp_path: Path) -> None:
    planned = plan_import(str(_reviews(tmp_path / "reviews.csv")))
    data = tmp_path / "data"
    planned.write(data)
    config = resolve("b3", [f"data.dir={data}"], {}).config  # with the folder's tasks
    assert config.data.tasks == ("reviews",)
    dataset = read_dataset(config)
    assert dataset.tasks["reviews"] == planned.task
    assert len(dataset.dev["reviews"]) == 40
    sweep = read_sweep("selective", [f"data.dir={data}"], {})
    assert sweep.config["data.tasks"] == ["reviews"]
    assert sweep.origin["data.tasks"] == f"file {data}/tasks.yaml"
    parts, defects = read_directory(data, dataset.tasks)
    assert (len(parts), defects) == (3, [])
    named = resolve("b3", [f"data.dir={data}", "data.tasks=[sentiment]"], {}).config
    assert named.data.tasks == ("sentiment",)


def test_tasks_are_read_from_a_folder_at_a_uri(tmp_path: Path) -> None:
    planned = plan_import(str(_reviews(tmp_path / "reviews.csv")))
    planned.write(tmp_path / "data")
    uri = f"file://{tmp_path / 'data'}"
    assert list(data_tasks(uri)) == ["reviews"]
    config = resolve("b3", [f"data.dir={uri}"], {}).config
    assert read_dataset(config).tasks["reviews"] == planned.task
    assert read_sweep("selective", [f"data.dir={uri}"], {}).config["data.tasks"] == ["reviews"]
    run_elsewhere = read_sweep("selective", ["data.dir=s3://b/d"], {}, is_run_here=False)
    assert "data.tasks" not in run_elsewhere.config  # the folder is not read
    (tmp_path / "data" / "tasks.yaml").write_text("tasks: [reviews]\n")
    with pytest.raises(ConfigError, match=f"{uri}/tasks.yaml: expected tasks"):
        data_tasks(uri)


def test_several_imports_share_a_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    path = str(_reviews(tmp_path / "reviews.csv"))
    plan_import(path).write(data)
    plan_import(path, name="grades", given=Given(labels=tuple(reversed(MOODS)))).write(data)
    assert list(data_tasks(data)) == ["reviews", "grades"]
    assert data_tasks(data)["grades"]["labels"] == MOODS[::-1]
    with pytest.raises(ConfigError, match="has a task reviews already"):
        plan_import(path).write(data)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(ConfigError):
        plan_import(path).write(tmp_path / "other")


def test_given_splits_and_hidden_labels_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for split, labels in {"train": MOODS, "dev": MOODS, "test": [""]}.items():
        rows = (f"k{n},the {split} film {n},{labels[n % len(labels)]}\n" for n in range(30))
        (folder / f"{split}.csv").write_text("key,text,label\n" + "".join(rows))
    planned = plan_import(str(folder), name="mood")
    assert planned.cut == ()
    planned.write(tmp_path / "data")
    assert (
        (tmp_path / "data" / "mood-test.csv").read_text().startswith("key,text\nk0,the test film")
    )
    with pytest.raises(DataError, match="the label 'neutral' is not one of the labels"):
        plan_import(str(folder), given=Given(labels=("negative", "positive")))


def test_a_label_that_is_missing_in_train_is_an_error_with_its_line(tmp_path: Path) -> None:
    rows = "".join(f"film {n},{MOODS[2 * (n % 2)]}\n" for n in range(8))
    (tmp_path / "train.csv").write_text(f"text,mood\n{rows}")
    (tmp_path / "dev.csv").write_text("text,mood\nfilm a,positive\nfilm b,neutral\n")
    with pytest.raises(DataError, match=r"^dev\.csv:3: the label 'neutral' is not one") as refused:
        plan_import(str(tmp_path))
    assert str(refused.value.fix).endswith("--labels negative,positive,neutral")
    labels = ("negative", "positive", "neutral")
    assert plan_import(str(tmp_path), given=Given(labels=labels)).layout.labels == labels


@pytest.mark.parametrize("labels", [("good", "bad"), ("1", "0")])
def test_a_file_without_a_header_is_detected(tmp_path: Path, labels: tuple[str, str]) -> None:
    path = tmp_path / "a.csv"
    path.write_text("".join(f"a film {n},x,{labels[n % 2]}\n" for n in range(8)))
    with pytest.raises(ConfigError, match="the first line looks like a row") as refused:
        plan_import(str(path))
    assert "--columns text,column2,label;" in str(refused.value.fix)
    planned = plan_import(str(path), form=Form(header=("text", "x", "label")))
    assert sum(map(len, planned.splits.values())) == 8


def test_labels_that_differ_in_case_are_reported_and_names_are_ascii(tmp_path: Path) -> None:
    path = tmp_path / "Käufer größer.csv"
    path.write_text("text,mood\n" + "".join(f"a film {n},{'Aab'[n % 3]}\n" for n in range(30)))
    planned = plan_import(str(path))
    assert planned.name == "kaufer_grosser"
    described = {what: finding for what, finding, _ in planned.describe()}
    assert described["look at"] == "labels that differ in case alone: A and a"


def test_splits_must_have_the_same_columns(tmp_path: Path) -> None:
    rows = "".join(f"a film {n},{MOODS[n % 2]}\n" for n in range(8))
    (tmp_path / "train.csv").write_text(f"text,mood\n{rows}")
    (tmp_path / "dev.csv").write_text(f"Text,mood\n{rows}")
    with pytest.raises(ConfigError, match=r"dev\.csv: no column 'text'.*there are: Text, mood"):
        plan_import(str(tmp_path))
    (tmp_path / "dev.csv").rename(tmp_path / "test.csv")
    (tmp_path / "test.csv").write_text("text\nfilm\n")
    assert len(plan_import(str(tmp_path)).splits["test"]) == 1
