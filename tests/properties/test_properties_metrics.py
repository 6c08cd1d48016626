"""What holds of every report; and that scikit-learn agrees."""
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gmean, hmean
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score

from timm_ltkd.metrics import long_tail_report, per_sample
from timm_ltkd.prior import ClassPrior

FIGURES = ('top1', 'top5', 'balanced', 'many', 'medium', 'few', 'worst', 'gmean', 'hmean', 'ece', 'num_samples')


@st.composite
def evaluations(draw, fewest=2):
    """Logits, targets and the counts of the classes; many ties, and perhaps classes without an image."""
    classes, images = draw(st.integers(fewest, 9)), draw(st.integers(1, 50))
    rng = np.random.default_rng(draw(st.integers(0, 2 ** 32 - 1)))
    logits = rng.normal(size=(images, classes)).round(draw(st.sampled_from([0, 1, 6])))
    targets = rng.integers(0, draw(st.integers(1, classes)), images)
    counts = draw(st.lists(st.integers(1, 200), min_size=classes, max_size=classes))
    return torch.tensor(logits), torch.tensor(targets), counts


def same(one, other):
    assert one.keys() == other.keys()
    for name in one.keys() & set(FIGURES):
        assert one[name] == pytest.approx(other[name], rel=1e-9, abs=1e-9), name


@given(evaluation=evaluations())
def test_scikit_learn_agrees(evaluation):
    logits, targets, counts = evaluation
    report, predicted, true = long_tail_report(logits, targets, ClassPrior(counts)), logits.argmax(1), targets.numpy()
    assert report['top1'] == pytest.approx(100 * accuracy_score(true, predicted))
    present = np.unique(true)
    recall = recall_score(true, predicted, labels=present, average=None, zero_division=0)
    assert report['balanced'] == pytest.approx(100 * recall.mean())
    if set(predicted.tolist()) <= set(present.tolist()):
        assert report['balanced'] == pytest.approx(100 * balanced_accuracy_score(true, predicted))
    assert [report['per_class'][label] for label in present] == pytest.approx(list(100 * recall))
    assert report['worst'] == pytest.approx(100 * recall.min())
    assert report['gmean'] == pytest.approx(100 * gmean(recall) if recall.all() else 0)
    assert report['hmean'] == pytest.approx(100 * hmean(recall) if recall.all() else 0)
    assert report['num_samples'] == len(true)


@given(evaluation=evaluations(), seed=st.integers(0, 1000))
def test_the_order_of_images_is_of_no_account(evaluation, seed):
    logits, targets, counts = evaluation
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    one = long_tail_report(logits, targets, ClassPrior(counts))
    other = long_tail_report(logits[order], targets[order], ClassPrior(counts))
    same(one, other)
    assert one['per_class'] == other['per_class']


@given(evaluation=evaluations(), seed=st.integers(0, 1000))
def test_classes_may_be_numbered_otherwise(evaluation, seed):
    logits, targets, counts = evaluation
    logits = logits + torch.linspace(0, 1e-4, logits.shape[1], dtype=torch.float64)  # ties go by class number
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed))
    one = long_tail_report(logits, targets, ClassPrior(counts))
    other = long_tail_report(
        logits[:, order], order.argsort()[targets], ClassPrior([counts[i] for i in order.tolist()]))
    same(one, other)
    assert other['per_class'] == [one['per_class'][i] for i in order.tolist()]


@given(evaluation=evaluations(), shift=st.floats(-50, 50))
def test_a_constant_on_all_logits_changes_nothing(evaluation, shift):
    logits, targets, counts = evaluation
    logits = (logits * 1024).round() / 1024
    one = long_tail_report(logits, targets, ClassPrior(counts))
    other = long_tail_report(logits + round(shift), targets, ClassPrior(counts))
    same(one, other)


@given(evaluation=evaluations())
def test_groups_are_means_of_their_classes_and_absent_without_one(evaluation):
    logits, targets, counts = evaluation
    prior = ClassPrior(counts)
    report = long_tail_report(logits, targets, prior)
    measured = [value for value in report['per_class'] if value is not None]
    assert report['balanced'] == pytest.approx(np.mean(measured)) and report['worst'] == min(measured)
    assert report['hmean'] <= report['gmean'] + 1e-9 <= report['balanced'] + 2e-9
    for name, mask in prior.shot_groups().items():
        of_group = [report['per_class'][i] for i in mask.nonzero()[:, 0] if report['per_class'][i] is not None]
        assert (name in report) == bool(of_group)
        if of_group:
            assert report[name] == pytest.approx(np.mean(of_group))
    assert all(0 <= report[name] <= 100 + 1e-9 for name in FIGURES[:-1] if name in report)
    assert ('top5' in report) == (len(counts) > 5) and report.get('top5', 100) >= report['top1'] - 1e-9


@given(evaluation=evaluations(), parts=st.integers(1, 4))
def test_columns_that_were_gathered_in_parts_are_the_same(evaluation, parts):
    logits, targets, counts = evaluation
    pieces = [per_sample(*piece) for piece in zip(logits.tensor_split(parts), targets.tensor_split(parts), strict=True)]
    columns = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    prior = ClassPrior(counts)
    same(long_tail_report(columns, targets, prior), long_tail_report(logits, targets, prior))
