"""What holds for every registered loss and method, those to come included: gradients, half precision, extremes."""
import pytest
import torch

from timm_ltkd.distill import (
    Output,
    create_loss,
    create_method,
    list_losses,
    list_methods,
    method_class,
    soft_label_weights,
    wsl,
)
from timm_ltkd.prior import ClassPrior

CLASSES = [10, 100, 1000, 8142]
LENGTHS = dict(student_features=6, teacher_features=5)
CASES = [
    *((name, {}) for name in list_methods()),
    *((name, {'standardize': True}) for name in list_methods() if method_class(name).uses_logits),
    ('ltkd', {'rebalance': False, 'reweight': False}),
    *(('krdistill', {'lrd': lrd}) for lrd in ('swap', 'adjust', 'none')),
]


def random(*shape, seed=0, dtype=torch.float64, scale=3.):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * scale


def make(name, prior, dtype=torch.float64, **options):
    """A method that has been told all it needs."""
    method = create_method(name, prior=prior, **LENGTHS, **options).to(dtype)
    if method.needs_class_means:
        method.set_class_means(random(prior.num_classes, LENGTHS['teacher_features'], seed=9))
    return method


def outputs(batch, classes, dtype=torch.float64):
    student = Output(random(batch, classes, seed=0, dtype=dtype), random(batch, 6, seed=1, dtype=dtype))
    return student, Output(random(batch, classes, seed=2, dtype=dtype), random(batch, 5, seed=3, dtype=dtype))


@pytest.mark.parametrize('name, options', CASES)
def test_gradcheck_of_methods(name, options, monkeypatch):
    prior, target = ClassPrior([500, 100, 20, 5, 1]), torch.tensor([0, 3, 4])
    student, teacher = outputs(3, 5)
    weights = soft_label_weights(student.logits, teacher.logits, target)
    monkeypatch.setattr(wsl, 'soft_label_weights', lambda *_: weights)  # held: they carry no gradient
    method = make(name, prior, **options)

    def loss(logits, features):
        return sum(method(Output(logits, features), teacher, target).values()) + 0 * (logits.sum() + features.sum())
    assert torch.autograd.gradcheck(loss, tuple(tensor.requires_grad_() for tensor in student))


@pytest.mark.parametrize('create, name', [
    *((create_loss, name) for name in list_losses()), *((make, name) for name in list_methods())])
def test_tensors_go_to_the_device_with_their_module(create, name):
    """Those in plain attributes would stay behind, which no run on a CPU tells."""
    modules = create(name, prior=ClassPrior([500, 100, 20, 5, 1])).modules()
    left = [key for module in modules for key, value in vars(module).items() if isinstance(value, torch.Tensor)]
    assert not left, 'make it a buffer'


@pytest.mark.parametrize('name', list_losses())
def test_gradcheck_of_losses(name):
    loss, target = create_loss(name, prior=ClassPrior([500, 100, 20, 5, 1])), torch.tensor([0, 3, 4])
    assert torch.autograd.gradcheck(lambda logits: loss(logits, target), random(3, 5).requires_grad_())


def extremes(classes, dtype):
    """Logits `[4, C]` of two networks that are sure of the first or last class, of nothing, or the other way round."""
    for value in (1e4, -1e4):
        for other in (1e4, -1e4):
            student, teacher = (random(4, classes, seed=seed, dtype=torch.float32) for seed in (0, 2))
            student[:, 0], teacher[:, -1] = value, other
            student[1], teacher[2] = value, other
            yield student.to(dtype), teacher.to(dtype)


def is_finite(terms, *leaves):
    loss = sum(terms.values())
    loss.backward()
    assert loss.dtype == torch.float32
    return torch.isfinite(loss) and all(torch.isfinite(leaf.grad).all() for leaf in leaves if leaf.grad is not None)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('classes', CLASSES)
@pytest.mark.parametrize('name', list_losses())
def test_extreme_logits_and_priors_of_losses(name, classes, dtype):
    target = torch.tensor([0, classes - 1, 1, 2])
    for prior in (ClassPrior([10 ** 6] * (classes - 1) + [1]), ClassPrior([10 ** 6] + [1] * (classes - 1))):
        loss = create_loss(name, prior=prior)
        for logits, _ in extremes(classes, dtype):
            leaf = logits.requires_grad_()
            assert is_finite({name: loss(leaf, target)}, leaf)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('classes', CLASSES)
@pytest.mark.parametrize('name, options', CASES)
def test_extreme_logits_and_priors_of_methods(name, options, classes, dtype):
    target = torch.tensor([0, classes - 1, 1, 2])
    for prior in (ClassPrior([10 ** 6] * (classes - 1) + [1]), ClassPrior([10 ** 6] + [1] * (classes - 1))):
        cheap = {'rrd': 'class_mean'} if name == 'krdistill' else {}  # prototypes of 8,142 classes take a while
        method = make(name, prior, dtype=None, **cheap, **options)
        for logits in extremes(classes, dtype):
            student, teacher = (
                Output(z.requires_grad_(), random(4, n, seed=n, dtype=torch.float32).to(dtype).requires_grad_())
                for z, n in zip(logits, (6, 5), strict=True))
            assert is_finite(method(student, teacher, target), *student)
            assert teacher.logits.grad is None and teacher.features.grad is None
