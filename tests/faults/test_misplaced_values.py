"""D5: values of other types at each position of the files that users write."""

import json
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fault_table import Table
from scale import MANY

from mlflow_setup.errors import EnsweepError
from search.ablation.study import read_study
from search.cluster.check_ray_yaml import check_cluster_file
from search.cluster.kuberay_file import check_kuberay_file
from search.config.load import read_sweep
from search.storage.sweep_folder import SWEEP_FILE, SweepFolder
from trainable.config.recipe import resolve

ROOT = Path(__file__).resolve().parents[2]
OTHERS: tuple[Any, ...] = (None, True, -1, "x", [], ["x"], [{"x": 1}], {}, {"x": 1}, {1: 2})
MISSING = object()
OWN_TASKS = """
extends: b3
data: {tasks: [mood]}
tasks:
  mood:
    kind: classification
    labels: [low, high]
    files: {train: a.csv, dev: b.csv}
    columns: {id: key, text: words}
    quoting: none
"""
FILES: dict[str, tuple[str, str | Path, Callable[[Path], Any]]] = {
    "a recipe with tasks": ("mine.yaml", OWN_TASKS, lambda path: resolve(str(path), (), {})),
    "a packaged recipe": (
        "mine.yaml",
        ROOT / "trainable" / "config" / "recipes" / "b1.yaml",
        lambda path: resolve(str(path), (), {}),
    ),
    "tasks of a data folder": (
        "tasks.yaml",
        "tasks:\n" + OWN_TASKS.partition("tasks:\n")[2],
        lambda path: resolve("b3", [f"data.dir={path.parent}"], {}),
    ),
    "a sweep": (
        "mine.yaml",
        ROOT / "search" / "config" / "sweeps" / "demo.yaml",
        lambda path: read_sweep(str(path), (), {}),
    ),
    "a study": (
        "mine.yaml",
        ROOT / "search" / "ablation" / "studies" / "further.yaml",
        lambda path: read_study(str(path), 1),
    ),
    "a cluster of Ray": ("cluster.yaml", ROOT / "cluster.yaml", check_cluster_file),
    "a job of KubeRay": ("job.yaml", ROOT / "deploy" / "kuberay.yaml", check_kuberay_file),
}


def _misplaced(content: Any) -> Iterator[None]:
    """Replaces or deletes one value of `content` in place, yields, and restores it."""
    draw, others = random.Random(0), (*OTHERS, MISSING)
    for parent, key in list(_positions(content)):
        original = parent[key]
        for other in others if MANY else draw.sample(others, 1):
            if other is MISSING:
                parent.pop(key)
            else:
                parent[key] = other
            yield
        if other is MISSING and isinstance(parent, list):
            parent.insert(key, original)
        else:
            parent[key] = original


def _positions(content: Any) -> Iterator[tuple[Any, Any]]:
    """Each value's list or mapping, and its index or key."""
    for key in range(len(content)) if isinstance(content, list) else list(content):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _positions(content[key])


@pytest.mark.promise(
    "D5",
    "files of users with a value of another type, or none, at each place in turn",
    "refused by name, or read; no crash",
)
def test_d5_misplaced_values_are_refused_or_read(tmp_path: Path, table: Table) -> None:
    num_cases = 0
    for name, (file, source, read) in FILES.items():
        path = tmp_path / file
        text = source if isinstance(source, str) else source.read_text(encoding="utf-8")
        content, num_refused = yaml.safe_load(text), 0
        for _ in _misplaced(content):
            path.write_text(yaml.safe_dump(content), encoding="utf-8")
            num_cases += 1
            try:
                found = read(path)
                num_refused += isinstance(found, list) and any(each.is_error for each in found)
            except EnsweepError:
                num_refused += 1
        path.unlink()
        assert num_refused > 3, name
    table.played(num_cases)


def test_d5_misplaced_values_of_a_stored_sweep_are_refused_or_read(tmp_path: Path) -> None:
    with tarfile.open(ROOT / "tests" / "data" / "release.tar.xz") as packed:
        packed.extractall(tmp_path, filter="data")
    folder = SweepFolder(tmp_path / "runs", "s")
    content, num_refused = json.loads((folder.path / SWEEP_FILE).read_text()), 0
    for _ in _misplaced(content):
        (folder.path / SWEEP_FILE).write_text(json.dumps(content))
        try:
            folder.read()
        except EnsweepError:
            num_refused += 1
    assert num_refused > 3
