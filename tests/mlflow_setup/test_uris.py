"""Recognising URIs, local paths, and hiding credentials."""

from pathlib import Path

import pytest

from mlflow_setup.uris import has_credentials, is_uri, local_path, redact


@pytest.mark.parametrize(
    ("text", "is_a_uri", "with_credentials"),
    [
        ("s3://bucket/data", True, False),
        ("s3://key:s3cret@bucket/data", True, True),
        ("s3://key@bucket", True, True),
        ("s3://bucket/a@b", True, False),
        ("/data/a@b", False, False),
        ("sentence-transformers/all-MiniLM-L6-v2", False, False),
        ("", False, False),
    ],
)
def test_storage_uris_and_their_credentials(
    text: str, is_a_uri: bool, with_credentials: bool
) -> None:
    assert is_uri(text) is is_a_uri
    assert has_credentials(text) is with_credentials


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/runs/a", "/runs/a"),
        ("file:///runs/a%20b", "/runs/a b"),
        ("s3://bucket/a", None),
        ("mlflow-artifacts:/1/a", None),
    ],
)
def test_local_path(text: str, path: str | None) -> None:
    assert local_path(text) == (None if path is None else Path(path))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://host:5000/x", "http://host:5000/x"),
        ("http://user:s3cret@host:5000", "http://***@host:5000"),
        ("at postgresql://u:s3@cret@h/db?sslmode=on:", "at postgresql://***@h/db?sslmode=on:"),
        ("mysql://h/db?password=s3cret&x=1", "mysql://h/db?password=***&x=1"),
        ("http://h/?x=1&access_token=s3cret 'z'", "http://h/?x=1&access_token=*** 'z'"),
        ("two http://a:s3cret@b and http://c:s3cret@d", "two http://***@b and http://***@d"),
    ],
)
def test_credentials_are_masked(text: str, masked: str) -> None:
    assert redact(text) == masked
