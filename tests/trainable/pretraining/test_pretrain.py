"""Additional pre-training: resumable, stored as an encoder, and shared between trials."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from patience import PATIENCE
from safetensors.torch import load_file
from stops import stop_at
from tiny_trials import run
from torch import Tensor

from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.schema import Outcome
from trainable.config.config import Config
from trainable.config.recipe import resolve
from trainable.model.encoder import load_pretrained
from trainable.pretraining.masked_lm import MaskedLMTraining, Progress
from trainable.pretraining.pretrain import fingerprint, pretrain, pretrained_encoder, text_of


def config_of(encoder: Path, data: Path, *overrides: str) -> Config:
    base = [
        *(f"data.dir={data}", f"model.encoder={encoder}", "train.precision=fp32"),
        *("pretrain.enabled=true", "pretrain.batch_size=16", "pretrain.lr=1e-3"),
        "pretrain.max_steps=6",
    ]
    torch.set_num_threads(1)
    return resolve("baseline", [*base, *overrides], {}).config


def test_the_text_is_the_training_sentences_of_the_set_tasks(
    tiny_encoder: Path, tiny_data: Path
) -> None:
    every = text_of(config_of(tiny_encoder, tiny_data))
    once = ["pretrain.repeats=false"]
    three = text_of(config_of(tiny_encoder, tiny_data, *once))
    assert len(three) == len(set(three)) < len(every)  # some sentences occur repeatedly
    assert three == list(dict.fromkeys(every))
    files = [tiny_data / name for name in ("ids-sst-train.csv", "quora-train.csv", "sts-train.csv")]
    content = "".join(path.read_text() for path in files)
    assert all(sentence in content for sentence in three)
    tasks = "pretrain.tasks=[sentiment, paraphrase, similarity, nli]"
    four = text_of(config_of(tiny_encoder, tiny_data, tasks, *once))
    assert set(three) < set(four)
    other_tasks = config_of(tiny_encoder, tiny_data, "data.tasks=[sentiment]", *once)
    assert text_of(other_tasks) == three  # so trials with other tasks share the encoder
    half = config_of(tiny_encoder, tiny_data, "data.train_fraction=0.5")
    assert len(text_of(half)) < len(every)


def test_the_result_is_an_encoder_with_the_original_pooler(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    pretrain(config_of(tiny_encoder, tiny_data), tmp_path / "e")
    folders = (tiny_encoder, tmp_path / "e")
    start, new = (load_pretrained(str(folder), None, 0.1, "pooler") for folder in folders)
    before, after = start.state_dict(), new.state_dict()
    assert before.keys() == after.keys()
    assert {key for key in before if key.startswith("pooler.")}
    for key, value in before.items():
        is_same = torch.equal(value, after[key])
        assert is_same == (key.startswith("pooler.") or "position_ids" in key), key
    settings = [json.loads((folder / "config.json").read_text()) for folder in folders]
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_size", "vocab_size")
    assert [settings[0][name] for name in names] == [settings[1][name] for name in names]


def test_training_the_encoder_lowers_the_held_out_loss_more_than_the_head_alone(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Which does not change the encoder. The text has one pattern: `do` follows `how`, `i` follows
    `do`, and so on."""
    words = ["how", "do", "i", "learn", "bread", "well"]
    sentences = [" ".join((words * 3)[start : start + 8]) for start in range(6)] * 20
    numbered = list(dict.fromkeys(f"{s} {w}" for s in sentences for w in words))
    settings = ["pretrain.max_steps=150", "pretrain.num_epochs=200", "pretrain.lr=5e-3"]
    config = config_of(tiny_encoder, tiny_data, *settings, "model.encoder_dropout=0")
    losses = {}
    for head_only in (False, True):
        done = pretrain(config, tmp_path / str(head_only), sentences=numbered, head_only=head_only)
        assert done.is_done
        losses[head_only] = (done.held_out[0][1], done.held_out[-1][1])
    assert losses[False][0] == losses[True][0]  # the same weights and masks
    assert losses[False][1] < 0.5 * losses[False][0]
    assert losses[False][1] < losses[True][1]
    before, after = (load_file(p / "model.safetensors") for p in (tiny_encoder, tmp_path / "True"))
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("step", [1, 3, 6])
def test_resumed_pretraining_gives_the_same_encoder(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, step: int
) -> None:
    config = config_of(tiny_encoder, tiny_data)
    whole = pretrain(config, tmp_path / "whole")
    stopped = pretrain(config, tmp_path / "e", stop=stop_at(step))
    assert not stopped.is_done
    assert stopped.step == step - 1
    assert not (tmp_path / "e").exists()
    resumed = pretrain(config, tmp_path / "e")
    assert resumed.held_out == whole.held_out
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "e"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "whole"]


