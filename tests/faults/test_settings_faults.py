"""D5: invalid settings files are refused, and their code is not executed."""

from pathlib import Path

import pytest

from mlflow_setup.errors import ConfigError
from trainable.config.recipe import resolve

KEYS = ["optim.lrr", "optim.LR", "modle.pooling", "model.head-dropout", "train.epochs", "sed",
        "loss.mnr.wieght", "batchsize", "data.tasks.sentiment", "optim.lr.x"]  # fmt: skip
TYPES = [("optim.lr", '"1e-5"'), ("optim.lr", "fast"), ("optim.lr", "true"), ("optim.lr", "[1]"),
         ("optim.lr", "null"), ("train.num_epochs", "2.5"), ("train.num_epochs", '"2"'),
         ("train.num_epochs", "0"), ("model.fcn_size", "-1"), ("model.head_dropout", "1.0"),
         ("model.head_dropout", "-0.1"), ("optim.lr", ".inf"), ("optim.lr", "0"),
         ("loss.mnr.enabled", "on"), ("loss.mnr.enabled", "off"), ("loss.mnr.enabled", "yes"),
         ("loss.mnr.enabled", "no"), ("loss.mnr.enabled", "1"), ("model.pooling", "max"),
         ("model.pooling", "3"), ("data.tasks", "sentiment"), ("data.tasks", "[]"),
         ("data.tasks", "[1]"), ("data.train_fraction", "0"), ("data.train_fraction", "1.5"),
         ("seed", "-1"), ("seed", "1e9"), ("batching.strategy", "odd"), ("pretrain", "mlm"),
         ("train.stages", "[swa]"), ("distill.teacher", '"run:"'),
         ("train.precision", "fp8")]  # fmt: skip
BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS = {
    "duplicate key": "seed: 1\nseed: 2\n",
    "nested duplicate key": "optim: {lr: 1e-5, lr: 2e-5}\n",
    "nested and dotted": "optim.lr: 1e-5\noptim: {lr: 2e-5}\n",
    "bomb": BOMB,
    "anchor": "seed: &x 1\n",
    "python tag": "seed: !!python/object/apply:os.system ['touch executed']\n",
    "python name": "seed: !!python/name:os.system\n",
    "own tag": "seed: !mine 1\n",
    "standard tag": "seed: !!str 1\n",
    "not a mapping": "- 1\n- 2\n",
    "a scalar": "seed\n",
    "open bracket": "data.tasks: [sentiment\n",
    "open quote": 'data.dir: "x\n',
    "tab": "optim:\n\tlr: 1\n",
    "two documents": "seed: 1\n---\nseed: 2\n",
    "too deep": "a: " + "[" * 50 + "]" * 50 + "\n",
    "far too deep": "a: " + "{a: " * 5000 + "1" + "}" * 5000 + "\n",
    "a list as key": "? [a, b]\n: 1\n",
    "extends a list": "extends: [b1, b2]\n",
    "extends an unknown recipe": "extends: b7\n",
}


refused = pytest.mark.promise(
    "D5",
    "settings files with unknown keys or wrong values, and other files in their place",
    "refused, never executed",
)


@refused
@pytest.mark.parametrize("key", KEYS)
def test_d5_unknown_keys_are_refused(key: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{key}: 1\n")
    with pytest.raises(ConfigError, match=r"no such key|is a value, not a section|valid"):
        resolve(str(path), (), {})


@refused
@pytest.mark.parametrize(("key", "value"), TYPES)
def test_d5_wrong_types_and_values_are_refused(key: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{key}: {value}\n")
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")) as caught:
        resolve(str(path), (), {})
    assert str(path) in str(caught.value)


@refused
@pytest.mark.parametrize("name", TEXTS)
def test_d5_texts_that_are_not_settings_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXTS[name])
    with pytest.raises(ConfigError) as caught:
        resolve(str(path), (), {})
    assert str(path) in str(caught.value) or "b7" in str(caught.value)
    assert not Path("executed").exists()


@refused
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed: \xff\n", "cannot be read"),
        ("seed: 1\n".encode("utf-16"), "cannot be read"),
        (b"# " + b"x" * 1_000_001, "at most 1,000,000 bytes"),
        (b"seed: 1\0\n", "recipe.yaml"),
    ],
)
def test_d5_bytes_that_are_not_settings_are_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        resolve(str(path), (), {})


def test_a_missing_settings_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        resolve(str(tmp_path / "none.yaml"), (), {})
