"""long_tail_report against scikit-learn, hand-computed figures and naive loops in float64."""
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from timm_ltkd.errors import UserError
from timm_ltkd.metrics import confusion, long_tail_report, per_sample
from timm_ltkd.prior import ClassPrior

KEYS = 'top1 top5 balanced many medium few worst gmean hmean ece num_samples per_class'.split()
COUNTS = [500, 300, 101, 100, 60, 20, 19, 5, 1]


def random_test_set(size=600, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(len(COUNTS), (size,), generator=generator)
    logits = torch.randn(size, len(COUNTS), generator=generator, dtype=torch.float64)
    logits[torch.arange(size), targets] += 1.5
    return logits, targets


def naive_ece(confidence, correct, bins=15):
    total = 0.
    for index in range(bins):
        inside = [i for i, c in enumerate(confidence) if index / bins < c <= (index + 1) / bins]
        if inside:
            gap = sum(correct[i] for i in inside) / len(inside) - sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(gap)
    return 100 * total


@pytest.mark.parametrize('seed', range(3))
def test_agrees_with_scikit_learn(seed):
    logits, targets = random_test_set(seed=seed)
    report = long_tail_report(logits, targets, ClassPrior(COUNTS))
    prediction = logits.argmax(1)
    assert list(report) == KEYS
    assert report['top1'] == pytest.approx(100 * accuracy_score(targets, prediction))
    assert report['balanced'] == pytest.approx(100 * balanced_accuracy_score(targets, prediction))
    assert report['top5'] == pytest.approx(
        100 * top_k_accuracy_score(targets, logits, k=5, labels=range(len(COUNTS))))
    confidence = logits.softmax(1).amax(1).float().double().tolist()
    assert report['ece'] == pytest.approx(naive_ece(confidence, (prediction == targets).tolist()), rel=1e-12)
    assert report['num_samples'] == 600 and type(report['num_samples']) is int


def test_groups_and_means_by_a_naive_loop():
    logits, targets = random_test_set(seed=7)
    report = long_tail_report(logits, targets, ClassPrior(COUNTS))
    prediction = logits.argmax(1)
    accuracy = [100 * (prediction[targets == c] == c).double().mean().item() for c in range(len(COUNTS))]
    assert report['per_class'] == pytest.approx(accuracy)
    assert report['many'] == pytest.approx(sum(accuracy[:3]) / 3)  # more than 100
    assert report['medium'] == pytest.approx(sum(accuracy[3:6]) / 3)  # 20 and 100 included
    assert report['few'] == pytest.approx(sum(accuracy[6:]) / 3)
    assert report['worst'] == pytest.approx(min(accuracy))
    assert report['gmean'] == pytest.approx(math.prod(accuracy) ** (1 / len(COUNTS)))
    assert report['hmean'] == pytest.approx(len(COUNTS) / sum(1 / a for a in accuracy))
    assert report['hmean'] < report['gmean'] < report['balanced']


def test_by_hand():
    prior = ClassPrior([200, 50, 5])
    report = long_tail_report(np.array([0, 0, 0, 1, 1, 0, 2, 0]), np.array([0, 0, 0, 0, 1, 1, 2, 2]), prior)
    assert report == {
        'top1': 62.5, 'balanced': pytest.approx(175 / 3), 'many': 75., 'medium': 50., 'few': 50., 'worst': 50.,
        'gmean': pytest.approx(187500 ** (1 / 3)), 'hmean': pytest.approx(3 / (1 / 75 + 2 / 50)), 'num_samples': 8,
        'per_class': [75., 50., 50.]}


def test_group_boundaries_are_arguments():
    targets = torch.tensor([0, 1, 2])
    report = long_tail_report(torch.tensor([0, 1, 0]), targets, ClassPrior([8, 4, 2]), many=6, few=3)
    assert (report['many'], report['medium'], report['few']) == (100., 100., 0.)


def test_means_of_perfect_classes_are_100_to_the_last_bit():
    report = long_tail_report(np.arange(3), np.arange(3), ClassPrior([3, 2, 1]))
    assert report['gmean'] == report['hmean'] == report['balanced'] == 100.


def test_a_class_at_zero_brings_the_means_to_zero():
    report = long_tail_report([0, 0], [0, 1], ClassPrior([5, 5]))
    assert (report['worst'], report['gmean'], report['hmean'], report['balanced']) == (0., 0., 0., 50.)


def test_a_class_without_a_test_image_is_left_out():
    prior = ClassPrior([200, 200, 50, 5])
    report = long_tail_report([0, 3, 2], [0, 0, 2], prior)  # class 3 is predicted, but never right or wrong itself
    assert report['per_class'] == [50., None, 100., None]
    assert report['balanced'] == 75.
    assert report['many'] == 50.
    assert report['worst'] == 50.
    assert 'few' not in report


def test_groups_without_a_class_are_absent():
    report = long_tail_report([0, 1], [0, 1], ClassPrior([500, 400]))
    assert report['many'] == 100.
    assert 'medium' not in report and 'few' not in report


def test_columns_give_the_report_of_the_logits():
    logits, targets = random_test_set()
    prior = ClassPrior(COUNTS)
    parts = [per_sample(logits[i:i + 64], targets[i:i + 64]) for i in range(0, len(targets), 64)]
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    expected = long_tail_report(logits, targets, prior)
    assert long_tail_report(columns, targets, prior) == expected
    assert long_tail_report({k: v.numpy() for k, v in columns.items()}, targets.numpy(), prior) == expected
    assert long_tail_report(logits.numpy()[::-1], targets.numpy()[::-1], prior)['top5'] == expected['top5']


def test_bare_predictions_have_no_top5_and_no_ece():
    logits, targets = random_test_set()
    prior = ClassPrior(COUNTS)
    full, bare = long_tail_report(logits, targets, prior), long_tail_report(logits.argmax(1), targets, prior)
    assert bare == {key: value for key, value in full.items() if key not in ('top5', 'ece')}


def test_order_of_the_images_does_not_matter():
    logits, targets = random_test_set()
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(3))
    one = long_tail_report(logits, targets, ClassPrior(COUNTS))
    other = long_tail_report(logits[order], targets[order], ClassPrior(COUNTS))
    assert other.pop('ece') == pytest.approx(one.pop('ece'))
    assert other == one


