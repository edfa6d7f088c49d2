"""Exported settings do not contain paths of the machine that exported them."""

import contextlib
from pathlib import Path

import pytest

from ensemble.export.places import is_hub_name, without_places


@pytest.mark.parametrize(
    ("encoder", "shown", "is_hub"),
    [
        ("minilm", "minilm", False),
        ("bert-base-uncased", "bert-base-uncased", True),
        ("google-bert/bert-base-uncased", "google-bert/bert-base-uncased", True),
        ("/home/somebody/encoders/mine", "./mine", False),
        ("s3://bucket/of/somebody/mine", "./mine", False),
        ("encoders/mine", "./mine", False),  # a folder where it was trained
        ("./mine", "./mine", False),
        ("../mine", "./mine", False),
        ("a/b/c", "./c", False),
        ("a|b<script>", "./a|b<script>", False),
    ],
)
def test_folders_are_named_by_their_last_part(
    tmp_path: Path, encoder: str, shown: str, is_hub: bool
) -> None:
    (tmp_path / "encoders" / "mine").mkdir(parents=True)
    with contextlib.chdir(tmp_path):
        assert is_hub_name(encoder) is is_hub
        config = without_places({"model.encoder": encoder, "data.dir": "/home/somebody/data"})
    assert config == {"model.encoder": shown, "data.dir": ""}


def test_the_folder_of_a_teachers_bundle_is_left_out() -> None:
    config = {"distill.teacher": "bundle:/home/somebody/best"}
    assert without_places(config)["distill.teacher"] == "bundle:./best"
    assert without_places({"distill.teacher": "run:ab12"})["distill.teacher"] == "run:ab12"
