"""Predictions in, long-tailed figures out: everything that is measured, as pure functions."""
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .errors import UserError
from .prior import ClassPrior, check_prior

ECE_BINS = 15


@torch.no_grad()
def per_sample(logits: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """What an evaluation keeps of each image, as columns that can be gathered and given to `long_tail_report`.

    Runs on the logits' device and never waits for it. Equal logits rank in class order, on every device alike.

    Args:
        logits: `[B, C]`, any floating dtype; the softmax is computed in float32 or better.
        target: Class indices `[B]`, within [0, C): not checked here, as that would wait for the device.

    Returns:
        `prediction` (int64), `confidence` (float32, largest softmax probability), `loss` (float32, negative
        log-likelihood) and, where there are more than five classes, `top5` (bool); each `[B]`.

    Raises:
        UserError: The shapes are not `[B, C]` and `[B]`.
    """
    if logits.ndim != 2 or target.shape != logits.shape[:1]:
        raise UserError(
            f'per_sample needs logits [B, C] and targets [B], got {list(logits.shape)} and {list(target.shape)}')
    num_classes = logits.shape[1]
    target = target.long()[:, None]
    log_prob = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)
    columns = {
        'prediction': logits.argmax(1),
        'confidence': log_prob.amax(1).exp().float(),
        'loss': -log_prob.gather(1, target)[:, 0].float(),
    }
    if num_classes > 5:
        own = logits.gather(1, target)
        earlier = torch.arange(num_classes, device=logits.device) < target
        ahead = (logits > own) | ((logits == own) & earlier)  # topk would break ties differently on each device
        columns['top5'] = ahead.sum(1) < 5
    return columns


def long_tail_report(
        logits_or_predictions: Any,
        targets: Any,
        prior: ClassPrior,
        many: int | None = None,
        few: int | None = None,
) -> dict[str, Any]:
    """Every figure of an evaluation, computed in float64.

    Shot groups go by training images (see `ClassPrior.shot_groups`) and their figure is the mean over the group's
    classes of the class's accuracy: on a balanced test set that is also the accuracy over the group's images.
    A class without a test image has no accuracy and is left out of every mean.

    Args:
        logits_or_predictions: Logits `[N, C]`, predicted classes `[N]`, or the columns of `per_sample`.
        targets: Class indices `[N]`.
        prior: Counts of the training set.
        many: A class with more training images is many-shot; by default the prior's boundary.
        few: A class with fewer training images is few-shot; the same.

    Returns:
        In percent, 0 to 100: `top1`, `top5`, `balanced` (mean over classes), `many`, `medium`, `few`, `worst` (lowest
        class), `gmean` and `hmean` (geometric and harmonic mean over classes, 0 as soon as a class is at 0), `ece`
        and `per_class` (a list by class index, None for a class without a test image). Also `num_samples`.
        What is undefined is absent: `top5` with five classes or fewer, `top5` and `ece` without logits, a group
        none of whose classes has a test image.

    Raises:
        UserError: Nothing to evaluate, lengths that differ, a class outside the prior's, logits of another number
            of classes, or logits that are NaN or infinite; a prior that is no `ClassPrior`.
    """
    check_prior(prior)
    num_classes = prior.num_classes
    targets = _classes(targets, num_classes, 'targets')
    columns = _columns(logits_or_predictions, targets, num_classes)
    for name, column in columns.items():
        _check_length(column, targets, name)
    prediction = _classes(columns['prediction'], num_classes, 'predictions')
    correct = prediction == targets
    from sklearn.metrics import recall_score  # takes a second to import, and is wanted by few commands
    accuracy = 100. * recall_score(
        targets, prediction, labels=np.arange(num_classes), average=None, zero_division=np.nan)

    report: dict[str, Any] = {'top1': 100. * float(correct.mean())}
    if 'top5' in columns:
        report['top5'] = 100. * float(columns['top5'].mean())
    report['balanced'] = float(np.nanmean(accuracy))
    for group, mask in prior.shot_groups(many=many, few=few).items():
        if not np.isnan(accuracy[mask.numpy()]).all():
            report[group] = float(np.nanmean(accuracy[mask.numpy()]))
    measured = accuracy[~np.isnan(accuracy)].tolist()
    report['worst'] = min(measured)
    report['gmean'] = min(100., statistics.geometric_mean(measured)) if min(measured) > 0 else 0.  # not 100 + 4e-14
    report['hmean'] = float(statistics.harmonic_mean(measured))
    if 'confidence' in columns:
        report['ece'] = _calibration_error(columns['confidence'], correct)
    report['num_samples'] = len(targets)
    report['per_class'] = [None if np.isnan(value) else value for value in accuracy.tolist()]
    return report


