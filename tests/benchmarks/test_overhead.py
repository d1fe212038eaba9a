import pytest

from benchmarks.overhead import train
from oat.training import Training


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
@pytest.mark.mlflow
@pytest.mark.slow
def test_each_epoch_and_what_follows_it_is_timed_and_mlflow_has_followed() -> None:
    before = Training.epochs
    clock = train("resnet8", images=64, epochs=2, threads=1)
    assert len(clock.epochs) == len(clock.between) == 2
    assert min(clock.epochs) > 0
    assert min(clock.between) > 0
    assert clock.mlflow > 0
    assert Training.epochs is before
