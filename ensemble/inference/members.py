"""The loaded members of a bundle. Each distinct encoder runs once for each distinct sentence,
regardless of the number of tasks and members that use it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.bundle.format import Bundle
from ensemble.selection.combine import combine
from trainable.batches.tokenization import Tokens, load_tokenizer, tokenise, tokenizer_fingerprint
from trainable.evaluation.inference import Sides, distinct, embeddings_of, head_outputs
from trainable.model.multitask import MultitaskBert, load_member
from trainable.model.weight_files import weights_fingerprint
from trainable.runtime.precision import choose_device, choose_precision


@dataclass(frozen=True)
class Member:
    """A loaded member."""

    model: MultitaskBert
    tokenizer: Any
    tokens_id: str  # equal for members with the same tokenization
    encoder_id: tuple[Any, ...]  # equal for members with the same embeddings


class Members:
    """The members, each loaded when a task first needs it. Equal encoders share their memory."""

    def __init__(self, bundle: Bundle, batch_size: int, precision: str) -> None:
        self.bundle, self.batch_size, self.precision = bundle, batch_size, precision
        self._loaded: dict[str, Member] = {}

    def outputs(self, sides: Mapping[str, Sides]) -> dict[str, NDArray[np.float64]]:
        """Return the combined outputs of several tasks, each with N >= 1 examples: probabilities or
        logits [N, C] of its C classes or labels, else logits or scores [N]."""
        shares = {name: self.bundle.contents.tasks[name].members for name in sides}
        raw: dict[tuple[str, str], NDArray[np.float32]] = {}  # (task, member) -> outputs
        tokens: dict[tuple[str, ...], Tokens] = {}
        for group in self._by_encoder({s.member for of_task in shares.values() for s in of_task}):
            of_group = {
                name: sides[name]
                for name, of_task in shares.items()
                if any(share.member in group for share in of_task)
            }
            first = next(iter(group.values()))
            sentences, places = distinct(of_group)
            key = (first.tokens_id, *of_group)
            if key not in tokens:
                tokens[key] = tokenise(sentences, first.tokenizer, first.model.max_length)
            precision = choose_precision(self.precision, next(first.model.parameters()).device)
            e = embeddings_of(first.model, tokens[key], self.batch_size, precision)
            for name in of_group:
                for share in shares[name]:
                    if share.member in group:
                        model = group[share.member].model
                        outputs = head_outputs(model, name, e, places[name], precision)
                        raw[name, share.member] = outputs
        return {
            name: combine(
                self.bundle.contents.tasks[name].task,
                [raw[name, share.member] for share in of_task],
                [share.weight for share in of_task],
                [share.transform for share in of_task],
                self.bundle.contents.tasks[name].intercept,
            )
            for name, of_task in shares.items()
        }

    def _by_encoder(self, names: set[str]) -> list[dict[str, Member]]:
        groups: dict[tuple[Any, ...], dict[str, Member]] = {}
        for name in sorted(names):
            member = self._member(name)
            groups.setdefault(member.encoder_id, {})[name] = member
        return list(groups.values())

    def _member(self, name: str) -> Member:
        if name not in self._loaded:
            folder = self.bundle.encoder_dir(name)
            member = _load(self.bundle, name, folder)
            for other in self._loaded.values():
                if other.encoder_id == member.encoder_id:
                    member.model.encoder = other.model.encoder
            member.model.to(choose_device("auto"))
            self._loaded[name] = member
        return self._loaded[name]


def _load(bundle: Bundle, name: str, folder: Path) -> Member:
    model = load_member(bundle.weights_dir(name), folder, bundle.config(name))
    tokenizer = load_tokenizer(folder)
    tokens_id = tokenizer_fingerprint(tokenizer, model.max_length)
    encoder_id = (tokens_id, model.pooling, weights_fingerprint(model.encoder.state_dict()))
    return Member(model, tokenizer, tokens_id, encoder_id)
