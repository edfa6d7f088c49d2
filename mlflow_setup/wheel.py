"""Pack the installed code as a wheel, for the nodes of a cluster and for exported models.

The wheel is built from the imported packages, so a checkout and an installation give the same one.
It differs from a wheel built by setuptools in two ways, because Ray installs it with
`pip install --target`, which ignores what is installed already: it declares no dependencies (the
nodes' image or set-up has them, or the registered model lists them), and its build tag is a hash of
its content, because Ray treats two wheels with the same file name as the same.
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
_TIME = (1980, 1, 1, 0, 0, 0)  # fixed, so that the same content gives the same file


def pack_wheel(folder: Path) -> Path:
    """Write the wheel into `folder`, and return its path.

    Raises:
        ConfigError: ensweep is not installed, or not as a folder of files.
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
    """The content of every file of the packages, by its path in the wheel, in a fixed order."""
    files = {}
    for package in PACKAGES:
        spec = find_spec(package)
        folder = Path(spec.origin).parent if spec is not None and spec.origin else None
        if folder is None or not folder.is_dir():
            raise ConfigError(
                f"package {package} is not a folder of files, so it cannot be packed",
                fix="install ensweep with pip, not as a zip or a frozen program",
            )
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            is_hidden = any(part.startswith((".", "__pycache__")) for part in inside.parts)
            if path.is_file() and not is_hidden and path.suffix not in _NOT_PACKED:
                files[f"{package}/{inside.as_posix()}"] = path.read_bytes()
    return files


def _digest(data: bytes) -> str:
    """The SHA-256 in the format of a wheel's RECORD file."""
    return "sha256=" + urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
