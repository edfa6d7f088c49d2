"""Tiny random encoders of every supported family, with a tokenizer of a few words."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

FAMILIES = (
    *("bert", "roberta", "xlm-roberta", "camembert", "mpnet"),
    *("albert", "electra", "distilbert", "modernbert"),
)
POSITIONS = 32
WORDS = (
    *("a", "the", "film", "story", "is", "was", "good", "bad", "dull", "warm", "slow", "not"),
    *("and", "very", "how", "do", "i", "learn", "well"),
)

OFFSET = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Families whose padding index is 1, and whose position ids start after it."""
_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.5,  # so that outputs depend on the sentence
}
_OWN: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 8, "num_hidden_groups": 1, "classifier_dropout_prob": 0.1},
    "electra": {"embedding_size": 8},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "modernbert": {"local_attention": 4, "global_attn_every_n_layers": 2},
}


def write_encoder(folder: Path, family: str, added_tokens: int = 0) -> Path:
    """Write an encoder's folder; `added_tokens` have no rows in its embeddings."""
    pad = int(family in OFFSET)
    specials = ["[CLS]", "[PAD]"] if pad else ["[PAD]", "[CLS]"]
    specials += ["[SEP]", "[UNK]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*specials, *WORDS])}
    fast = word_tokenizer(vocabulary)
    fast.add_tokens([f"new{number}" for number in range(added_tokens)])
    fast.save_pretrained(folder)
    tokens = {
        "vocab_size": len(vocabulary),
        "pad_token_id": pad,
        **{f"{name}_token_id": vocabulary["[CLS]"] for name in ("bos", "cls")},
        **{f"{name}_token_id": vocabulary["[SEP]"] for name in ("eos", "sep")},
    }
    settings = AutoConfig.for_model(family, **{**_SIZES, **tokens, **_OWN.get(family, {})})
    torch.manual_seed(0)
    AutoModel.from_config(settings).save_pretrained(folder)
    return folder


def word_tokenizer(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words between [CLS] and [SEP]; `vocabulary` includes special tokens."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(word, vocabulary[word]) for word in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
