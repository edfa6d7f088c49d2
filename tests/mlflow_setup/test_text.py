"""Text of messages: first lines, similar names, hashes and durations."""

import hashlib
from pathlib import Path

import pytest

import mlflow_setup
from mlflow_setup.errors import ConfigError
from mlflow_setup.text import did_you_mean, duration, first_line, is_text, printable, short_hash

PACKAGES = ("mlflow_setup", "trainable", "ensemble", "search", "ensweep")
REPEATED = ('partition("\\n")[0]', 'split("\\n")[0]', "splitlines()[0]", "get_close_matches")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no room"), "no room"),
        (ValueError("  no room \nat all"), "no room "),
        (ValueError("\n \n\tno room\r\nat all"), "no room"),
        (ConfigError("no room", fix="make some"), "no room"),
        (KeyError("lr"), "'lr'"),
        (OSError(), "OSError"),
        (OSError(13, "Permission denied", "a.csv"), "Permission denied: 'a.csv'"),
        (RuntimeError(""), "RuntimeError"),
        (TimeoutError(" \n\n "), "TimeoutError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        ("the driver ended\nwith 1", "the driver ended"),
        ("", ""),
        ("\n", ""),
    ],
)
def test_the_first_line_that_is_not_blank_or_else_the_error_type(
    error: BaseException | str, line: str
) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("minlm", ["bert", "minilm"], " (did you mean minilm?)"),
        ("minilm", {"minilm"}, " (did you mean minilm?)"),
        ("minlm", iter(["minilm", "bert"]), " (did you mean minilm?)"),
        ("xyz", ["bert", "minilm"], ""),
        ("", ["bert"], ""),
        ("bert", [], ""),
    ],
)
def test_only_a_similar_name_is_suggested(name: str, known: list[str], hint: str) -> None:
    assert did_you_mean(name, known) == hint


def test_the_cutoff_sets_how_similar_a_name_must_be() -> None:
    assert did_you_mean("serach.seed", ["search.seed"], cutoff=0.8) != ""
    assert did_you_mean("optim.seed", ["search.seed"], cutoff=0.8) == ""


def test_control_characters_are_replaced_and_surrogates_are_not_text() -> None:
    assert printable("a\x1b[2Jb\n") == "a?[2Jb?"
    assert is_text("größer")
    assert not is_text("\ud800")


def test_a_short_hash_is_the_beginning_of_the_sha256_of_its_parts() -> None:
    digest = hashlib.sha256(b"ab\xc3\xa4").hexdigest()
    assert short_hash("abä") == short_hash("a", b"b", "ä") == digest[:16]
    assert short_hash("abä", length=8) == digest[:8]
    assert short_hash("abä", length=64) == digest
    assert short_hash("a") != short_hash("b")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.2, "0 s"),
        (89, "89 s"),
        (95, "1.6 min"),
        (210, "3.5 min"),
        (569, "9.5 min"),
        (571, "10 min"),
        (3560, "59 min"),
        (3599, "1 h 0 min"),
        (4000, "1 h 7 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_no_other_module_repeats_these_functions() -> None:
    root = Path(mlflow_setup.__file__).parent.parent
    files = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    assert len(files) > 100
    copies = {
        f"{path.relative_to(root)}: {text}"
        for path in files
        for text in REPEATED
        if text in path.read_text(encoding="utf-8")
    }
    assert copies == {"mlflow_setup/text.py: get_close_matches"}
