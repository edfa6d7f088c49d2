"""Samples of system metrics: in order, without partial lines of killed processes."""

from pathlib import Path

from mlflow_setup.runs.usage import SystemSample
from trainable.storage.system_samples import append_sample, read_samples


def test_samples_of_all_attempts_are_in_order(tmp_path: Path) -> None:
    samples = [SystemSample(float(n), {"system/x": n / 2}) for n in (1, 2, 3)]
    for sample, attempt in zip(samples, ("0001.json", "0001.json", "0002.json"), strict=True):
        append_sample(tmp_path / attempt, sample)
    assert list(read_samples(tmp_path)) == samples
    assert list(read_samples(tmp_path / "none")) == []


def test_invalid_lines_are_skipped(tmp_path: Path) -> None:
    lines = (
        *('[1.0, {"system/x": 1}]', "[2.0, {", "null", "[3.0]", '[4, {"system/x": null}]'),
        *('[5, {"system/x": NaN}]', "[-1, {}]", "[" * 100_000, '["6", []]', "\x00"),
    )
    (tmp_path / "0001.system.jsonl").write_text("\n".join(lines))
    assert list(read_samples(tmp_path)) == [SystemSample(1.0, {"system/x": 1.0})]
    (tmp_path / "0001.system.jsonl").write_bytes(b"\xff\xfe\n")
    assert list(read_samples(tmp_path)) == []
