"""Shared stand-ins: a tiny random BERT on disk and a tiny data set in the paper's file format."""

import gc
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cpu_seconds import SECONDS
from filelock import FileLock
from scale import MANY

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # dozens of processes import the same modules
os.environ.pop("COLUMNS", None)  # what a command prints here is for no terminal
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers of a run share the cores already
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_DISABLE_MEMORY_MONITOR", "1")  # it would end trials beside other work
os.environ.setdefault("RAY_worker_niceness", "0")  # else any other work starves trials

WORDS = [
    *("a", "the", "film", "story", "plot", "cast", "joke", "scene", "is", "was", "looks", "feels"),
    *("good", "bad", "dull", "warm", "bright", "slow", "very", "not", "and", "but", "how", "do"),
    *("can", "i", "learn", "cook", "fix", "play", "guitar", "bread", "bike", "chess", "fast"),
    *("well", "cheap"),
]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is rare is left to `make faults`. Long modules first, shared out evenly: what is left
    over at the end is short."""
    if not MANY:
        left = [item for item in items if item.get_closest_marker("rare")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if not item.get_closest_marker("rare")]
    num_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long: dict[str, list[pytest.Item]] = {name: [] for name in SECONDS}
    short: list[pytest.Item] = []
    for item in items:
        name = next((name for name in SECONDS if f"tests/{name}" in item.path.as_posix()), None)
        (short if name is None else long[name]).append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(num_workers)]
    seconds = [0] * num_workers
    for name in sorted(long, key=SECONDS.__getitem__, reverse=True):
        least = seconds.index(min(seconds))
        shares[least] += long[name]
        seconds[least] += SECONDS[name]
    for number, share in enumerate(shares):  # of equal length, as they are dealt out
        size = len(items) * (number + 1) // num_workers - len(items) * number // num_workers
        taken = max(0, size - len(share))
        share += short[:taken]
        del short[:taken]
    items[:] = [item for share in shares for item in share] + short


def pytest_collection_finish() -> None:
    """What is imported by now stays: no garbage collection need look at it again."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read nor fill the user's cache."""
    os.environ["ENSWEEP_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _one_command_line() -> Iterator[None]:
    """The command line is built once, not for each call of it."""
    testing = sys.modules.get("typer.testing")
    if testing is None:  # no module of these tests has it
        yield
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(testing, "_get_command", cache(testing._get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def _migrated_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """MLflow's migrations run once, for all workers: every other new database is a copy.

    Where no test's module imports what creates one, there is nothing to do.
    """
    store = sys.modules.get("mlflow_setup.tracking.store")
    if store is None:
        yield None
        return
    base = tmp_path_factory.getbasetemp()
    template = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "migrated.db"
    create = store.create_database

    def copied(database: Path) -> None:
        with FileLock(f"{template}.lock"):
            if not template.exists():
                create(template)
        with TemporaryDirectory(dir=database.parent) as folder:  # whole or not at all
            shutil.copyfile(template, Path(folder) / "copy.db").replace(database)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "create_database", copied)
        yield create


@pytest.fixture
def real_migrations(_migrated_once: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """New databases are made as users' are."""
    monkeypatch.setattr("mlflow_setup.tracking.store.create_database", _migrated_once)


@pytest.fixture(scope="session")
def _rays() -> Iterator[ExitStack]:
    """What ends with the tests."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def one_ray(_rays: ExitStack) -> None:
    """A Ray for all that tests drive in their own process: to start one costs ten CPU seconds.

    It has one CPU: each process that trains imports for five seconds, and goes on with the next
    trial.
    """
    import ray

    from mlflow_setup.errors import ConfigError
    from trainable.tune.cluster import cluster, environment

    if ray.is_initialized():
        return
    with environment(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(ray, "init", partial(ray.init, num_cpus=1))
        try:
            _rays.enter_context(cluster())
        except ConfigError:  # it gives itself 30 s to start, which beside other work may not do
            _rays.enter_context(cluster())


@pytest.fixture(scope="module")
def no_ray() -> None:
    """None is in use when the module's tests begin."""
    if ray := sys.modules.get("ray"):
        ray.shutdown()


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer BERT and its tokenizer: what any hub encoder looks like."""
    import torch
    from transformers import BertConfig, BertModel

    from tests.helpers.encoders import word_tokenizer

    folder = tmp_path_factory.mktemp("tiny-bert")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*specials, *WORDS])}
    word_tokenizer(vocabulary).save_pretrained(folder)
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        pad_token_id=0,
        initializer_range=0.5,  # so that outputs depend on the sentence
    )
    BertModel(settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training, 32 dev and 8 test rows a task, and 24 entailment pairs, half of them with a
    hard negative; seeded."""
    folder = tmp_path_factory.mktemp("tiny-data")
    write_tiny_data(folder)
    return folder


def write_tiny_data(folder: Path, num_train: int = 48, num_dev: int = 32, seed: int = 0) -> None:
    """Random sentences whose labels follow from their words, in the paper's file names."""
    draw = random.Random(seed)
    sizes = {"train": num_train, "dev": num_dev, "test-student": 8}
    for part, size in sizes.items():
        sentiment, paraphrase, similarity = [], [], []
        for row in range(size):
            one, two = _sentence(draw), _sentence(draw)
            grade = min(4, sum(word in {"good", "warm", "bright", "fast"} for word in one.split()))
            sentiment.append((f"s-{part}-{row}", one, grade))
            same = draw.random() < 0.5
            paraphrase.append((f"p-{part}-{row}", one, f"{one} well" if same else two, float(same)))
            shared = len(set(one.split()) & set(two.split()))
            similarity.append((f"t-{part}-{row}", one, two, float(min(5, shared))))
        _write(folder / f"ids-sst-{part}.csv", "id\tsentence\tsentiment", sentiment)
        _write(folder / f"quora-{part}.csv", "id\tsentence1\tsentence2\tis_duplicate", paraphrase)
        _write(folder / f"sts-{part}.csv", "id\tsentence1\tsentence2\tsimilarity", similarity)
    pairs = [[one, f"{one} well"] for one in (_sentence(draw) for _ in range(24))]
    for pair in pairs[::2]:
        pair.append(_sentence(draw))
    lines = [json.dumps(pair) + "\n" for pair in pairs]
    (folder / "AllNLI.jsonl").write_text("".join(lines), encoding="utf-8")


def _sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(3, 12)))


def _write(path: Path, header: str, rows: list[tuple[object, ...]]) -> None:
    is_test = "test" in path.name
    columns = header.split("\t")[:-1] if is_test else header.split("\t")
    lines = ["\t".join(["", *columns])]
    for i, row in enumerate(rows):
        cells = row[:-1] if is_test else row
        lines.append("\t".join([str(i), *map(str, cells)]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_runs(
    tiny_encoder: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A storage folder with the sweep `tiny`: two trained and tracked trials, without Ray."""
    from mlflow_setup.runs.sweep_run import Mirror
    from mlflow_setup.schema import Identity
    from mlflow_setup.tracking.store import resolve_tracking
    from trainable.config.recipe import resolve
    from trainable.storage.trial_folder import TrialFolder
    from trainable.training.train import train

    storage = tmp_path_factory.mktemp("runs")
    mirror = Mirror(resolve_tracking(storage), "tiny")
    mirror.start({}, {})
    for number, recipe in enumerate(("baseline", "b3"), start=1):
        settings = [
            f"data.dir={tiny_data}",
            f"model.encoder={tiny_encoder}",
            "pretrain.enabled=false",
            "model.fcn_size=8",
            "train.num_epochs=2",
            "optim.lr=1e-3",
            "train.precision=fp32",
        ]
        resolved = resolve(recipe, settings, {})
        name = f"{number:04d}-{recipe}"
        folder = storage / "tiny" / "trials" / name
        train(resolved.config, folder, identity=Identity(name, "tiny", recipe, resolved.origin))
        mirror.project(TrialFolder(folder).snapshot())
    mirror.finish("FINISHED")
    return storage


@pytest.fixture(scope="session")
def tiny_bundle(tiny_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The selective ensemble of `tiny_runs`, exported."""
    from ensemble.choice.request import Request
    from ensemble.export.write import export
    from mlflow_setup.tracking.store import resolve_tracking

    output = tmp_path_factory.mktemp("bundles") / "bundle"
    request = Request(("tiny",), rule="simple")
    export(resolve_tracking(tiny_runs), request, tiny_runs / ".cache", output)
    return output
