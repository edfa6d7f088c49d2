"""`ensweep predict`."""

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError, DataError, EnsweepError

PAIR = ("how do i learn chess", "can i learn chess well")


def invoke(*words: str | Path, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(app, list(map(str, words)), input=stdin)
    if isinstance(result.exception, EnsweepError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_sentences_on_the_command_line(tiny_bundle: Path) -> None:
    words = ["predict", tiny_bundle, "--task", "sentiment", "--text", "=a film", "--text", "b\x1b"]
    done = invoke(*words)
    found = rows(done.stdout)
    assert [row["sentence"] for row in found] == ["=a film", "b\x1b"]
    assert all(row["label"] in "01234" for row in found)
    predictions = json.loads(invoke(*words, "--json").stdout)["predictions"]
    assert [str(row["label"]) for row in predictions] == [row["label"] for row in found]
    guarded = rows(invoke(*words, "--for-spreadsheet").stdout)
    assert [row["sentence"] for row in guarded] == ["'=a film", "b\x1b"]
    with pytest.raises(ConfigError, match="--for-spreadsheet is for a CSV file"):
        invoke(*words, "--for-spreadsheet", "--json")


def test_pairs_in_every_form_of_input(tiny_bundle: Path, tmp_path: Path) -> None:
    start = ["predict", tiny_bundle, "--task", "paraphrase"]
    (tmp_path / "in.csv").write_text(f"sentence1,sentence2\n{PAIR[0]},{PAIR[1]}\n")
    (tmp_path / "in.jsonl").write_text(json.dumps(PAIR) + "\n")
    line = "\t".join(PAIR)
    outputs = {
        invoke(*start, "--text", PAIR[0], "--text2", PAIR[1]).stdout,
        invoke(*start, "--text", line).stdout,
        invoke(*start, stdin=f"{line}\n".encode()).stdout,
        invoke(*start, "-", stdin=line.encode()).stdout,
        invoke(*start, tmp_path / "in.csv").stdout,
        invoke(*start, tmp_path / "in.jsonl").stdout,
    }
    (found,) = rows(outputs.pop())
    assert outputs == set()
    assert list(found) == ["label", "probability", "sentence1", "sentence2"]
    assert (found["sentence1"], found["sentence2"]) == PAIR


def test_labels_go_to_a_file(tiny_bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    source = tiny_data / "quora-dev.csv"
    output = tmp_path / "labels.csv"
    done = invoke("predict", tiny_bundle, source, "--task", "similarity", "--output", output)
    assert done.stdout == ""
    assert f"wrote {output}" in done.stderr
    found = rows(output.read_text())
    lines = source.read_text().splitlines()[1:]
    assert [row["id"] for row in found] == [line.split("\t")[1] for line in lines]
    assert [row["sentence2"] for row in found] == [line.split("\t")[3] for line in lines]


def test_several_tasks_at_once(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, tasks = tiny_data / "quora-dev.csv", ["paraphrase", "similarity"]
    alone = {
        task: rows(invoke("predict", tiny_bundle, source, "--task", task).stdout) for task in tasks
    }
    monkeypatch.setattr("ensemble.inference.sentence_files.CHUNK", 7)
    words = [word for task in (*tasks, tasks[0]) for word in ("--task", task)]
    output = tmp_path / "labels.csv"
    invoke("predict", tiny_bundle, source, *words, "--output", output)
    found = rows(output.read_text())
    assert output.read_text() == invoke("predict", tiny_bundle, source, *words).stdout
    assert len(found) == 32
    for task, of_task in alone.items():
        assert [row["id"] for row in found] == [row["id"] for row in of_task]
        labels = [float(row["label"]) for row in of_task]
        assert [float(row[f"{task}_label"]) for row in found] == pytest.approx(labels, abs=1e-5)


def test_shards(tiny_bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels"
    words = ["predict", tiny_bundle, tiny_data / "quora-dev.csv", "--task", "similarity"]
    words += ["--shard-rows", "20", "--output", output]
    assert f"wrote {output}: 2 shard(s)\n" in invoke(*words).stderr
    found = [row for path in sorted(output.glob("*.csv")) for row in rows(path.read_text())]
    assert len(found) == 32
    (output / "manifest.json").unlink()
    (output / "labels-00001.csv").unlink()
    assert f"wrote {output}: 2 shard(s), 1 of them before" in invoke(*words).stderr
    with pytest.raises(ConfigError, match=r"labels of other work; shards.json differs in form"):
        invoke(*words, "--json")


def test_a_defect_in_a_later_chunk_leaves_no_file(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensemble.inference.sentence_files.CHUNK", 2)
    (tmp_path / "in.csv").write_text("sentence\na\nb\nc\n \n")
    output = tmp_path / "labels.csv"
    with pytest.raises(DataError, match=r"in\.csv:5: sentence is empty"):
        invoke(*("predict", tiny_bundle, tmp_path / "in.csv", "--task", "sentiment"), "-o", output)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("task", "name", "header"),
    [
        ("sentiment", "ids-sst-test-student.csv", "id \t Predicted_Sentiment \n"),
        ("paraphrase", "quora-test-student.csv", "id \t Predicted_Is_Paraphrase \n"),
        ("similarity", "sts-test-student.csv", "id \t Predicted_Similiary \n"),
    ],
)
def test_a_submission_file(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path, task: str, name: str, header: str
) -> None:
    words = ["predict", tiny_bundle, tiny_data / name, "--task", task]
    labels = [row["label"] for row in json.loads(invoke(*words, "--json").stdout)["predictions"]]
    if task == "paraphrase":
        labels = [float(label) for label in labels]
    ids = [line.split("\t")[1] for line in (tiny_data / name).read_text().splitlines()[1:]]
    expected = [f"{id_} , {label} \n" for id_, label in zip(ids, labels, strict=True)]
    invoke(*words, "--submission", "--output", tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_bytes() == (header + "".join(expected)).encode()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", "a", "--text2", "b"], "no task is named; this bundle has sentiment, par"),
        (["--task", "mood", "--text", "a"], "no task 'mood'; this bundle has sentiment, par"),
        (["--task", "similarity", "--text", "a", "--text2", "b", "--text2", "c"], "1 --text but 2"),
        (["--task", "similarity", "--text2", "b"], "0 --text but 1 --text2"),
        (["--task", "sentiment", "--text", "a", "--text2", "b"], "the task takes single sentences"),
        (["in.csv", "--task", "sentiment", "--text", "a"], "both --text and in.csv are given"),
        (["--task", "sentiment", "--submission"], "--submission needs a test file"),
        (["-", "--task", "sentiment", "--submission"], "--submission needs a test file"),
        (["a.csv", "--task", "sentiment", "--submission", "--json"], "and not --json"),
        (["a.csv", "--task", "a", "--task", "b", "--submission"], "--submission is for one task"),
        (["a.csv", "--ray"], "--ray needs --shard-rows"),
        (["--shard-rows", "5", "--output", "labels"], "--shard-rows needs a CSV or JSONL file"),
        (["a.csv", "--shard-rows", "5"], "--shard-rows needs an output folder"),
    ],
)
def test_invalid_combinations_of_options_are_refused(
    tiny_bundle: Path, words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        invoke("predict", tiny_bundle, *words)


@pytest.mark.parametrize(
    ("words", "stdin", "message"),
    [
        (["--task", "sentiment"], b"a film\n\nb\n", "standard input:2: sentence is empty"),
        (["--task", "sentiment"], b"\xff\n", "standard input:1: byte 0xff is not UTF-8"),
        (["--task", "similarity"], b"a film\n", "standard input:1: 1 sentence"),
        (["--task", "similarity", "--text", "a"], None, "--text:1: 1 sentence"),
        (["/nowhere/in.csv", "--task", "sentiment"], None, "/nowhere/in.csv: cannot be read"),
    ],
)
def test_missing_and_invalid_sentences_are_reported(
    tiny_bundle: Path, words: list[str], stdin: bytes | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        invoke("predict", tiny_bundle, *words, stdin=stdin)
