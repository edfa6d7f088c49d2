"""R10: a kill while a checkpoint is saved does not lose the saved ones."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from fault_table import Table
from scale import SCALE
from stored_steps import CHILD_SECONDS, assert_no_leftovers, loaded_step, state

from mlflow_setup.filesystem.storage import TEMPORARY
from trainable.storage.checkpoint import save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


def save_forever(folder: Path, step: int, committed: int) -> None:
    """Save checkpoints, and write each completed step into the file descriptor `committed`."""
    while True:
        step += 1
        save_checkpoint(folder, step, state(step))
        os.write(committed, step.to_bytes(4))


@pytest.mark.promise(
    "R10", "SIGKILL at a random moment of saving", "the last saved checkpoint, or the next, loads"
)
def test_r10_a_kill_while_saving_keeps_saved_checkpoints(disk: Path, table: Table) -> None:
    table.played(100 * SCALE)
    draw = random.Random(10)
    step, num_interrupted = 1, 0
    save_checkpoint(disk, step, state(step))
    for number in range(100 * SCALE):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(CHILD_SECONDS)
            try:
                save_forever(disk, step, writer)
            finally:
                os._exit(1)
        os.close(writer)
        first = (
            os.read(reader, 4) if number % 2 else b""
        )  # every second child completes at least one step
        time.sleep(draw.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with os.fdopen(reader, "rb") as committed:
            last = int.from_bytes((first + committed.read())[-4:]) or step
        num_interrupted += any(disk.glob(f"{TEMPORARY}*"))
        step = loaded_step(disk)
        assert step in (last, last + 1)
        assert_no_leftovers(disk)
        assert not (disk / "quarantine").exists()
    assert num_interrupted > 0
    assert step > 50 * SCALE
