"""`ensweep export`, `verify` and `evaluate`."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError, DataError, EnsweepError, IntegrityError


def invoke(*words: str | Path) -> Result:
    result = CliRunner().invoke(app, list(map(str, words)))
    if isinstance(result.exception, EnsweepError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


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


def test_export_uses_the_logged_choice(
    tiny_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_data_and_sentences_at_uris_are_read_like_those_at_paths(
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


def test_evaluate(tiny_bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    done = invoke("evaluate", tiny_bundle, "--data-dir", tiny_data, "--json")
    content = json.loads(done.stdout)
    assert list(content["scores"]) == ["sentiment", "paraphrase", "similarity", "overall"]
    assert content["num_rows"]["sentiment"] == 32
    assert all(seconds > 0 for seconds in content["seconds_per_1000"].values())
    assert content["is_dev"] == dict.fromkeys(["sentiment", "paraphrase", "similarity"], True)
    message = (
        "sentiment, paraphrase, similarity: in-sample: the search and the choice of members used"
    )
    assert message in done.stderr
    shown = invoke("evaluate", tiny_bundle, "--data-dir", tiny_data)
    lines = shown.stdout.splitlines()
    for name, score in content["scores"].items():
        assert any(name in line and f"{score:.4f}" in line for line in lines)
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
    assert "sentiment: out-of-sample: these rows are not the members' dev set" in skipped.stderr
    (tmp_path / "ids-sst-dev.csv").write_text("\n".join(lines[2:]).join([lines[0] + "\n", "\n"]))
    renamed = invoke("evaluate", tiny_bundle, "--data-dir", tmp_path, "--json")
    assert json.loads(renamed.stdout)["is_dev"] == {"sentiment": False}  # despite the file's name
