"""What every loss and method asks of labels, logits and the class prior: refused in one line, or taken alike."""
import pytest
import torch
import torch.nn.functional as F

from timm_ltkd.distill import (
    Output,
    balanced_kd_loss,
    create_loss,
    create_method,
    dist_loss,
    dkd_loss,
    focal_loss,
    grouped_kl,
    kd_loss,
    ldam_loss,
    list_losses,
    list_methods,
    method_class,
    soft_label_weights,
    weighted_cross_entropy_loss,
    wsl_loss,
)
from timm_ltkd.errors import UserError
from timm_ltkd.prior import ClassPrior

PRIOR = ClassPrior([50, 20, 10, 5, 1])
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
LOSSES = [('loss', name) for name in list_losses()]
ON_LABELS = [*LOSSES, ('method', 'dkd'), ('method', 'wsl'), ('method', 'krdistill')]
ON_LOGITS = [name for name in list_methods() if method_class(name).uses_logits]
BY_CLASS = [*(pair for pair in LOSSES if pair[1] != 'ce'), *(('method', name) for name in ('bkd', 'krdistill', 'ltkd'))]


def logits(images=8, classes=5, seed=0):
    return torch.randn(images, classes, generator=torch.Generator().manual_seed(seed))


def call(kind, name, target, prior=PRIOR, teacher=None, **options):
    """Its value, of logits `[8, 5]`."""
    if kind == 'loss':
        if name in ('weighted_ce', 'focal', 'ldam'):
            options = {'weights': 'inverse'}
        return create_loss(name, prior=prior, **options)(logits(), target)
    options = {'rrd': 'none'} if name == 'krdistill' else options
    teacher = logits(seed=1) if teacher is None else teacher
    return sum(create_method(name, prior=prior, **options)(Output(logits()), Output(teacher), target).values())


def refused(message, function, *args, **kwargs):
    with pytest.raises(UserError, match=message) as error:
        function(*args, **kwargs)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('target', [
    LABELS[:4], LABELS[:, None], LABELS[:, None].float(), LABELS.float(), F.one_hot(LABELS, 5), LABELS == 1,
    torch.full((8, 4), 0.25), torch.tensor(1),
], ids=['short', 'column', 'floating column', 'floating', 'one-hot', 'bool', 'other classes', 'one'])
@pytest.mark.parametrize('kind, name', ON_LABELS)
def test_labels_of_another_form_are_refused(kind, name, target):
    refused(r'labels|margin', call, kind, name, target)


@pytest.mark.parametrize('kind, name', LOSSES[:3])
def test_one_hot_labels_are_told_what_to_do(kind, name):
    refused(r'give their argmax\(1\)', call, kind, name, F.one_hot(LABELS, 5))


def test_floating_labels_for_as_many_images_as_classes():
    with pytest.raises(UserError, match='labels'):
        create_loss('focal', prior=PRIOR)(logits(5), torch.arange(5.))


@pytest.mark.parametrize('dtype', [torch.int32, torch.uint8])
@pytest.mark.parametrize('kind, name', ON_LABELS)
def test_integers_of_every_kind_are_class_indices(kind, name, dtype):
    assert torch.equal(call(kind, name, LABELS.to(dtype)), call(kind, name, LABELS))


@pytest.mark.parametrize('counts', [[9], [9, 3, 1], [9, 8, 7, 6, 5, 4]])
@pytest.mark.parametrize('kind, name', BY_CLASS)
def test_a_prior_of_other_classes_is_refused(kind, name, counts):
    if name != 'ltkd' or len(counts) > 2:
        refused(f'the prior has {len(counts)} classes and the logits 5', call, kind, name, LABELS, ClassPrior(counts))


@pytest.mark.parametrize('loss', [focal_loss, weighted_cross_entropy_loss, ldam_loss])
def test_class_weights_of_other_classes(loss):
    more = {'margins': torch.rand(4)} if loss is ldam_loss else {}
    with pytest.raises(UserError, match='3 .*4|4 .*3'):
        loss(torch.rand(3, 4), torch.tensor([0, 1, 2]), class_weights=torch.ones(3), **more)


def test_no_label_is_passed_over():
    with pytest.raises((RuntimeError, IndexError)):
        wsl_loss(torch.rand(4, 5), torch.rand(4, 5), torch.tensor([0, 1, -100, 2]))


def test_deferred_weights_are_told_of_at_once():
    refused('the prior has 3 classes', call, 'method', 'bkd', LABELS, ClassPrior([3, 2, 1]), deferred_epochs=160)


@pytest.mark.parametrize('shape', [(8, 1), (1, 5), (8, 6), (4, 5)])
@pytest.mark.parametrize('name', ON_LOGITS)
def test_logits_of_two_shapes_are_refused(name, shape):
    refused('those of the teacher', call, 'method', name, LABELS, teacher=logits(*shape))


@pytest.mark.parametrize('function', [
    kd_loss, dist_loss,
    lambda s, t: balanced_kd_loss(s, t, torch.ones(5)),
    lambda s, t: dkd_loss(s, t, LABELS),
    lambda s, t: soft_label_weights(s, t, LABELS),
    lambda s, t: grouped_kl(s, t, torch.arange(5).split([2, 2, 1])),
], ids=['kd', 'dist', 'bkd', 'dkd', 'wsl', 'ltkd'])
def test_functions_refuse_logits_of_two_shapes(function):
    for teacher in (logits(8, 1), logits(1, 5), logits(8, 7), logits()[0]):
        refused(r'the student are \[8, 5\] and those of the teacher', function, logits(), teacher)
