"""Pack wheels, the packaged MiniLM in fp16, a sample of the data and our code into one folder.

bash benchmarks/gpu/pack.sh build/gpu --data-dir DATA
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from trainable.data.remote import locate
from trainable.data.synthetic import write_sample

ROOT = Path(__file__).parents[2]
MAX_MIB = 60
"""The largest size of the folder, for machines that accept uploads of 64 MiB."""
WHEELS = (
    *("pydantic", "pydantic_core", "annotated_types", "typing_inspection", "typing_extensions"),
    *("filelock", "pytest", "pluggy", "iniconfig", "pygments", "setuptools<82"),
)
"""Packages for training, evaluation and their tests, besides torch and transformers. torch.compile
needs setuptools, and torch requires a version below 82."""
CODE = (
    *("mlflow_setup", "trainable", "benchmarks/gpu"),
    *(f"benchmarks/{name}.py" for name in ("machine", "textbook", "train_step")),
    *("tests/conftest.py", "tests/trainable/test_gpu.py"),
    *("tests/helpers/tiny_trials.py", "tests/helpers/encoders.py"),
)
PYTEST_INI = """[pytest]
addopts = -q -p no:cacheprovider --import-mode=importlib
pythonpath = . tests/helpers
markers =
    gpu: needs a CUDA device
"""
ENCODER_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def pack_wheels(folder: Path, python: str) -> None:
    """Download the wheels that `constraints.txt` pins, and check them.

    Raises:
        SystemExit: one is missing, empty, or of another Python or platform.
    """
    folder.mkdir()
    tag = "cp" + python.replace(".", "")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *(
                "--only-binary=:all:",
                "--platform",
                "manylinux2014_x86_64",
                "--python-version",
                python,
            ),
            *("--constraint", str(ROOT / "constraints.txt"), "--dest", str(folder), *WHEELS),
        ],
        check=True,
    )
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.whl"))}
    fits = re.compile(
        rf"-(py3|py2\.py3)-none-any\.whl$|-{tag}-({tag}|abi3)-manylinux\S*x86_64\.whl$"
    )
    for name, size in sizes.items():
        print(f"{size / 2**20:8.2f} MiB  {name}")
        if size < 4096 or not fits.search(name):
            raise SystemExit(f"{name}: {size} bytes, not a wheel for {tag} on Linux")
    found = {name.split("-")[0].lower() for name in sizes}
    if missing := sorted({name.split("<")[0] for name in WHEELS} - found):
        raise SystemExit(f"no wheel for {', '.join(missing)}")


def pack_encoder(folder: Path) -> None:
    """Copy MiniLM with its weights rounded to fp16; they are loaded as float32."""
    source = Path(locate("minilm"))
    folder.mkdir()
    for name in ENCODER_FILES:
        shutil.copy(source / name, folder)
    weights = load_file(source / "model.safetensors")
    halves = {
        key: value.half() if value.dtype is torch.float32 else value
        for key, value in weights.items()
    }
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})


def pack_data(folder: Path, data_dir: Path | None, num_rows: int) -> None:
    """Write the first rows of each of the paper's files, or generated rows."""
    if data_dir is None:
        write_sample(folder, num_train=num_rows, num_dev=num_rows // 4)
        return
    folder.mkdir()
    for source in sorted(data_dir.glob("*-train.csv")) + sorted(data_dir.glob("*-dev.csv")):
        lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = num_rows if "train" in source.name else num_rows // 4
        (folder / source.name).write_text("".join(lines[: 1 + kept]), encoding="utf-8")


def pack_code(folder: Path) -> None:
    """Copy our packages except the command line, the benchmarks, and the tests that need a GPU."""
    for name in CODE:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    (folder / "pytest.ini").write_text(PYTEST_INI, encoding="utf-8")


def main() -> None:
    """Write the folder, and print its size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the folder; an earlier one is replaced")
    parser.add_argument("--data-dir", type=Path, help="the paper's files; default: generated rows")
    parser.add_argument("--rows", type=int, default=8000, help="training rows of each task")
    parser.add_argument("--python", default="3.12", help="Python version of the GPU machine")
    options = parser.parse_args()
    output: Path = options.output
    if output.exists() and not (output / "run.sh").exists():
        raise SystemExit(f"{output}: exists and is not such a folder; name a new one")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as place:
        new = Path(place) / "pack"
        new.mkdir()
        pack_wheels(new / "wheels", options.python)
        pack_encoder(new / "encoder")
        pack_data(new / "data", options.data_dir, options.rows)
        pack_code(new / "code")
        shutil.copy(ROOT / "benchmarks" / "gpu" / "run.sh", new)
        if output.exists():
            shutil.rmtree(output)
        new.rename(output)
    sizes = {
        part.name: sum(
            path.stat().st_size
            for path in (part.rglob("*") if part.is_dir() else [part])
            if path.is_file()
        )
        for part in sorted(output.iterdir())
    }
    for name, size in sizes.items():
        print(f"{size / 2**20:8.2f} MiB  {output / name}")
    total = sum(sizes.values()) / 2**20
    print(f"{total:8.2f} MiB  in total, of {MAX_MIB}")
    if total > MAX_MIB:
        raise SystemExit(f"{output}: too large; fewer --rows")


if __name__ == "__main__":
    main()
