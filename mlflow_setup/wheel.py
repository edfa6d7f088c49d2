"""This code as a wheel, for a cluster's nodes and for bundles: what is imported here runs there.

It is packed from the packages as they are imported, so a checkout and an installed wheel give the
same. Two things differ from a wheel that a build makes, both for the way in which Ray installs one
(`pip install --target`, which looks at nothing that is installed already): it declares no
dependencies, which come with the nodes' image or set-up, or are listed where a model is registered;
and its build tag is a hash of its content, for Ray takes two wheels of one file name for the same.
"""

import hashlib
import zipfile
from base64 import urlsafe_b64encode
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import short_hash

PACKAGES = ("ensweep", "search", "ensemble", "trainable", "mlflow_setup")
_NOT_PACKED = (".pyc", ".pyo")
_TIME = (1980, 1, 1, 0, 0, 0)  # the same content is the same file


def pack_wheel(folder: Path) -> Path:
    """The wheel, written into `folder`.

    Raises:
        ConfigError: the packages are not files, or not installed.
    """
    try:
        release = version("ensweep")
    except PackageNotFoundError:
        fix = "pip install ensweep, or pip install -e . in a checkout"
        raise ConfigError("ensweep is not installed: its version is unknown", fix=fix) from None
    content = _source()
    info = f"ensweep-{release}.dist-info"
    content[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: ensweep\nVersion: {release}\nRequires-Python: >=3.11\n"
    ).encode()
    facts = (f"{name}\0{len(data)}\0".encode() + data for name, data in content.items())
    build = f"0{short_hash(*facts)}"  # a build tag begins with a digit
    content[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: ensweep\nRoot-Is-Purelib: true\nBuild: {build}\n"
        "Tag: py3-none-any\n"
    ).encode()
    record = [f"{name},{_digest(data)},{len(data)}" for name, data in content.items()]
    content[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,\n"]).encode()
    path = folder / f"ensweep-{release}-{build}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return path


def _source() -> dict[str, bytes]:
    """Every file of the packages, by its path in the wheel, in order."""
    files = {}
    for package in PACKAGES:
        spec = find_spec(package)
        folder = Path(spec.origin).parent if spec is not None and spec.origin else None
        if folder is None or not folder.is_dir():
            raise ConfigError(
                f"package {package} is not a folder of files, and cannot be sent",
                fix="install ensweep with pip, not as a zip or a frozen program",
            )
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            is_hidden = any(part.startswith((".", "__pycache__")) for part in inside.parts)
            if path.is_file() and not is_hidden and path.suffix not in _NOT_PACKED:
                files[f"{package}/{inside.as_posix()}"] = path.read_bytes()
    return files


def _digest(data: bytes) -> str:
    """The SHA-256 as a wheel's RECORD spells it."""
    return "sha256=" + urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
