"""How MLflow loads a registered ensemble; the one file outside mlflow_setup that needs it.

It is copied into the model. What it imports comes from the wheel that the model requires.
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
    """A verified bundle: sentences in, labels out."""

    def load_context(self, context: Any) -> None:
        """Verify the bundle among the model's artifacts, and load it."""
        self.service = Service(Ensemble.load(context.artifacts[BUNDLE]))
        self.service.warm_up()

    # Without type hints: MLflow takes them for a schema of its own.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Labels; bad input is the caller's error, told without a traceback."""
        try:
            return self.service.predict(model_input, params)
        except EnsweepError as error:
            raise refused(error) from None


set_model(EnsembleModel())
