"""What holds of every selection and holdout, whatever the labels."""
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from timm_ltkd.data import (
    HOLDOUT_TYPES,
    IMBALANCE_TYPES,
    holdout_counts,
    holdout_positions,
    long_tail_counts,
    long_tail_indices,
)
from timm_ltkd.errors import UserError

SEEDS = st.integers(0, 2 ** 32 - 1)
LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)


@given(
    classes=st.integers(2, 200), largest=st.integers(1, 5000), factor=st.floats(1, 500), kind=st.sampled_from(
        IMBALANCE_TYPES))
def test_counts_fall_from_the_largest_by_the_factor(classes, largest, factor, kind):
    if largest < factor:
        with pytest.raises(UserError, match='with 0 images'):
            long_tail_counts(classes, largest, factor, kind)
        return
    counts = long_tail_counts(classes, largest, factor, kind)
    assert counts.shape == (classes,) and counts.dtype == np.int64
    assert counts[0] == largest and (np.diff(counts) <= 0).all() and counts.min() >= 1
    assert abs(counts[-1] - largest / factor) <= 1 + 1e-9 * largest  # int() of it, or of it less a rounding error


@given(classes=st.integers(2, 50), largest=st.integers(1, 300), kind=st.sampled_from(IMBALANCE_TYPES), data=st.data())
def test_a_larger_factor_keeps_no_more(classes, largest, kind, data):
    small, large = sorted(data.draw(st.lists(st.floats(1, largest), min_size=2, max_size=2)))
    assert (long_tail_counts(classes, largest, large, kind) <= long_tail_counts(classes, largest, small, kind)).all()
    assert (long_tail_counts(classes, largest, 1, kind) == largest).all()


@st.composite
def selections(draw):
    """Labels, and counts that they have."""
    labels = draw(LABELS)
    available = np.bincount(labels, minlength=7)
    return labels, np.array([draw(st.integers(0, int(count))) for count in available])


@given(selection=selections(), seed=SEEDS)
def test_a_selection_has_the_counts_asked_of_it_and_no_image_twice(selection, seed):
    labels, counts = selection
    before, state = labels.copy(), np.random.get_state()[1].copy()
    chosen = long_tail_indices(labels, counts, seed)
    assert len(set(chosen.tolist())) == len(chosen) == counts.sum()
    assert (np.bincount(labels[chosen], minlength=7) == counts).all()
    assert (np.diff(labels[chosen]) >= 0).all()  # classes one after the other
    assert (chosen == long_tail_indices(labels, counts, seed)).all()
    assert (labels == before).all() and (np.random.get_state()[1] == state).all()


@given(selection=selections(), seed=SEEDS, data=st.data())
def test_fewer_images_are_a_part_of_more(selection, seed, data):
    labels, counts = selection
    fewer = np.array([data.draw(st.integers(0, int(count))) for count in counts])
    assert set(long_tail_indices(labels, fewer, seed)) <= set(long_tail_indices(labels, counts, seed))


@given(selection=selections(), seed=SEEDS, excess=st.integers(1, 5), label=st.integers(0, 6))
def test_more_than_there_are_is_an_error_that_names_the_class(selection, seed, excess, label):
    labels, counts = selection
    counts = counts.copy()
    counts[label] = (labels == label).sum() + excess
    with pytest.raises(UserError, match=f'class {label} has {(labels == label).sum()} images'):
        long_tail_indices(labels, counts, seed)


SHARES = st.floats(0.001, 0.5)


@given(counts=st.lists(st.integers(0, 500), min_size=1, max_size=30), share=SHARES, kind=st.sampled_from(HOLDOUT_TYPES))
def test_a_holdout_leaves_every_class_an_image(counts, share, kind):
    counts = np.array(counts)
    assume((counts >= 2).any())
    held = holdout_counts(counts, share, kind)
    has_two = counts >= 2
    assert (held[has_two] >= 1).all() and (held[~has_two] == 0).all()
    assert (held[has_two] < counts[has_two]).all()
    if kind == 'balanced':
        given_up = held[has_two]
        assert (held <= counts // 2).all() and (given_up[given_up < given_up.max()] == (counts // 2)[has_two][
            given_up < given_up.max()]).all()  # who gives less gives its half
        assert held.sum() <= max(share * counts.sum(), has_two.sum())
    else:
        assert (abs(held - share * counts)[has_two] <= 1).all()


@given(labels=LABELS, share=SHARES, kind=st.sampled_from(HOLDOUT_TYPES), seed=SEEDS)
def test_a_holdout_takes_its_counts_whatever_the_other_classes(labels, share, kind, seed):
    counts = np.bincount(labels, minlength=7)
    assume((counts >= 2).any())
    held = holdout_counts(counts, share, kind)
    positions = holdout_positions(labels, held, seed=seed)
    assert (np.bincount(labels[positions], minlength=7) == held).all() and (np.diff(positions) > 0).all()
    own = labels == labels[0]
    only = np.where(np.arange(7) == labels[0], held, 0)
    alone = np.flatnonzero(own)[holdout_positions(labels[own], only, seed=seed)]
    assert set(alone) == {position for position in positions if own[position]}
