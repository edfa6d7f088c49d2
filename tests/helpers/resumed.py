"""Configurations of trials that tests stop and resume, and what must be equal afterwards."""

from pathlib import Path

from trainable.model.weight_files import read_weights
from trainable.storage.predictions import Predictions
from trainable.storage.trial_folder import TrialFolder

ALL_TASKS = "data.tasks=[sentiment, paraphrase, similarity, nli]"


TECHNIQUES: dict[str, list[str]] = {
    "plain": [],
    "probe": ["train.stages=[probe]", "probe.num_epochs=3"],
    "probe uncached": ["train.stages=[probe]", "probe.num_epochs=3", "probe.cache=false"],
    "probe then finetune": ["train.stages=[probe, finetune]", "probe.num_epochs=1"],
    "swa": ["train.stages=[finetune, swa]", "train.num_epochs=1", "swa.num_epochs=2"],
    "pretrain": ["pretrain.enabled=true", "pretrain.max_steps=3", "pretrain.batch_size=8"],
    "nli": [ALL_TASKS],
    "nli, hard negatives": [ALL_TASKS, "loss.mnr.hard_negatives=true"],
    "smart": ["loss.smart.enabled=true"],
    "smart, pooled, L2, 2 steps": [
        *("loss.smart.enabled=true", "loss.smart.place=pooled", "loss.smart.norm=l2"),
        "loss.smart.num_steps=2",
    ],
    "simcse on every task": [
        "loss.simcse.tasks=[sentiment, paraphrase, similarity]",
        "loss.simcse.similarity=cosine",
    ],
    "mnr on paraphrase": ["loss.mnr.tasks=[paraphrase, similarity]", "loss.mnr.similarity=dot"],
    "self-distillation": ["distill.enabled=true"],
    "distillation head": ["distill.enabled=true", "distill.place=head", "distill.num_teachers=2"],
    "round robin": ["batching.strategy=round_robin"],
    "proportional": ["batching.strategy=proportional"],
    "temperature": ["batching.strategy=temperature"],
    "annealed": ["batching.strategy=annealed"],
    "warm-up": ["optim.warmup_steps=10"],
    "clipping": ["optim.max_grad_norm=0.1"],
    "weight decay": ["optim.weight_decay=0.1"],
    "cls": ["model.pooling=cls"],
    "mean": ["model.pooling=mean"],
    "maximum length": ["model.max_length=6"],
}


def results_of(folder: Path) -> tuple[list[object], dict[object, bytes]]:
    """A trial's epoch records without times, and the bytes of its weights and outputs."""
    trial = TrialFolder(folder)
    epochs = trial.epochs()
    tensors: dict[object, bytes] = {
        (epoch, name): value.numpy().tobytes()
        for epoch in trial.kept_epochs()
        for name, value in read_weights(trial.weights_dir(epoch)).items()
    }
    for record in epochs:
        for name in ("sentiment", "paraphrase", "similarity"):
            path = trial.predictions_path(record.epoch)
            tensors[name, record.epoch] = Predictions.read(path, name).outputs.tobytes()
    return [(e.epoch, e.metrics, e.dev_train, e.flags) for e in epochs], tensors
