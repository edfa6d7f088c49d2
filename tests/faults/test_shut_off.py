"""S9, S12: the commands from data to labels, under umask 000 and without a network."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from drivers import ROOT
from fault_table import Table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.rare("test_docs.py goes from data to labels; modes and addresses have unit tests"),
]

OFFLINE_SETTINGS = ("MLFLOW_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "RAY_USAGE_STATS_ENABLED")
"""Unset here, so that the program's defaults apply."""

RUN_COMMANDS = """
import sys
from ensweep.cli.app import main
for command in sys.argv[1:]:
    print("$", command, flush=True)
    sys.argv = ["ensweep", *command.split()]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, (command, ended.code)
"""


def namespace() -> list[str]:
    """The start of a command that runs with loopback as its only network; [] if that is not
    permitted."""
    for options in ([], ["--user", "--map-root-user"]):
        start = ["unshare", *options, "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        try:
            subprocess.run([*start, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return start
    return []


class Work:
    """Runs commands one after another in one process and one folder."""

    def __init__(self, folder: Path, start: list[str]) -> None:
        self.folder, self.start = folder, start
        self.has_no_network = bool(start)
        self.num_commands = 0

    def ensweep(self, *commands: str) -> None:
        given = {key: value for key, value in os.environ.items() if key not in OFFLINE_SETTINGS}
        done = subprocess.run(
            [*self.start, sys.executable, "-c", RUN_COMMANDS, *commands],
            cwd=self.folder,
            env={**given, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(self.folder / "ray")},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
            umask=0,
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        self.num_commands += len(commands)


@pytest.fixture(scope="module")
def work(tiny_encoder: Path) -> Iterator[Work]:
    with tempfile.TemporaryDirectory(
        prefix="es", dir="/tmp"
    ) as name:  # short, because of Ray's sockets
        folder = Path(name)
        work = Work(folder, namespace())
        (folder / "ray").mkdir()
        content = {
            "config": {
                "model.encoder": str(tiny_encoder),
                "model.fcn_size": 8,
                "train.num_epochs": 1,
                "data.dir": str(folder / "data"),
            },
            "space": {"optim.lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}},
            "search": {"num_samples": 2},
        }
        (folder / "mine.yaml").write_text(yaml.safe_dump(content))
        predict = "predict bundle data/ids-sst-dev.csv --task sentiment --output"
        work.ensweep(
            "data sample data --train-rows 40 --dev-rows 30",
            "data check data",
            "sweep mine.yaml --name s",
            "leaderboard s",
            "ensemble s",
            "export s --output bundle",
            "evaluate bundle --data-dir data",
            f"{predict} labels.csv",
            f"{predict} labels --shard-rows 20",
        )
        yield work


@pytest.mark.promise(
    "S9",
    "umask 000 from data to labels (tiny BERT)",
    "no file of the storage folder is writable by others; only its owner can read a sweep",
)
def test_s9_records_are_private_under_any_umask(work: Work, table: Table) -> None:
    storage = work.folder / "runs"
    found = {
        path: stat.S_IMODE(path.lstat().st_mode)
        for path in storage.rglob("*")
        if not path.is_symlink()
    }
    table.played(len(found))
    assert len(found) > 50
    assert {path: oct(mode) for path, mode in found.items() if mode & 0o022} == {}
    assert stat.S_IMODE((storage / "s").stat().st_mode) == 0o700
    for name in ("sweep.yaml", "trials/0001/config.json", "trials/0001/outcome.json"):
        assert found[storage / "s" / name] == 0o600
    for path in ("labels.csv", "bundle/manifest.json", "bundle/model.safetensors", "data"):
        expected = 0o777 if path == "data" else 0o666
        assert stat.S_IMODE((work.folder / path).stat().st_mode) == expected


@pytest.mark.promise(
    "S12",
    "a network namespace without routes, from data to labels (tiny BERT)",
    "every command succeeds",
)
def test_s12_all_commands_work_without_a_network(work: Work, table: Table) -> None:
    if not work.has_no_network:
        pytest.skip("this user may not create a network namespace")
    table.played(work.num_commands)
    labels = (work.folder / "labels.csv").read_text().splitlines()
    assert len(labels) == 31
    assert len(list((work.folder / "labels").glob("labels-*.csv"))) == 2
