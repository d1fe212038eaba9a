"""How often verdicts are wrong: the benchmark with few studies, held to what it must show."""

from dataclasses import replace

import pytest

from benchmarks.verdicts import SETTINGS, Found, Setting, simulate

BY_NAME = {setting.name: setting for setting in SETTINGS}


def _few(name: str, studies: int = 40, images: int = 1500) -> tuple[Setting, Found]:
    setting = replace(BY_NAME[name], images=min(images, BY_NAME[name].images))
    return setting, simulate(setting, studies, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["equal, three seeds", "at the margin, three seeds"])
def test_a_method_without_a_loss_is_seldom_called_not_free(name: str) -> None:
    _, found = _few(name)
    # at most 5 % of the studies in truth: of 40, six or more would be one chance in fifty
    assert found.verdict_not_free <= 5 / 40
    assert found.held > 0.93


@pytest.mark.slow
def test_a_real_loss_is_found_and_one_seed_gives_no_verdict() -> None:
    _, lost = _few("five points behind, three seeds", 10, 4000)
    assert lost.verdict_not_free == 1
    _, one = _few("equal, one seed", 10)
    assert one.verdict_not_free == 0
    assert one.not_free <= one.not_free_before
