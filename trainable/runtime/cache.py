"""What this machine keeps to be quick: tokens, embeddings, copies of remote folders.

It is only a help: where nothing can be kept, that is said once, and the work is done each time.
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


def keep(path: Path, content: bytes | str) -> None:
    """Write a file of the cache, if it can be written."""
    try:
        write_atomic(path, content)
    except OSError as error:
        _tell(str(cache_folder()), error.strerror or str(error))


@contextmanager
def exclusive_if_kept(path: Path, stop: Stop) -> Iterator[None]:
    """`exclusive`, for what the others would find at `path` afterwards: where it cannot be kept,
    each does it.

    Raises:
        AskedToStop: as `exclusive`.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(path, stop))
        except OSError as error:
            _tell(str(cache_folder()), error.strerror or str(error))
        yield


def is_being_made(path: Path) -> bool:
    """Whether another process is within `exclusive_if_kept` of the path, now."""
    try:
        return not is_free(path)
    except OSError:  # nothing can be kept
        return False


@cache
def _tell(folder: str, reason: str) -> None:
    _logger.warning("nothing is kept in %s: %s; ENSWEEP_CACHE names another folder", folder, reason)