@pytest.mark.parametrize(
    ("change", "head_only"),
    [("pretrain.lr=1e-4", False), ("data.train_fraction=0.5", False), ("seed=1", True)],
)
def test_stopped_pretraining_is_not_resumed_with_other_settings(
    change: str, head_only: bool, tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Nor with other text, nor with another part of the model."""
    config = config_of(tiny_encoder, tiny_data)
    pretrain(config, tmp_path / "e", stop=stop_at(3))
    other = config_of(tiny_encoder, tiny_data, change)
    with pytest.raises(ConfigError, match=r"e\.partial: begun with other settings"):
        pretrain(other, tmp_path / "e", head_only=head_only)
    assert pretrain(config, tmp_path / "e").is_done


def test_a_diverged_pretraining_leaves_no_encoder(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_encoder, tiny_data)
    plain = MaskedLMTraining._train

    def diverge(self: MaskedLMTraining, rows: NDArray[np.int64]) -> Tensor:
        loss = plain(self, rows)
        if self.step == 4:
            next(self.model.parameters()).data[0, 0] = torch.nan
        return loss

    monkeypatch.setattr(MaskedLMTraining, "_train", diverge)
    with pytest.raises(NothingUsableError, match="diverged: a weight is not finite after step 6"):
        pretrained_encoder(config, tmp_path)
    with pytest.raises(NothingUsableError, match="after step 5"):  # a stop saves no checkpoint
        pretrained_encoder(config, tmp_path, stop=stop_at(6))
    assert not list((tmp_path / "encoders").glob("*/*"))


def test_by_default_the_learning_rate_decays_to_0_and_gradients_are_clipped(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defaults of transformers, as in the script that the paper adapted."""
    seen: list[tuple[float, float]] = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        (group,) = optimizer.param_groups
        gradients = [p.grad.norm() for p in group["params"] if p.grad is not None]
        seen.append((group["lr"], float(torch.stack(gradients).norm())))

    def steps_of(*overrides: str) -> list[tuple[float, float]]:
        seen.clear()
        config = config_of(tiny_encoder, tiny_data, *overrides)
        training = MaskedLMTraining(config, text_of(config), tmp_path / "c", False, "f")
        training.optimizer.register_step_pre_hook(note)
        training.run(lambda progress: None, lambda: False)
        return list(seen)

    rates, norms = zip(*steps_of(), strict=True)
    assert rates == pytest.approx([1e-3 * (6 - n) / 6 for n in range(6)])
    assert norms == pytest.approx([1.0] * 6, rel=1e-3)
    rates, norms = zip(*steps_of("pretrain.lr_decay=0", "pretrain.max_grad_norm=null"), strict=True)
    assert rates == (1e-3,) * 6
    assert min(norms) > 1.5


def test_no_repetition_of_a_held_out_sentence_is_trained_on(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_encoder, tiny_data)
    sentences = [f"the film number {number % 100}" for number in range(300)]
    training = MaskedLMTraining(config, sentences, tmp_path / "c", False, "f")
    assert len(training.held_out_tokens.lengths) == 2
    assert len(training.train_tokens.lengths) == 300 - 2 * 3


def test_the_held_out_loss_is_the_mean_over_all_tokens(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """The last of several batches is not full."""
    config = config_of(tiny_encoder, tiny_data, "model.encoder_dropout=0")
    sentences = [f"{number} {text}" for number in range(40) for text in text_of(config)]
    training = MaskedLMTraining(config, sentences, tmp_path / "e", False, "f")
    num_held_out = len(training.held_out_tokens.lengths)
    assert num_held_out > 64
    assert num_held_out % 64
    training._evaluate_held_out()
    rows = (np.arange(n, min(n + 64, num_held_out)) for n in range(0, num_held_out, 64))
    with torch.inference_mode():
        losses = [
            training._losses(training.held_out_tokens, some, ("held out", number))
            for number, some in enumerate(rows)
        ]
    mean = float(torch.cat(losses).double().mean())
    assert training.losses == [(0, pytest.approx(mean, rel=1e-5))]


def test_an_encoder_is_pretrained_again_only_if_it_is_damaged(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tiny_encoder, tiny_data)
    path = pretrained_encoder(config, tmp_path) / "model.safetensors"
    content, written = path.read_bytes(), path.stat().st_mtime_ns
    other_seed = config_of(tiny_encoder, tiny_data, "seed=7")
    assert pretrained_encoder(other_seed, tmp_path) == path.parent
    assert path.stat().st_mtime_ns == written
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert pretrained_encoder(config, tmp_path) == path.parent
    assert path.read_bytes() == content
    assert "is trained again" in caplog.text


def test_the_fingerprint_depends_on_text_encoder_and_settings(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_encoder, tiny_data)
    text = text_of(config)
    other = tmp_path / "e"
    pretrain(config, other)
    found = [
        fingerprint(config, text),
        fingerprint(config, text[1:]),
        fingerprint(config_of(other, tiny_data), text),
        *(
            fingerprint(config_of(tiny_encoder, tiny_data, f"pretrain.{key}"), text)
            for key in ("seed=1", "lr=1e-4", "whole_word=false", "replacement=mask", "max_steps=7")
        ),
    ]
    assert len(set(found)) == len(found)
    same = config_of(tiny_encoder, tiny_data, "optim.lr=1e-2", "train.num_epochs=3")
    assert fingerprint(same, text) == found[0]


_PRETRAIN = """
import sys
from pathlib import Path
from trainable.pretraining.pretrain import pretrained_encoder
from trainable.config.recipe import resolve

print(pretrained_encoder(resolve("baseline", sys.argv[2:], {}).config, Path(sys.argv[1])))
"""


def test_a_second_process_waits_for_the_encoder(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [f"data.dir={tiny_data}", f"model.encoder={tiny_encoder}", "pretrain.enabled=true"]
    settings += ["pretrain.max_steps=40"]
    command = [sys.executable, "-c", _PRETRAIN, str(tmp_path), *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        while not list(tmp_path.glob("encoders/*")):
            assert other.poll() is None
            time.sleep(0.01)
        monkeypatch.setattr(MaskedLMTraining, "run", lambda *_: pytest.fail("trained twice"))
        found = pretrained_encoder(resolve("baseline", settings, {}).config, tmp_path)
        assert other.communicate(timeout=PATIENCE)[0].strip() == str(found)
    assert (found / "pretrain.json").is_file()


def test_a_resumed_trial_resumes_its_pretraining(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, plain = [], MaskedLMTraining._train

    def train_step(self: MaskedLMTraining, rows: NDArray[np.int64]) -> Tensor:
        steps.append(rows.tolist())
        return plain(self, rows)

    monkeypatch.setattr(MaskedLMTraining, "_train", train_step)
    config = config_of(tiny_encoder, tiny_data, "train.num_epochs=1")
    stopped = run(config, tmp_path / "t", tmp_path, stop=stop_at(4))
    assert (stopped.outcome, stopped.epoch, len(steps)) == (Outcome.STOPPED, 0, 3)
    assert "during pre-training" in stopped.reason
    assert run(config, tmp_path / "t", tmp_path).outcome is Outcome.FINISHED
    assert len(steps) == 6


def test_progress_is_reported_and_stored(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    config = config_of(tiny_encoder, tiny_data, "pretrain.max_steps=null", "pretrain.num_epochs=2")
    done = pretrain(config, tmp_path / "e", report=seen.append)
    assert [progress.step for progress in seen] == [0, done.num_steps // 2, done.num_steps]
    stored = json.loads((tmp_path / "e" / "pretrain.json").read_text())
    assert stored["held_out"] == [list(pair) for pair in done.held_out]
    assert len(stored["held_out"]) == 3
