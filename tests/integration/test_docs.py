"""Every command in the documentation runs, in the order a reader meets it.

The demo script comes first, on fewer rows than it says and with the tiny encoder; README and docs
go on in its folder, and their commands are those of the text, all on one Ray. Blocks marked `dry
run` need a cloud or an index of packages: of them only the programs' help is asked for. A command
that ends in `&` is left running until all are done. Servers are processes of their own; other
commands of ours run in this one, which has imported what they need. Ensembles are chosen with
little effort; test_ensemble.py in tests/ensweep has one chosen as users choose it. The trials of
the sweep `warm`, whose models no command uses, only simulate training.
"""

import contextlib
import importlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click.testing
import pytest
from fake_sweep import make_train
from little_effort import LITTLE
from notebook import run_cells
from patience import PATIENCE
from ports import free_port
from readme import blocks, commands, not_said, tutorial
from typer.testing import CliRunner

from ensemble.choice.request import choose_ensemble
from ensweep.cli.app import app
from search.driver.sweep import run_sweep

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SAMPLE = "ensweep data sample demo/data"
FEWER_ROWS = " --train-rows 32 --dev-rows 60"
ENCODERS: dict[str, str] = {}
"""What stands for a word of a command. MiniLM itself is loaded by `make demo`."""
PROGRAMS = {"ray": "ray.scripts.scripts", "mlflow": "mlflow.cli"}
"""Programs that take seconds to start in a process of their own -> where they are defined."""
_BLOCK = re.compile(r"(?P<mark><!--[^\n]*-->\n)?```(?P<kind>sh|python)\n(?P<code>.*?)```", re.S)

pytestmark = pytest.mark.slow


def _blocks(kind: str) -> list[tuple[str, str, str]]:
    """(page, mark, code) of every block of a kind."""
    return [
        (page.name, match["mark"] or "", match["code"])
        for page in PAGES
        for match in _BLOCK.finditer(page.read_text(encoding="utf-8").replace(tutorial(), ""))
        if match["kind"] == kind
    ]


def _commands() -> list[tuple[str, bool, str]]:
    """(page, whether dry, command); comments are cut off."""
    return [
        (page, "dry run" in mark, line.partition(" #")[0].strip())
        for page, mark, code in _blocks("sh")
        for line in code.splitlines()
        if line.strip() and not line.startswith("#")
    ]


@pytest.fixture(scope="module")
def demo(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, one_ray: None
) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("demo")
    _start(["sh", "-n", str(ROOT / "docs" / "demo.sh")], folder)
    script = (ROOT / "docs" / "demo.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    assert SAMPLE in script
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ENSWEEP_MODEL__ENCODER", str(tiny_encoder))  # where the command says none
        patched.setitem(ENCODERS, "model.encoder=minilm", f"model.encoder={tiny_encoder}")
        for module in ("ensemble.choice.request", "ensemble.export.write"):
            patched.setattr(f"{module}.choose_ensemble", partial(choose_ensemble, effort=LITTLE))
        lines = script.replace(SAMPLE, SAMPLE + FEWER_ROWS).splitlines()
        printed = "".join(_run(shlex.split(line), folder) for line in lines if "ensweep" in line)
        for word in ("best single", "simple", "selective", "probability_0", "ensweep ui"):
            assert word in printed, printed
        yield folder


def _run(command: list[str], folder: Path) -> str:
    """What it printed."""
    command = [ENCODERS.get(word, word) for word in command]
    with contextlib.chdir(folder):
        if command[0] == "ensweep":
            with _simulated() if "warm" in command else contextlib.nullcontext():
                done = CliRunner().invoke(app, command[1:])
        elif command[0] in PROGRAMS:
            program = importlib.import_module(PROGRAMS[command[0]]).cli
            done = click.testing.CliRunner().invoke(program, command[1:])
        else:
            return _start(command, folder)
    assert done.exit_code == 0, f"{shlex.join(command)}\n{done.output}\n{done.exception!r}"
    return done.stdout


@contextlib.contextmanager
def _simulated() -> Iterator[None]:
    """Trials of sweeps in the block simulate training."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("search.driver.sweep.run_sweep", partial(run_sweep, train=make_train()))
        yield


def _start(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PATH": path}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(1800)  # some fifty commands, on machines with other work too
def test_the_documented_commands_run(demo: Path) -> None:
    commands = _commands()
    assert len(commands) > 20
    port = str(free_port())
    with contextlib.ExitStack() as servers:
        for _, is_dry, command in commands:
            words = shlex.split(command.replace("8000", port))
            if words[0] == "make":
                _run(["make", "-n", *words[1:]], ROOT)
            elif words[0] == ".":
                continue  # this environment is in use
            elif is_dry:
                _run([words[0], words[1], "--help"], demo)
            elif words[-1] == "&":
                servers.enter_context(_running(words[:-1], port, demo))
            else:
                _run(words, demo)


@contextlib.contextmanager
def _running(command: list[str], port: str, folder: Path) -> Iterator[None]:
    """Started, and asked until it answers; ended with the block."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PATH": path}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
    try:
        while True:
            assert process.poll() is None, shlex.join(command)
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=PATIENCE),
            ):
                break
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_the_documented_python_runs(demo: Path) -> None:
    code = [code for page, _, code in _blocks("python") if page == "README.md"]
    assert len(code) == 1
    path = demo / "example.py"
    path.write_text(code[0].replace("demo/three", "demo/bundle"), encoding="utf-8")
    with contextlib.chdir(demo):
        runpy.run_path(str(path))


