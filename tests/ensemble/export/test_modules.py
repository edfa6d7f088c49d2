"""sentence-transformers loads a bundle's main encoder with the pooling of its training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import write_encoder

from ensemble.bundle.format import MAIN, Contents, MemberEntry, Share, TaskEntry
from ensemble.export.modules import main_member, write_modules
from trainable.batches.tokenization import load_tokenizer, tokenise
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.config.tasks import PAPER_TASKS
from trainable.evaluation.inference import embeddings_of
from trainable.model.multitask import build_model

SENTENCES = ("a warm film", "the story is slow and dull and not very good and bad")


def contents(config: Config, *encoders: str) -> Contents:
    """A member for each encoder, each of twice the weight of the one before."""
    weights = {f"m{number}": 2.0**number for number in range(len(encoders))}
    return Contents(
        schema_version=2,
        tasks={
            "sentiment": TaskEntry(
                task=PAPER_TASKS["sentiment"],
                members=tuple(Share(member=name, weight=w) for name, w in weights.items()),
                scores={},
            )
        },
        members={
            name: MemberEntry(
                run_id="r", sweep="s", trial=name, epoch=1, encoder=encoder, config=config.flat()
            )
            for name, encoder in zip(weights, encoders, strict=True)
        },
    )


@pytest.mark.parametrize(
    ("family", "pooling", "max_length"),
    [
        *[("bert", pooling, 8) for pooling in ("pooler", "cls", "mean")],
        ("albert", "pooler", None),  # its pooler is a layer without a name
        ("roberta", "pooler", None),  # takes fewer tokens than it has positions
        ("distilbert", "cls", None),
    ],
)
def test_sentences_are_embedded_as_in_training(
    tmp_path: Path, family: str, pooling: str, max_length: int | None
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = write_encoder(tmp_path / "encoder", family)
    config = from_flat(
        {
            "data.tasks": ["sentiment"],
            "model.encoder": str(folder),
            "model.pooling": pooling,
            "model.max_length": max_length,
        }
    )
    model = build_model(config).eval()
    tokens = tokenise(SENTENCES, load_tokenizer(folder), model.max_length)
    expected = embeddings_of(model, tokens, 4, torch.float32).numpy()
    write_modules(folder, contents(config, MAIN))
    theirs = SentenceTransformer(str(folder), device="cpu")
    assert theirs.max_seq_length == model.max_length
    np.testing.assert_allclose(theirs.encode(list(SENTENCES)), expected, rtol=1e-4, atol=1e-5)


def test_the_embedding_is_that_of_the_main_encoders_heaviest_member() -> None:
    config = from_flat({"data.tasks": ["sentiment"]})
    assert main_member(contents(config, MAIN, MAIN, "other")) == "m1"
    assert main_member(contents(config, "other")) is None
