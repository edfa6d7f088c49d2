"""Output paths that the user names: checked early, written through links, with the umask."""

import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from patience import PATIENCE

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.atomic import atomic_folder
from mlflow_setup.filesystem.modes import narrow_umask, users_mask
from mlflow_setup.filesystem.output import check_file, check_folder, make_folder, output_file
from mlflow_setup.filesystem.storage import TEMPORARY


@pytest.fixture(params=[0o000, 0o002, 0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(
        "mlflow_setup.filesystem.modes._original_umask", None
    )  # as before any command has run
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def write(path: Path, content: bytes = b"labels\n") -> None:
    with output_file(path) as stream:
        stream.write(content)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_mode_that_the_umask_allows(tmp_path: Path, umask: int) -> None:
    write(tmp_path / "a.csv")
    assert mode(tmp_path / "a.csv") == 0o666 & ~umask


def test_a_folder_and_its_content_have_the_modes_that_the_umask_allows(
    tmp_path: Path, umask: int
) -> None:
    with atomic_folder(tmp_path / "b", users_mask()) as folder:
        (folder / "below").mkdir(mode=0o700)
        (folder / "below" / "private").touch(mode=0o600)
        (folder / "open").touch(mode=0o666)
    assert mode(tmp_path / "b") == mode(tmp_path / "b" / "below") == 0o777 & ~umask
    for name in ("below/private", "open"):
        assert mode(tmp_path / "b" / name) == 0o666 & ~umask


def test_the_users_umask_applies_to_output_after_it_was_narrowed(
    tmp_path: Path, umask: int
) -> None:
    narrow_umask()
    narrow_umask()
    assert users_mask() == umask
    (tmp_path / "by a library").touch(mode=0o666)
    assert mode(tmp_path / "by a library") & 0o022 == 0
    write(tmp_path / "a.csv")
    assert mode(tmp_path / "a.csv") == 0o666 & ~umask
    make_folder(tmp_path / "folder")
    assert mode(tmp_path / "folder") == 0o777 & ~umask


def test_an_existing_file_is_replaced_atomically_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    path.chmod(0o640)

    def fail() -> None:
        with output_file(path) as stream:
            stream.write(b"half")
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        fail()
    assert path.read_text() == "old"
    write(path)
    assert path.read_bytes() == b"labels\n"
    assert mode(path) == 0o640
    assert not list(tmp_path.glob(f"{TEMPORARY}*"))


@pytest.mark.parametrize("exists", [True, False])
def test_the_target_of_a_link_is_written(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "below").mkdir()
    target = tmp_path / "below" / "real.csv"
    if exists:
        target.write_text("old")
    link = tmp_path / "link.csv"
    link.symlink_to("below/real.csv")
    write(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"labels\n"


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join(timeout=PATIENCE)
    assert found == [b"labels\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_to(tmp_path: Path) -> None:
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    write(link)
    write(Path(os.devnull))
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


READ_ONLY = Path("/proc/self/task")  # not even root can write below it

REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a folder": (lambda tmp: tmp, "is a folder"),
    "no folder": (lambda tmp: tmp / "none" / "a.csv", "there is no folder"),
    "below a file": (
        lambda tmp: tmp / "file" / "a.csv",
        "there is no folder|Not a directory",
    ),
    "read-only": (lambda tmp: READ_ONLY / "a.csv", "cannot be written"),
    "a name too long": (lambda tmp: tmp / ("a" * 300), "cannot be written: File name too long"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, case: str) -> None:
    (tmp_path / "file").touch()
    path_in, message = REFUSED[case]
    path = path_in(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        check_file(path, "--labels")
    assert caught.value.problem.startswith(f"--labels {path}: ")
    assert caught.value.fix
    with pytest.raises(ConfigError, match=message):
        write(path)


FOLDERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "not empty": (lambda tmp: tmp, "is there already"),
    "a file": (lambda tmp: tmp / "file", "is there already"),
    "below a file": (lambda tmp: tmp / "file" / "b", "is no folder|Not a directory"),
    "read-only": (lambda tmp: READ_ONLY / "b" / "c", "cannot be written"),
    "a mount": (lambda tmp: Path("/proc"), "is a mount|is there already"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_cannot_be_created_is_refused(tmp_path: Path, case: str) -> None:
    (tmp_path / "file").touch()
    path_in, message = FOLDERS[case]
    with pytest.raises(ConfigError, match=message) as caught:
        check_folder(path_in(tmp_path))
    assert caught.value.fix


def test_a_new_or_an_empty_folder_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    for name in ("new", "new/below", "empty", "link"):
        check_folder(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link"]
