"""Follow a job on a Ray cluster: stream its log, then return how it ended."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
import requests
from ray.job_submission import JobStatus, JobSubmissionClient

from mlflow_setup.errors import STOPPED, PartialError

LOST = 5
"""Exit code of a job without one of its own: its node was lost, or its setup failed."""
_TRIES = 8
_LONGEST_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class JobEnd:
    """How a job has ended."""

    status: str
    exit_code: int  # of the sweep's driver; 128 + N if signal N ended it
    message: str


def follow(client: JobSubmissionClient, job_id: str, write: Callable[[str], object]) -> JobEnd:
    """Pass the log to `write` until the job has ended.

    Reconnects after a broken connection and continues the log where it stopped.

    Raises:
        PartialError: the cluster does not answer any longer; the job may still be running.
    """
    num_written = failures = 0

    def write_counted(text: str) -> None:
        nonlocal num_written, failures
        num_written, failures = num_written + len(text), 0
        write(text)

    while True:
        try:
            asyncio.run(_tail(client, job_id, num_written, write_counted))
            details = client.get_job_info(job_id)
            if details.status.is_terminal():
                return _end(details.status, details.driver_exit_code, details.message)
        except (OSError, RuntimeError, aiohttp.ClientError, requests.RequestException) as error:
            failures += 1
            if failures == _TRIES:
                raise PartialError(
                    f"job {job_id}: the cluster does not answer any longer: {error}",
                    fix="once it does, run the same command again: it follows the job, or resumes "
                    "the sweep if the job is gone",
                ) from None
        time.sleep(min(2.0**failures / 2, _LONGEST_WAIT_SECONDS))


async def _tail(
    client: JobSubmissionClient, job_id: str, num_known: int, write: Callable[[str], object]
) -> None:
    """Write the log from its beginning, without the first `num_known` characters."""
    async for text in client.tail_job_logs(job_id):
        if num_known < len(text):
            write(text[num_known:])
        num_known = max(0, num_known - len(text))


def _end(status: JobStatus, exit_code: int | None, message: str | None) -> JobEnd:
    if status == JobStatus.SUCCEEDED:
        code = 0
    elif status == JobStatus.STOPPED:
        code = STOPPED
    elif exit_code is None:
        code = LOST
    else:
        code = exit_code if exit_code > 0 else 128 - exit_code  # ended by a signal
    return JobEnd(str(status.value), code, message or "")
