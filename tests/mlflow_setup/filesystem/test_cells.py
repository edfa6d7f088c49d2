"""Conditional writes: only one of several machines creates, holds or changes an object."""

import json
import threading

import pytest
from filelock import Timeout
from stores import URI, Machines

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem import lease as leases
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.filesystem.lease import Lease, read_lease


def test_only_one_of_two_machines_claims_a_folder(machines: Machines) -> None:
    here, there = machines.copy("here"), machines.copy("there")
    here.claim(here.root / "s")
    with pytest.raises(FileExistsError, match=f"{URI}/s"):
        there.claim(there.root / "s")
    here.give_back(here.root / "s")
    here.claim(here.root / "s")
    here.give_back(here.root / "s")
    there.claim(there.root / "s")
    write_atomic(there.root / "s" / "sweep.yaml", "")
    there.give_back(there.root / "s")  # it has begun
    assert "s/sweep.yaml" in machines.names()


def test_a_lease_is_held_by_only_one_machine(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(Lease, "is_dead", lambda self, holder: False)
    here, there = machines.copy("here"), machines.copy("there")
    with Lease(here.root / "s") as mine:
        with pytest.raises(ConfigError, match="sweep s is being run by process"):
            Lease(there.root / "s").__enter__()
        found = read_lease(there.root / "s" / "lease.json")
        assert found is not None
        assert found.token == mine.mine.token
    assert read_lease(there.root / "s" / "lease.json") is None
    with Lease(there.root / "s"):
        assert read_lease(here.root / "s" / "lease.json") is not None


def test_a_driver_notices_that_its_lease_in_the_store_was_taken_over(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)
    here = machines.copy("here")
    lease, notified = Lease(here.root / "s"), threading.Event()
    lease.on_lost = notified.set
    with lease:
        other = json.dumps({"host": "h", "pid": 1, "since": "", "token": "other"})
        here.store.put("s/lease.json", other.encode())
        assert notified.wait(5)
    assert here.store.get("s/lease.json")[0].decode() == other  # left to the other


def test_a_lock_excludes_other_machines(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(Lease, "is_dead", lambda self, holder: False)
    locks = [machines.copy(name) for name in ("here", "there")]
    ours, theirs = (copy.lock(copy.root / "s" / ".locks" / "t") for copy in locks)
    ours.acquire(timeout=1)
    with pytest.raises(Timeout):
        theirs.acquire(timeout=0)
    ours.release()
    theirs.acquire(timeout=1)
    theirs.release()


def test_a_store_that_ignores_conditions_is_refused(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = machines.copy("here")
    copy.probe()
    assert machines.names() == []
    monkeypatch.setattr(copy.store, "swap", lambda name, content, mark: "won")
    with pytest.raises(
        ConfigError, match=r"does not support conditional writes.*\nfix: use a store that does"
    ):
        copy.probe()


def test_a_write_whose_response_was_lost_counts_as_done(machines: Machines) -> None:
    """The client repeated a write that had succeeded: the rejected one is ours."""
    cell = machines.copy("here").cell(machines.folder / "here" / "cell")
    cell.store.put("cell", b"mine")
    assert cell.swap(None, "mine") == cell.read()[1]
    assert cell.swap(None, "other") is None
