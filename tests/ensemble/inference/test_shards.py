"""Shards are written atomically, and interrupted work is resumed."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from patience import wait_until

from ensemble.inference.ensemble import Ensemble
from ensemble.inference.label_files import csv_parts
from ensemble.inference.sentence_files import read_file
from ensemble.inference.shards import FACTS, SHARDS, Shard, write_shards
from mlflow_setup.errors import ConfigError, DataError, IntegrityError
from mlflow_setup.filesystem.manifest import MANIFEST, find_damage
from trainable.runtime.progress import Work, report_to

TASKS = ["paraphrase", "similarity"]

_WRITE_SLOWLY = """
import sys, time
from pathlib import Path
from ensemble.inference.ensemble import Ensemble
from ensemble.inference.shards import contents, write_shards
bundle, source, output = map(Path, sys.argv[1:])
ensemble = Ensemble.load(bundle)
def label(shards):
    for number, rows in shards:
        yield number, contents(ensemble, ["paraphrase", "similarity"], False, rows)
        time.sleep(0.2)
write_shards(ensemble, source, ["paraphrase", "similarity"], output, 3, label=label)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    words = ["a warm film", "the dull plot", "how do i learn chess", "chess"]
    lines = [f"{n},{words[n % 4]},{words[n // 3 % 4]}" for n in range(20)]
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(["id,sentence1,sentence2", *lines]) + "\n")
    return path


def test_shards_have_all_rows_in_order(ensemble: Ensemble, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels"
    assert write_shards(ensemble, source, TASKS, output, 6) == (4, 0)
    shards = [pd.read_csv(path) for path in sorted(output.glob("labels-*.csv"))]
    assert [len(shard) for shard in shards] == [6, 6, 6, 2]
    found = pd.concat(shards, ignore_index=True)
    assert found["id"].tolist() == list(range(20))
    (frame,) = read_file(source, [ensemble.tasks[name] for name in TASKS])
    (text,) = csv_parts([(frame, ensemble.label(frame, TASKS))])
    pd.testing.assert_frame_equal(found, pd.read_csv(io.StringIO(text)), atol=1e-4, rtol=0)
    assert find_damage(output, FACTS) is None
    again = write_shards(ensemble, source, TASKS, output, 6)
    assert again == (4, 4)


def test_progress_is_reported(ensemble: Ensemble, source: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    reported: list[Work] = []
    with report_to(reported.append):
        write_shards(ensemble, source, TASKS, tmp_path / "labels", 6)
    shards = [work for work in reported if work.what == "labelling shards"]
    assert [shards[0].done, shards[-1].done] == [0, 4]
    assert {work.total for work in shards} == {4}


def test_only_missing_shards_are_labelled(ensemble: Ensemble, source: Path, tmp_path: Path) -> None:
    output, labelled = tmp_path / "labels", []

    def fail_at_the_third(shards: Iterator[Shard]) -> Iterator[tuple[int, str]]:
        for number, _ in shards:
            if number == 2:
                raise KeyboardInterrupt
            yield number, f"{number}\n"

    def out_of_order(shards: Iterator[Shard]) -> Iterator[tuple[int, str]]:
        for number, _ in reversed(list(shards)):
            labelled.append(number)
            yield number, f"{number}\n"

    with pytest.raises(KeyboardInterrupt):
        write_shards(ensemble, source, TASKS, output, 5, label=fail_at_the_third)
    assert not (output / MANIFEST).exists()
    (output / ".tmp-torn").write_text("x")
    assert write_shards(ensemble, source, TASKS, output, 5, label=out_of_order) == (4, 2)
    assert labelled == [3, 2]
    found = {path.name: path.read_text() for path in output.glob("labels-*")}
    assert found == {f"labels-0000{n}.csv": f"{n}\n" for n in range(4)}
    assert find_damage(output, FACTS) is None


def test_a_folder_with_labels_of_other_work_is_refused(
    ensemble: Ensemble, source: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    output = tmp_path / "labels"
    write_shards(ensemble, source, TASKS, output, 10)
    with pytest.raises(ConfigError, match=r"labels of other work; shards.json differs in rows"):
        write_shards(ensemble, source, TASKS, output, 11)
    with pytest.raises(ConfigError, match=r"other work; .* differs in tasks, form"):
        write_shards(ensemble, source, TASKS[:1], output, 10, as_json=True)
    other = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    manifest = json.loads((other / MANIFEST).read_text())
    (other / MANIFEST).write_text(json.dumps(manifest))  # one line: another fingerprint
    with pytest.raises(ConfigError, match=r"other work; .* differs in bundle"):
        write_shards(Ensemble.load(other), source, TASKS, output, 10)
    source.write_text(source.read_text().replace("chess", "go"))
    with pytest.raises(ConfigError, match=r"other work; .* differs in input"):
        write_shards(ensemble, source, TASKS, output, 10)
    with pytest.raises(ConfigError, match="already exists"):
        write_shards(ensemble, source, TASKS, tiny_bundle, 10)
    with pytest.raises(DataError, match="cannot be read"):
        write_shards(ensemble, tmp_path / "none.csv", TASKS, tmp_path / "new", 10)


def test_changed_labels_are_refused(ensemble: Ensemble, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels"
    write_shards(ensemble, source, TASKS, output, 10, as_json=True)
    assert json.loads((output / "labels-00001.json").read_text())["tasks"] == TASKS
    (output / "labels-00001.json").write_text("{}")
    with pytest.raises(IntegrityError, match="changed since it was written"):
        write_shards(ensemble, source, TASKS, output, 10, as_json=True)
    (output / SHARDS).write_text("{")
    with pytest.raises(IntegrityError, match="not a JSON object"):
        write_shards(ensemble, source, TASKS, output, 10, as_json=True)


@pytest.mark.slow
def test_killed_work_is_resumed(ensemble: Ensemble, source: Path, tmp_path: Path) -> None:
    output, expected = tmp_path / "labels", tmp_path / "expected"
    paths = map(str, (ensemble.bundle.folder, source, output))
    command = [sys.executable, "-c", _WRITE_SLOWLY, *paths]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    wait_until(lambda: process.poll() is not None or len(list(output.glob("labels-*"))) > 1)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in output.glob("labels-*")}
    assert not (output / MANIFEST).exists()
    total, found = write_shards(ensemble, source, TASKS, output, 3)
    assert (total, found) == (7, len(before))
    assert all(path.stat().st_mtime_ns == modified for path, modified in before.items())
    write_shards(ensemble, source, TASKS, expected, 3)
    assert [p.read_text() for p in sorted(output.glob("labels-*"))] == [
        p.read_text() for p in sorted(expected.glob("labels-*"))
    ]
