"""Who is told what of a sweep, and that the URL stays a secret."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_setup.errors import ConfigError
from search.config.load import read_sweep
from search.config.sweep_config import Notify
from search.driver.notify import Notifier

SECRET = "T0/B0/hunter2"


class Chat:
    """A server that hears, and answers with a status of its own."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        chat = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                chat.heard.append({"path": self.path, **json.loads(content)})
                self.send_response(chat.statuses.pop(0) if chat.statuses else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/{SECRET}"


@pytest.fixture
def chat() -> Iterator[Chat]:
    chat = Chat()
    yield chat
    chat.server.shutdown()
    chat.server.server_close()


def test_a_url_is_told_of_the_end_and_of_the_first_failure(chat: Chat) -> None:
    said: list[str] = []
    notifier = Notifier(Notify(url="$HOOK"), "mine", said.append, {"HOOK": chat.url})
    notifier.send("failure", "trial 0003 failed: no luck", trial="0003")
    notifier.send("failure", "trial 0004 failed: no luck", trial="0004")
    notifier.close()
    chat.statuses = [500]  # once: it is sent again
    notifier.send("end", "has ended: 3 finished", trials={"finished": 3})
    notifier.close()
    failure, first, end = chat.heard
    assert failure == {
        "path": f"/{SECRET}",
        "event": "failure",
        "sweep": "mine",
        "text": "mine: trial 0003 failed: no luck",
        "trial": "0003",
    }
    assert first == end
    assert (end["event"], end["trials"]) == ("end", {"finished": 3})
    assert said == []


def test_what_cannot_be_told_is_said_without_the_url(chat: Chat) -> None:
    said: list[str] = []
    chat.statuses = [403] * 3
    Notifier(Notify(url="$HOOK"), "mine", said.append, {"HOOK": chat.url}).send("end", "")
    closed = {"HOOK": f"http://127.0.0.1:9/{SECRET}"}
    notifier = Notifier(Notify(url="$HOOK", command="false"), "mine", said.append, closed)
    notifier.send("stop", "was stopped")
    notifier.close()
    for _ in range(100):
        if len(said) == 3:
            break
        threading.Event().wait(0.05)
    assert sorted(said) == [
        "notify.command: failed: exit code 1",
        "notify.url: not sent: ConnectionError",
        "notify.url: not sent: status 403",
    ]


def test_a_command_reads_it_on_its_standard_input(tmp_path: Path) -> None:
    """No shell is between: what a trial's error says is run nowhere."""
    told = tmp_path / "told"
    notifier = Notifier(Notify(command=f"tee {told}"), "mine", print, {})
    notifier.send("failure", "$(touch /tmp/owned); `x`", trial="1")
    notifier.close()
    assert json.loads(told.read_text())["text"] == "mine: $(touch /tmp/owned); `x`"


@pytest.mark.parametrize(("value", "state"), [(None, "is not set"), ("ftp://x", "holds no http")])
def test_a_variable_without_a_url_is_refused_before_the_sweep(
    value: str | None, state: str
) -> None:
    given = {} if value is None else {"HOOK": value}
    with pytest.raises(
        ConfigError, match=f"notify.url=.HOOK: .* HOOK {state}(.|\n)*fix: export HOOK"
    ):
        Notifier(Notify(url="$HOOK"), "mine", print, given)


def test_a_url_itself_is_no_setting(tmp_path: Path) -> None:
    """It would be written into the sweep's file."""
    path = tmp_path / "mine.yaml"
    path.write_text("notify: {url: $HOOK, command: mail me}\n")
    sweep = read_sweep(str(path), (), {})
    assert (sweep.notify.url, sweep.notify.command) == ("$HOOK", "mail me")
    assert sweep.to_file()["notify"] == {"url": "$HOOK", "command": "mail me"}
    with pytest.raises(ConfigError, match=r"notify\.url") as caught:
        read_sweep(str(path), [f"notify.url=https://hooks.example/{SECRET}"], {})
    assert "hunter2" not in str(caught.value)
