"""File modes: records are readable by their owner only, output files as the user's umask says.

A mask holds the permission bits to remove: a file gets 0o666 & ~mask, a folder 0o777 & ~mask.
"""

import os

OWNERS = 0o077
"""The mask for records: no access for group and others."""
_NOT_OTHERS_TO_WRITE = 0o022

_original_umask: int | None = None  # the user's umask, once it has been narrowed


def narrow_umask() -> None:
    """Set the umask so that files made by this process or its children are not writable by others.

    MLflow, Ray and SQLite create files with the umask that they find.
    """
    global _original_umask
    umask = os.umask(OWNERS)
    _original_umask = umask if _original_umask is None else _original_umask
    os.umask(umask | _NOT_OTHERS_TO_WRITE)


def users_mask() -> int:
    """The mask for output files: the user's umask."""
    if _original_umask is not None:
        return _original_umask
    umask = os.umask(OWNERS)
    os.umask(umask)
    return umask
