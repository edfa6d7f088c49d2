"""Our training beside that of the libraries one would take otherwise, in one run, in turns.

    python -m venv peers && peers/bin/pip install -e . sentence-transformers accelerate datasets
    peers/bin/python benchmarks/peers.py --data-dir DATA

The same encoder (MiniLM), data, batch and learning rate, float32, each with its own best settings:

- `pairs`: similarity by its cosine and entailment by multiple negatives ranking, two data sets in
  turn, by sentence-transformers' trainer (`CosineSimilarityLoss`, `MultipleNegativesRankingLoss`)
- `sentiment`: classes, by transformers' `Trainer`, sentences of like length together
- `paraphrase`: a siamese model with a linear layer over [u, v, |u-v|], by the same

Examples a second from the end of a stretch's first step to the end of its last one, and the seconds
of training until a score on dev is reached; scoring is not counted. All have the fused AdamW. With
`--threads=1` seconds are the processor's: what other work takes is not counted.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from statistics import median
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

from trainable.batches.sampler import plan_epoch
from trainable.config.recipe import resolve
from trainable.data.dataset import Dataset, read_dataset
from trainable.data.remote import locate
from trainable.evaluation.evaluate import evaluate
from trainable.evaluation.metrics import pearson
from trainable.runtime.rng_state import seed_globals
from trainable.training.learner import Learner
from trainable.training.stages import stages_of

LR, MAX_LENGTH = 5e-5, 128
CLOCK: Callable[[], float] = time.process_time if "--threads=1" in sys.argv else time.perf_counter
MATCHES = {
    "pairs": ("data.tasks=[similarity, nli]", "model.pooling=mean", "loss.mnr.enabled=true"),
    "sentiment": ("data.tasks=[sentiment]", "model.pooling=pooler"),
    "paraphrase": ("data.tasks=[paraphrase]", "model.pooling=mean"),
}
SCORED = {"pairs": "similarity", "sentiment": "sentiment", "paraphrase": "paraphrase"}


class Ours:
    """The trial's own steps."""

    def __init__(self, match: str, dataset: Dataset, config: Any) -> None:
        seed_globals(0)
        self.learner, self.task, self.epoch = Learner(config, dataset), SCORED[match], 0
        self.learner.enter(stages_of(config)[0])
        self.plan: Iterator[Any] = iter(())

    def train(self, num_steps: int) -> tuple[float, int]:
        """Seconds from the end of the first step to the end of the last, and its examples."""
        learner, steps = self.learner, []
        while len(steps) < num_steps:
            found = next(self.plan, None)
            if found is None:
                self.epoch += 1
                lengths = {name: t.lengths for name, t in learner.train_tokens.items()}
                self.plan = iter(plan_epoch(lengths, learner.config.batching, 0, self.epoch))
            else:
                steps.append(found)
        for number, batch in enumerate(learner.batches(steps, self.epoch)):
            learner.step(batch, 1, number)
            if number == 0:
                started = CLOCK()
        return CLOCK() - started, sum(len(step.rows) for step in steps[1:])

    def score(self, dataset: Dataset) -> float:
        found = evaluate(self.learner.tasks, dataset.dev, self.learner.dev_outputs()).metrics
        return next(value for key, value in found.items() if _is_score(key, self.task))


def _is_score(key: str, task: str) -> bool:
    return key.startswith(f"dev/{task}/") and not key.endswith("/loss")


class _Clock(TrainerCallback):
    """When a trainer's first step ended."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            self.started = CLOCK()


class Peer:
    """A library's trainer over one model and optimizer, a stretch of steps at a time.

    Args:
        make: model, optimizer's (with its constant schedule), arguments, callbacks -> trainer.
        score: on dev.
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
        """As ours."""
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
    """sentence-transformers over two data sets in turn."""
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
    """Paraphrase logit = Linear([u, v, |u-v|]) of mean embeddings, sides encoded together."""

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
    """transformers' Trainer; a paraphrase's sides are padded together."""
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


def compare(match: str, options: argparse.Namespace) -> None:
    """Print a line of the table."""
    settings = [
        *(f"data.dir={options.data_dir}", "data.on_bad_rows=skip", "model.encoder=minilm"),
        *(f"optim.lr={LR}", "optim.lr_decay=0", "optim.weight_decay=0", "batching.batch_size=16"),
        *(f"model.max_length={MAX_LENGTH}", "batching.strategy=even", "train.device=cpu"),
        *("train.precision=fp32", "train.eval_batch_size=64", "model.head_dropout=0"),
    ]
    config = resolve("baseline", [*settings, *MATCHES[match]], {}).config
    dataset = read_dataset(config)
    peer = pairs_peer(dataset) if match == "pairs" else transformers_peer(match, dataset)
    sides: dict[str, Any] = {"ours": Ours(match, dataset, config), "peer": peer}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    seconds = dict.fromkeys(sides, 0.0)
    reached: dict[str, float | None] = dict.fromkeys(sides)
    best = dict.fromkeys(sides, 0.0)
    for number in range(options.rounds):
        for name in list(sides) if number % 2 else list(sides)[::-1]:
            took, num_examples = sides[name].train(options.steps)
            rates[name].append(num_examples / took)
            seconds[name] += took
            best[name] = max(best[name], sides[name].score(dataset))
            if reached[name] is None and best[name] >= options.target[match]:
                reached[name] = seconds[name]
    ratios = [a / b for a, b in zip(rates["ours"], rates["peer"], strict=True)]
    cells = [
        match,
        *(f"{median(rates[name]):.1f}" for name in sides),
        f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        *(
            f"{at:.1f} s" if (at := reached[name]) is not None else f"not ({best[name]:.3f})"
            for name in sides
        ),
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print a table, a line a match."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--matches", nargs="*", default=list(MATCHES), choices=list(MATCHES))
    parser.add_argument("--steps", type=int, default=40, help="of a stretch")
    parser.add_argument("--rounds", type=int, default=5, help="stretches of each")
    parser.add_argument("--threads", type=int)
    targets = (0.8, 0.4, 0.7)
    for match, target in zip(MATCHES, targets, strict=True):
        parser.add_argument(f"--{match}-target", type=float, default=target, help="on dev")
    options = parser.parse_args()
    options.target = {match: getattr(options, f"{match}_target") for match in MATCHES}
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, batch 16, MiniLM\n")
    print("| | ours, examples/s | peer | ratio (range) | ours to the score | peer |")
    print("|---|---|---|---|---|---|")
    for match in options.matches:
        compare(match, options)


if __name__ == "__main__":
    main()
