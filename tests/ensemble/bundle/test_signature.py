"""A signature proves that a bundle is unchanged since the owner of a key signed it (S2)."""

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from lively import vouch
from typer.testing import CliRunner

from ensemble.bundle.format import CARD
from ensemble.bundle.signature import sign, signature_path, verify_signature
from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError, IntegrityError

PEM = Encoding.PEM


def write_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a new private and its public key."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_signature_is_valid_for_its_own_key_only(folder: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "mine")
    assert sign(folder, private) == tmp_path / "bundle.sig" == signature_path(folder)
    verify_signature(folder, public)
    _, other = write_keys(tmp_path, "other")
    with pytest.raises(IntegrityError, match=r"bundle\.sig: not a signature of .* by the owner of"):
        verify_signature(folder, other)


def test_a_changed_bundle_does_not_match_its_signature(folder: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "mine")
    sign(folder, private)
    (folder / CARD).write_text("# cord\n")
    with pytest.raises(IntegrityError, match="changed since it was written"):
        sign(folder, private)
    vouch(folder)  # undamaged, but not what was signed
    with pytest.raises(IntegrityError, match="not a signature of"):
        verify_signature(folder, public)


@pytest.mark.parametrize("text", ["", "zz", "00" * 64, "\xff"])
def test_an_invalid_signature_is_refused(folder: Path, tmp_path: Path, text: str) -> None:
    _, public = write_keys(tmp_path, "mine")
    with pytest.raises(IntegrityError, match=r"bundle\.sig: the signature cannot be read: No"):
        verify_signature(folder, public)
    signature_path(folder).write_text(text, encoding="latin-1")
    with pytest.raises(IntegrityError, match="not a signature of"):
        verify_signature(folder, public)


def test_an_invalid_key_is_refused(folder: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "mine")
    other = generate_private_key(SECP256R1())
    curve, text = tmp_path / "curve.pem", tmp_path / "text.pem"
    curve.write_bytes(other.private_bytes(PEM, PrivateFormat.PKCS8, NoEncryption()))
    text.write_text("key")
    for path in (curve, text, public):
        with pytest.raises(ConfigError, match="not an Ed25519 private key in PEM"):
            sign(folder, path)
    with pytest.raises(ConfigError, match="not an Ed25519 public key in PEM"):
        verify_signature(folder, private)
    with pytest.raises(ConfigError, match="the key cannot be read: No such file"):
        sign(folder, tmp_path / "none.pem")


def test_the_commands_sign_and_verify(tiny_bundle: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "mine")
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy")
    done = CliRunner().invoke(app, ["sign", str(copy), "--key", str(private)])
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(app, ["verify", str(copy), "--key", str(public)])
    assert f"signed by the owner of {public}" in shown.stdout
