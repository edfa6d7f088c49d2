"""`MultitaskBert`: one encoder call for all sentences of a batch, then the task's head.

Legend: S sentences (sides x B examples), L tokens, H hidden size.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mlflow_setup.errors import IntegrityError
from trainable.config import Config
from trainable.encoder import build_untrained, load_pretrained, pool
from trainable.heads import HeadOutput, SharedFCN, build_head
from trainable.tasks import Task

WEIGHTS_FILE = "model.safetensors"


class MultitaskBert(nn.Module):
    """A shared encoder with a head for each task; tasks may share a head (`Task.head`)."""

    def __init__(self, encoder: nn.Module, config: Config) -> None:
        super().__init__()
        model, tasks = config.model, config.task_records()
        hidden_size = int(encoder.config.hidden_size)  # type: ignore[union-attr,arg-type]
        self.encoder = encoder
        self.pooling = model.pooling
        limit = int(encoder.config.max_position_embeddings)  # type: ignore[union-attr,arg-type]
        self.max_length = min(model.max_length or limit, limit)
        """Tokens a sentence is cut at."""
        self.shared = SharedFCN(hidden_size, model) if model.shared_fcn else None
        self.head_names = {name: _head_name(name, tasks) for name in tasks}
        self.heads = nn.ModuleDict(
            {
                name: build_head(task, hidden_size, model)
                for name, task in tasks.items()
                if self.head_names[name] == name
            }
        )

    def forward(
        self, task_name: str, input_ids: Tensor, attention_mask: Tensor, num_sides: int
    ) -> HeadOutput:
        """Outputs of a batch whose sentences [S, L] stand side after side."""
        e = self.embed(input_ids, attention_mask)  # [S, H]
        s = self.shared(e) if self.shared is not None else None
        sides = e.chunk(num_sides)
        shared_sides = (None,) * num_sides if s is None else s.chunk(num_sides)
        output = self.heads[self.head_names[task_name]](sides, shared_sides)
        assert isinstance(output, HeadOutput)
        return output

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Pooled sentence embeddings [S, H]."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        pooler_output = getattr(states, "pooler_output", None)
        return pool(states.last_hidden_state, pooler_output, attention_mask, self.pooling)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def build_model(config: Config) -> MultitaskBert:
    """A model to train: pretrained encoder, fresh heads drawn from torch's global generator."""
    settings = config.model
    encoder = load_pretrained(
        settings.encoder, settings.revision, settings.encoder_dropout, settings.pooling
    )
    return MultitaskBert(encoder, config)


def load_member(weights_dir: Path, encoder_dir: Path, config: Config) -> MultitaskBert:
    """A trained model in eval mode, from `model.safetensors` and the encoder's own folder.

    Raises:
        IntegrityError: the weights are missing or do not fit the configuration.
    """
    encoder = build_untrained(encoder_dir, config.model.encoder_dropout)
    model = MultitaskBert(encoder, config)
    path = weights_dir / WEIGHTS_FILE
    try:
        weights = load_file(path)
        model.load_state_dict(weights)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise IntegrityError(f"{path}: weights cannot be loaded: {reason}") from error
    return model.eval()


def _head_name(name: str, tasks: Mapping[str, Task]) -> str:
    shared = tasks[name].head
    return name if shared is None or shared not in tasks else shared


def choose_device(wanted: str) -> torch.device:
    """`auto` is the CUDA device if there is one."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """`auto` is bf16 where the device multiplies it in hardware, float32 elsewhere."""
    if wanted == "auto":
        has_bf16 = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_amx()
        wanted = "bf16" if has_bf16 else "fp32"
    return torch.bfloat16 if wanted == "bf16" else torch.float32


def _cpu_has_amx() -> bool:
    """Whether this CPU has matrix tiles; AVX-512's bf16 alone is no faster than float32."""
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe is not None and probe())
