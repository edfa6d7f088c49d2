"""The trainers of other libraries, used as documented, for `benchmarks/peers.py`."""

import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset as Rows
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.losses import CosineSimilarityLoss, MultipleNegativesRankingLoss
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from trainable.data.dataset import Dataset
from trainable.data.remote import locate
from trainable.evaluation.metrics import pearson

LR, MAX_LENGTH = 5e-5, 128
CLOCK: Callable[[], float] = time.process_time if "--threads=1" in sys.argv else time.perf_counter
SCORED = {"pairs": "similarity", "sentiment": "sentiment", "paraphrase": "paraphrase"}


class _Clock(TrainerCallback):
    """Records when a trainer's first step ended."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            self.started = CLOCK()


class Peer:
    """A library's trainer for one model and optimizer, run for some steps at a time.

    Args:
        make: model, arguments, callbacks, (optimizer, constant schedule) -> trainer.
        score: returns the score on dev.
    """

    def __init__(
        self,
        model: nn.Module,
        make: Callable[..., Trainer],
        arguments: type[TrainingArguments],
        score: Callable[[], float],
        **settings: Any,
    ) -> None:
        self.model, self.make, self.arguments, self.score_of = model, make, arguments, score
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=True)
        self.settings, self.seed = settings, 0

    def train(self, num_steps: int) -> tuple[float, int]:
        """Train some steps. Return seconds since the end of the first step, and examples."""
        self.seed, clock = self.seed + 1, _Clock()
        schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        with tempfile.TemporaryDirectory() as folder:
            arguments = self.arguments(
                output_dir=folder,
                max_steps=num_steps,
                per_device_train_batch_size=16,
                learning_rate=LR,
                max_grad_norm=0.0,
                seed=self.seed,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                dataloader_drop_last=True,
                **self.settings,
            )
            trainer = self.make(self.model, arguments, [clock], (self.optimizer, schedule))
            trainer.train()
        return CLOCK() - clock.started, 16 * (num_steps - 1)

    def score(self, dataset: Dataset) -> float:
        self.model.eval()
        with torch.inference_mode():
            found = self.score_of()
        self.model.train()
        return found


def pairs_peer(dataset: Dataset) -> Peer:
    """sentence-transformers' trainer on two alternating data sets."""
    model = SentenceTransformer(locate("minilm"), device="cpu")
    model.max_seq_length = MAX_LENGTH
    sts, nli, dev = dataset.train["similarity"], dataset.train["nli"], dataset.dev["similarity"]
    rows = {
        "sts": Rows.from_dict(
            {"a": sts.sentences[0], "b": sts.sentences[1], "score": (sts.labels / 5).tolist()}
        ),
        "nli": Rows.from_dict({"a": nli.sentences[0], "b": nli.sentences[1]}),
    }
    losses = {"sts": CosineSimilarityLoss(model), "nli": MultipleNegativesRankingLoss(model)}

    def make(model: Any, arguments: Any, callbacks: Any, optimizers: Any) -> Trainer:
        return SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            loss=losses,
            callbacks=callbacks,
            optimizers=optimizers,
        )

    def score() -> float:
        u, v = (model.encode(list(side), batch_size=64) for side in dev.sentences)
        cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
        return pearson(cosine, dev.labels)[0]

    return Peer(
        model,
        make,
        SentenceTransformerTrainingArguments,
        score,
        multi_dataset_batch_sampler="proportional",
    )


class Siamese(nn.Module):
    """Paraphrase logit = Linear([u, v, |u-v|]) of mean-pooled embeddings; both sides are encoded in
    one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(locate("minilm"))
        self.out = nn.Linear(3 * self.encoder.config.hidden_size, 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Any]:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask[:, :, None].float()
        e = (states * weights).sum(1) / weights.sum(1)
        u, v = e[0::2], e[1::2]
        logits = self.out(torch.cat([u, v, (u - v).abs()], dim=-1)).squeeze(-1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        return {"loss": loss, "logits": logits}


def transformers_peer(match: str, dataset: Dataset) -> Peer:
    """transformers' Trainer; both sides of a pair are padded together."""
    tokenizer = AutoTokenizer.from_pretrained(locate("minilm"))
    train, dev = dataset.train[SCORED[match]], dataset.dev[SCORED[match]]

    def rows_of(examples: Any) -> list[dict[str, Any]]:
        sides = [
            tokenizer(list(side), truncation=True, max_length=MAX_LENGTH)["input_ids"]
            for side in examples.sentences
        ]
        label = int if match == "sentiment" else float
        lengths = [max(map(len, row)) for row in zip(*sides, strict=True)]
        return [
            {"input_ids": row[0], "other": row[-1], "labels": label(y), "length": n}
            for row, y, n in zip(zip(*sides, strict=True), examples.labels, lengths, strict=True)
        ]

    pad = DataCollatorWithPadding(tokenizer)

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        sides = ("input_ids",) if match == "sentiment" else ("input_ids", "other")
        batch = dict(pad([{"input_ids": row[side]} for row in rows for side in sides]))
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch

    if match == "sentiment":
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            locate("minilm"), num_labels=5
        )
    else:
        model = Siamese()
    train_rows, dev_rows = Rows.from_list(rows_of(train)), rows_of(dev)

    def make(model: Any, arguments: Any, callbacks: Any, optimizers: Any) -> Trainer:
        return Trainer(
            model=model,
            args=arguments,
            train_dataset=train_rows,
            data_collator=collate,
            callbacks=callbacks,
            optimizers=optimizers,
        )

    def score() -> float:
        logits = []
        for start in range(0, len(dev_rows), 64):
            found = model(**collate(dev_rows[start : start + 64]))
            logits.append(found["logits"])
        values = torch.cat(logits).numpy()
        predicted = values.argmax(1) if match == "sentiment" else values > 0
        return float((predicted == dev.labels).mean())

    return Peer(
        model,
        make,
        TrainingArguments,
        score,
        remove_unused_columns=False,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
    )