def confusion(predictions: Any, targets: Any, num_classes: int) -> np.ndarray:
    """How many images of each class (row) were taken for each class (column), int64 `[C, C]`.

    Args:
        predictions: Class indices `[N]`.
        targets: Class indices `[N]`.
        num_classes: C.

    Raises:
        UserError: Nothing to count, lengths that differ, or a class outside [0, C).
    """
    predictions, targets = _pair(predictions, targets, num_classes)
    from sklearn.metrics import confusion_matrix
    return confusion_matrix(targets, predictions, labels=np.arange(num_classes)).astype(np.int64, copy=False)


def mistakes(predictions: Any, targets: Any, num_classes: int, most: int = 20) -> list[dict[str, int]]:
    """Which class was taken for which other one most often: the largest entries of `confusion` off its diagonal.

    Args:
        predictions: Class indices `[N]`.
        targets: Class indices `[N]`.
        num_classes: C.
        most: How many to give, at most.

    Returns:
        Of each such pair the `class`, the class that it was `taken_for`, the number of `images`, and `of` how many of
        the class; most images first, of as many the larger share.

    Raises:
        UserError: As `confusion`.
    """
    predictions, targets = _pair(predictions, targets, num_classes)
    wrong = predictions != targets
    pairs, images = np.unique(targets[wrong] * num_classes + predictions[wrong], return_counts=True)
    right, taken = pairs // num_classes, pairs % num_classes
    of = np.bincount(targets, minlength=num_classes)[right]
    order = np.lexsort((pairs, of, -images))[:most]
    return [
        {'class': c, 'taken_for': other, 'images': count, 'of': all_} for c, other, count, all_ in
        zip(*(column[order].tolist() for column in (right, taken, images, of)), strict=True)]


def group_confusion(predictions: Any, targets: Any, prior: ClassPrior) -> dict[str, dict[str, int]]:
    """How many images of each shot group were taken for a class of each shot group, the right class or another.

    Args:
        predictions: Class indices `[N]`.
        targets: Class indices `[N]`.
        prior: Counts of the training set, and the boundaries of the groups.

    Returns:
        Images by true and by predicted group. Groups without a class are absent, and as true ones those without a
        test image.

    Raises:
        UserError: As `confusion`.
    """
    predictions, targets = _pair(predictions, targets, prior.num_classes)
    masks = {name: mask.numpy() for name, mask in prior.shot_groups().items() if mask.any()}
    return {
        true: {taken: int((mask[targets] & other[predictions]).sum()) for taken, other in masks.items()}
        for true, mask in masks.items() if mask[targets].any()}


