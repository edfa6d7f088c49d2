"""S11: the lock file pins every package by SHA-256, and wheels are reproducible."""

import hashlib
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from mlflow_setup.wheel import pack_wheel

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"


def locked() -> dict[str, tuple[str, list[str]]]:
    """Name -> version and hashes."""
    text = LOCK.read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    found = {}
    for requirement, *hashes in lines:
        name, version = requirement.split("==")
        found[canonicalize_name(name)] = version, hashes
    return found


def test_the_lock_file_has_hashes_of_the_pinned_versions() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))
    pinned = {canonicalize_name(name): version.partition("+")[0] for name, version in pins.items()}
    found = locked()
    assert len(found) > 150
    for name, (version, hashes) in found.items():
        assert version == pinned.get(name, version), f"{name}: make lock"
        assert hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), name
    direct = {"ray", "torch", "transformers", "optuna", "mlflow", "numpy", "pandas", "pyarrow"}
    assert direct <= set(found)


@pytest.mark.parametrize("is_flipped", [False, True])
def test_pip_refuses_a_wheel_with_another_hash(is_flipped: bool, tmp_path: Path) -> None:
    wheel = pack_wheel(tmp_path)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if is_flipped:
        digest = f"{int(digest[0], 16) ^ 1:x}{digest[1:]}"
    version = wheel.name.split("-")[1]
    requirements = tmp_path / "requirements.lock"
    requirements.write_text(f"ensweep=={version} --hash=sha256:{digest}\n")
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(tmp_path)]
    words = ["--no-deps", "--require-hashes", "-r", str(requirements), "--target"]
    done = subprocess.run(
        [*pip, *words, str(tmp_path / "installed")], capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) is not is_flipped, done.stderr
    assert ("DO NOT MATCH THE HASHES" in done.stderr) is is_flipped


def test_wheels_of_the_same_code_are_identical(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (pack_wheel(tmp_path / name) for name in ("one", "two"))
    assert one.name == two.name
    assert one.read_bytes() == two.read_bytes()


def test_the_lock_file_merges_the_reports_of_pip() -> None:
    lock_py = runpy.run_path(str(ROOT / "deploy" / "lock.py"))
    environment = {"python_version": "3.11", "sys_platform": "linux", "platform_machine": "x86_64"}

    def item(name: str, version: str, digest: str | None) -> dict[str, Any]:
        archive: dict[str, Any] = {"archive_info": {"hashes": {"sha256": digest}}}
        info = {"dir_info": {}} if digest is None else archive
        return {"metadata": {"name": name, "version": version}, "download_info": info}

    first = [item("torch", "2.0+cpu", "bb"), item("A_b", "1", "cc"), item("ensweep", "0", None)]
    reports = [
        {"install": first, "environment": environment},
        {"install": [item("torch", "2.0", "aa")], "environment": environment},
    ]
    text = "\n".join(json.dumps(report, indent=1) for report in reports)
    lines = lock_py["lock"](lock_py["read"](text)).splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        *("a-b==1 \\", "    --hash=sha256:cc"),
        *("torch==2.0 \\", "    --hash=sha256:aa \\", "    --hash=sha256:bb"),
    ]


def test_the_bill_of_materials_lists_installed_packages() -> None:
    bill = runpy.run_path(str(ROOT / "deploy" / "sbom.py"))["bill"]()
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    names = {part["name"].lower() for part in bill["components"]}
    assert {"torch", "ray", "mlflow", "optuna"} <= names
    assert all(part["purl"].startswith("pkg:pypi/") for part in bill["components"])