def test_ece_bins_are_closed_above():
    prior = ClassPrior([5, 5])
    fifth = 3 / 15  # an edge: belongs to the bin below it
    columns = {
        'prediction': np.array([0, 0]), 'confidence': np.array([fifth, np.nextafter(fifth, 1)])}
    assert long_tail_report(columns, [0, 1], prior)['ece'] == pytest.approx(100 * (0.8 + 0.2) / 2)
    columns['confidence'] = np.array([fifth, fifth])
    assert long_tail_report(columns, [0, 1], prior)['ece'] == pytest.approx(100 * 0.3)
    columns['confidence'] = np.array([1., 1.])
    assert long_tail_report(columns, [0, 0], prior)['ece'] == 0.


def test_bfloat16_logits_are_accepted():
    logits, targets = random_test_set()
    halves = logits.bfloat16()
    prior = ClassPrior(COUNTS)
    half, full = long_tail_report(halves, targets, prior), long_tail_report(halves.double(), targets, prior)
    assert half.pop('ece') == pytest.approx(full.pop('ece'), rel=1e-4)
    assert half == full


def test_masked_logits_are_accepted():
    logits, targets = random_test_set()
    logits[:, 8] = -torch.inf
    assert long_tail_report(logits, targets, ClassPrior(COUNTS))['per_class'][8] == 0.


NAN = torch.zeros(4, 3)
NAN[2, 1] = torch.nan
INFINITE = torch.zeros(4, 3)
INFINITE[1, 0] = torch.inf


@pytest.mark.parametrize('given, targets, message', [
    ([0, 1], [0, 1, 2], '3 targets, but prediction for 2 images'),
    (torch.zeros(2, 3), [0, 1, 2], '3 targets, but logits for 2 images'),
    ({'prediction': [0, 1, 2], 'confidence': [1., 1.]}, [0, 1, 2], '3 targets, but confidence for 2 images'),
    ([0, 1], [0, 3], r'targets\[1\] is 3, outside the 3 classes 0..2'),
    ([0, 1], [-1, 2], r'targets\[0\] is -1'),
    ([0, 7], [0, 1], r'predictions\[1\] is 7'),
    (torch.zeros(2, 10), [0, 1], 'the logits have 10 classes, the training set 3'),
    ([], [], 'targets are empty'),
    (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 'targets are empty'),
    (NAN, [0, 1, 2, 0], r'logits of 1 of 4 images are NaN or infinite \(first: image 2\)'),
    (INFINITE, [0, 1, 2, 0], r'first: image 1'),
    ([0.5, 1.], [0, 1], 'predictions must be class indices'),
    ([0, 1], torch.eye(3)[:2], 'targets must be class indices'),
    ({'confidence': [1.]}, [0], "need 'prediction', got 'confidence'"),
])
def test_bad_input_is_one_clear_line(given, targets, message):
    with pytest.raises(UserError, match=message) as error:
        long_tail_report(given, targets, ClassPrior([5, 4, 3]))
    assert '\n' not in str(error.value)


def test_confusion():
    table = confusion(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 2]), 4)
    assert table.dtype == np.int64
    assert table.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_confusion_has_the_per_class_accuracy_on_its_diagonal():
    logits, targets = random_test_set()
    table = confusion(logits.argmax(1), targets, len(COUNTS))
    per_class = long_tail_report(logits, targets, ClassPrior(COUNTS))['per_class']
    assert per_class == pytest.approx(100 * table.diagonal() / table.sum(1))


@pytest.mark.parametrize('predictions, targets', [([0], [0, 1]), ([0, 2], [0, 1]), ([], [])])
def test_confusion_refuses_bad_input(predictions, targets):
    with pytest.raises(UserError):
        confusion(predictions, targets, 2)
