"""Being told of a sweep: its end, its stop, its first trial that fails.

To a URL as JSON (`text` is what chat services show), to a command as the same JSON on its standard
input. The URL is a secret, as a chat's is: it is read from an environment variable, and neither it
nor an answer is shown or written. A notification that cannot be sent is a warning, no more.
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
"""How long the end of a sweep waits for what is being told."""


class Notifier:
    """Tells in the background. Used in a block, whose end waits a while for what is under way.

    Args:
        say: shows a line to the user.

    Raises:
        ConfigError: the variable that holds the URL is not set, or holds none.
    """

    def __init__(
        self,
        notify: Notify,
        sweep: str,
        say: Callable[[str], None],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._sweep, self._say, self._has_failed = sweep, say, False
        self._command = shlex.split(notify.command) if notify.command else []
        self._url = _url_of(notify, environment)
        self._under_way: list[threading.Thread] = []

    def tell(self, event: Event, text: str, **facts: Any) -> None:
        """Send it in a thread. Of failures only the first is sent."""
        if event == "failure" and self._has_failed:
            return
        self._has_failed |= event == "failure"
        message = {"event": event, "sweep": self._sweep, "text": f"{self._sweep}: {text}", **facts}
        content = json.dumps(message)
        for send in ([self._post] if self._url else []) + ([self._run] if self._command else []):
            thread = threading.Thread(target=send, args=(content,), name="notify", daemon=True)
            thread.start()
            self._under_way.append(thread)

    def close(self, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        """Wait for what is being told."""
        for thread in self._under_way:
            thread.join(patience_seconds)

    def _post(self, content: str) -> None:
        reason = ""
        for _ in range(_TRIES):
            try:
                headers = {"Content-Type": "application/json"}
                answer = requests.post(
                    self._url, data=content, headers=headers, timeout=_TIMEOUT_SECONDS
                )
            except requests.RequestException as error:  # its text has the URL
                reason = type(error).__name__
                continue
            if answer.ok:
                return
            reason = f"status {answer.status_code}"
        self._say(f"notify.url: not sent: {reason}")

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
            self._say(f"notify.command: failed: {reason}")


def tell_result(notifier: Notifier, result: SweepResult) -> None:
    """Send a sweep's end, or its stop, and wait until it is sent."""
    counts = {o.value: len(result.ended(o)) for o in Outcome if result.ended(o)}
    facts: dict[str, Any] = {"trials": counts}
    said = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no trial"
    if result.best is not None:
        trial, epoch, value = result.best
        facts["best"] = {"trial": trial, "epoch": epoch, "overall": value}
        said += f"; best {trial} with {value:.4f}"
    if result.stop is None:
        notifier.tell("end", f"has ended: {said}", **facts)
    else:
        notifier.tell("stop", f"was stopped: {result.stop[0]}; {said}", **facts)
    notifier.close()


def _url_of(notify: Notify, environment: Mapping[str, str]) -> str:
    """The URL in the variable that is named, or ""."""
    if notify.url is None:
        return ""
    name = notify.url.removeprefix("$")
    url = environment.get(name, "")
    if url.startswith(("http://", "https://")):
        return url
    state = "holds no http:// or https:// URL" if url else "is not set"
    raise ConfigError(
        f"notify.url=${name}: the environment variable {name} {state}",
        fix=f"export {name}=https://..., where the sweep's driver runs",
    )
