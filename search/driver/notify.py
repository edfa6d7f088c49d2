"""Notifications of a sweep's end, its stop and its first failed trial.

Sent to a URL as JSON (chat services show its `text`), or to a command as the same JSON on standard
input. The URL is a secret, as webhook URLs are: it is read from an environment variable, and
neither it nor a response is shown or written. A notification that cannot be sent only causes a
warning.
"""

import json
import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal

import requests

from mlflow_setup.errors import ConfigError
from mlflow_setup.schema import Outcome
from search.config.sweep_config import Notify
from search.driver.result import SweepResult

Event = Literal["end", "stop", "failure"]

_TRIES, _TIMEOUT_SECONDS = 3, 10.0
_COMMAND_SECONDS = 60.0
_PATIENCE_SECONDS = 45.0
"""How long the end of a sweep waits for each notification that is being sent."""


class Notifier:
    """Sends notifications in background threads; `close` waits for them.

    Args:
        show: shows a line to the user.

    Raises:
        ConfigError: the environment variable for the URL is not set, or is no URL.
    """

    def __init__(
        self,
        notify: Notify,
        sweep: str,
        show: Callable[[str], None],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._sweep, self._show, self._has_failed = sweep, show, False
        self._command = shlex.split(notify.command) if notify.command else []
        self._url = _url_of(notify, environment)
        self._threads: list[threading.Thread] = []

    def send(self, event: Event, text: str, **facts: Any) -> None:
        """Send a notification in a thread; of failures only the first."""
        if event == "failure" and self._has_failed:
            return
        self._has_failed |= event == "failure"
        message = {"event": event, "sweep": self._sweep, "text": f"{self._sweep}: {text}", **facts}
        content = json.dumps(message)
        for send in ([self._post] if self._url else []) + ([self._run] if self._command else []):
            thread = threading.Thread(target=send, args=(content,), name="notify", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        """Wait for the notifications that are being sent."""
        for thread in self._threads:
            thread.join(patience_seconds)

    def _post(self, content: str) -> None:
        reason = ""
        for _ in range(_TRIES):
            try:
                headers = {"Content-Type": "application/json"}
                response = requests.post(
                    self._url, data=content, headers=headers, timeout=_TIMEOUT_SECONDS
                )
            except requests.RequestException as error:  # its message contains the URL
                reason = type(error).__name__
                continue
            if response.ok:
                return
            reason = f"status {response.status_code}"
        self._show(f"notify.url: not sent: {reason}")

    def _run(self, content: str) -> None:
        try:
            done = subprocess.run(
                self._command,
                input=content.encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
            reason = f"exit code {done.returncode}" if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = type(error).__name__
        if reason:
            self._show(f"notify.command: failed: {reason}")


def send_result(notifier: Notifier, result: SweepResult) -> None:
    """Notify of a sweep's end or stop, and wait until that is sent."""
    counts = {o.value: len(result.ended(o)) for o in Outcome if result.ended(o)}
    facts: dict[str, Any] = {"trials": counts}
    summary = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no trial"
    if result.best is not None:
        trial, epoch, value = result.best
        facts["best"] = {"trial": trial, "epoch": epoch, "overall": value}
        summary += f"; best {trial} with {value:.4f}"
    if result.stop is None:
        notifier.send("end", f"has ended: {summary}", **facts)
    else:
        notifier.send("stop", f"was stopped: {result.stop[0]}; {summary}", **facts)
    notifier.close()


def _url_of(notify: Notify, environment: Mapping[str, str]) -> str:
    """Return the URL from the environment variable, or "" if none is configured."""
    if notify.url is None:
        return ""
    name = notify.url.removeprefix("$")
    url = environment.get(name, "")
    if url.startswith(("http://", "https://")):
        return url
    state = "holds no http:// or https:// URL" if url else "is not set"
    raise ConfigError(
        f"notify.url=${name}: the environment variable {name} {state}",
        fix=f"export {name}=https://... on the machine of the sweep's driver",
    )
