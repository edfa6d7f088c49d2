"""Follow a job on a Ray cluster: its log as it is written, then how it ended."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
import requests
from ray.job_submission import JobStatus, JobSubmissionClient

from mlflow_setup.errors import STOPPED, PartialError

LOST = 5
"""Exit code of a job that came to no end of its own: its node is gone, or was never set up."""
_TRIES = 8
_LONGEST_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class JobEnd:
    """How a job has ended."""

    status: str
    exit_code: int  # as the sweep's driver would have left
    message: str


def follow(client: JobSubmissionClient, job_id: str, write: Callable[[str], object]) -> JobEnd:
    """Hand the log to `write` until the job has ended.

    A connection that breaks is made again, and the log goes on where it stopped.

    Raises:
        PartialError: the cluster does not answer any longer; the job may be running on.
    """
    num_written = failures = 0

    def pass_on(text: str) -> None:
        nonlocal num_written, failures
        num_written, failures = num_written + len(text), 0
        write(text)

    while True:
        try:
            asyncio.run(_tail(client, job_id, num_written, pass_on))
            details = client.get_job_info(job_id)
            if details.status.is_terminal():
                return _end(details.status, details.driver_exit_code, details.message)
        except (OSError, RuntimeError, aiohttp.ClientError, requests.RequestException) as error:
            failures += 1
            if failures == _TRIES:
                raise PartialError(
                    f"job {job_id}: the cluster does not answer any longer: {error}",
                    fix="once it does, the same command follows the job again, or goes on with "
                    "the sweep where the job is gone",
                ) from None
        time.sleep(min(2.0**failures / 2, _LONGEST_WAIT_SECONDS))


async def _tail(
    client: JobSubmissionClient, job_id: str, num_known: int, write: Callable[[str], object]
) -> None:
    """The log from its beginning, without the first `num_known` characters."""
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
