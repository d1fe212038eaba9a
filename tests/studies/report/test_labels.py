import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.report.labels import place_labels

FRAME = (0.0, 0.0, 600.0, 400.0)
NO_BARS = np.empty((0, 4))
SIZE = (26.0, 8.0)
RADIUS = 4.0
places = st.tuples(st.integers(20, 580), st.integers(20, 380))


def _rectangles(marks: np.ndarray, sizes: np.ndarray, found: list) -> list[np.ndarray]:
    return [
        np.array([mark + place[:2] - size / 2, mark + place[:2] + size / 2])
        for mark, size, place in zip(marks, sizes, found, strict=True)
        if place is not None
    ]


def _overlap(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((np.maximum(one[0], other[0]) < np.minimum(one[1], other[1]) - 1e-9).all())


@settings(max_examples=30, deadline=None)
@given(st.lists(places, min_size=1, max_size=25))
def test_no_label_hides_a_label_or_a_mark_or_leaves_the_frame(at: list[tuple[int, int]]) -> None:
    marks = np.array(at, float)
    sizes = np.tile(SIZE, (len(at), 1))
    boxes = _rectangles(marks, sizes, place_labels(marks, sizes, FRAME, NO_BARS, RADIUS))
    around = [np.array([mark - RADIUS, mark + RADIUS]) for mark in marks]
    for i, box in enumerate(boxes):
        assert not any(_overlap(box, other) for other in [*boxes[:i], *around])
        assert (box[0] >= FRAME[:2]).all()
        assert (box[1] <= FRAME[2:]).all()


def test_a_lone_mark_has_its_label_beside_it_and_of_many_at_one_place_all_have_theirs() -> None:
    for count in (1, 12):
        marks, sizes = np.full((count, 2), 200.0), np.tile(SIZE, (count, 1))
        found = place_labels(marks, sizes, FRAME, NO_BARS, RADIUS)
        assert None not in found
        lined = [place is not None and place[2] for place in found]
        assert lined[0] is False
        assert any(lined) == (count > 1)


def test_a_label_leaves_its_error_bars_free_where_it_can() -> None:
    marks, sizes = np.array([[200.0, 200.0]]), np.array([SIZE])
    bar = np.array([[200.0, 202.0, 300.0, 220.0]])  # where a label would stand else
    ((x, y, lined),) = filter(None, place_labels(marks, sizes, FRAME, bar, RADIUS))
    assert not _overlap(
        np.array([[200 + x - 13, 200 + y - 4], [200 + x + 13, 200 + y + 4]]), bar.reshape(2, 2)
    )
    assert not lined


def test_a_mark_without_room_has_no_label() -> None:
    marks, sizes = np.array([[5.0, 5.0]]), np.array([SIZE])
    assert place_labels(marks, sizes, (0, 0, 20, 10), NO_BARS, RADIUS) == [None]
