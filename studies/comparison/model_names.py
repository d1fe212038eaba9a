"""How a comparison names its models: by the options and settings in which they differ."""

import pandas as pd

from studies.known_methods import ONCE


def with_recipes(points: pd.DataFrame) -> pd.DataFrame:
    """Tell models apart by those settings of their own in which any two differ.

    A once-for-all network that was trained otherwise is another variant. Dedicated models are
    retrained one by one, as the user sees fit for each value: all are of one front.
    """
    if "recipe" not in points:  # a frame that is older than the column
        points = points.assign(recipe="")
    words = points["recipe"].fillna("").str.split()
    shared = set.intersection(*map(set, words))
    own = words.map(lambda some: " ".join(word for word in some if word not in shared))
    once = points["method"].isin(ONCE)
    variant = (points["variant"] + " " + own).str.strip()
    return points.assign(
        variant=points["variant"].where(~once, variant), recipe=own.where(~once, "")
    )


def short_names(points: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Name variants by their method and those options in which its variants differ.

    Returns:
        The names by variant, and notes that say what the variants of a method have in common.
    """
    names: dict[str, str] = {}
    notes = []
    for method, variants in points.groupby("method")["variant"].unique().items():
        options = {variant: variant.split()[1:] for variant in variants}
        shared = set.intersection(*(set(chosen) for chosen in options.values()))
        # a start is part of the price, and stays in the name
        shared = {option for option in shared if not option.startswith("start=")}
        # in the order of a label, as the plan prints it
        common = [option for option in next(iter(options.values())) if option in shared]
        if common:
            notes.append(f"'{method}' stands for {method} with {', '.join(common)}.")
        for variant, chosen in options.items():
            odd = [option for option in chosen if option not in shared]
            names[variant] = " ".join([variant.split()[0], *odd])
    return names, notes
