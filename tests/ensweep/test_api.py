"""The Python API: three lines, and nothing heavy before it is needed."""

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import ensweep
from mlflow_setup.errors import IntegrityError


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder
    )
    return done.stdout


def test_three_lines(tiny_bundle: Path) -> None:
    ensemble = ensweep.load(str(tiny_bundle))
    frame = ensemble.predict(["a warm and moving film"], task="sentiment")
    assert frame["label"][0] in range(5)
    assert list(ensemble.tasks) == ["sentiment", "paraphrase", "similarity"]


def test_a_moved_bundle_needs_nothing_else(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    expected = ensweep.load(tiny_bundle).predict("a film")
    assert ensweep.load("moved").predict("a film").equals(expected)


def test_the_version() -> None:
    assert ensweep.__version__ == metadata.version("ensweep")
    with pytest.raises(AttributeError, match="no attribute 'save'"):
        ensweep.save


def test_the_import_is_light(tmp_path: Path) -> None:
    code = "import sys, ensweep\nprint(*sorted({name.partition('.')[0] for name in sys.modules}))"
    modules = set(run(code, tmp_path).split())
    assert modules & {"torch", "pandas", "numpy", "ensemble", "trainable", "mlflow"} == set()


def test_a_tampered_bundle_is_refused_before_anything_is_loaded(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (path,) = list((folder / "members").rglob("*.safetensors"))[:1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"changed since it was written: members/.*safetens"):
        ensweep.load(folder)
    code = (
        "import sys, ensweep\n"
        "try:\n    ensweep.load('bundle')\n"
        "except ValueError as error:\n    print(error.exit_code)\n"
        "print(sorted({'torch', 'transformers', 'safetensors'} & set(sys.modules)))"
    )
    assert run(code, tmp_path).split("\n")[:2] == ["6", "[]"]


def test_a_bundle_does_not_tell_where_it_was_made(
    tiny_bundle: Path, tiny_runs: Path, tiny_encoder: Path, tiny_data: Path
) -> None:
    for path in tiny_bundle.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for place in (tiny_runs, tiny_encoder, tiny_data):
            assert str(place).encode() not in content, path
