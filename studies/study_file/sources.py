"""Which trained models an entry under `methods` needs, and what must hold of them."""

from collections import Counter
from collections.abc import Sequence

from baselines import Pairing
from oat.names import unknown
from studies.known_methods import ONCE, is_dedicated
from studies.study_file.method_blocks import Entry


def check_sources(entries: Sequence[Entry]) -> None:
    """Check that the models that entries name as their sources are there and fit.

    Args:
        entries: All entries of a study, lists expanded.

    Raises:
        ValueError: A source is unknown, once for all, of another width, or needs the entry itself;
            or two are paired twice.
    """
    pairings = Counter(entry.label for entry in entries if isinstance(entry.method, Pairing))
    for label, count in pairings.items():
        if count > 1:
            raise ValueError(
                f"Duplicate trial: {label} is listed {count} times; give all its `alphas` in one "
                "entry."
            )
    known = {entry.label: entry for entry in entries}
    counts = Counter(entry.label for entry in entries)
    for label in dict.fromkeys(label for entry in entries for label in entry.sources()):
        if counts[label] > 1:
            raise ValueError(
                f"{counts[label]} models of the study are called '{label}', which another one is "
                "made from; give them options that differ in more than blanks."
            )
    from_scratch = {entry.label_from_scratch: entry for entry in entries if entry.start}
    for entry in entries:
        _check_circle(entry, {**from_scratch, **known})
        for label in entry.sources():
            _check_source(entry, label, known)


def _check_circle(entry: Entry, named: dict[str, Entry]) -> None:
    """Refuse a model that begins from itself, or from one that begins from it, and so on.

    Labels tell what a model begins from, so that a circle can only be meant: by labels of models
    that would be there without their `start`.
    """
    met, current = [entry.label_from_scratch], entry
    while current.start is not None and current.start.source in named:
        current = named[current.start.source]
        if current.label_from_scratch not in met:
            met.append(current.label_from_scratch)
        elif current is entry:
            way = " from ".join([*met, met[0]]) if len(met) > 1 else f"{met[0]} from itself"
            raise ValueError(
                f"`start.from` must lead to a model that is trained from scratch, got {way}; add "
                "one without `start`."
            )
        else:
            return  # a circle that others make


def _check_source(entry: Entry, label: str, known: dict[str, Entry]) -> None:
    started = entry.start is not None
    where = f"`start.from` of {entry.label_from_scratch}" if started else f"`of` of {entry.label}"
    source = known.get(label)
    dedicated = [
        name
        for name, other in known.items()
        if is_dedicated(other.method.name) and (other.start is None or other.start != entry.start)
    ]
    if source is None:
        raise ValueError(f"{where}: {unknown('retrained model', label, dedicated)}")
    if not is_dedicated(source.method.name):
        raise ValueError(
            f"{where} must be a retrained model ({', '.join(dedicated)}), got '{label}', which "
            f"{'serves every λ' if source.method.name in ONCE else 'was trained elsewhere'}."
        )
    own, other = (one.method.conditioning().base_width for one in (entry, source))
    if own != other:
        raise ValueError(
            f"{where} must have its width, {own:g}, got '{label}' of the width {other:g}."
        )
