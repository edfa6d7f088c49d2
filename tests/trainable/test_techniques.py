"""Every technique through the whole loop: stopped and run again, the numbers are the same."""

import dataclasses
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_trials import config_of, learner_of, run

from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord, best_epoch
from trainable.batches.sampler import Step
from trainable.batches.tokenization import Tokens
from trainable.config.config import Config
from trainable.evaluation import embedding_cache as embeddings
from trainable.evaluation.embedding_cache import weights_fingerprint
from trainable.evaluation.evaluate import Evaluation
from trainable.model.encoder import load_pretrained
from trainable.model.multitask import MultitaskBert
from trainable.storage.predictions import Predictions
from trainable.storage.trial_folder import TrialFolder
from trainable.training import trainer
from trainable.training.learner import Learner
from trainable.training.stages import stages_of

ALL_TASKS = "data.tasks=[sentiment, paraphrase, similarity, nli]"
TECHNIQUES: dict[str, list[str]] = {
    "plain": [],
    "probe": ["train.stages=[probe]", "probe.num_epochs=3"],
    "probe uncached": ["train.stages=[probe]", "probe.num_epochs=3", "probe.cache=false"],
    "probe then finetune": ["train.stages=[probe, finetune]", "probe.num_epochs=1"],
    "swa": ["train.stages=[finetune, swa]", "train.num_epochs=1", "swa.num_epochs=2"],
    "pretrain": ["pretrain.enabled=true", "pretrain.max_steps=3", "pretrain.batch_size=8"],
    "nli": [ALL_TASKS],
    "nli, hard negatives": [ALL_TASKS, "loss.mnr.hard_negatives=true"],
    "smart": ["loss.smart.enabled=true"],
    "smart, pooled, L2, 2 steps": [
        *("loss.smart.enabled=true", "loss.smart.place=pooled", "loss.smart.norm=l2"),
        "loss.smart.num_steps=2",
    ],
    "simcse on every task": [
        "loss.simcse.tasks=[sentiment, paraphrase, similarity]",
        "loss.simcse.similarity=cosine",
    ],
    "mnr on paraphrase": ["loss.mnr.tasks=[paraphrase, similarity]", "loss.mnr.similarity=dot"],
    "self-distillation": ["distill.enabled=true"],
    "distillation head": ["distill.enabled=true", "distill.place=head", "distill.num_teachers=2"],
    "round robin": ["batching.strategy=round_robin"],
    "proportional": ["batching.strategy=proportional"],
    "temperature": ["batching.strategy=temperature"],
    "annealed": ["batching.strategy=annealed"],
    "warm-up": ["optim.warmup_steps=10"],
    "clipping": ["optim.max_grad_norm=0.1"],
    "weight decay": ["optim.weight_decay=0.1"],
    "cls": ["model.pooling=cls"],
    "mean": ["model.pooling=mean"],
    "maximum length": ["model.max_length=6"],
}
LIKE_PLAIN = ("plain", "swa")
"""All others differ from the plain recipe in the first epoch already."""


def contents(folder: Path) -> tuple[list[object], dict[object, bytes]]:
    """Everything a later reader sees: epochs without their wall times; weights and outputs."""
    trial = TrialFolder(folder)
    epochs = trial.epochs()
    tensors: dict[object, bytes] = {
        (epoch, name): value.numpy().tobytes()
        for epoch in trial.kept_epochs()
        for name, value in load_file(trial.weights_dir(epoch) / "model.safetensors").items()
    }
    for record in epochs:
        for name in ("sentiment", "paraphrase", "similarity"):
            path = trial.predictions_path(record.epoch)
            tensors[name, record.epoch] = Predictions.read(path, name).outputs.tobytes()
    return [(record.epoch, record.metrics, record.dev_train) for record in epochs], tensors


def stop_in(folder: Path, epoch: int, step: int = 4) -> Callable[[], bool]:
    """Asks to stop before that step of that epoch, by what is in the trial's folder."""
    steps = count(1)

    def stop() -> bool:
        return len(TrialFolder(folder).epochs()) == epoch - 1 and next(steps) == step

    return stop


def run_with_stops(config: Config, folder: Path, shared: Path, epochs: set[int]) -> OutcomeRecord:
    """Stopped in the middle of each of the epochs, and run again each time."""
    for epoch in sorted(epochs):
        stopped = run(config, folder, shared, stop=stop_in(folder, epoch))
        assert stopped.outcome is Outcome.STOPPED
        assert stopped.reason == f"asked to stop in epoch {epoch} before step 4"
    return run(config, folder, shared)


