"""Stages of a trial: frozen encoders, cached embeddings, weight averages, initial weights."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from resumed import TECHNIQUES
from safetensors.torch import load_file
from stops import stop_at
from tiny_trials import NO_DROPOUT, config_of, learner_of, run

from mlflow_setup.schema import Outcome, best_epoch
from trainable.batches.tokenization import Tokens
from trainable.evaluation import embedding_cache as embeddings
from trainable.evaluation.evaluate import Evaluation
from trainable.model.encoder import load_pretrained
from trainable.model.multitask import MultitaskBert
from trainable.model.weight_files import ENCODER_FILE, read_weights
from trainable.runtime import stopping
from trainable.runtime.stopping import never_stop
from trainable.storage.trial_folder import TrialFolder
from trainable.training import trainer
from trainable.training.learner import Learner


def test_probing_does_not_change_the_encoder(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_encoder, tiny_data, *TECHNIQUES["probe"])
    run(config, tmp_path / "t", tmp_path)
    trial = TrialFolder(tmp_path / "t")
    start = load_pretrained(str(tiny_encoder), None, 0.1, "pooler").state_dict()
    untrained = learner_of(config).model.state_dict()
    for epoch in trial.kept_epochs():
        state = read_weights(trial.weights_dir(epoch))
        for name, value in start.items():
            assert torch.equal(state[f"encoder.{name}"], value), name
        heads = [name for name in state if name.startswith("heads.")]
        assert len(heads) > 5
        assert not any(torch.equal(state[name], untrained[name]) for name in heads)


def test_probe_epochs_of_all_trials_share_one_encoder_file(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fine-tuned epoch has its own; deleting one epoch's weights leaves the others intact."""
    monkeypatch.setattr(trainer, "epochs_to_keep", lambda past, *_: {p.epoch for p in past})
    trials = []
    for name, stages in (("one", "probe, finetune"), ("two", "probe")):
        more = (f"train.stages=[{stages}]", f"seed={len(trials)}", "train.num_epochs=1")
        config = config_of(tiny_encoder, tiny_data, "probe.num_epochs=3", *more)
        run(config, tmp_path / name, tmp_path)
        trials.append(TrialFolder(tmp_path / name))
    one, two = trials
    stats = [
        (trial.weights_dir(epoch) / ENCODER_FILE).stat()
        for trial in (two, one)
        for epoch in trial.kept_epochs()
    ]
    *probed, finetuned = stats
    assert {stat.st_ino for stat in probed} == {probed[0].st_ino} != {finetuned.st_ino}
    assert [stat.st_nlink for stat in stats] == [2 * 3 + 1] * 6 + [1]
    before = read_weights(one.weights_dir(3))
    for epoch in (1, 2):
        one.drop_weights(epoch)
    after = read_weights(one.require_weights(3))
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert two.require_weights(1)


def test_cached_and_uncached_probing_have_the_same_losses(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without dropout, over three epochs; the second cached run reuses the first's embeddings."""
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "cache"))
    embedded: list[int] = []
    plain = embeddings.embeddings_of

    def embeddings_of(model: MultitaskBert, tokens: Tokens, *settings: Any) -> torch.Tensor:
        embedded.append(len(tokens.lengths))
        return plain(model, tokens, *settings)

    monkeypatch.setattr(embeddings, "embeddings_of", embeddings_of)
    settings = [
        *TECHNIQUES["probe"],
        *NO_DROPOUT,
        "probe.lr=1e-4",
    ]
    losses, counts = [], []
    for name, cache in (("cold", "true"), ("warm", "true"), ("uncached", "false")):
        config = config_of(tiny_encoder, tiny_data, *settings, f"probe.cache={cache}")
        run(config, tmp_path / name, tmp_path)
        records = TrialFolder(tmp_path / name).epochs()
        losses.append([v for r in records for k, v in r.metrics.items() if k.endswith("/loss")])
        counts.append(len(embedded))
    assert embedded == [24, 48, 48, 32, 64, 64]  # train and dev: 1, 2 and 2 sentences
    assert counts == [6, 6, 6]  # once for all epochs and all trials
    cold, warm, uncached = losses
    assert len(cold) == 3 * 6
    assert cold == warm
    assert cold == pytest.approx(uncached, rel=1e-4)


