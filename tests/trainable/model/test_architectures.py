"""Every family of encoders: embeddings as in transformers, long sentences, training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from mlflow_setup.errors import ConfigError
from mlflow_setup.schema import Outcome
from tests.helpers.encoders import FAMILIES, OFFSET, POSITIONS, WORDS, write_encoder
from tests.helpers.tiny_trials import config_of, learner_of, run
from trainable.batches.packing import pack
from trainable.batches.tokenization import load_tokenizer, tokenise
from trainable.evaluation.evaluate import predict
from trainable.model.architectures import max_tokens, token_width
from trainable.model.encoder import embed, load_pretrained
from trainable.model.multitask import load_member
from trainable.storage.trial_folder import TrialFolder

WITH_POOLER = ("bert", "roberta", "xlm-roberta", "camembert", "mpnet", "albert")
LONG = " ".join(WORDS * 10)
SENTENCES = ["the film is good", "a very dull story and not well", LONG]


@pytest.fixture(scope="module", params=FAMILIES)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / request.param, request.param)


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_embeddings_equal_those_of_transformers(encoder: Path, pooling: str) -> None:
    ours = load_pretrained(str(encoder), None, 0.1, "mean").eval()
    tokenizer = load_tokenizer(str(encoder))
    tokens = tokenise(SENTENCES, tokenizer, max_tokens(ours))
    lengths = np.diff(tokens.offsets)
    assert lengths.max() == max_tokens(ours)
    packed = pack(tokens.flat, tokens.offsets[:-1], lengths)
    if pooling == "pooler" and encoder.name not in WITH_POOLER:
        with pytest.raises(ConfigError, match="has none"):
            embed(ours, packed, "pooler")
        return
    with torch.inference_mode():
        found = embed(ours, packed, pooling)  # type: ignore[arg-type]
        theirs = AutoModel.from_pretrained(encoder, attn_implementation="eager").eval()
        for row, sentence in enumerate(SENTENCES):
            given = tokenizer(
                sentence, return_tensors="pt", truncation=True, max_length=max_tokens(ours)
            )
            output = theirs(given["input_ids"], attention_mask=given["attention_mask"])
            states = output.last_hidden_state[0]
            expected = {"mean": states.mean(0), "cls": states[0]}.get(pooling)
            expected = output.pooler_output[0] if expected is None else expected
            torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)


def test_one_token_more_than_the_limit_does_not_fit(encoder: Path) -> None:
    model = load_pretrained(str(encoder), None, 0.0, "mean").eval()
    limit = max_tokens(model)
    assert limit == POSITIONS - (2 if encoder.name in OFFSET else 0)
    if encoder.name == "modernbert":
        return  # it has rotary positions, without a limit
    ids = torch.full((1, limit + 1), 7)
    with pytest.raises((IndexError, RuntimeError)):
        model(ids, attention_mask=torch.ones_like(ids))


def test_a_trial_of_a_family_trains_and_predicts_long_sentences(
    encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = config_of(
        encoder,
        tiny_data,
        "model.pooling=mean",
        "train.stages=[probe,finetune]",
        "probe.num_epochs=1",
        "train.num_epochs=1",
        "loss.smart.enabled=true",
    )
    assert run(config, tmp_path / "trial", tmp_path).outcome is Outcome.FINISHED
    trial = TrialFolder(tmp_path / "trial")
    epoch = trial.kept_epochs()[-1]
    model = load_member(trial.require_weights(epoch), trial.encoder_dir, config)
    tokenizer = load_tokenizer(str(trial.encoder_dir))
    outputs = predict(model, "sentiment", ((LONG, "good"),), tokenizer)
    assert outputs.shape == (2, 5)
    assert np.isfinite(outputs).all()


def test_the_width_of_tokens_is_that_of_their_embeddings(encoder: Path) -> None:
    model = load_pretrained(str(encoder), None, 0.0, "mean")
    assert token_width(model) == (8 if encoder.name in ("albert", "electra") else 16)


def test_tokens_without_embeddings_are_refused_before_training(
    tiny_data: Path, tmp_path: Path
) -> None:
    encoder = write_encoder(tmp_path / "bert", "bert", added_tokens=2)
    with pytest.raises(ConfigError, match=r"tokenizer has 26 tokens, its embeddings 24 rows"):
        learner_of(config_of(encoder, tiny_data))