@pytest.fixture(scope="module")
def first_epochs(
    tiny_encoder: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    """Of the trials that others are compared with."""
    found, folder = {}, tmp_path_factory.mktemp("first")
    for name in ("plain", "nli"):
        overrides = [*TECHNIQUES[name], "train.num_epochs=1"]
        run(config_of(tiny_encoder, tiny_data, *overrides), folder / name, folder)
        found[name] = contents(folder / name)[0][0]
    return found


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_stopped_and_run_again_gives_the_same_numbers(
    technique: str,
    tiny_encoder: Path,
    tiny_data: Path,
    tmp_path: Path,
    first_epochs: dict[str, object],
) -> None:
    """Stopped in mid-epoch of the first and of the last epoch of each stage.

    And a technique changes something: a setting that the loop forgets would give the numbers of
    the plain recipe.
    """
    config = config_of(tiny_encoder, tiny_data, *TECHNIQUES[technique])
    whole, stopped, shared = tmp_path / "w" / "t", tmp_path / "s" / "t", tmp_path / "shared"
    assert run(config, whole, shared).outcome is Outcome.FINISHED
    expected = contents(whole)
    stages = stages_of(config)
    ends = {stage.first_epoch + at for stage in stages for at in (0, stage.num_epochs - 1)}
    assert len(expected[0]) == max(ends)
    assert run_with_stops(config, stopped, shared, ends).outcome is Outcome.FINISHED
    assert contents(stopped) == expected
    other = first_epochs["nli" if technique == "nli, hard negatives" else "plain"]
    assert (expected[0][0] == other) is (technique in LIKE_PLAIN)


def test_an_average_under_way_is_resumed(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second epoch of averaging: what was averaged before it is put back."""
    config = config_of(tiny_encoder, tiny_data, *TECHNIQUES["swa"])
    seen: list[int] = []
    plain = Learner.load_state

    def load_state(self: Learner, state: dict[str, Any]) -> None:
        plain(self, state)
        assert self.average is not None
        seen.append(int(self.average.n_averaged))

    monkeypatch.setattr(Learner, "load_state", load_state)
    run_with_stops(config, tmp_path / "t", tmp_path, {3})
    assert seen == [1]


def test_probing_leaves_the_encoder_bit_identical(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_encoder, tiny_data, *TECHNIQUES["probe"])
    run(config, tmp_path / "t", tmp_path)
    trial = TrialFolder(tmp_path / "t")
    start = load_pretrained(str(tiny_encoder), None, 0.1, "pooler").state_dict()
    untrained = learner_of(config).model.state_dict()
    for epoch in trial.kept_epochs():
        state = load_file(trial.weights_dir(epoch) / "model.safetensors")
        for name, value in start.items():
            assert torch.equal(state[f"encoder.{name}"], value), name
        heads = [name for name in state if name.startswith("heads.")]
        assert len(heads) > 5
        assert not any(torch.equal(state[name], untrained[name]) for name in heads)


def test_cached_and_uncached_probing_have_the_same_losses(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without dropout, over three epochs; the second cached run finds the first's embeddings."""
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "cache"))
    embedded: list[int] = []
    plain = embeddings.embeddings_of

    def embeddings_of(model: MultitaskBert, tokens: Tokens, *settings: Any) -> torch.Tensor:
        embedded.append(len(tokens.lengths))
        return plain(model, tokens, *settings)

    monkeypatch.setattr(embeddings, "embeddings_of", embeddings_of)
    settings = [
        *TECHNIQUES["probe"],
        *("model.head_dropout=0", "model.encoder_dropout=0", "loss.simcse.enabled=false"),
        "probe.lr=1e-4",
    ]
    losses, counts = [], []
    for name, cache in (("cold", "true"), ("warm", "true"), ("uncached", "false")):
        config = config_of(tiny_encoder, tiny_data, *settings, f"probe.cache={cache}")
        run(config, tmp_path / name, tmp_path)
        records = TrialFolder(tmp_path / name).epochs()
        losses.append([v for r in records for k, v in r.metrics.items() if k.endswith("/loss")])
        counts.append(len(embedded))
    assert embedded == [24, 48, 48, 32, 64, 64]  # train and dev of one sentence, two and two
    assert counts == [6, 6, 6]  # once for all epochs and all trials
    cold, warm, uncached = losses
    assert len(cold) == 3 * 6
    assert cold == warm
    assert cold == pytest.approx(uncached, rel=1e-4)


