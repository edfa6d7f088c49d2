"""The benchmark of the training step runs, with every loop between the textbook's and ours."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_each_loop_trains_and_is_in_the_table(
    tiny_encoder: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = importlib.import_module("train_step")
    few = ["--chunks", "1", "--examples", "16", "--dev-rows", "4", "--rounds", "1", "--no-memory"]
    words = ["--data-dir", str(tiny_data), "--encoder", str(tiny_encoder), *few]
    monkeypatch.setattr(sys, "argv", ["train_step.py", *words])
    benchmark.main()
    shown = capsys.readouterr().out
    for name in (benchmark.TEXTBOOK, *benchmark.WAY):
        assert f"\n{name}  " in shown