def calibration(confidence: Any, correct: Any) -> dict[str, list]:
    """What a network's confidence was worth, in 15 bins of equal width: (0, 1/15], (1/15, 2/15], …

    Source: Guo et al. 2017, arXiv 1706.04599, section 2: the reliability diagram, and what `ece` sums over.

    Args:
        confidence: Largest probability of each image, 0 to 1, `[N]`.
        correct: Whether that class was the right one, bool `[N]`.

    Returns:
        Lists of 15: `images`, and in percent the mean `confidence` and the `accuracy` of a bin's images, None in an
        empty bin.

    Raises:
        UserError: Lengths that differ, or a confidence that is NaN or infinite.
    """
    confidence, correct = _array(confidence).astype(np.float64), _array(correct)
    _check_length(confidence, correct, 'confidences')
    _check_finite(confidence)
    inner_edges = np.linspace(0., 1., ECE_BINS + 1)[1:-1]
    bins = np.digitize(confidence, inner_edges, right=True)
    images = np.bincount(bins, minlength=ECE_BINS)

    def percent(values: np.ndarray) -> list[float | None]:
        sums = np.bincount(bins, weights=values, minlength=ECE_BINS).tolist()
        return [100. * total / count if count else None for total, count in zip(sums, images.tolist(), strict=True)]
    return {'images': images.tolist(), 'confidence': percent(confidence), 'accuracy': percent(correct)}


def _columns(source: Any, targets: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """The `per_sample` columns that logits, predictions or the columns themselves hold."""
    if not isinstance(source, Mapping):
        if not isinstance(source, torch.Tensor):
            source = torch.from_numpy(np.array(source, order='C'))
        if source.ndim != 2:
            return {'prediction': _array(source)}
        if source.shape[1] != num_classes:
            raise UserError(f'the logits have {source.shape[1]} classes, the training set {num_classes}; '
                            'evaluate a model with the head of this data set')
        _check_length(source, targets, 'logits')
        source = per_sample(source, torch.from_numpy(targets).to(source.device))
    elif 'prediction' not in source:
        raise UserError(f"per-sample columns need 'prediction', got {', '.join(map(repr, source)) or 'none'}")
    columns = {name: _array(source[name]) for name in ('prediction', 'top5', 'confidence') if name in source}
    if 'confidence' in columns:
        _check_finite(columns['confidence'])
    return columns


def _array(values: Any) -> np.ndarray:
    """A CPU array; half-precision floats, some of which numpy lacks, become float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() and values.itemsize < 4 else values).numpy()
    return np.asarray(values)


def _classes(values: Any, num_classes: int, what: str) -> np.ndarray:
    """Class indices as a non-empty int64 array `[N]` within [0, C)."""
    values = _array(values)
    if not values.size:
        raise UserError(f'the {what} are empty; there is nothing to evaluate')
    if values.ndim != 1 or values.dtype.kind not in 'iu':
        raise UserError(f'the {what} must be class indices, integers of shape [N]; '
                        f'got {values.dtype} of shape {list(values.shape)}')
    outside = np.flatnonzero((values < 0) | (values >= num_classes))
    if outside.size:
        raise UserError(f'{what}[{outside[0]}] is {values[outside[0]]}, outside the {num_classes} classes '
                        f'0..{num_classes - 1}; use the class map the model was trained with')
    return values.astype(np.int64)


def _pair(predictions: Any, targets: Any, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true class indices `[N]` of the same images."""
    targets = _classes(targets, num_classes, 'targets')
    predictions = _classes(predictions, num_classes, 'predictions')
    _check_length(predictions, targets, 'predictions')
    return predictions, targets


def _check_length(values: Any, targets: np.ndarray, what: str) -> None:
    length = values.shape[0] if values.ndim else 0
    if length != len(targets):
        raise UserError(f'there are {len(targets)} targets, but {what} for {length} images; give one of each per image')


def _check_finite(confidence: np.ndarray) -> None:
    broken = np.flatnonzero(~np.isfinite(confidence))
    if broken.size:
        raise UserError(f'the logits of {broken.size} of {len(confidence)} images are NaN or infinite '
                        f'(first: image {broken[0]}); the model has diverged or its weights are damaged')


def _calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error in percent: |confidence - accuracy| averaged over the images' bins.

    Source: Guo et al. 2017, arXiv 1706.04599, eq. 3.
    """
    bins = calibration(confidence, correct)
    gaps = [
        images * abs(confidence - accuracy)
        for images, confidence, accuracy in zip(*bins.values(), strict=True) if images]
    return sum(gaps) / len(correct)
