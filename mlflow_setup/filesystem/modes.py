"""Who may read what is written: our records their owner, what is for others as the umask says.

A mask has the bits that are taken away: a file gets 0o666 without them, a folder 0o777.
"""

import os

OWNERS = 0o077
"""The mask of our own records."""
_NOT_OTHERS_TO_WRITE = 0o022

_given: int | None = None  # the user's umask, once it has been narrowed


def narrow_umask() -> None:
    """Have no file that this process or its children make be for others to write.

    MLflow, Ray and SQLite make files beside ours, under whatever umask there is.
    """
    global _given
    umask = os.umask(OWNERS)
    _given = umask if _given is None else _given
    os.umask(umask | _NOT_OTHERS_TO_WRITE)


def users_mask() -> int:
    """The mask of what is for others: the user's umask."""
    if _given is not None:
        return _given
    umask = os.umask(OWNERS)
    os.umask(umask)
    return umask
