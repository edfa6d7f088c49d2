"""Additional pre-training: an ordinary encoder folder, found again, resumable, shared."""

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
from torch import Tensor

from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.schema import Identity, Outcome
from trainable.config.config import Config
from trainable.config.recipe import resolve
from trainable.model.encoder import load_pretrained
from trainable.pretraining.masked_lm import MaskedLMTraining, Progress
from trainable.pretraining.pretrain import fingerprint, pretrain, pretrained_encoder, text_of
from trainable.training.train import train


def config_of(encoder: Path, data: Path, *overrides: str) -> Config:
    base = [
        *(f"data.dir={data}", f"model.encoder={encoder}", "train.precision=fp32"),
        *("pretrain.enabled=true", "pretrain.batch_size=16", "pretrain.lr=1e-3"),
        "pretrain.max_steps=6",
    ]
    torch.set_num_threads(1)
    return resolve("baseline", [*base, *overrides], {}).config


def test_the_text_is_the_training_sentences_of_the_named_tasks(
    tiny_encoder: Path, tiny_data: Path
) -> None:
    every = text_of(config_of(tiny_encoder, tiny_data))
    once = ["pretrain.repeats=false"]
    three = text_of(config_of(tiny_encoder, tiny_data, *once))
    assert len(three) == len(set(three)) < len(every)  # as often as they are in the data
    assert three == list(dict.fromkeys(every))
    files = [tiny_data / name for name in ("ids-sst-train.csv", "quora-train.csv", "sts-train.csv")]
    content = "".join(path.read_text() for path in files)
    assert all(sentence in content for sentence in three)
    tasks = "pretrain.tasks=[sentiment, paraphrase, similarity, nli]"
    four = text_of(config_of(tiny_encoder, tiny_data, tasks, *once))
    assert set(three) < set(four)
    other_tasks = config_of(tiny_encoder, tiny_data, "data.tasks=[sentiment]", *once)
    assert text_of(other_tasks) == three  # a single-task row shares the encoder
    half = config_of(tiny_encoder, tiny_data, "data.train_fraction=0.5")
    assert len(text_of(half)) < len(every)


