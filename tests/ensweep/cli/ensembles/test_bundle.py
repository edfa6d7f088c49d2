"""`ensweep export`, `verify`, `predict` and `evaluate` as a user types them."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError, DataError, EnsweepError, IntegrityError

PAIR = ("how do i learn chess", "can i learn chess well")


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "ENSWEEP_STORAGE"):
        monkeypatch.delenv(name, raising=False)


def invoke(*words: str | Path, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(app, list(map(str, words)), input=stdin)
    if isinstance(result.exception, EnsweepError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_export_and_verify(tiny_runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "bundle"
    done = invoke("export", "--storage", tiny_runs, "--output", output)  # the latest sweep
    assert str(output) in done.stdout
    assert "member(s)" in done.stdout
    assert f"{output}: verified" in invoke("verify", output).stdout
    content = json.loads(invoke("verify", output, "--json").stdout)
    assert content["tasks"] == ["sentiment", "paraphrase", "similarity"]
    assert content["members"]
    for sweep in ("tiny", "none"):
        with pytest.raises(ConfigError, match="is there already"):
            invoke("export", sweep, "--storage", tiny_runs, "--output", output)


def test_export_takes_the_choice_that_was_logged(
    tiny_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export with unchanged runs uses the logged choice."""
    words = ["--storage", tiny_runs, "--method", "top"]
    shown = json.loads(invoke("ensemble", *words, "--json").stdout)
    with monkeypatch.context() as patched:
        patched.setattr("ensemble.export.write.choose_ensemble", None)
        invoke("export", *words, "--output", tmp_path / "bundle")
        with pytest.raises(TypeError):  # no choice is logged for another request
            CliRunner().invoke(
                app,
                ["export", "--storage", str(tiny_runs), "--max-members=1", f"-o{tmp_path / 'x'}"],
                catch_exceptions=False,
            )
    contents = json.loads((tmp_path / "bundle" / "ensemble.json").read_text())
    for name, entry in contents["tasks"].items():
        members = shown["tasks"][name]["methods"]["selective"]["members"]
        assert [share["weight"] for share in entry["members"]] == [m["weight"] for m in members]
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert " ms a sentence on the machine that exported it" in card
    assert (tmp_path / "bundle" / "pictures" / "gain.png").is_file()


def test_data_and_sentences_by_uri_are_those_at_the_path(
    tiny_bundle: Path, tiny_data: Path
) -> None:
    words = ["evaluate", tiny_bundle, "--json", "--data-dir"]
    by_path, by_uri = (
        json.loads(invoke(*words, place).stdout)["scores"]
        for place in (tiny_data, f"file://{tiny_data}")
    )
    assert by_uri == by_path
    file, words = tiny_data / "ids-sst-dev.csv", ["predict", tiny_bundle, "--task", "sentiment"]
    assert invoke(*words, f"file://{file}").stdout == invoke(*words, file).stdout
    shown = invoke("data", "check", f"file://{tiny_data}").stdout
    assert shown == invoke("data", "check", tiny_data).stdout


def test_listed_runs_are_exported(tiny_runs: Path, tmp_path: Path) -> None:
    listed = ["--runs", "sentiment=0001-baseline,0002-b3", "--runs", "similarity=0002-b3"]
    invoke("export", "--storage", tiny_runs, "--output", tmp_path / "bundle", *listed)
    contents = json.loads((tmp_path / "bundle" / "ensemble.json").read_text())
    trials = {name: member["trial"] for name, member in contents["members"].items()}
    assert sorted(trials.values()) == ["0001-baseline", "0002-b3"]
    shares = {
        task: {trials[share["member"]]: share["weight"] for share in entry["members"]}
        for task, entry in contents["tasks"].items()
    }
    both = {"0001-baseline": 0.5, "0002-b3": 0.5}
    assert shares == {"sentiment": both, "similarity": {"0002-b3": 1.0}}
    notes = [path.read_text() for path in (tiny_runs / "tiny" / "ensemble").glob("*.json")]
    assert any("0001-baseline" in note and "0002-b3" in note for note in notes)
    with pytest.raises(ConfigError, match=r"lists the members: .*combined with --max-cost"):
        invoke("export", "-o", tmp_path / "x", *listed, "--max-cost", "1")


