"""Masked language modelling: model, training steps, held-out loss and checkpoints.

Legend: S sentences, L tokens, H hidden size.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from transformers import AutoConfig, AutoModelForMaskedLM

from mlflow_setup.errors import ConfigError, NothingUsableError
from trainable.batches.packing import pack
from trainable.batches.sampler import length_buckets
from trainable.batches.tokenization import Tokens, load_tokenizer, tokenise
from trainable.config.config import Config
from trainable.data.remote import locate
from trainable.model.architectures import set_dropout
from trainable.model.encoder import load_pretrained, takes_rows, token_states, without_load_report
from trainable.model.kernels.attention import NAME as ATTENTION
from trainable.pretraining.masking import IGNORED, Vocabulary, mask
from trainable.runtime.precision import autocast, choose_device, choose_precision
from trainable.runtime.progress import Tally
from trainable.runtime.rng_state import rng_state, seed_globals, set_rng_state
from trainable.runtime.seeding import generator
from trainable.runtime.stopping import Stop
from trainable.runtime.transfer import upload
from trainable.storage.checkpoint import load_newest, save_checkpoint

SAVE_EVERY = 200
"""Steps between checkpoints."""

_HELD_OUT = (0.02, 500)
"""Fraction and maximum number of the distinct sentences that are held out."""


@dataclass(frozen=True)
class Progress:
    """The progress of pre-training; stored as `pretrain.json` in the encoder's folder."""

    step: int
    num_steps: int
    num_sentences: int  # in the training part
    held_out: tuple[tuple[int, float], ...]  # (step, loss on the held-out sentences)
    seconds: float

    @property
    def is_done(self) -> bool:
        return self.step == self.num_steps


def ignore(progress: Progress) -> None:
    """A `report` that does nothing."""