def test_the_notebook_runs(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one namespace, without a kernel; fewer trials, little effort."""
    path = ROOT / "docs" / "tour.ipynb"
    fewer = {"num_samples=4": "num_samples=1", "train_rows=300, dev_rows=200": "32, 60"}

    def edited(source: str) -> str:
        for long, short in fewer.items():
            source = source.replace(long, short)
        return source

    little = partial(choose_ensemble, effort=LITTLE)
    monkeypatch.setattr("ensweep.api.choose_ensemble", little)
    with contextlib.chdir(demo):
        notebook = run_cells(path, edited)
    as_written = json.loads(path.read_text(encoding="utf-8"))
    for cell, written in zip(notebook["cells"], as_written["cells"], strict=True):
        kinds = [output["output_type"] for output in cell.get("outputs", [])]
        assert kinds == [output["output_type"] for output in written.get("outputs", [])]
    shown = json.dumps(notebook)
    for text in ("dev/sentiment/accuracy", "best single", "held_out", "row 1: sentence is empty"):
        assert text in shown
    assert not [each for each in fewer if each not in path.read_text(encoding="utf-8")]


def test_yaml_in_the_docs_is_valid(tmp_path: Path) -> None:
    from trainable.config.recipe import resolve

    found = 0
    for page in PAGES:
        for code in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            path = tmp_path / "recipe.yaml"
            path.write_text(code)
            resolve(str(path), (), {})
            found += 1
    assert found >= 2


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_recipe_of_a_task_declared_by_hand_trains_as_printed(
    tiny_data: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    (tmp_path / "mine.yaml").write_text(code)
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    for split in ("train", "dev"):
        moods = ("joy", "anger", "fear")
        rows = (f"k{n},film {n},{moods[n % 3]}\n" for n in range(30))
        (data / f"emotion-{split}.csv").write_text("key,text,mood\n" + "".join(rows))
    words = ["train", "mine.yaml", "--data-dir", "data", "--json", f"model.encoder={tiny_encoder}"]
    small = ["train.num_epochs=1", "pretrain.max_steps=2", "model.fcn_size=8"]
    with contextlib.chdir(tmp_path):
        done = CliRunner().invoke(app, [*words, *small])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    metrics = json.loads(done.stdout)["metrics"]
    assert {"dev/emotion/macro_f1", "dev/sentiment/accuracy"} <= set(metrics)
    off = [line for line in done.stderr.splitlines() if "is trained" in line]
    assert len(off) == 2  # MNR and SimCSE: there are no scored pairs


def test_the_tutorial_is_typed_and_answers_as_printed(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In README's order, with fewer trials. The served answer is the service's own, without a
    server."""
    monkeypatch.setenv("COLUMNS", "100")
    shutil.copytree(ROOT / "docs" / "reviews", demo / "docs" / "reviews")
    printed, num_shown = "", 0
    for kind, code in blocks(tutorial()):
        if kind == "sh":
            printed = "".join(_typed(line, demo) for line in commands(code))
            continue
        assert not_said(code, printed) == [], printed
        num_shown += len(code.splitlines())
    assert num_shown > 25
    label = json.loads(printed)["predictions"][0]["label"]
    assert label in ("negative", "neutral", "positive")


def _typed(line: str, folder: Path) -> str:
    """What a command of the tutorial prints, errors' stream included."""
    words = shlex.split(line)
    if words[:2] == ["ensweep", "serve"]:
        return ""
    if words[0] == "curl":
        from ensemble.inference.ensemble import Ensemble
        from ensemble.serving.service import Service

        return Service(Ensemble.load(folder / "bundle")).answer(words[-1].encode()).decode()
    few = ["--num-samples", "3"] if words[1] == "sweep" else []
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, [*words[1:], *few])
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
    return done.output