def test_a_stop_while_sentences_are_embedded(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is done a stretch at a time, with the same embeddings; nothing is kept of a part."""
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "cache"))
    learner = learner_of(config_of(tiny_encoder, tiny_data, *TECHNIQUES["probe"]))
    at_once = learner.embeddings["dev"]["paraphrase"]
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(embeddings, "_SENTENCES", 10)
    config = config_of(tiny_encoder, tiny_data, *TECHNIQUES["probe"])
    asked = count(1)
    stopped = run(config, tmp_path / "t", tmp_path, stop=lambda: next(asked) == 3)
    assert (stopped.outcome, stopped.epoch) == (Outcome.STOPPED, 0)
    assert stopped.reason == "asked to stop while sentences were embedded"
    assert TrialFolder(tmp_path / "t").outcome() == stopped
    assert not list((tmp_path / "other").glob("embeddings/*.safetensors"))
    in_stretches = learner_of(config).embeddings["dev"]["paraphrase"]
    torch.testing.assert_close(in_stretches, at_once, rtol=1e-5, atol=1e-5)
    assert run(config, tmp_path / "t", tmp_path).outcome is Outcome.FINISHED


def test_a_frozen_encoder_has_no_dropout_and_the_heads_have(
    tiny_encoder: Path, tiny_data: Path
) -> None:
    learner = learner_of(config_of(tiny_encoder, tiny_data, *TECHNIQUES["probe uncached"]))
    packed = learner.dev_tokens["sentiment"].tokens.pack(torch.arange(4).numpy())
    one, two = (learner.model.embed(packed) for _ in range(2))
    assert torch.equal(one, two)
    assert not one.requires_grad
    first, second = (learner.model.answer("sentiment", one, [4]).outputs for _ in range(2))
    assert not torch.equal(first, second)


def test_swa_keeps_the_mean_of_the_epochs_final_weights(
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
            scored.append({k: v.clone() for k, v in self.scored.state_dict().items()})

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
            state = load_file(trial.weights_dir(epoch) / "model.safetensors")
            assert all(torch.equal(state[name], scored[epoch - 3][name]) for name in state)


def test_from_the_first_average_on_it_alone_is_judged_and_kept(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """By a rate that ruins the model: the good epochs before it are no longer the trial's."""
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
def test_a_stage_goes_on_from_the_best_or_the_last_epoch_of_the_one_before(
    stages: tuple[str, str],
    start: str,
    tiny_encoder: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three epochs whose overall falls: the first is the best."""
    before = {"probe": "probe.num_epochs=3", "finetune": "train.num_epochs=3"}[stages[0]]
    after = {"swa": "swa.num_epochs=1", "finetune": "train.num_epochs=1"}[stages[1]]
    config = config_of(
        *(tiny_encoder, tiny_data, f"train.stages=[{', '.join(stages)}]", before, after),
        f"train.continue_from={start}",
    )
    ends, begun = [], []
    plain_end, plain_enter = Learner.end_epoch, Learner.enter
    plain_evaluate = trainer.evaluate

    def weights(learner: Learner) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in learner.model.state_dict().items()}

    def end_epoch(self: Learner) -> None:
        plain_end(self)
        ends.append(weights(self))

    def enter(self: Learner, *arguments: Any) -> None:
        begun.append(weights(self))
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
    assert all(torch.equal(value, expected[name]) for name, value in begun[1].items())
    assert not torch.equal(
        ends[0]["heads.sentiment.out.weight"], ends[2]["heads.sentiment.out.weight"]
    )


def test_early_stopping_ends_after_so_many_epochs_without_a_better_overall(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = config_of(
        tiny_encoder, tiny_data, "train.early_stopping_epochs=2", "train.num_epochs=40"
    )
    seen: list[EpochRecord] = []
    outcome = run(config, tmp_path / "t", tmp_path, report=seen.append)
    assert outcome.outcome is Outcome.FINISHED
    again = run_with_stops(config, tmp_path / "s", tmp_path, {1, len(seen)})
    assert (again.epoch, again.reason) == (outcome.epoch, outcome.reason)
    assert contents(tmp_path / "s") == contents(tmp_path / "t")
    overall = [record.metrics["dev/overall"] for record in seen]
    best = overall.index(max(overall)) + 1
    assert outcome.reason == f"no better overall in 2 epochs after epoch {best}"
    assert outcome.epoch == len(overall) == best + 2


def test_clipping_bounds_the_gradient(tiny_encoder: Path, tiny_data: Path) -> None:
    norms: list[float] = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad.norm() for p in parameters if p.grad is not None]
        norms.append(float(torch.stack(gradients).norm()))

    for limit in ("null", "1e-3"):
        learner = learner_of(config_of(tiny_encoder, tiny_data, f"optim.max_grad_norm={limit}"))
        learner.optimizer.register_step_pre_hook(note)
        (batch,) = learner.batches([Step("similarity", torch.arange(8).numpy())], 1)
        learner.step(batch, 1, 0)
    assert norms[0] > 1e-2
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


def test_the_fingerprint_is_of_the_weights(tiny_encoder: Path) -> None:
    one, two = (load_pretrained(str(tiny_encoder), None, 0.1, "pooler") for _ in range(2))
    assert weights_fingerprint(one) == weights_fingerprint(two)
    with torch.no_grad():
        next(two.parameters()).view(-1)[0] += 1e-3
    assert weights_fingerprint(one) != weights_fingerprint(two)
