"""S1: static check that no package calls functions that execute code from the data they read."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ensweep", "search", "ensemble", "trainable", "mlflow_setup")

UNPICKLERS = {"pickle", "_pickle", "cloudpickle", "joblib", "dill", "marshal", "shelve"}
UNPICKLING = {"read_pickle", "to_pickle"}
RUNNING = {"eval", "exec", "compile", "__import__"}
TORCH_LOADERS = {"torch.load", "torch.serialization.load", "torch.jit.load", "torch.hub.load"}
YAML_LOADERS = {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"}
YAML_LOADERS |= {"Loader", "FullLoader", "UnsafeLoader", "CLoader", "CFullLoader", "CUnsafeLoader"}
SWITCHES = {"allow_pickle", "trust_remote_code"}
YAML_READER = "trainable/config/strict_yaml.py"
"""The only file that may call `yaml.load`, with its own loader."""


def dangers(source: str, path: str = "") -> list[str]:
    """The unsafe calls and imports of a Python source, each with its line."""
    tree = ast.parse(source)
    names = {"np": "numpy", "pd": "pandas"}  # name -> its full dotted name
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
    """The full name of a node, `numpy.load` for `np.load`; "" if it is unknown."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    return ""


def _is_safe_call(node: ast.AST, names: dict[str, str], path: str) -> bool:
    """Whether it is a permitted call of a loader."""
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


def test_s1_packages_have_no_unsafe_calls() -> None:
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
    assert {name.rstrip("*") for name in packages["find"]["include"]} == set(PACKAGES)


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
def test_the_check_finds_unsafe_code(source: str) -> None:
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
def test_the_check_accepts_safe_code(source: str) -> None:
    assert dangers(source) == []


def test_only_the_settings_reader_may_call_yaml_load() -> None:
    source = "yaml.load(text, Loader=_Loader)"
    assert dangers(source, YAML_READER) == []
    assert dangers(source, "search/config/load.py") == ["1: yaml.load"]
    assert dangers("yaml.load(text, Loader=yaml.Loader)", YAML_READER) != []