def test_export_in_half_precision(
    tiny_runs: Path, tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "half"
    words = ["export", "--storage", tiny_runs, "--output", output, "--method", "simple"]
    with pytest.raises(ConfigError, match="needs dev files to measure its effect"):
        invoke(*words, "--precision", "fp16")
    with pytest.raises(ConfigError, match="is for --precision fp16 or bf16"):
        invoke(*words, "--data-dir", tiny_data)
    done = invoke(*words, "--precision", "fp16", "--data-dir", f"file://{tiny_data}")
    content = json.loads((output / "ensemble.json").read_text())
    assert content["precision"] == "fp16"
    scores = {
        folder: json.loads(invoke("evaluate", folder, "--data-dir", tiny_data, "--json").stdout)
        for folder in (tiny_bundle, output)
    }
    for task, found in content["halved"].items():
        assert found["fp32"] == scores[tiny_bundle]["scores"][task]
        assert found["stored"] == scores[output]["scores"][task]
        assert found["num_rows"] == 32
        line = f"{found['fp32']:.4f} in fp32, {found['stored']:.4f} in fp16"
        assert line in done.stdout
        assert (
            f"| {task} | 32 | {found['fp32']:.4f} | {found['stored']:.4f} | "
            in (output / "README.md").read_text()
        )
    assert list(content["halved"]) == ["sentiment", "paraphrase", "similarity"]
    sizes = [
        sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        for folder in (tiny_bundle, output)
    ]
    assert sizes[1] < 0.6 * sizes[0]
    assert f"{output}: verified" in invoke("verify", output).stdout


def test_a_tampered_bundle_is_refused_by_every_command(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (folder / "README.md").write_text("better")
    for words in (
        ["verify", folder],
        ["predict", folder, "--task", "sentiment", "--text", "a film"],
        ["evaluate", folder, "--data-dir", tiny_data],
    ):
        with pytest.raises(IntegrityError, match=r"changed since it was written: README\.md"):
            invoke(*words)


def test_typed_sentences(tiny_bundle: Path) -> None:
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


def test_pairs_in_every_way(tiny_bundle: Path, tmp_path: Path) -> None:
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
def test_a_submission(
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


def test_evaluate(tiny_bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    done = invoke("evaluate", tiny_bundle, "--data-dir", tiny_data, "--json")
    content = json.loads(done.stdout)
    assert list(content["scores"]) == ["sentiment", "paraphrase", "similarity", "overall"]
    assert content["num_rows"]["sentiment"] == 32
    assert all(seconds > 0 for seconds in content["seconds_per_1000"].values())
    assert content["is_dev"] == dict.fromkeys(["sentiment", "paraphrase", "similarity"], True)
    said = "sentiment, paraphrase, similarity: in-sample: the search and the choice of members used"
    assert said in done.stderr
    shown = invoke("evaluate", tiny_bundle, "--data-dir", tiny_data)
    for name, score in content["scores"].items():
        assert [
            line for line in shown.stdout.splitlines() if name in line and f"{score:.4f}" in line
        ]
    assert "32 rows; " in shown.stdout
    assert " s per 1,000 sentences\n" in shown.stdout
    lines = (tiny_data / "ids-sst-dev.csv").read_text().splitlines()
    lines[1] = "\t".join([*lines[1].split("\t")[:-1], ""])
    (tmp_path / "ids-sst-test-student.csv").write_text("\n".join(lines))
    words = ["evaluate", tiny_bundle, "--data-dir", tmp_path, "--split", "test"]
    with pytest.raises(DataError, match=r"ids-sst-test-student.csv:2: column sentiment is empty"):
        invoke(*words)
    skipped = invoke(*words, "--on-bad-rows", "skip")
    assert "31 rows, 1 skipped" in skipped.stdout
    assert "not scored: paraphrase: quora-test-student.csv does not exist" in skipped.stderr
    assert "in-sample" not in skipped.stderr
    assert "sentiment: out-of-sample: these rows are not the members' dev set" in (skipped.stderr)
    (tmp_path / "ids-sst-dev.csv").write_text("\n".join(lines[2:]).join([lines[0] + "\n", "\n"]))
    renamed = invoke("evaluate", tiny_bundle, "--data-dir", tmp_path, "--json")
    assert json.loads(renamed.stdout)["is_dev"] == {"sentiment": False}  # whatever its name


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
def test_options_that_do_not_fit(tiny_bundle: Path, words: list[str], message: str) -> None:
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
def test_sentences_that_are_missing(
    tiny_bundle: Path, words: list[str], stdin: bytes | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        invoke("predict", tiny_bundle, *words, stdin=stdin)
