"""The code by which MLflow loads a registered ensemble; the only file outside mlflow_setup that
imports mlflow.

It is copied into the model. Its imports come from the wheel that the model requires.
"""

from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from ensemble.inference.ensemble import Ensemble
from ensemble.serving.service import Service
from mlflow_setup.errors import EnsweepError
from mlflow_setup.models.registry import BUNDLE
from mlflow_setup.models.scoring_server import refused


class EnsembleModel(PythonModel):  # type: ignore[misc]  # mlflow is not typed here
    """A verified bundle that labels sentences."""

    def load_context(self, context: Any) -> None:
        """Verify the bundle among the model's artifacts, and load it."""
        self.service = Service(Ensemble.load(context.artifacts[BUNDLE]))
        self.service.warm_up()

    # No type hints: MLflow would derive a schema from them.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return labels; invalid input is reported as the caller's error, without a traceback."""
        try:
            return self.service.predict(model_input, params)
        except EnsweepError as error:
            raise refused(error) from None


set_model(EnsembleModel())
