"""One ensemble over every family of encoders: trained and tracked, exported in one bundle, which
answers sentences of full length, in Python and served.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from encoders import FAMILIES, WORDS, write_encoder
from little_effort import LITTLE

from ensemble.choice.request import Request, choose_ensemble
from ensemble.export.write import export
from ensemble.inference.ensemble import Ensemble
from ensemble.serving.service import Service
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import Identity
from mlflow_setup.tracking.store import resolve_tracking
from trainable.config.recipe import resolve
from trainable.storage.trial_folder import TrialFolder
from trainable.training.train import train

LONG = " ".join(WORDS * 10)


def test_an_ensemble_of_all_families_is_exported_and_served(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = partial(choose_ensemble, effort=LITTLE)
    monkeypatch.setattr("ensemble.export.write.choose_ensemble", little)
    tracking = resolve_tracking(tmp_path / "runs")
    mirror = Mirror(tracking, "all")
    mirror.start({}, {})
    for seed, family in enumerate(FAMILIES):
        encoder = write_encoder(tmp_path / "encoders" / family, family)
        settings = (
            *(f"data.dir={tiny_data}", "data.tasks=[sentiment]", f"model.encoder={encoder}"),
            *(
                f"seed={seed}",
                "data.max_train_examples=16",
                "model.pooling=mean",
                "train.num_epochs=1",
            ),
        )
        folder = tmp_path / "runs" / "all" / "trials" / family
        config = resolve("baseline", settings, {}).config
        ended = train(config, folder, identity=Identity(family, "all", "baseline", {}))
        assert ended.outcome == "finished", (family, ended.reason)
        mirror.project(TrialFolder(folder).snapshot())
    mirror.finish("FINISHED")
    bundle = tmp_path / "bundle"
    listed = (f"sentiment={','.join(FAMILIES)}",)
    export(tracking, Request(("all",), listed=listed), tmp_path / "cache", bundle)
    ensemble = Ensemble.load(bundle)
    members = json.loads((bundle / "ensemble.json").read_text())["members"].values()
    assert sorted(member["trial"] for member in members) == sorted(FAMILIES)
    frame = ensemble.predict([LONG, "good"])
    shares = frame[[name for name in frame.columns if name.startswith("probability_")]].to_numpy()
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    request = json.dumps({"dataframe_records": [{"sentence": LONG}]}).encode()
    served = json.loads(Service(ensemble).answer(request))["predictions"]
    assert served[0]["label"] == frame["label"][0]
