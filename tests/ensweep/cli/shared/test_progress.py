"""Progress: bars in a terminal, a few lines elsewhere."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from ensweep.cli.shared.progress import show_progress
from trainable.evaluation.inference import embeddings_of
from trainable.runtime.progress import Tally, Work, report_to


@pytest.fixture(autouse=True)
def _report_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainable.runtime.progress._REPORT_SECONDS", 0.0)


def test_a_terminal_shows_bars_while_work_runs() -> None:
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=True)
    with show_progress(console):
        looking = Tally("looking at data")
        epoch = Tally("epoch 1/3", 10)
        epoch.add(5, 80, lambda: 0.75)
        console.print("first")
        Tally("embedding sentences", 4).add(4)
        looking.add()
        Tally("looking at cluster")
        epoch.add(5, 80, lambda: 0.5)
        console.print("last")
    seen = text.getvalue()
    for part in ("epoch 1/3", "50%", "loss 0.7500", "examples/s", "s left", "looking at data"):
        assert part in seen
    for gone in ("epoch 1/3", "embedding sentences", "looking at data"):
        assert gone not in seen.rpartition("looking at cluster")[2]  # the last frame


def test_without_a_terminal_a_line_is_written_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("ensweep.cli.shared.progress.time.monotonic", lambda: now)
    with show_progress(Console(file=io.StringIO())):
        tally = Tally("epoch 1/3", 100)
        for _ in range(100):  # a second each
            now += 1.0
            tally.add(1)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(",")[0] for line in err.splitlines()] == [
        "epoch 1/3: 10 %",
        "epoch 1/3: 40 %",
        "epoch 1/3: 70 %",
        "epoch 1/3: 100 %",
    ]


def test_the_progress_of_embedding_counts_every_sentence(tiny_runs: Path) -> None:
    from trainable.batches.tokenization import load_tokenizer, tokenise
    from trainable.config.parse import from_flat
    from trainable.model.multitask import load_member
    from trainable.runtime.precision import choose_precision
    from trainable.storage.trial_folder import TrialFolder

    trial = TrialFolder(tiny_runs / "tiny" / "trials" / "0001-baseline")
    weights = trial.weights_dir(trial.kept_epochs()[-1])
    model = load_member(weights, trial.encoder_dir, from_flat(trial.trial().config))
    texts = ["a film", "a warm film", "a film", "the plot"]
    tokens = tokenise(texts, load_tokenizer(trial.encoder_dir), 16)
    reports: list[Work] = []
    with report_to(reports.append):
        precision = choose_precision("fp32", next(model.parameters()).device)
        embeddings_of(model, tokens, 1, precision)
    assert {work.what for work in reports} == {"embedding sentences"}
    assert [round(work.done, 6) for work in reports] == [0, 1.333333, 2.666667, 4]