def test_embedding_that_was_stopped_is_resumed(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentences are embedded in chunks; finished chunks are read from the cache."""
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "cache"))
    learner = learner_of(config_of(tiny_encoder, tiny_data, *TECHNIQUES["probe"]))
    at_once = learner.embeddings["dev"]["paraphrase"]
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(embeddings, "_CHUNK_SIZE", 10)
    config = config_of(tiny_encoder, tiny_data, *TECHNIQUES["probe"])
    stopped = run(config, tmp_path / "t", tmp_path, stop=stop_at(3))
    assert (stopped.outcome, stopped.epoch) == (Outcome.STOPPED, 0)
    assert stopped.reason == "asked to stop while sentences were embedded"
    assert TrialFolder(tmp_path / "t").outcome() == stopped
    kept = list((tmp_path / "other").glob("embeddings/*.safetensors"))
    times = {path: path.stat().st_mtime_ns for path in kept}
    assert len(times) == 2  # 20 of the 24 sentences of sentiment
    in_chunks = learner_of(config).embeddings["dev"]["paraphrase"]
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    torch.testing.assert_close(in_chunks, at_once, rtol=1e-5, atol=1e-5)
    assert run(config, tmp_path / "t", tmp_path).outcome is Outcome.FINISHED


def test_processes_share_the_work_of_embedding(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk that another process embeds is skipped until all others are done, then read from the
    cache."""
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embeddings, "_CHUNK_SIZE", 10)
    learner = learner_of(config_of(tiny_encoder, tiny_data, *TECHNIQUES["probe uncached"]))
    encoded = learner.train_tokens["sentiment"]  # 24 sentences
    embed = partial(
        embeddings.sentence_embeddings, learner.model, "one", encoded, 16, torch.float32
    )
    whole = embed(never_stop)
    kept = list((tmp_path / "cache").glob("embeddings/*.safetensors"))
    assert len(kept) == 3
    first = next(path for path in kept if torch.equal(_read(path), whole[:10]))
    for path in kept:
        path.rename(path.with_suffix(".away"))
    lock = FileLock(f"{first}.lock")
    lock.acquire()
    stop = stop_at(10)

    def release_once_the_others_are_done() -> bool:
        if lock.is_locked and all(path.exists() for path in kept if path != first):
            first.with_suffix(".away").rename(first)
            lock.release()
        return stop()

    monkeypatch.setattr(stopping, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(embeddings, "write_cached", _write_all_but(first))
    assert torch.equal(embed(release_once_the_others_are_done), whole)
    assert not lock.is_locked


def _read(path: Path) -> torch.Tensor:
    return load_file(path)["embeddings"]


def _write_all_but(path: Path) -> Callable[[Path, bytes], None]:
    """A `write_cached` that must not write `path`, which another process makes."""

    def write_cached(to: Path, content: bytes) -> None:
        assert to != path
        to.write_bytes(content)

    return write_cached


def test_with_a_frozen_encoder_only_the_heads_have_dropout(
    tiny_encoder: Path, tiny_data: Path
) -> None:
    learner = learner_of(config_of(tiny_encoder, tiny_data, *TECHNIQUES["probe uncached"]))
    packed = learner.dev_tokens["sentiment"].tokens.pack(torch.arange(4).numpy())
    one, two = (learner.model.embed(packed) for _ in range(2))
    assert torch.equal(one, two)
    assert not one.requires_grad
    first, second = (learner.model.answer("sentiment", one, [4]).outputs for _ in range(2))
    assert not torch.equal(first, second)


def test_swa_scores_and_keeps_the_mean_of_the_epochs_final_weights(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(
        tiny_encoder, tiny_data, "train.stages=[finetune, swa]", "swa.num_epochs=3", "swa.lr=1e-2"
    )
    ends: list[dict[str, torch.Tensor]] = []
    scored: list[dict[str, torch.Tensor]] = []
    plain_end = Learner.end_epoch

    def end_epoch(self: Learner) -> None:
        plain_end(self)
        if self.stage.name == "swa":
            ends.append({k: v.clone() for k, v in self.model.state_dict().items()})
            scored.append({k: v.clone() for k, v in self.scored_model.state_dict().items()})

    monkeypatch.setattr(Learner, "end_epoch", end_epoch)
    run(config, tmp_path / "t", tmp_path)
    assert len(ends) == 3
    for number in (1, 2, 3):
        for name, value in scored[number - 1].items():
            mean = torch.stack([end[name].double() for end in ends[:number]]).mean(0)
            assert torch.allclose(value.double(), mean, rtol=0, atol=1e-5), name
    assert max(float((ends[0][name] - ends[2][name]).abs().max()) for name in ends[0]) > 1e-3
    trial = TrialFolder(tmp_path / "t")
    for epoch in trial.kept_epochs():
        if epoch > 2:
            state = read_weights(trial.weights_dir(epoch))
            assert all(torch.equal(state[name], scored[epoch - 3][name]) for name in state)


def test_once_averaging_starts_only_averages_are_candidates(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """A learning rate that ruins the model: even so the better epochs before it do not count."""
    config = config_of(
        tiny_encoder, tiny_data, "train.stages=[finetune, swa]", "swa.num_epochs=2", "swa.lr=0.5"
    )
    run(config, tmp_path / "t", tmp_path)
    trial = TrialFolder(tmp_path / "t")
    records = trial.epochs()
    assert [record.starts_average for record in records] == [False, False, True, False]
    assert best_epoch(records).epoch in (3, 4)
    assert set(trial.kept_epochs()) <= {3, 4}


@pytest.mark.parametrize("start", ["best", "last"])
@pytest.mark.parametrize(
    "stages", [("finetune", "swa"), ("probe", "finetune")], ids=["swa", "lp-ft"]
)
def test_a_stage_starts_from_the_best_or_the_last_epoch_of_the_previous_stage(
    stages: tuple[str, str],
    start: str,
    tiny_encoder: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three epochs with falling scores: the first is the best."""
    before = {"probe": "probe.num_epochs=3", "finetune": "train.num_epochs=3"}[stages[0]]
    after = {"swa": "swa.num_epochs=1", "finetune": "train.num_epochs=1"}[stages[1]]
    config = config_of(
        *(tiny_encoder, tiny_data, f"train.stages=[{', '.join(stages)}]", before, after),
        f"train.continue_from={start}",
    )
    ends, starts = [], []
    plain_end, plain_enter = Learner.end_epoch, Learner.enter
    plain_evaluate = trainer.evaluate

    def weights(learner: Learner) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in learner.model.state_dict().items()}

    def end_epoch(self: Learner) -> None:
        plain_end(self)
        ends.append(weights(self))

    def enter(self: Learner, *arguments: Any) -> None:
        starts.append(weights(self))
        plain_enter(self, *arguments)

    def evaluate(*arguments: Any) -> Evaluation:
        found = plain_evaluate(*arguments)
        falling = {**found.metrics, "dev/overall": 0.9 - 0.1 * len(ends)}
        return dataclasses.replace(found, metrics=falling)

    monkeypatch.setattr(Learner, "end_epoch", end_epoch)
    monkeypatch.setattr(Learner, "enter", enter)
    monkeypatch.setattr(trainer, "evaluate", evaluate)
    run(config, tmp_path / "t", tmp_path)
    expected = ends[0] if start == "best" else ends[2]
    assert all(torch.equal(value, expected[name]) for name, value in starts[1].items())
    assert not torch.equal(
        ends[0]["heads.sentiment.out.weight"], ends[2]["heads.sentiment.out.weight"]
    )
