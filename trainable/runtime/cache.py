"""This machine's cache of tokens, embeddings and timings.

The cache only saves time: where it cannot be written, one warning is logged and results are
computed each time.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.filesystem.paths import cache_folder
from trainable.runtime.stopping import Stop, exclusive, is_free

_logger = logging.getLogger(__name__)


def write_cached(path: Path, content: bytes | str) -> None:
    """Write a file of the cache; where it cannot be written, warn once."""
    try:
        write_atomic(path, content)
    except OSError as error:
        _warn_once(str(cache_folder()), error.strerror or str(error))


@contextmanager
def exclusive_if_writable(path: Path, stop: Stop) -> Iterator[None]:
    """`exclusive` for a file of the cache, but without a lock where the cache cannot be written:
    then every process computes the content itself.

    Raises:
        StopRequested: as `exclusive`.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(path, stop))
        except OSError as error:
            _warn_once(str(cache_folder()), error.strerror or str(error))
        yield


def is_being_made(path: Path) -> bool:
    """Whether another process is inside `exclusive_if_writable` for the path now."""
    try:
        return not is_free(path)
    except OSError:  # the cache cannot be written
        return False


@cache
def _warn_once(folder: str, reason: str) -> None:
    _logger.warning(
        "cannot write to the cache folder %s: %s; set ENSWEEP_CACHE to another folder",
        folder,
        reason,
    )
