from pathlib import Path

import pytest

from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.filesystem.paths import inside, safe_name


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "0007", "x" * 100])
def test_safe_names(name: str) -> None:
    assert safe_name(name, "sweep") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "-a", "a/b", "a\\b", "a..b", "a b", "ä", "a\n", "a\0", "x" * 101]
)
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"sweep .* is not a name\nfix: use 1 to 100 letters"):
        safe_name(name, "sweep")


@pytest.mark.parametrize("relative", ["a", "a/b.json", "a.b/..c", "100%", "ä/0007.parquet"])
def test_inside_gives_paths_below_the_root(tmp_path: Path, relative: str) -> None:
    assert inside(tmp_path, relative) == (tmp_path / relative).resolve()


@pytest.mark.parametrize(
    "relative",
    [
        *("", ".", "..", "/", "/etc/passwd", "a/../b", "a//b", "a/", "./a", "~/a", "file:a"),
        *("a\\b", "a\0b", "a\n", "%2e%2e/a", "%252e%252e/a", "\uff0e\uff0e/a", "\u2024\u2024/a"),
        *("x" * 256, "ä" * 200, "a/" * 600 + "a"),
    ],
)
def test_inside_refuses_what_could_leave_the_root(tmp_path: Path, relative: str) -> None:
    with pytest.raises(IntegrityError, match="is not a path inside"):
        inside(tmp_path, relative)


def test_inside_follows_links(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root, outside):
        folder.mkdir()
    (root / "out").symlink_to(outside)
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    (root / "in").symlink_to("folder")
    assert inside(root, "in/file") == (root / "folder" / "file").resolve()
    for name in ("out", "out/file", "up/outside", "loop/file"):
        with pytest.raises(IntegrityError, match="is not a path inside"):
            inside(root, name)