def test_an_ordinary_encoder_with_the_start_encoders_pooler(
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


def test_a_recipe_names_the_result(tiny_encoder: Path, tiny_data: Path, tmp_path: Path) -> None:
    pretrain(config_of(tiny_encoder, tiny_data), tmp_path / "e")
    config = config_of(tmp_path / "e", tiny_data, "pretrain.enabled=false", "train.num_epochs=1")
    ended = train(config, tmp_path / "t", identity=Identity("t", None, "baseline", {}))
    assert ended.outcome is Outcome.FINISHED


def test_the_loss_on_held_out_text_falls_more_than_with_the_head_alone(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """A language of one pattern: after `how` comes `do`, after `do` comes `i`, and so on."""
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
    assert losses[False][0] == losses[True][0]  # the same start, the same masks
    assert losses[False][1] < 0.5 * losses[False][0]
    assert losses[False][1] < losses[True][1]


def test_the_head_alone_leaves_the_encoder_bit_identical(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    pretrain(config_of(tiny_encoder, tiny_data), tmp_path / "e", head_only=True)
    before, after = (load_file(p / "model.safetensors") for p in (tiny_encoder, tmp_path / "e"))
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("stop_before", [1, 3, 6])
def test_stopped_and_run_again_gives_the_same_encoder(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, stop_before: int
) -> None:
    config = config_of(tiny_encoder, tiny_data)
    whole = pretrain(config, tmp_path / "whole")
    asked = iter(range(1, 100))
    stopped = pretrain(config, tmp_path / "e", stop=lambda: next(asked) == stop_before)
    assert not stopped.is_done
    assert stopped.step == stop_before - 1
    assert not (tmp_path / "e").exists()
    again = pretrain(config, tmp_path / "e")
    assert again.held_out == whole.held_out
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "e"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "whole"]


@pytest.mark.parametrize(
    ("change", "head_only"),
    [("pretrain.lr=1e-4", False), ("data.train_fraction=0.5", False), ("seed=1", True)],
)
def test_what_was_stopped_does_not_go_on_with_other_settings(
    change: str, head_only: bool, tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Nor with other text, nor with more or less of the model."""
    asked = iter(range(1, 100))
    config = config_of(tiny_encoder, tiny_data)
    pretrain(config, tmp_path / "e", stop=lambda: next(asked) == 3)
    other = config_of(tiny_encoder, tiny_data, change)
    with pytest.raises(ConfigError, match=r"e\.partial: begun with other settings"):
        pretrain(other, tmp_path / "e", head_only=head_only)
    assert pretrain(config, tmp_path / "e").is_done  # nothing was lost


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
    asked = iter(range(1, 100))
    with pytest.raises(NothingUsableError, match="after step 5"):  # no checkpoint of it either
        pretrained_encoder(config, tmp_path, stop=lambda: next(asked) == 6)
    assert not list((tmp_path / "encoders").glob("*/*"))


def test_the_rate_falls_to_0_and_gradients_are_clipped_unless_told_otherwise(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the script that the paper adapted: transformers' defaults."""
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

    usual = steps_of()
    assert [rate for rate, _ in usual] == pytest.approx([1e-3 * (6 - n) / 6 for n in range(6)])
    assert [norm for _, norm in usual] == pytest.approx([1.0] * 6, rel=1e-3)
    other = steps_of("pretrain.lr_decay=0", "pretrain.max_grad_norm=null")
    assert [rate for rate, _ in other] == [1e-3] * 6
    assert min(norm for _, norm in other) > 1.5


def test_a_sentence_that_is_held_out_is_never_trained_on_however_often_it_stands(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_encoder, tiny_data)
    sentences = [f"the film number {number % 100}" for number in range(300)]
    training = MaskedLMTraining(config, sentences, tmp_path / "c", False, "f")
    assert len(training.held_out_tokens.lengths) == 2
    assert len(training.train_tokens.lengths) == 300 - 2 * 3


def test_the_held_out_loss_is_a_mean_over_its_tokens(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Of all, whatever the batches: 64 sentences and a rest."""
    config = config_of(tiny_encoder, tiny_data, "model.encoder_dropout=0")
    sentences = [f"{number} {text}" for number in range(40) for text in text_of(config)]
    training = MaskedLMTraining(config, sentences, tmp_path / "e", False, "f")
    num_held_out = len(training.held_out_tokens.lengths)
    assert num_held_out > 64
    assert num_held_out % 64
    training._evaluate_held_out()
    rows = (np.arange(n, min(n + 64, num_held_out)) for n in range(0, num_held_out, 64))
    with torch.inference_mode():
        losses = torch.cat(
            [
                training._losses(training.held_out_tokens, some, ("held out", number))
                for number, some in enumerate(rows)
            ]
        )
    assert training.losses == [(0, pytest.approx(float(losses.double().mean()), rel=1e-5))]


def test_found_again_by_its_fingerprint(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_encoder, tiny_data)
    folder = pretrained_encoder(config, tmp_path)
    assert folder is not None
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert pretrained_encoder(config_of(tiny_encoder, tiny_data, "seed=7"), tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_text_encoder_and_settings_are_in_the_fingerprint(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_encoder, tiny_data)
    text = text_of(config)
    other = tmp_path / "e"
    pretrain(config, other)
    names = [
        fingerprint(config, text),
        fingerprint(config, text[1:]),
        fingerprint(config_of(other, tiny_data), text),
        *(
            fingerprint(config_of(tiny_encoder, tiny_data, f"pretrain.{key}"), text)
            for key in ("seed=1", "lr=1e-4", "whole_word=false", "replacement=mask", "max_steps=7")
        ),
    ]
    assert len(set(names)) == len(names)
    ours = config_of(tiny_encoder, tiny_data, "optim.lr=1e-2", "train.num_epochs=3")
    assert fingerprint(ours, text) == names[0]


_ASK = """
import sys
from pathlib import Path
from trainable.pretraining.pretrain import pretrained_encoder
from trainable.config.recipe import resolve

print(pretrained_encoder(resolve("baseline", sys.argv[2:], {}).config, Path(sys.argv[1])))
"""


def test_two_that_ask_at_once_train_it_once(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has begun; who asks now waits for it."""
    settings = [f"data.dir={tiny_data}", f"model.encoder={tiny_encoder}", "pretrain.enabled=true"]
    settings += ["pretrain.max_steps=40"]
    command = [sys.executable, "-c", _ASK, str(tmp_path), *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        while not list(tmp_path.glob("encoders/*")):
            assert other.poll() is None
            time.sleep(0.01)
        monkeypatch.setattr(MaskedLMTraining, "run", lambda *_: pytest.fail("trained twice"))
        found = pretrained_encoder(resolve("baseline", settings, {}).config, tmp_path)
        assert other.communicate(timeout=PATIENCE)[0].strip() == str(found)
    assert (found / "pretrain.json").is_file()


def test_a_damaged_encoder_is_trained_again(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tiny_encoder, tiny_data)
    folder = pretrained_encoder(config, tmp_path)
    assert folder is not None
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert pretrained_encoder(config, tmp_path) == folder
    assert path.read_bytes() == whole
    assert "is trained again" in caplog.text


def test_a_stopped_trial_goes_on_with_its_pretraining(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_encoder, tiny_data, "train.num_epochs=1")
    identity = Identity("t", None, "baseline", {})
    asked = iter(range(1, 100))
    stopped = train(
        config, tmp_path / "t", identity=identity, shared=tmp_path, stop=lambda: next(asked) == 4
    )
    assert (stopped.outcome, stopped.epoch) == (Outcome.STOPPED, 0)
    assert "during pre-training" in stopped.reason
    ended = train(config, tmp_path / "t", identity=identity, shared=tmp_path)
    assert ended.outcome is Outcome.FINISHED


def test_progress_is_reported_and_kept(tiny_encoder: Path, tiny_data: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    config = config_of(tiny_encoder, tiny_data, "pretrain.max_steps=null", "pretrain.num_epochs=2")
    done = pretrain(config, tmp_path / "e", report=seen.append)
    assert [progress.step for progress in seen] == [0, done.num_steps // 2, done.num_steps]
    stored = json.loads((tmp_path / "e" / "pretrain.json").read_text())
    assert stored["held_out"] == [list(pair) for pair in done.held_out]
    assert len(stored["held_out"]) == 3


def test_an_output_that_is_there_is_refused(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is there already"):
        pretrain(config_of(tiny_encoder, tiny_data), tmp_path)
