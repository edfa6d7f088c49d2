"""The switch that stops a sweep: by signal, by reason, once."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import PATIENCE

from search.driver.stop_switch import StopSwitch


@pytest.fixture
def _own_signals() -> Iterator[None]:
    """The default handlers: `nohup` and background jobs ignore some signals."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        is_ctrl_c = number is signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_ctrl_c else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_own_signals")
@pytest.mark.parametrize(
    ("number", "reason", "exit_code"),
    [
        (signal.SIGINT, "Ctrl-C", 130),
        (signal.SIGTERM, "SIGTERM", 75),
        (signal.SIGHUP, "SIGHUP", 75),
    ],
)
def test_a_signal_turns_the_switch_on_and_writes_the_stop_file(
    tmp_path: Path, number: signal.Signals, reason: str, exit_code: int
) -> None:
    messages: list[str] = []
    file = tmp_path / "stop"
    file.touch()  # an earlier driver's
    with StopSwitch(file, messages.append) as switch:
        assert not file.exists()
        switch.expect_trials()
        os.kill(os.getpid(), number)
        assert switch.is_on
        assert (switch.reason, switch.exit_code) == (reason, exit_code)
        assert file.exists()
        switch.request("another reason", 1)
        assert switch.reason == reason
    assert not file.exists()
    assert messages == [f"stopping: {reason}; trials end at their next step, with a checkpoint"]


@pytest.mark.usefixtures("_own_signals")
def test_before_there_are_trials_a_signal_interrupts(tmp_path: Path) -> None:
    with StopSwitch(tmp_path / "stop", print) as switch:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        assert switch.exit_code == 75


@pytest.mark.usefixtures("_own_signals")
def test_trials_that_take_too_long_are_not_waited_for(tmp_path: Path) -> None:
    with StopSwitch(tmp_path / "stop", lambda line: None) as switch:
        switch.expect_trials()
        switch.request("SIGTERM", 75, grace_seconds=0.2)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5)


def test_the_second_signal_ends_the_process_and_prints_how_to_continue(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from search.driver.stop_switch import StopSwitch\n"
        "with StopSwitch(Path(sys.argv[1]), print, 'to go on: ensweep resume s') as switch:\n"
        "    switch.expect_trials(); print('on', flush=True); time.sleep(60)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "stop")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "on\n"
    driver.send_signal(signal.SIGTERM)
    while not (tmp_path / "stop").exists():
        time.sleep(0.05)
    driver.send_signal(signal.SIGTERM)
    _, text = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 75
    assert text == "to go on: ensweep resume s\n"


def test_an_ignored_sighup_stays_ignored(tmp_path: Path) -> None:
    """`nohup` starts processes in this way."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSwitch(tmp_path / "stop", print) as switch:
            switch.expect_trials()
            os.kill(os.getpid(), signal.SIGHUP)
            assert not switch.is_on
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_own_signals")
def test_a_driver_outlives_its_terminal_until_its_trials_have_stopped(tmp_path: Path) -> None:
    """Writing to a closed terminal raises; the driver still ends in order."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from search.driver.stop_switch import StopSwitch\n"
        "with StopSwitch(Path(sys.argv[1]), print) as switch:\n"
        "    switch.expect_trials(); print('on', flush=True)\n"
        "    while not switch.is_on: time.sleep(0.01)\n"
        "    print('still here', flush=True); Path(sys.argv[2]).touch()\n"
        "sys.exit(switch.exit_code)"
    )
    ours, theirs = pty.openpty()
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "stop"), str(tmp_path / "ended")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(1, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    assert os.read(ours, 100).startswith(b"on")
    os.close(ours)  # the kernel sends SIGHUP to the driver
    assert driver.wait(timeout=PATIENCE) == 75
    assert (tmp_path / "ended").exists()
