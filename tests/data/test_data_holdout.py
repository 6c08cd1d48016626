"""What is held out of training: how many of each class, which images, and that nothing is in both parts."""
import numpy as np
import pytest

from timm_ltkd.data import create_splits, fingerprint, hold_out, holdout_counts, holdout_positions
from timm_ltkd.errors import UserError

COUNTS = [500, 100, 25, 14, 5, 2, 1]


@pytest.mark.parametrize('share, expected', [
    (0.1, [50, 10, 3, 1, 1, 1, 0]),  # 2.5 is rounded up; at least 1 where there are two
    (0.5, [250, 50, 13, 7, 3, 1, 0]),
    (0.001, [1, 1, 1, 1, 1, 1, 0]),
])
def test_proportional(share, expected):
    assert holdout_counts(COUNTS, share, 'proportional').tolist() == expected


@pytest.mark.parametrize('share, expected', [
    (0.1, [21, 21, 12, 7, 2, 1, 0]),  # 64 images of at most 64.7; with 22 there would be 66
    (0.5, [250, 50, 12, 7, 2, 1, 0]),
    (0.001, [1, 1, 1, 1, 1, 1, 0]),
])
def test_balanced(share, expected):
    assert holdout_counts(COUNTS, share, 'balanced').tolist() == expected


def test_balanced_holds_out_as_much_as_it_may():
    rng = np.random.RandomState(0)
    for _ in range(50):
        counts, share = rng.randint(1, 200, 12), rng.uniform(0.01, 0.5)
        found = holdout_counts(counts, share, 'balanced')
        m, most, total = found.max(), counts // 2, share * counts.sum()
        assert (found == np.minimum(m, most)).all()
        assert m == 1 or found.sum() <= total
        assert np.minimum(m + 1, most).sum() > total or m == most.max()


def test_an_even_set_gives_the_same_either_way():
    for kind in ('proportional', 'balanced'):
        assert holdout_counts([50] * 4, 0.1, kind).tolist() == [5] * 4


@pytest.mark.parametrize('counts, share, kind, message', [
    ([5, 5], 0.6, 'balanced', 'above 0 and at most 0.5'), ([5, 5], 0., 'balanced', 'above 0'),
    ([1, 1], 0.1, 'balanced', 'no class has two'), ([5], 0.1, 'proportionate', "did you mean 'proportional'?")])
def test_what_is_refused(counts, share, kind, message):
    with pytest.raises(UserError, match=message.replace('?', r'\?')):
        holdout_counts(counts, share, kind)


def test_positions_depend_on_the_seed_and_the_class_only():
    targets = np.repeat([0, 1, 2], [10, 6, 4])
    held = holdout_positions(targets, [3, 2, 0], seed=0)
    assert np.bincount(targets[held], minlength=3).tolist() == [3, 2, 0] and (np.diff(held) > 0).all()
    assert held.tolist() == holdout_positions(targets, [3, 2, 0], seed=0).tolist()
    assert held.tolist() != holdout_positions(targets, [3, 2, 0], seed=1).tolist()
    fewer = holdout_positions(targets, [2, 2, 0], seed=0)
    assert set(fewer) < set(held), 'a smaller holdout is part of a larger one'
    other = holdout_positions(targets[:16], [3, 2], seed=0)
    assert other.tolist() == held.tolist(), 'another class does not matter'


def test_the_global_generators_are_left_alone():
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    holdout_positions(np.zeros(10, int), [3], seed=0)
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize('kind', ['proportional', 'balanced'])
def test_no_image_is_in_both_parts(kind):
    whole = create_splits('lt/digits')
    parted = hold_out(whole, 0.2, kind, seed=1)
    train, held = set(parted.train.indices), set(parted.holdout.indices)
    assert not train & held and train | held == set(whole.train.indices)
    assert (parted.train.class_counts + parted.holdout.class_counts == whole.train.class_counts).all()
    assert (parted.train.class_counts >= 1).all()
    assert parted.watched is parted.holdout and whole.watched is whole.val and parted.val is whole.val
    base = parted.train.base
    assert all(parted.holdout[i][1] == base[int(parted.holdout.indices[i])][1] for i in range(len(parted.holdout)))


def test_what_is_held_out_has_a_transform_of_its_own():
    parted = hold_out(create_splits('lt/digits', transform=len), 0.2)
    assert parted.holdout.transform is len
    parted.train.transform, parted.holdout.transform = str, None
    assert parted.train.transform is str


def test_the_fingerprint_tells_holdouts_apart():
    whole = create_splits('lt/digits')
    prints = {fingerprint(whole)} | {
        fingerprint(hold_out(whole, share, kind, seed=seed))
        for share, kind, seed in ((0.1, 'proportional', 0), (0.2, 'proportional', 0), (0.2, 'balanced', 0),
                                  (0.2, 'proportional', 1))}
    assert len(prints) == 5
    assert fingerprint(hold_out(whole, 0.2)) == fingerprint(hold_out(whole, 0.2))
