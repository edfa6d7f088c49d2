"""Notifications of a sweep, whose URL stays secret."""

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
    """A server that records requests and answers them with the given statuses."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        chat = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                chat.requests.append({"path": self.path, **json.loads(content)})
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


def test_the_first_failure_and_the_end_are_sent_to_the_url(chat: Chat) -> None:
    messages: list[str] = []
    notifier = Notifier(Notify(url="$HOOK"), "mine", messages.append, {"HOOK": chat.url})
    notifier.send("failure", "trial 0003 failed: no luck", trial="0003")
    notifier.send("failure", "trial 0004 failed: no luck", trial="0004")
    notifier.close()
    chat.statuses = [500]  # once: it is sent again
    notifier.send("end", "has ended: 3 finished", trials={"finished": 3})
    notifier.close()
    failure, first, end = chat.requests
    assert failure == {
        "path": f"/{SECRET}",
        "event": "failure",
        "sweep": "mine",
        "text": "mine: trial 0003 failed: no luck",
        "trial": "0003",
    }
    assert first == end
    assert (end["event"], end["trials"]) == ("end", {"finished": 3})
    assert messages == []


def test_failed_notifications_are_reported_without_the_url(chat: Chat) -> None:
    messages: list[str] = []
    chat.statuses = [403] * 3
    Notifier(Notify(url="$HOOK"), "mine", messages.append, {"HOOK": chat.url}).send("end", "")
    closed = {"HOOK": f"http://127.0.0.1:9/{SECRET}"}
    notifier = Notifier(Notify(url="$HOOK", command="false"), "mine", messages.append, closed)
    notifier.send("stop", "was stopped")
    notifier.close()
    for _ in range(100):
        if len(messages) == 3:
            break
        threading.Event().wait(0.05)
    assert sorted(messages) == [
        "notify.command: failed: exit code 1",
        "notify.url: not sent: ConnectionError",
        "notify.url: not sent: status 403",
    ]


def test_a_command_gets_the_message_on_its_standard_input(tmp_path: Path) -> None:
    """No shell runs the text of a trial's error."""
    received = tmp_path / "received"
    notifier = Notifier(Notify(command=f"tee {received}"), "mine", print, {})
    notifier.send("failure", "$(touch /tmp/owned); `x`", trial="1")
    notifier.close()
    assert json.loads(received.read_text())["text"] == "mine: $(touch /tmp/owned); `x`"


@pytest.mark.parametrize(("value", "state"), [(None, "is not set"), ("ftp://x", "holds no http")])
def test_a_variable_without_a_url_is_refused_before_the_sweep(
    value: str | None, state: str
) -> None:
    given = {} if value is None else {"HOOK": value}
    with pytest.raises(
        ConfigError, match=f"notify.url=.HOOK: .* HOOK {state}(.|\n)*fix: export HOOK"
    ):
        Notifier(Notify(url="$HOOK"), "mine", print, given)


def test_a_url_is_refused_as_a_setting(tmp_path: Path) -> None:
    """It would be stored in the sweep's file."""
    path = tmp_path / "mine.yaml"
    path.write_text("notify: {url: $HOOK, command: mail me}\n")
    sweep = read_sweep(str(path), (), {})
    assert (sweep.notify.url, sweep.notify.command) == ("$HOOK", "mail me")
    assert sweep.to_file()["notify"] == {"url": "$HOOK", "command": "mail me"}
    with pytest.raises(ConfigError, match=r"notify\.url") as caught:
        read_sweep(str(path), [f"notify.url=https://hooks.example/{SECRET}"], {})
    assert "hunter2" not in str(caught.value)
