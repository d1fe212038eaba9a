import pandas as pd

from studies.comparison.model_names import short_names


def test_what_variants_have_in_common_is_told_once_in_the_order_of_their_label() -> None:
    shared = "zero_share=0.5 batchwise=True"
    variants = [f"oat {shared} encoding=none", f"oat {shared} encoding=continuous", "oats"]
    points = pd.DataFrame({"method": ["oat", "oat", "oats"], "variant": variants})
    names, notes = short_names(points)
    assert list(names.values()) == ["oat encoding=none", "oat encoding=continuous", "oats"]
    assert notes == ["'oat' stands for oat with zero_share=0.5, batchwise=True."]


def test_a_start_stays_in_the_name_of_each_variant() -> None:
    variants = [f"oat start=pgd_at(λ=1) lr={lr}" for lr in (0.1, 0.2)]
    names, notes = short_names(pd.DataFrame({"method": ["oat", "oat"], "variant": variants}))
    assert list(names.values()) == variants
    assert notes == []
