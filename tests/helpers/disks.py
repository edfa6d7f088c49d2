"""A disk of a few megabytes that tests fill: a tmpfs, if this process may mount one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

BALLAST = "ballast"


class Disk:
    """A small file system at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def num_free(self) -> int:
        """The number of free bytes."""
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize

    def fill(self, kilobytes: int = 0) -> None:
        """Fill the disk, except for `kilobytes`."""
        # Another process may write the last bytes at the same time: then it is full as well.
        with suppress(OSError), (self.path / BALLAST).open("ab") as stream:
            while (excess := self.num_free - 1024 * kilobytes) > 0:
                stream.write(bytes(min(excess, 1 << 16)))
                stream.flush()

    def free(self) -> None:
        (self.path / BALLAST).unlink()

    def remount(self, option: str) -> None:
        """Mount again with another option: `ro` or `rw`."""
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.path)], check=True)


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Disk]:
    """A small disk mounted at `path`. Skips the test if mounting is not permitted."""
    path.mkdir()
    if problem := _mount(path, megabytes):
        pytest.skip(f"no disk can be mounted here: {problem}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _mount(path: Path, megabytes: int) -> str:
    """Mount a tmpfs. Return the error message, or ""."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return done.stderr.strip() or "mount failed" if done.returncode else ""
