"""S4: path traversal in names: 500 * ENSWEEP_FAULTS_SCALE paths for each function with a name."""

import contextlib
import itertools
import os
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fault_table import Table
from scale import SCALE

from ensemble.bundle.format import ENSEMBLE, FACTS, Bundle, Contents, MemberEntry, Share, TaskEntry
from mlflow_setup.errors import ConfigError, DataError, EnsweepError, IntegrityError
from mlflow_setup.filesystem.manifest import write_manifest
from mlflow_setup.filesystem.paths import inside, safe_name
from trainable.config.config import Config
from trainable.config.sections import Data
from trainable.config.tasks import PAPER_TASKS, Kind
from trainable.storage.predictions import Predictions
from trainable.storage.trial_folder import TrialFolder

OUTSIDE = "secret"


def traversals(draw: random.Random, count: int) -> list[str]:
    """Distinct names that try to leave their folder for the folder `OUTSIDE`."""
    ups = ["..", ".", "...", "%2e%2e", "%2E%2e", "%252e%252e", "%25252e%25252e", ".%2e", "%c0%ae"]
    ups += ["\uff0e\uff0e", "\u2024\u2024", "\u2025", "\ufe52\ufe52", "..;", "..%00", "..\0", " .."]
    ups += [".. ", "..\t", "..\n", "link", "~", "~root", "$HOME", "a/..", "\u202e..", "%u002e."]
    slashes = ["/", "//", "\\", "\\\\", "%2f", "%252f", "%5c", "%c0%af", "/./", "\0/", ":", "\n/"]
    slashes += ["\u2215", "\u2044", "\uff0f"]
    starts = [
        "",
        "/",
        "//",
        "\\\\server\\",
        "C:\\",
        "C:/",
        "file:",
        "file:///",
        "file://localhost/",
    ]
    starts += ["s3://", "mlflow-artifacts:/", "/proc/self/root/", "a/", "#/", "?path=", "runs:/"]
    ends = ["", OUTSIDE, f"{OUTSIDE}/file", "x" * 300, "file\0.json", "#fragment", "?query", "."]
    single = [f"{up}{slash}{end}" for up, slash, end in itertools.product(ups, slashes, ends)]
    fixed = ["", "x" * 101, "x" * 5000, "a" * 256, "/etc/passwd", "link", "link/file", "up/secret"]
    found = dict.fromkeys(fixed)
    while len(found) < count:
        up, slash, times = draw.choice(ups), draw.choice(slashes), draw.randint(1, 6)
        found[draw.choice(starts) + (up + slash) * times + draw.choice(ends)] = None
        found[draw.choice(single)] = None
    return list(found)[:count]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with links to a secret folder beside it."""
    folder = tmp_path / "root"
    (tmp_path / OUTSIDE).mkdir()
    (tmp_path / OUTSIDE / "file").write_text("secret")
    for parent in (folder, folder / "predictions"):
        parent.mkdir()
        (parent / "link").symlink_to(tmp_path / OUTSIDE)
        (parent / "up").symlink_to("..")
        (parent / "loop").symlink_to("loop")
    return folder


PATHS = traversals(random.Random(4), 500 * SCALE)

escaping = pytest.mark.promise(
    "S4",
    "paths in place of names, given to every function and command that takes a name",
    "none leads out of its folder",
)


def assert_below(path: Path, root: Path) -> None:
    resolved = Path(os.path.realpath(path))
    assert resolved != root.resolve()
    assert resolved.is_relative_to(root.resolve())


@escaping
def test_s4_inside_returns_no_path_outside(root: Path, table: Table) -> None:
    table.played(len(PATHS))
    num_refused = 0
    for text in PATHS:
        try:
            found = inside(root, text)
        except IntegrityError:
            num_refused += 1
        else:
            assert_below(found, root)
    assert len(set(PATHS)) == 500 * SCALE
    assert num_refused > 0.9 * len(PATHS)


@escaping
def test_s4_safe_name_returns_no_path(root: Path, table: Table) -> None:
    table.played(len(PATHS))
    for text in PATHS:
        with contextlib.suppress(ConfigError):
            name = safe_name(text, "sweep")
            assert (root / name).parent == root
            assert Path(name).name == name


@escaping
def test_s4_task_names_of_predictions(root: Path, table: Table) -> None:
    table.played(len(PATHS))
    trial = TrialFolder(root)
    outputs = np.zeros(1, np.float32)
    plain = Predictions("mood", Kind.SIMILARITY, "dev", ("a",), outputs, None, "data", "words")
    before = everything(root.parent)
    for text in PATHS:
        with contextlib.suppress(EnsweepError):
            trial.write_predictions(1, [replace(plain, task_name=text)])
    new = set(everything(root.parent)) - set(before)
    assert all(path.is_relative_to(root / "predictions") for path in new)
    assert list((root.parent / OUTSIDE).iterdir()) == [root.parent / OUTSIDE / "file"]


@escaping
def test_s4_member_and_encoder_names_of_a_bundle(root: Path, table: Table) -> None:
    """With a matching manifest, which an attacker can write as well."""
    table.played(len(PATHS))
    config = Config(data=Data(tasks=("sentiment",))).flat()
    for number, text in enumerate(PATHS):
        names = (text, "plain") if number % 2 else ("plain", text)
        member = MemberEntry(
            run_id="r", sweep=None, trial="t", epoch=1, encoder=names[0], config=config
        )
        share = Share(member=names[1], weight=1.0)
        entry = TaskEntry(task=PAPER_TASKS["sentiment"], members=(share,), scores={})
        contents = Contents(
            schema_version=2, tasks={"sentiment": entry}, members={names[1]: member}
        )
        bundle = Bundle(root, contents)
        for folder in (bundle.weights_dir, bundle.encoder_dir):
            with contextlib.suppress(IntegrityError):
                assert_below(folder(names[1]), root)
        folder = root.parent / "bundle"
        folder.mkdir()
        (folder / ENSEMBLE).write_text(contents.to_json(), encoding="utf-8")
        write_manifest(folder, FACTS)
        with pytest.raises(IntegrityError):
            Bundle.load(folder)
        shutil.rmtree(folder)


@escaping
def test_s4_names_of_sweeps_trials_runs_and_artifacts(root: Path, table: Table) -> None:
    table.played(len(PATHS))
    from mlflow_setup.runs.query import download
    from mlflow_setup.runs.sweep_run import Mirror
    from mlflow_setup.schema import TrialRecord, TrialSnapshot
    from mlflow_setup.tracking.store import Tracking

    tracking = Tracking(f"sqlite:///{root}/never-made.db")
    num_refused = 0
    for text in PATHS:
        if not is_name(text):
            num_refused += 1
            with pytest.raises(ConfigError):
                Mirror(tracking, text)
            record = TrialRecord(text, "sweep", "b1", {}, {}, 0, "data", None, 0.0)
            with pytest.raises(ConfigError):
                Mirror(tracking, "sweep").project(TrialSnapshot(record, (), None, {}, "", ()))
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", text):
            with pytest.raises(EnsweepError):
                download(tracking, text, "config.json", root)
        if not is_inside(text):
            with pytest.raises(EnsweepError):
                download(tracking, "0123abc", text, root)
    assert num_refused > 0.9 * len(PATHS)
    assert not (root / "never-made.db").exists()


@escaping
def test_s4_name_of_a_new_sweep(root: Path, table: Table) -> None:
    table.played(len(PATHS))
    from mlflow_setup.tracking.store import Tracking
    from search.config.load import read_sweep
    from search.driver.sweep import run_sweep

    tracking = Tracking(f"sqlite:///{root}/never-made.db")
    sweep = read_sweep("demo", environment={})
    before = everything(root.parent)
    for text in PATHS:
        with pytest.raises(EnsweepError) as refused:  # a valid name lacks data
            run_sweep(sweep, text, root, tracking)
        assert isinstance(refused.value, DataError if is_name(text) else ConfigError)
    assert everything(root.parent) == before


@escaping
@pytest.mark.parametrize(
    "command", [["sync"], ["leaderboard"], ["ensemble"], ["export", "--output", "bundle"]]
)
def test_s4_name_in_a_command(
    root: Path, monkeypatch: pytest.MonkeyPatch, table: Table, command: list[str]
) -> None:
    table.played(len(PATHS))
    from typer.testing import CliRunner

    from ensweep.cli.app import app

    monkeypatch.chdir(root)
    for name in ("MLFLOW_TRACKING_URI", "ENSWEEP_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    before = everything(root.parent)
    for text in PATHS:
        result = CliRunner().invoke(app, [*command, "--storage", str(root), "--", text or "/"])
        assert isinstance(result.exception, EnsweepError), text
        assert result.stdout == ""
    assert everything(root.parent) == before


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def is_name(text: str) -> bool:
    try:
        safe_name(text, "name")
    except ConfigError:
        return False
    return True


def is_inside(text: str) -> bool:
    """Whether `inside`, which is tested above, accepts the path."""
    try:
        inside(Path("/nowhere"), text)
    except EnsweepError:
        return False
    return True
