"""Nothing that is read can run (promise S1), and no name leads out of its folder (S4).

S1: a static check of every package's source, and 30 malicious files given to every reader. S4: 500
paths given to every function that takes a name; `ENSWEEP_FAULTS_SCALE` (default 1) multiplies that.
"""

import ast
import contextlib
import gzip
import io
import itertools
import json
import marshal
import os
import pickle
import random
import re
import shutil
import tarfile
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from fault_table import Table
from safetensors.numpy import save
from scale import SCALE

from ensemble.bundle import ENSEMBLE, FACTS, Bundle, Contents, MemberEntry, Share, TaskEntry
from mlflow_setup.errors import ConfigError, DataError, EnsweepError, IntegrityError
from mlflow_setup.files import MANIFEST, inside, safe_name, write_manifest
from trainable.checkpoint import load_newest
from trainable.config import Config
from trainable.predictions import Predictions
from trainable.reading import read_split
from trainable.record import TrialFolder
from trainable.resolve import resolve
from trainable.sections import Data
from trainable.strict_yaml import read_settings
from trainable.tasks import PAPER_TASKS, Kind

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ensweep", "search", "ensemble", "trainable", "mlflow_setup")

# S1, the source.

UNPICKLERS = {"pickle", "_pickle", "cloudpickle", "joblib", "dill", "marshal", "shelve"}
UNPICKLING = {"read_pickle", "to_pickle"}
RUNNING = {"eval", "exec", "compile", "__import__"}
TORCH_LOADERS = {"torch.load", "torch.serialization.load", "torch.jit.load", "torch.hub.load"}
YAML_LOADERS = {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"}
YAML_LOADERS |= {"Loader", "FullLoader", "UnsafeLoader", "CLoader", "CFullLoader", "CUnsafeLoader"}
SWITCHES = {"allow_pickle", "trust_remote_code"}
YAML_READER = "trainable/strict_yaml.py"
"""The one file that may call `yaml.load`, with a loader of its own."""


def dangers(source: str, path: str = "") -> list[str]:
    """What in a Python source could run what it reads, each with its line."""
    tree = ast.parse(source)
    names = {"np": "numpy", "pd": "pandas"}  # what a name stands for, dotted
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {name.asname: name.name for name in node.names if name.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    safe = {id(node.func) for node in ast.walk(tree) if _is_safe_call(node, names, path)}
    return [
        f"{node.lineno}: {danger}"  # type: ignore[attr-defined]
        for node in ast.walk(tree)
        for danger in _dangers_of(node, names)
        if id(node) not in safe
    ]


def _dotted(node: ast.AST, names: dict[str, str]) -> str:
    """`numpy.load` for `np.load`; "" where what is named is not known."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    return ""


def _is_safe_call(node: ast.AST, names: dict[str, str], path: str) -> bool:
    """Whether it is a call of a loader in the one way that is allowed."""
    if not isinstance(node, ast.Call):
        return False
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    called = _dotted(node.func, names)
    if called == "yaml.load":
        return path == YAML_READER and given.get("Loader") == "_Loader"
    return called == "torch.load" and given.get("weights_only") == "True" and None not in given


def _dangers_of(node: ast.AST, names: dict[str, str]) -> list[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [getattr(node, "module", None) or "", *(name.name for name in node.names)]
        found = {part for module in modules for part in module.split(".")}
        return sorted(found & (UNPICKLERS | UNPICKLING))
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return []  # a field may have any name
    if isinstance(node, ast.Name | ast.Attribute):
        return _dangers_of_name(_dotted(node, names))
    if isinstance(node, ast.Constant):
        return [node.value] if node.value in SWITCHES else []  # a key of keyword arguments
    if isinstance(node, ast.keyword):
        is_off = isinstance(node.value, ast.Constant) and node.value.value is False
        return [node.arg] if node.arg in SWITCHES and not is_off else []
    if isinstance(node, ast.Call):
        called = _dotted(node.func, names)
        if called == "numpy.load" and len(node.args) > 2:
            return ["allow_pickle"]
        if called == "importlib.import_module" and not isinstance(node.args[0], ast.Constant):
            return [called]
        if called in ("importlib.import_module", "getattr"):
            last = ast.literal_eval(node.args[-1]) if _is_text(node.args[-1]) else ""
            return [last] if last in UNPICKLERS | UNPICKLING | RUNNING else []
    return []


def _dangers_of_name(name: str) -> list[str]:
    parts = name.split(".")
    is_builtin = len(parts) == 1 or parts[0] == "builtins"
    is_yaml = parts[0] == "yaml" and parts[-1] in YAML_LOADERS
    if name in TORCH_LOADERS or is_yaml or (is_builtin and parts[-1] in RUNNING):
        return [name]
    return [parts[-1]] if parts[-1] in UNPICKLERS | UNPICKLING | {"trust_remote_code"} else []


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_no_source_can_run_what_it_reads() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert {path.relative_to(ROOT).parts[0] for path in files} == set(PACKAGES)
    found = [
        f"{path.relative_to(ROOT)}:{danger}"
        for path in sorted(files)
        for danger in dangers(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
    ]
    assert found == []


def test_every_package_is_checked() -> None:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        packages = tomllib.load(stream)["tool"]["setuptools"]["packages"]
    assert {name.partition(".")[0] for name in packages} == set(PACKAGES)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import pickle as p",
        "import _pickle",
        "from pickle import loads",
        "def f():\n    import cloudpickle",
        "import joblib.numpy_pickle",
        "from ray import cloudpickle",
        "from torch.serialization import pickle",
        "import ray\nray.cloudpickle.loads(b'')",
        "import dill, marshal",
        "import shelve",
        "import pandas as pd\npd.read_pickle('x')",
        "from pandas import read_pickle",
        "frame.to_pickle('x')",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "torch.load('x', weights_only=flag)",
        "torch.load('x', weights_only=True, **more)",
        "from torch import load\nload('x')",
        "import torch as t\nt.load('x')",
        "read = torch.load",
        "torch.jit.load('x')",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text, yaml.UnsafeLoader)",
        "yaml.unsafe_load(text)",
        "yaml.full_load(text)",
        "yaml.load(text, Loader=_Loader)",
        "from yaml import load\nload(text)",
        "from yaml import UnsafeLoader as SafeLoader\nclass Own(SafeLoader): pass",
        "class _Loader(yaml.Loader): pass",
        "import yaml as y\ny.unsafe_load(text)",
        "eval(text)",
        "exec(text)",
        "compile(text, '', 'exec')",
        "__import__(text)",
        "builtins.eval(text)",
        "list(map(eval, texts))",
        "from builtins import exec as run\nrun(text)",
        "getattr(builtins, 'exec')(text)",
        "importlib.import_module('pickle')",
        "from importlib import import_module\nimport_module(name)",
        "np.load('x', allow_pickle=True)",
        "np.load('x', allow_pickle=flag)",
        "np.load('x', None, True)",
        "import numpy\nnumpy.load('x', allow_pickle=1)",
        "np.load('x', **{'allow_pickle': True})",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=flag)",
        "options['trust_remote_code'] = True",
        "options.trust_remote_code = True",
    ],
)
def test_the_static_check_finds(source: str) -> None:
    assert dangers(source) != []


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "torch.load('x', weights_only=True)",
        "from torch import load\nload('x', weights_only=True)",
        "yaml.safe_load(text)",
        "class _Loader(yaml.SafeLoader): pass",
        "frame.load('x')",
        "importlib.import_module('json')",
        "np.load('x')",
        "np.load('x', allow_pickle=False)",
        "re.compile('x')",
        "json.load(stream)",
        "'pickle'  # import pickle",
        "AutoModel.from_pretrained(name, trust_remote_code=False)",
    ],
)
def test_the_static_check_lets_pass(source: str) -> None:
    assert dangers(source) == []


def test_only_the_settings_reader_may_call_yaml_load() -> None:
    source = "yaml.load(text, Loader=_Loader)"
    assert dangers(source, YAML_READER) == []
    assert dangers(source, "search/sweep_file.py") == ["1: yaml.load"]
    assert dangers("yaml.load(text, Loader=yaml.Loader)", YAML_READER) != []


# S1, the files. Each, read carelessly, makes the folder MARKER in the current one.

MARKER = "executed"


class Bomb:
    """Unpickled, it calls what it is given."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


BOMB = Bomb(os.mkdir, MARKER)
CODE = f"__import__('os').mkdir('{MARKER}')"


def written(write: Callable[[Any], object]) -> bytes:
    """What `write` puts into a stream."""
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def parquet(metadata: dict[str, str | bytes]) -> bytes:
    table = pa.table({"id": ["a"], "score": np.zeros(1, np.float32)})
    return written(lambda stream: pq.write_table(table.replace_schema_metadata(metadata), stream))


def parquet_with_extension() -> bytes:
    """A column whose type older readers unpickle."""
    field = pa.field(
        "score",
        pa.float32(),
        metadata={
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": pickle.dumps(BOMB),
        },
    )
    table = pa.table([pa.array([0.0], pa.float32())], schema=pa.schema([field]))
    return written(lambda stream: pq.write_table(table, stream))


def zip_slip() -> bytes:
    def write(stream: io.BytesIO) -> None:
        torch.save(BOMB, stream)
        with zipfile.ZipFile(stream, "a") as archive:
            archive.writestr(f"../../{MARKER}/file", "x")

    return written(write)


def tar_slip() -> bytes:
    def write(stream: io.BytesIO) -> None:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(f"../{MARKER}/file"))
            member = tarfile.TarInfo("pickle")
            content = pickle.dumps(BOMB)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

    return written(write)


def npy_header() -> bytes:
    """A .npy file whose header is an expression."""
    header = f"{{'descr': {CODE}, 'fortran_order': False, 'shape': (1,)}}".ljust(118).encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def safetensors_header(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + content


OBJECTS = np.array([BOMB], dtype=object)
PAYLOADS: dict[str, bytes] = {
    **{f"pickle {protocol}": pickle.dumps(BOMB, protocol=protocol) for protocol in range(6)},
    "pickle exec": pickle.dumps(Bomb(exec, f"import os; os.mkdir('{MARKER}')")),
    "pickle eval": pickle.dumps(Bomb(eval, CODE)),
    "pickle system": pickle.dumps(Bomb(os.system, f"mkdir {MARKER}")),
    "pickle nested": pickle.dumps({"step": 2, "model": [{"weight": BOMB}]}),
    "joblib zlib": zlib.compress(pickle.dumps(BOMB)),
    "joblib gzip": gzip.compress(pickle.dumps(BOMB)),
    "torch zip": written(lambda stream: torch.save({"model": BOMB}, stream)),
    "torch legacy": written(
        lambda stream: torch.save({"m": BOMB}, stream, _use_new_zipfile_serialization=False)
    ),
    "torch tensor and bomb": written(
        lambda stream: torch.save([torch.zeros(3), Bomb(exec, CODE)], stream)
    ),
    "zip slip": zip_slip(),
    "tar slip": tar_slip(),
    "npy objects": written(lambda stream: np.save(stream, OBJECTS, allow_pickle=True)),
    "npz objects": written(lambda stream: np.savez(stream, flat=OBJECTS, offsets=OBJECTS)),
    "npy header": npy_header(),
    "marshal": marshal.dumps(compile(CODE, "", "eval")),
    "yaml apply": f"!!python/object/apply:os.mkdir [{MARKER}]".encode(),
    "yaml new": f"seed: !!python/object/new:os.mkdir [{MARKER}]".encode(),
    "yaml eval": f'optim: {{lr: !!python/object/apply:eval ["{CODE}"]}}'.encode(),
    "yaml full tag": f"- !<tag:yaml.org,2002:python/object/apply:os.mkdir> [{MARKER}]".encode(),
    "yaml tag directive": f"%TAG ! tag:yaml.org,2002:python/\n---\n!object/apply:os.mkdir "
    f"[{MARKER}]".encode(),
    "yaml module": b"seed: !!python/module:this",
    "parquet extension": parquet_with_extension(),
    "parquet header": parquet({"ensweep": pickle.dumps(BOMB), "pandas": pickle.dumps(BOMB)}),
    "safetensors pickle": safetensors_header(pickle.dumps(BOMB)),
    "safetensors metadata": save(
        {"flat": np.zeros(1, np.int32)}, metadata={"python": CODE, "__reduce__": CODE}
    ),
    "json reduce": json.dumps(
        {"py/object": "os.mkdir", "py/reduce": [{"py/function": "os.mkdir"}, [MARKER]]}
    ).encode(),
    "json code": json.dumps({"trial": CODE, "config": {"__reduce__": CODE}}).encode(),
    "json without end": b"[" * 100_000,
    "json null": b"null",
    "csv formula": f"id\tsentence\tsentiment\n1\t=cmd|'/c mkdir {MARKER}'!A0\t{CODE}\n".encode(),
    "python": f"import os\nos.mkdir('{MARKER}')\n".encode(),
}

CARELESS: dict[str, Callable[[bytes], object]] = {
    "pickle": pickle.loads,
    "joblib zlib": lambda content: pickle.loads(zlib.decompress(content)),
    "joblib gzip": lambda content: pickle.loads(gzip.decompress(content)),
    "torch": lambda content: torch.load(io.BytesIO(content), weights_only=False),
    "npy objects": lambda content: np.load(io.BytesIO(content), allow_pickle=True),
    "npz objects": lambda content: np.load(io.BytesIO(content), allow_pickle=True)["flat"],
    "marshal": lambda content: eval(marshal.loads(content)),  # noqa: S307
    "yaml apply": yaml.unsafe_load,
    "yaml new": yaml.unsafe_load,
    "yaml eval": yaml.unsafe_load,
    "yaml full": yaml.unsafe_load,
    "yaml tag": yaml.unsafe_load,
    "python": lambda content: exec(content),  # noqa: S102
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which nothing may be executed."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (name, read)
        for name in PAYLOADS
        for prefix, read in CARELESS.items()
        if name.startswith(prefix)
    ],
)
def test_the_malicious_files_are_live(
    here: Path, name: str, read: Callable[[bytes], object]
) -> None:
    assert len(PAYLOADS) >= 30
    with contextlib.suppress(RuntimeError):  # torch, after the harm is done
        read(PAYLOADS[name])
    assert (here / MARKER).is_dir()


def as_predictions(folder: Path, content: bytes) -> None:
    (folder / "0001.parquet").write_bytes(content)
    Predictions.read(folder / "0001.parquet")


def as_checkpoint(folder: Path, content: bytes) -> None:
    """Its manifest fits: whoever can write the state can write that too."""
    generation = folder / "checkpoint" / "00000002"
    generation.mkdir(parents=True)
    (generation / "state.pt").write_bytes(content)
    write_manifest(generation, {"step": 2})
    load_newest(folder / "checkpoint")


def as_manifest(folder: Path, content: bytes) -> None:
    generation = folder / "checkpoint" / "00000002"
    generation.mkdir(parents=True)
    (generation / "state.pt").write_bytes(content)
    (generation / MANIFEST).write_bytes(content)
    assert load_newest(folder / "checkpoint") is None


def as_trial(folder: Path, content: bytes) -> None:
    names = ("config.json", "outcome.json", "epochs/0001.json", "epochs/0001.decision.json")
    for name in (*names, "predictions/mood/0001.parquet", "weights/0001/manifest.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    trial = TrialFolder(folder)
    assert (trial.epochs(), trial.decisions(), trial.outcome()) == ([], [], None)
    with contextlib.suppress(EnsweepError):
        trial.require_weights(1)
    trial.snapshot()


def as_settings(folder: Path, content: bytes) -> None:
    (folder / "settings.yaml").write_bytes(content)
    with contextlib.suppress(EnsweepError):
        settings = read_settings(folder / "settings.yaml")
        assert settings == (json.loads(content) or {})  # text, and nothing but text
    resolve(str(folder / "settings.yaml"), environment={})


def as_data(folder: Path, content: bytes) -> None:
    for name in ("sentiment", "nli"):
        task = PAPER_TASKS[name]
        (folder / task.files["train"]).write_bytes(content)
        examples, defects = read_split(name, task, "train", folder)
        assert not len(examples)
        assert any(defect.severity == "error" for defect in defects)


def as_sweep(folder: Path, content: bytes) -> None:
    from search.sweep_file import read_sweep

    (folder / "sweep.yaml").write_bytes(content)
    read_sweep(str(folder / "sweep.yaml"))


def as_bundle(folder: Path, content: bytes) -> None:
    """Its manifest fits, as in `as_checkpoint`; then it is the file itself."""
    (folder / ENSEMBLE).write_bytes(content)
    write_manifest(folder, FACTS)
    with contextlib.suppress(EnsweepError):
        Bundle.load(folder)
    (folder / MANIFEST).write_bytes(content)
    Bundle.load(folder)


READERS: dict[str, Callable[[Path, bytes], None]] = {
    "predictions": as_predictions,
    "checkpoint": as_checkpoint,
    "manifest": as_manifest,
    "trial": as_trial,
    "settings": as_settings,
    "data": as_data,
    "sweep": as_sweep,
    "bundle": as_bundle,
}


ACCEPTED = {
    "manifest": set(PAYLOADS),  # put aside
    "data": set(PAYLOADS),  # defects, named
    "settings": {"json null"},  # no settings
    "sweep": {"json null"},
}


malicious = pytest.mark.promise(
    "S1", "malicious files, given to every reader of what was fetched", "none is executed"
)


@malicious
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_runs_a_malicious_file(
    here: Path, tmp_path: Path, table: Table, reader: str
) -> None:
    table.played(len(PAYLOADS))
    accepted = set()
    for number, (name, content) in enumerate(PAYLOADS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with contextlib.suppress(EnsweepError):
            READERS[reader](folder, content)
            accepted.add(name)
        assert not (here / MARKER).exists(), name
        assert not (tmp_path / MARKER).exists(), name
    assert accepted == ACCEPTED.get(reader, set())


@malicious
def test_no_weights_or_encoder_run_a_malicious_file(
    here: Path, tmp_path: Path, tiny_encoder: Path, table: Table
) -> None:
    table.played(3 * len(PAYLOADS))
    from trainable.encoder import load_pretrained
    from trainable.model import load_member

    for number, (name, content) in enumerate(PAYLOADS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(EnsweepError):
            load_member(folder, tiny_encoder, Config())
        (folder / "config.json").write_bytes((tiny_encoder / "config.json").read_bytes())
        with pytest.raises(EnsweepError):
            load_pretrained(str(folder), None, 0.1, "pooler")
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(EnsweepError):
            load_pretrained(str(folder), None, 0.1, "pooler")
        assert not (here / MARKER).exists(), name


@malicious
@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
)
def test_no_file_beside_the_weights_runs(
    here: Path, tmp_path: Path, tiny_encoder: Path, table: Table, file: str
) -> None:
    table.played(len(PAYLOADS))
    from trainable.encoder import build_untrained
    from trainable.tokens import load_tokenizer

    for number, (name, content) in enumerate(PAYLOADS.items()):
        folder = tmp_path / str(number)
        shutil.copytree(tiny_encoder, folder)
        (folder / file).write_bytes(content)
        for load in (lambda path: build_untrained(path, 0.1), load_tokenizer):
            with contextlib.suppress(Exception):  # of ours, or of the library that reads it
                load(folder)
        assert not (here / MARKER).exists(), name


# S3


@pytest.mark.promise("S3", "an encoder that brings code of its own", "none is executed")
@pytest.mark.parametrize("model_type", ["bert", "bomb"])
def test_no_encoder_runs_its_own_code(
    here: Path, tmp_path: Path, tiny_encoder: Path, table: Table, model_type: str
) -> None:
    table.played(3)
    from trainable.encoder import build_untrained, load_pretrained
    from trainable.tokens import load_tokenizer

    folder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder, folder)
    own = {"AutoConfig": "bomb.Config", "AutoModel": "bomb.Model", "AutoTokenizer": "bomb.Words"}
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        settings |= {"auto_map": own, "model_type": model_type}
        (folder / name).write_text(json.dumps(settings))
    (folder / "bomb.py").write_bytes(PAYLOADS["python"])
    for load in (
        lambda: load_pretrained(str(folder), None, 0.1, "pooler"),
        lambda: build_untrained(folder, 0.1),
        lambda: load_tokenizer(folder),
    ):
        with contextlib.suppress(EnsweepError):
            load()
        assert not (here / MARKER).exists()


# S4

OUTSIDE = "secret"


def climbing(draw: random.Random, count: int) -> list[str]:
    """Names that try to leave their folder, no two alike; the last folder's name is `OUTSIDE`."""
    ups = ["..", ".", "...", "%2e%2e", "%2E%2e", "%252e%252e", "%25252e%25252e", ".%2e", "%c0%ae"]
    ups += ["\uff0e\uff0e", "\u2024\u2024", "\u2025", "\ufe52\ufe52", "..;", "..%00", "..\0", " .."]
    ups += [".. ", "..\t", "..\n", "link", "~", "~root", "$HOME", "a/..", "\u202e..", "%u002e."]
    slashes = [
        "/",
        "//",
        "\\",
        "\\\\",
        "%2f",
        "%252f",
        "%5c",
        "%c0%af",
        "\u2215",
        "\u2044",
        "\uff0f",
    ]
    slashes += ["/./", "\0/", ":", "\n/"]
    starts = [
        "",
        "/",
        "//",
        "\\\\server\\",
        "C:\\",
        "C:/",
        "file:",
        "file:///",
        "file://localhost/",
    ]
    starts += ["s3://", "mlflow-artifacts:/", "/proc/self/root/", "a/", "#/", "?path=", "runs:/"]
    ends = ["", OUTSIDE, f"{OUTSIDE}/file", "x" * 300, "file\0.json", "#fragment", "?query", "."]
    single = [f"{up}{slash}{end}" for up, slash, end in itertools.product(ups, slashes, ends)]
    fixed = ["", "x" * 101, "x" * 5000, "a" * 256, "/etc/passwd", "link", "link/file", "up/secret"]
    found = dict.fromkeys(fixed)
    while len(found) < count:
        up, slash, times = draw.choice(ups), draw.choice(slashes), draw.randint(1, 6)
        found[draw.choice(starts) + (up + slash) * times + draw.choice(ends)] = None
        found[draw.choice(single)] = None
    return list(found)[:count]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder beside a secret one, with links that lead there."""
    folder = tmp_path / "root"
    (tmp_path / OUTSIDE).mkdir()
    (tmp_path / OUTSIDE / "file").write_text("secret")
    for place in (folder, folder / "predictions"):
        place.mkdir()
        (place / "link").symlink_to(tmp_path / OUTSIDE)
        (place / "up").symlink_to("..")
        (place / "round").symlink_to("round")
    return folder


PATHS = climbing(random.Random(4), 500 * SCALE)


escaping = pytest.mark.promise(
    "S4", "paths given to every function and verb that takes a name", "none leads out of its folder"
)


def assert_below(path: Path, root: Path) -> None:
    resolved = Path(os.path.realpath(path))
    assert resolved != root.resolve()
    assert resolved.is_relative_to(root.resolve())


@escaping
def test_no_path_leaves_its_root(root: Path, table: Table) -> None:
    table.played(len(PATHS))
    num_refused = 0
    for text in PATHS:
        try:
            found = inside(root, text)
        except IntegrityError:
            num_refused += 1
        else:
            assert_below(found, root)
    assert len(set(PATHS)) == 500 * SCALE
    assert num_refused > 0.9 * len(PATHS)


@escaping
def test_no_name_is_more_than_a_name(root: Path, table: Table) -> None:
    table.played(len(PATHS))
    for text in PATHS:
        with contextlib.suppress(ConfigError):
            name = safe_name(text, "sweep")
            assert (root / name).parent == root
            assert Path(name).name == name


@escaping
def test_no_task_leaves_the_trial(root: Path, table: Table) -> None:
    table.played(len(PATHS))
    trial = TrialFolder(root)
    outputs = np.zeros(1, np.float32)
    plain = Predictions("mood", Kind.SIMILARITY, "dev", ("a",), outputs, None, "data", "words")
    before = everything(root.parent)
    for text in PATHS:
        with contextlib.suppress(EnsweepError):
            assert_below(trial.predictions_path(text, 1), root / "predictions")
        with contextlib.suppress(EnsweepError):
            trial.write_predictions(1, replace(plain, task_name=text))
    new = set(everything(root.parent)) - set(before)
    assert all(path.is_relative_to(root / "predictions") for path in new)
    assert list((root.parent / OUTSIDE).iterdir()) == [root.parent / OUTSIDE / "file"]


@escaping
def test_no_member_or_encoder_leaves_the_bundle(root: Path, table: Table) -> None:
    """Its manifest fits: whoever writes the names can write that too."""
    table.played(len(PATHS))
    config = Config(data=Data(tasks=("sentiment",))).flat()
    for number, text in enumerate(PATHS):
        names = (text, "plain") if number % 2 else ("plain", text)
        member = MemberEntry(
            run_id="r", sweep=None, trial="t", epoch=1, encoder=names[0], config=config
        )
        share = Share(member=names[1], weight=1.0)
        entry = TaskEntry(task=PAPER_TASKS["sentiment"], members=(share,), scores={})
        contents = Contents(
            schema_version=1, tasks={"sentiment": entry}, members={names[1]: member}
        )
        bundle = Bundle(root, contents)
        for folder in (bundle.weights_dir, bundle.encoder_dir):
            with contextlib.suppress(IntegrityError):
                assert_below(folder(names[1]), root)
        folder = root.parent / "bundle"
        folder.mkdir()
        (folder / ENSEMBLE).write_text(contents.to_json(), encoding="utf-8")
        write_manifest(folder, FACTS)
        with pytest.raises(IntegrityError):
            Bundle.load(folder)
        shutil.rmtree(folder)


@escaping
def test_no_sweep_trial_run_or_artifact_leaves_its_folder(root: Path, table: Table) -> None:
    table.played(len(PATHS))
    from mlflow_setup.mirror import Mirror
    from mlflow_setup.runs import download
    from mlflow_setup.schema import TrialRecord, TrialSnapshot
    from mlflow_setup.tracking import Tracking

    tracking = Tracking(f"sqlite:///{root}/never-made.db")
    num_refused = 0
    for text in PATHS:
        if not is_name(text):
            num_refused += 1
            with pytest.raises(ConfigError):
                Mirror(tracking, text)
            record = TrialRecord(text, "sweep", "b1", {}, {}, 0, "data", None, 0.0)
            with pytest.raises(ConfigError):
                Mirror(tracking, "sweep").project(TrialSnapshot(record, (), None, {}, "", ()))
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", text):
            with pytest.raises(EnsweepError):
                download(tracking, text, "config.json", root)
        if not is_plain(text):
            with pytest.raises(EnsweepError):
                download(tracking, "0123abc", text, root)
    assert num_refused > 0.9 * len(PATHS)
    assert not (root / "never-made.db").exists()


@escaping
def test_no_sweep_is_run_outside_the_storage(root: Path, table: Table) -> None:
    table.played(len(PATHS))
    from mlflow_setup.tracking import Tracking
    from search.sweep import run_sweep
    from search.sweep_file import read_sweep

    tracking = Tracking(f"sqlite:///{root}/never-made.db")
    sweep = read_sweep("demo", environment={})
    before = everything(root.parent)
    for text in PATHS:
        with pytest.raises(EnsweepError) as refused:  # a name that is one lacks data
            run_sweep(sweep, text, root, tracking)
        assert isinstance(refused.value, DataError if is_name(text) else ConfigError)
    assert everything(root.parent) == before


@escaping
@pytest.mark.parametrize(
    "verb", [["sync"], ["leaderboard"], ["ensemble"], ["export", "--output", "bundle"]]
)
def test_no_verb_takes_a_name_out_of_the_storage(
    here: Path, root: Path, monkeypatch: pytest.MonkeyPatch, table: Table, verb: list[str]
) -> None:
    table.played(len(PATHS))
    from typer.testing import CliRunner

    from ensweep.cli.app import app

    for name in ("MLFLOW_TRACKING_URI", "ENSWEEP_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    before = everything(root.parent)
    for text in PATHS:
        result = CliRunner().invoke(app, [*verb, "--storage", str(root), "--", text or "/"])
        assert isinstance(result.exception, EnsweepError), text
        assert result.stdout == ""
    assert everything(root.parent) == before


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def is_name(text: str) -> bool:
    try:
        safe_name(text, "name")
    except ConfigError:
        return False
    return True


def is_plain(text: str) -> bool:
    """Whether `inside` takes it: the tests above have shown where that leads."""
    try:
        inside(Path("/nowhere"), text)
    except EnsweepError:
        return False
    return True
