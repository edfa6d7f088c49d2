"""The import contracts of pyproject.toml hold, and each detects a forbidden import.

The import graph is built once; tests add forbidden imports to copies of it.
"""

from copy import deepcopy
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest
from importlinter import configuration
from importlinter.application import use_cases

ROOT = Path(__file__).parents[1]
PACKAGES = ("ensweep", "search", "ensemble", "trainable", "mlflow_setup")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def _broken(graph: grimp.ImportGraph) -> list[str]:
    """The contracts of pyproject.toml that the graph breaks."""
    configuration.configure()
    options = use_cases.read_user_options(str(ROOT / "pyproject.toml"))
    use_cases._register_contract_types(options)
    report = use_cases._build_report(graph, 0, options, (), show_timings=False, verbose=False)
    assert not report.invalid_contract_options
    found = list(report.get_contracts_and_checks())
    assert len(found) == len(options.contracts_options)
    return [contract.name for contract, check in found if not check.kept]


def _missing(graph: grimp.ImportGraph) -> set[str]:
    """Modules of the packages that are not in the graph."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return {name.removesuffix(".__init__") for name in names} - graph.modules


def test_contracts_hold(graph: grimp.ImportGraph) -> None:
    assert _missing(graph) == set()
    assert _broken(graph) == []


def test_there_are_no_import_cycles(graph: grimp.ImportGraph) -> None:
    """Imports inside functions count as well."""
    assert _cycle(graph) == []
    changed = deepcopy(graph)
    changed.add_import(importer="ensemble.serving.interface", imported="ensemble.serving.service")
    assert len(_cycle(changed)) > 2


def _cycle(graph: grimp.ImportGraph) -> list[str]:
    """The modules of an import cycle, the first again at the end; empty if there is none."""
    own = [name for name in graph.modules if name.partition(".")[0] in PACKAGES]
    try:
        TopologicalSorter({m: graph.find_modules_directly_imported_by(m) for m in own}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("trainable.evaluation.metrics", "search.config.space"),
        ("mlflow_setup.schema", "trainable.config.tasks"),
        ("ensemble.selection.greedy", "ensweep"),
        ("ensemble.selection.greedy", "torch"),
        ("mlflow_setup.runs.query", "torch"),
        ("trainable.training.train", "mlflow"),
        ("trainable.training.train", "ray"),
        ("ensemble.candidates.pool", "optuna"),
        ("ensweep.cli.training.data", "torch"),
    ],
)
def test_a_forbidden_import_breaks_a_contract(
    graph: grimp.ImportGraph, importer: str, imported: str
) -> None:
    assert {importer, imported} <= graph.modules
    changed = deepcopy(graph)
    changed.add_import(importer=importer, imported=imported)
    assert _broken(changed) != []
