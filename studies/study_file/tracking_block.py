"""The block `tracking` of a study file: what MLflow keeps beside the numbers."""

from pydantic import BaseModel

from studies.study_file.tune_block import STRICT


class Tracking(BaseModel):
    """What MLflow keeps of a study beside its numbers; it decides none of them.

    Attributes:
        log_models: Whether each trained model is logged with its trial's run, so that MLflow can
            load and serve it: the weights of the first of `evaluate.checkpoints`.
    """

    model_config = STRICT
    log_models: bool = False
