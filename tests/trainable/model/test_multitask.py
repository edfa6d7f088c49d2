"""The multitask model: heads, one encoder call, gradients, loading, encoders of the hub."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.schema import Identity
from trainable.batches.collate import Batch
from trainable.batches.packing import Packed, pack
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.losses.objective import Objective
from trainable.model.encoder import hub_revision
from trainable.model.multitask import MultitaskBert, build_model, load_member
from trainable.storage.trial_folder import TrialFolder
from trainable.training.train import train


def _config(encoder: Path, **settings: object) -> Config:
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    return from_flat({"model.encoder": str(encoder), "model.fcn_size": 8, **dotted})


def _batch(num_sentences: int, times: int = 1) -> Packed:
    """Sentences of 7 tokens, except the first, of 4; all repeated `times` times."""
    random = np.random.default_rng(1)
    lengths = np.full(num_sentences, 7)
    lengths[0] = 4
    flat = random.integers(5, 40, lengths.sum()).astype(np.int32)
    starts = np.cumsum(lengths) - lengths
    return pack(flat, np.tile(starts, times), np.tile(lengths, times))


def _sides(name: str, packed: Packed, num_sides: int, labels: torch.Tensor | None = None) -> Batch:
    """The sentences as a batch of a task."""
    num_sentences = len(packed.lengths)
    sizes = (num_sentences // num_sides,) * num_sides
    return Batch(name, np.arange(num_sentences), sizes, labels, None, None, 0, packed)


@pytest.mark.parametrize(
    ("shared", "nonlinear", "structure"), list(itertools.product([False, True], repeat=3))
)
def test_every_combination_of_switches_trains_every_task(
    tiny_encoder: Path, shared: bool, nonlinear: bool, structure: bool
) -> None:
    config = _config(
        tiny_encoder,
        data__tasks=["sentiment", "paraphrase", "similarity", "nli"],
        model__shared_fcn=shared,
        model__nonlinear_heads=nonlinear,
        model__paraphrase_structure=structure,
        loss__mnr__enabled=True,
    )
    model = build_model(config)
    shapes = {"sentiment": (3, 5), "paraphrase": (3,), "similarity": (3,), "nli": (3,)}
    for name, task in config.task_records().items():
        num_sides = 2 if task.kind.is_pair else 1
        labels = torch.tensor([0.0, 1.0, 1.0]) if task.metric else None
        batch = _sides(name, _batch(3 * num_sides), num_sides, labels)
        output = model(batch)
        assert output.outputs.shape == shapes[name]
        model.zero_grad()
        Objective(config)(batch, output, model).backward()
        head = model.heads[model.head_names[name]]
        unused = [k for k, p in head.named_parameters() if p.grad is None]
        assert unused == []
        assert model.encoder.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_one_encoder_call_for_both_sides_and_the_second_view(tiny_encoder: Path) -> None:
    config = _config(tiny_encoder, loss__simcse__enabled=True)
    model = build_model(config).train()
    calls = []
    model.encoder.embeddings.register_forward_hook(lambda *_: calls.append(1))
    batch = _sides("similarity", _batch(9), 3, torch.zeros(3))
    batch = replace(batch, view_of=torch.tensor([0, 1, 0]))
    output = model(batch)
    assert len(calls) == 1
    assert len(output.embeddings) == 3
    assert Objective(config)(batch, output, model).isfinite()


def test_embeddings_of_equal_sentences_differ_in_training_only(tiny_encoder: Path) -> None:
    model = build_model(_config(tiny_encoder))
    thrice = _sides("similarity", _batch(1, times=3), 3)
    trained = model.train()(thrice).embeddings
    assert not torch.equal(trained[0], trained[2])
    still = model.double().eval()(thrice).embeddings
    torch.testing.assert_close(still[0], still[2], rtol=0, atol=1e-10)


def test_nli_shares_the_similarity_head(tiny_encoder: Path) -> None:
    tasks = ["sentiment", "similarity", "nli"]
    model = build_model(_config(tiny_encoder, data__tasks=tasks, loss__mnr__enabled=True))
    assert model.head_names["nli"] == "similarity"
    assert set(model.heads) == {"sentiment", "similarity"}


def test_pooler_pooling_without_a_pooler_is_an_error(tiny_encoder: Path) -> None:
    model = build_model(_config(tiny_encoder))
    model.encoder.pooler = None
    with pytest.raises(ConfigError, match="this encoder has none"):
        model.embed(_batch(2))


def test_dropout_settings_reach_the_encoder_and_the_heads(tiny_encoder: Path) -> None:
    model = build_model(_config(tiny_encoder, model__encoder_dropout=0.25, model__head_dropout=0.5))
    rates = [
        {m.p for m in part.modules() if isinstance(m, nn.Dropout)}
        for part in (model.encoder, model.heads)
    ]
    assert rates == [{0.25}, {0.5}]


def test_loaded_weights_give_the_same_outputs(tiny_encoder: Path, tmp_path: Path) -> None:
    config = _config(tiny_encoder, model__shared_fcn=True)
    model = build_model(config).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = load_member(tmp_path, tiny_encoder, config)
    weights = loaded.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    for name, sides in (("sentiment", 1), ("paraphrase", 2)):
        batch = _sides(name, _batch(2 * sides), sides)
        torch.testing.assert_close(model(batch).outputs, loaded(batch).outputs)


def test_weights_that_do_not_fit_or_are_missing_are_refused(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    config = _config(tiny_encoder)
    save_file(build_model(config).state_dict(), tmp_path / "model.safetensors")
    other = _config(tiny_encoder, model__shared_fcn=True)
    with pytest.raises(IntegrityError, match="weights cannot be loaded"):
        load_member(tmp_path, tiny_encoder, other)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        load_member(tmp_path, tiny_encoder, config)


def test_a_missing_encoder_is_an_error_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.encoder=.*cannot be loaded") as caught:
        build_model(_config(tmp_path / "nowhere"))
    assert "minilm" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("dropped", "pooling", "is_refused"),
    [("pooler.", "pooler", True), ("pooler.", "mean", False), ("encoder.layer.0.", "mean", True)],
)
def test_encoders_without_needed_weights_are_refused(
    tiny_encoder: Path, tmp_path: Path, dropped: str, pooling: str, is_refused: bool
) -> None:
    folder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith(dropped)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    config = _config(folder, model__pooling=pooling)
    if is_refused:
        with pytest.raises(ConfigError, match=f"lacks weights: {dropped}"):
            build_model(config)
    else:
        assert build_model(config).pooling == "mean"


def test_code_of_an_encoder_is_never_run(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "unheard-of",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    marker = tmp_path / "executed"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Config: pass\n")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        build_model(_config(folder))
    assert not marker.exists()


@pytest.fixture
def hub(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with some-org/tiny at `main` and at `v1`."""
    folder = tmp_path / "models--some-org--tiny"
    (folder / "refs").mkdir(parents=True)
    for name, commit in (("main", "0" * 40), ("v1", "1" * 40)):
        shutil.copytree(tiny_encoder, folder / "snapshots" / commit)
        (folder / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    return folder


@pytest.mark.parametrize(
    ("revision", "commit"), [(None, "0" * 40), ("v1", "1" * 40), ("1" * 40, "1" * 40)]
)
def test_a_hub_encoder_is_loaded_by_name_and_revision(
    hub: Path, revision: str | None, commit: str
) -> None:
    weights = hub / "snapshots" / ("1" * 40) / "model.safetensors"
    changed = {name: value + 1 for name, value in load_file(weights).items()}
    weights.unlink()
    save_file(changed, weights, metadata={"format": "pt"})
    model = build_model(from_flat({"model.encoder": "some-org/tiny", "model.revision": revision}))
    assert isinstance(model, MultitaskBert)
    assert model.max_length == 32
    assert hub_revision(model.encoder) == commit
    expected = load_file(hub / "snapshots" / commit / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    torch.testing.assert_close(model.encoder.state_dict()[name], expected[name])


def test_a_trial_records_the_commit_of_its_encoder(
    hub: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings = {"model.encoder": "some-org/tiny", "data.dir": str(tiny_data), "model.fcn_size": 8}
    identity = Identity("0001", None, "baseline", {})
    train(from_flat(settings), tmp_path / "0001", identity=identity, stop=lambda: True)
    assert TrialFolder(tmp_path / "0001").trial().encoder_revision == "0" * 40


def test_an_encoder_in_a_folder_has_no_revision(tiny_encoder: Path) -> None:
    assert hub_revision(build_model(_config(tiny_encoder)).encoder) is None


def test_a_hub_encoder_without_safetensors_is_refused(hub: Path) -> None:
    snapshot = hub / "snapshots" / ("0" * 40)
    torch.save(load_file(snapshot / "model.safetensors"), snapshot / "pytorch_model.bin")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"some-org/tiny: cannot be loaded: .*safetensors"):
        build_model(from_flat({"model.encoder": "some-org/tiny"}))
    with pytest.raises(ConfigError, match="some-org/tiny: cannot be loaded"):
        build_model(from_flat({"model.encoder": "some-org/tiny", "model.revision": "none"}))
