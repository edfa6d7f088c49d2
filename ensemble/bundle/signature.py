"""Who exported a bundle: an Ed25519 signature of its manifest, in a file beside its folder.

The manifest has the SHA-256 of every other file, so the signature is of all of them. Keys are PEM
files, as `openssl genpkey -algorithm ed25519` makes them.
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
    """`bundle.sig` for the folder `bundle`."""
    whole = folder.resolve()
    return whole.with_name(f"{whole.name}.sig")


def sign(folder: Path, key: Path) -> Path:
    """Sign a whole bundle with a private key; the signature's file.

    Raises:
        IntegrityError: the bundle is not whole.
        ConfigError: no such key, or the file cannot be written.
    """
    verify(folder)
    signer = _key(key, "private")
    assert isinstance(signer, Ed25519PrivateKey)
    path = signature_path(folder)
    with output_file(path, "the signature") as stream:
        stream.write(signer.sign((folder / MANIFEST).read_bytes()).hex().encode() + b"\n")
    return path


def verify_signature(folder: Path, key: Path) -> None:
    """Prove that the manifest was signed by the owner of a public key; `verify` proves the rest.

    Raises:
        IntegrityError: no signature, or not of this manifest by this key.
        ConfigError: no such key.
    """
    public, path = _key(key, "public"), signature_path(folder)
    assert isinstance(public, Ed25519PublicKey)
    try:
        signature = bytes.fromhex(path.read_text(encoding="ascii"))
        public.verify(signature, (folder / MANIFEST).read_bytes())
    except OSError as error:
        raise IntegrityError(f"{path}: no signature can be read: {error.strerror}") from None
    except (InvalidSignature, ValueError):
        raise IntegrityError(
            f"{path}: not a signature of {folder} by the owner of {key}",
            fix="take the bundle and its .sig from one whom you trust",
        ) from None


def _key(path: Path, kind: str) -> object:
    try:
        content = path.read_bytes()
        if kind == "private":
            loaded: object = load_pem_private_key(content, password=None)
        else:
            loaded = load_pem_public_key(content)
    except OSError as error:
        raise ConfigError(f"{path}: no key can be read: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        loaded = None
    if not isinstance(loaded, Ed25519PrivateKey | Ed25519PublicKey):
        raise ConfigError(
            f"{path}: not an Ed25519 {kind} key in PEM, without a password",
            fix="openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout",
        )
    return loaded
