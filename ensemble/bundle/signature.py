"""Ed25519 signatures of bundles: of the manifest, in a file next to the bundle's folder.

The manifest has the SHA-256 of every other file, so the signature covers all of them. Keys are PEM
files, as created by `openssl genpkey -algorithm ed25519`.
"""

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from ensemble.bundle.format import verify
from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.filesystem.manifest import MANIFEST
from mlflow_setup.filesystem.output import output_file


def signature_path(folder: Path) -> Path:
    """Return the path of a bundle's signature: `bundle.sig` for the folder `bundle`."""
    resolved = folder.resolve()
    return resolved.with_name(f"{resolved.name}.sig")


def sign(folder: Path, key: Path) -> Path:
    """Verify a bundle, sign it with a private key, and return the signature's path.

    Raises:
        IntegrityError: the bundle is not intact.
        ConfigError: the key cannot be read, or the signature cannot be written.
    """
    verify(folder)
    signer = _key(key, "private")
    assert isinstance(signer, Ed25519PrivateKey)
    path = signature_path(folder)
    with output_file(path, "the signature") as stream:
        stream.write(signer.sign((folder / MANIFEST).read_bytes()).hex().encode() + b"\n")
    return path


def verify_signature(folder: Path, key: Path) -> None:
    """Check that the manifest was signed with the private key of a public key. Does not check the
    files: call `verify` as well.

    Raises:
        IntegrityError: there is no signature, or it is of another manifest or by another key.
        ConfigError: the key cannot be read.
    """
    public, path = _key(key, "public"), signature_path(folder)
    assert isinstance(public, Ed25519PublicKey)
    try:
        signature = bytes.fromhex(path.read_text(encoding="ascii"))
        public.verify(signature, (folder / MANIFEST).read_bytes())
    except OSError as error:
        raise IntegrityError(f"{path}: the signature cannot be read: {error.strerror}") from None
    except (InvalidSignature, ValueError):
        raise IntegrityError(
            f"{path}: not a signature of {folder} by the owner of {key}",
            fix="get the bundle and its .sig from a source that you trust",
        ) from None


def _key(path: Path, kind: str) -> object:
    try:
        content = path.read_bytes()
        if kind == "private":
            loaded: object = load_pem_private_key(content, password=None)
        else:
            loaded = load_pem_public_key(content)
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        loaded = None
    if not isinstance(loaded, Ed25519PrivateKey | Ed25519PublicKey):
        raise ConfigError(
            f"{path}: not an Ed25519 {kind} key in PEM format without a password",
            fix="openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout",
        )
    return loaded
