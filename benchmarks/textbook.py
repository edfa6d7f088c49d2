"""Straightforward training and evaluation loops, the reference for `benchmarks/train_step.py`.

Each batch is tokenised when used and padded to its longest sentence, an eager encoder is called
once for each side and view, in float32, and AdamW is neither foreach nor fused. Evaluation runs on
dev in batches of 16 examples.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel

from trainable.batches.collate import Batch
from trainable.batches.tokenization import load_tokenizer
from trainable.config.config import Config
from trainable.data.dataset import Dataset
from trainable.data.examples import Examples
from trainable.data.remote import locate
from trainable.losses.objective import Objective
from trainable.model.multitask import MultitaskBert
from trainable.runtime.seeding import generator

Rows = Mapping[str, np.ndarray]
"""Task -> row numbers of its examples."""

EVAL_BATCH_SIZE = 16


class Textbook:
    """The same model and losses as a trial's, trained and evaluated in the simplest way."""

    def __init__(self, config: Config, dataset: Dataset, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        dropout = config.model.encoder_dropout
        encoder = AutoModel.from_pretrained(
            locate(config.model.encoder),
            attn_implementation="eager",
            dtype=torch.float32,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        self.config, self.dataset, self.device = config, dataset, device
        self.objective, self.num_tokens = Objective(config), 0
        self.tokenizer = load_tokenizer(config.model.encoder)
        self.model = MultitaskBert(encoder, config).to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.optim.lr, foreach=False, fused=False
        )
        self.model.train()

    def train(self, chunk: Rows, number: int) -> None:
        """Train on the chunk's rows in random batches."""
        random, size = generator(self.config.seed, "textbook", number), self._batch_size
        batches = []
        for name, rows in chunk.items():
            rows = random.permutation(rows)
            batches += [(name, rows[i : i + size]) for i in range(0, len(rows), size)]
        for i in random.permutation(len(batches)):
            self._step(*batches[i], random)

    @torch.no_grad()
    def evaluate(self, chunk: Rows) -> dict[str, np.ndarray]:
        """Outputs for dev rows, in the given order."""
        self.model.eval()
        found = {}
        for name, rows in chunk.items():
            sides = self.dataset.dev[name].sentences
            pieces = []
            for start in range(0, len(rows), EVAL_BATCH_SIZE):
                some = rows[start : start + EVAL_BATCH_SIZE]
                e = [self._embed([side[row] for row in some]) for side in sides]
                sizes = [len(some)] * len(sides)
                pieces.append(self.model.answer(name, torch.cat(e), sizes).outputs.cpu().numpy())
            found[name] = np.concatenate(pieces)
        self.model.train()
        return found

    @property
    def _batch_size(self) -> int:
        return self.config.batching.batch_size

    def _step(self, name: str, rows: np.ndarray, random: np.random.Generator) -> None:
        examples: Examples = self.dataset.train[name]
        sides = [[side[row] for row in rows] for side in examples.sentences]
        view_of = None
        if name in self.config.loss.simcse.tasks:
            draw = random.integers(len(sides), size=len(rows))
            sides.append([sides[side][i] for i, side in enumerate(draw)])
            view_of = torch.from_numpy(draw)
        e = [self._embed(side) for side in sides]
        output = self.model.answer(name, torch.cat(e), [len(rows)] * len(sides))
        labels = torch.tensor(examples.labels[rows], dtype=torch.float32)
        batch = Batch(name, rows, (len(rows),) * len(sides), labels, None, view_of, 0)
        loss = self.objective.without_smart(batch.to(self.device), output)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _embed(self, sentences: list[str]) -> Tensor:
        inputs = self.tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
        mask = inputs["attention_mask"]
        self.num_tokens += int(mask.sum())
        encoder, mask = self.model.encoder, mask.to(self.device)
        states = encoder(input_ids=inputs["input_ids"].to(self.device), attention_mask=mask)
        if self.config.model.pooling == "pooler":
            return states.pooler_output
        if self.config.model.pooling == "cls":
            return states.last_hidden_state[:, 0]
        weights = mask[:, :, None]
        return (states.last_hidden_state * weights).sum(1) / weights.sum(1)
