"""A record is read unchanged, or rejected."""

import json

import pytest

from mlflow_setup.schema import Decision


def test_a_record_that_was_changed_after_writing_is_refused() -> None:
    record = Decision(3, "stop", "rung 2: 0.612 below cut-off 0.655 of 14")
    text = record.to_json()
    assert Decision.from_json(text) == record
    assert Decision.from_json(json.dumps(json.loads(text))) == record  # formatted differently
    for changed in (text.replace("0.612", "0.712"), text.replace('"digest"', '"Digest"')):
        with pytest.raises(ValueError, match="not a Decision: "):
            Decision.from_json(changed)