class MaskedLMTraining:
    """The state of one pre-training run."""

    def __init__(
        self,
        config: Config,
        sentences: list[str],
        checkpoints: Path,
        head_only: bool,
        fingerprint: str,
    ) -> None:
        """Start, or resume from `checkpoints`.

        Args:
            head_only: train only the masked-LM head.
            fingerprint: hash of everything that the result depends on.

        Raises:
            ConfigError: the encoder cannot be loaded, or the checkpoints have another fingerprint.
        """
        self.config, self.settings, self.checkpoints = config, config.pretrain, checkpoints
        self.identity = {"fingerprint": fingerprint, "head_only": head_only}
        self.device = choose_device(config.train.device)
        self.precision = choose_precision(config.train.precision, self.device)
        seed_globals(self.settings.seed)
        self.tokenizer = load_tokenizer(config.model.encoder, config.model.revision)
        self.vocabulary = Vocabulary.of(self.tokenizer)
        self.model = load_masked_lm(config).to(self.device)
        self.model.base_model.requires_grad_(not head_only)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained, lr=self.settings.lr, weight_decay=0.0, fused=True
        )
        self.train_tokens, self.held_out_tokens = self._split(sentences)
        self.per_epoch = -(-len(self.train_tokens.lengths) // self.settings.batch_size)
        num_steps = self.per_epoch * self.settings.num_epochs
        self.num_steps = min(num_steps, self.settings.max_steps or num_steps)
        self.step, self.seconds = 0, 0.0
        self.losses: list[tuple[int, float]] = []
        self._restore()

    def run(self, report: Callable[[Progress], None], stop: Stop) -> Progress:
        """Train until the last step, or until `stop` returns True, and save a checkpoint then.

        Raises:
            NothingUsableError: a weight is no longer finite.
        """
        started = time.perf_counter() - self.seconds
        if not self.losses:
            self._evaluate_held_out()
            report(self.progress)
        tally = Tally("pre-training", self.num_steps, self.step)
        while self.step < self.num_steps:
            epoch, first = divmod(self.step, self.per_epoch)
            draw = generator(self.settings.seed, "sentences", epoch)
            plan = length_buckets(self.train_tokens.lengths, self.settings.batch_size, draw)
            for rows in plan[first : first + self.num_steps - self.step]:
                if stop():
                    self.seconds = time.perf_counter() - started
                    self._save()
                    return self.progress
                loss = self._train(rows)
                tally.add(1, len(rows), loss.item)
                if self.step % SAVE_EVERY == 0:
                    self._save()
            self.seconds = time.perf_counter() - started
            self._evaluate_held_out()
            report(self.progress)
        return self.progress

    @property
    def progress(self) -> Progress:
        return Progress(
            self.step,
            self.num_steps,
            len(self.train_tokens.lengths),
            tuple(self.losses),
            self.seconds,
        )

    @property
    def rate(self) -> float:
        """The learning rate of the next step: linear decay by `pretrain.lr_decay` in total."""
        return self.settings.lr * (1 - self.settings.lr_decay * self.step / self.num_steps)

    def write_encoder(self, folder: Path) -> None:
        """Write the encoder, with the start encoder's pooler and dropout, and the tokenizer."""
        name, revision = self.config.model.encoder, self.config.model.revision
        encoder = load_pretrained(name, revision, 0.0, "cls")
        missing, unexpected = encoder.load_state_dict(
            self.model.base_model.state_dict(), strict=False
        )
        assert not unexpected
        assert all(key.startswith("pooler.") for key in missing)
        encoder.config.hidden_dropout_prob = self._start.hidden_dropout_prob  # type: ignore[union-attr]
        encoder.config.attention_probs_dropout_prob = self._start.attention_probs_dropout_prob  # type: ignore[union-attr]
        encoder.save_pretrained(folder)  # type: ignore[operator]
        self.tokenizer.save_pretrained(folder)

    @property
    def _start(self) -> Any:
        """The configuration of the start encoder."""
        model = self.config.model
        return AutoConfig.from_pretrained(locate(model.encoder), revision=model.revision)

    def _train(self, rows: NDArray[np.int64]) -> Tensor:
        """Do one optimizer step; return its loss, a scalar on the device."""
        self.model.train()
        loss = self._losses(self.train_tokens, rows, ("masks", self.step)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.settings.max_grad_norm is not None:
            clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.param_groups[0]["lr"] = self.rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.detach()

    def _losses(self, tokens: Tokens, rows: NDArray[np.int64], purpose: tuple[str, int]) -> Tensor:
        """Cross-entropy [C] of the C selected tokens; the last layer computes only these."""
        settings = self.settings
        ids, attended = tokens.pad(rows)
        masked, labels = mask(
            ids,
            attended,
            self.vocabulary,
            fraction=settings.mask_fraction,
            whole_word=settings.whole_word,
            replacement=settings.replacement,
            random=generator(settings.seed, *purpose),
        )
        starts = np.arange(len(rows)) * masked.shape[1]
        packed = pack(masked.ravel().astype(np.int32), starts, tokens.lengths[rows])
        selected = np.nonzero(labels != IGNORED)
        indices = upload(packed.row_index(*selected), self.device)
        targets = upload(torch.from_numpy(labels[selected]), self.device)
        with autocast(self.device, self.precision):
            states = token_states(self.model.base_model, packed.to(self.device), indices)
            logits = self.model.cls(states)
        return cross_entropy(logits.float(), targets, reduction="none")

    def _evaluate_held_out(self) -> None:
        """Append the mean loss on the held-out sentences, with the same masks each time."""
        self._require_finite()
        self.model.eval()
        total, count = 0.0, 0
        with torch.inference_mode():
            everything = np.arange(len(self.held_out_tokens.lengths))
            for number, start in enumerate(range(0, len(everything), 64)):
                rows = everything[start : start + 64]
                losses = self._losses(self.held_out_tokens, rows, ("held out", number))
                total, count = total + float(losses.sum()), count + len(losses)
        self.losses.append((self.step, total / count))

    def _require_finite(self) -> None:
        """Raise if a weight is not finite; called before anything is saved."""
        if not all(bool(value.isfinite().all()) for value in self.model.parameters()):
            raise NothingUsableError(
                f"pre-training diverged: a weight is not finite after step {self.step}",
                fix="set a smaller pretrain.lr",
            )

    def _split(self, sentences: list[str]) -> tuple[Tokens, Tokens]:
        """Split into training sentences, with repetitions, and distinct held-out sentences."""
        fraction, maximum = _HELD_OUT
        distinct = list(dict.fromkeys(sentences))
        order = generator(self.settings.seed, "held out").permutation(len(distinct))
        num_held_out = max(1, min(maximum, round(fraction * len(distinct))))
        if num_held_out == len(distinct):
            raise ConfigError("pretrain.tasks: the text is a single sentence")
        held_out_sentences = [distinct[row] for row in np.sort(order[:num_held_out])]
        excluded = set(held_out_sentences)
        parts = ([s for s in sentences if s not in excluded], held_out_sentences)
        limit = int(self.model.config.max_position_embeddings)
        length = min(self.settings.max_length, limit)
        train, held_out = (tokenise(part, self.tokenizer, length) for part in parts)
        return train, held_out

    def _save(self) -> None:
        self._require_finite()
        state = {
            **self.identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": [list(loss) for loss in self.losses],
            "seconds": self.seconds,
            "rng": rng_state(),
        }
        save_checkpoint(self.checkpoints, self.step, state)

    def _restore(self) -> None:
        newest = load_newest(self.checkpoints)
        if newest is not None:
            self.step, state = newest
            if any(state.get(key) != value for key, value in self.identity.items()):
                raise ConfigError(
                    f"{self.checkpoints}: begun with other settings, text or another encoder",
                    fix=f"use the same ones to resume, or remove {self.checkpoints}",
                )
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.losses = [(int(step), float(loss)) for step, loss in state["losses"]]
            self.seconds = float(state["seconds"])
            set_rng_state(state["rng"])


def load_masked_lm(config: Config) -> Any:
    """The start encoder with a masked-LM head: the pretrained one if it has one, else a new one.

    Raises:
        ConfigError: it cannot be loaded, lacks weights of the encoder, or is not a BERT.
    """
    model = config.model
    load_pretrained(model.encoder, model.revision, model.encoder_dropout, "cls")  # to check it
    place = locate(model.encoder)
    settings = AutoConfig.from_pretrained(place, revision=model.revision, trust_remote_code=False)
    set_dropout(settings, model.encoder_dropout, model.encoder)
    with without_load_report():
        loaded: Any = AutoModelForMaskedLM.from_pretrained(
            place,
            revision=model.revision,
            config=settings,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation=ATTENTION,
        )
    if not (hasattr(loaded, "cls") and takes_rows(loaded.base_model)):
        raise ConfigError(
            f"model.encoder={model.encoder}: a {settings.model_type} encoder; additional "
            "pre-training supports BERT"
        )
    return loaded
