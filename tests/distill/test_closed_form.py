"""Losses that come with their gradient: against autograd, in chunks, at the edges, and asked twice."""
import pytest
import torch
import torch.nn.functional as F

from timm_ltkd.distill import balanced_kd_loss, closed_form, cross_entropy_loss, kd_loss
from timm_ltkd.distill.closed_form import softened_kl
from timm_ltkd.errors import UserError


def make(batch=7, classes=11, dtype=torch.float64, scale=3., seed=0):
    """Logits of student and teacher, labels, class weights."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(batch, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    target = torch.randint(classes, (batch,), generator=generator)
    return student.to(dtype).requires_grad_(), teacher.to(dtype), target, torch.logspace(-3, 1, classes).double()


def plain_kl(student, teacher, temperature, weights):
    """T · KL of each row by probabilities and autograd, as in the papers."""
    q = F.softmax(teacher / temperature, dim=1) * weights
    q = q / q.sum(dim=1, keepdim=True)
    return temperature * F.kl_div(F.log_softmax(student / temperature, dim=1), q, reduction='none').sum(dim=1)


def with_gradient(loss, student, of_rows):
    value = loss(student)
    gradient, = torch.autograd.grad(value, student, of_rows.to(value))
    return value.detach(), gradient


@pytest.mark.parametrize('at_a_time', [1, 22, 33, 10 ** 6])  # rows by one, by two with one left, by three, all
@pytest.mark.parametrize('temperature', [1., 2., 3.7])
def test_divergence_and_gradient_are_those_of_autograd(monkeypatch, at_a_time, temperature):
    monkeypatch.setattr(closed_form, '_AT_A_TIME', at_a_time)
    student, teacher, _, weights = make()
    of_rows = torch.linspace(-1, 2, 7)
    expected = with_gradient(lambda s: plain_kl(s, teacher, temperature, weights), student, of_rows)
    found = with_gradient(lambda s: softened_kl(s, teacher, temperature, weights.log()), student, of_rows)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize('shift', [True, False])
def test_the_way_of_a_gpu_is_that_of_a_cpu(dtype, shift):
    student, teacher, _, weights = make(batch=5, classes=300, dtype=dtype)
    wide = torch.promote_types(dtype, torch.float32)
    shift = weights.log().to(wide) if shift else torch.zeros(1, dtype=wide)
    loss, gradient, _ = closed_form.kl_parts(student.detach(), teacher, shift, 2.)
    other_loss, other_gradient, scale = closed_form.kl_parts_in_cache(student.detach(), teacher, shift, 2.)
    other_gradient *= scale.unsqueeze(1)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(other_loss, loss, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(other_gradient, gradient, rtol=tolerance, atol=tolerance)
    assert loss.dtype == gradient.dtype == wide


@pytest.mark.parametrize('classes', [200, 8142])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_logits_are_computed_in_float32_and_get_a_half_gradient(dtype, classes):
    student, teacher, target, weights = make(classes=classes, dtype=dtype)
    exact = student.detach().double().requires_grad_()
    for loss in (lambda s: kd_loss(s, teacher.to(s.dtype)), lambda s: cross_entropy_loss(s, target),
                 lambda s: balanced_kd_loss(s, teacher.to(s.dtype), weights)):
        value, gradient = with_gradient(loss, student, torch.tensor(1.))
        expected, expected_gradient = with_gradient(loss, exact, torch.tensor(1.))
        assert value.dtype == torch.float32 and gradient.dtype == dtype
        assert abs(float(value / expected) - 1) < 1e-6
        torch.testing.assert_close(gradient.double(), expected_gradient, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_student_and_teacher_of_different_precision():
    student, teacher, _, _ = make(dtype=torch.bfloat16)
    value = softened_kl(student, teacher.double(), 2.)
    assert value.dtype == torch.float64
    assert torch.equal(value.detach(), softened_kl(student.detach().double(), teacher.double(), 2.))


def test_a_second_backward_gives_the_same_gradient():
    student, teacher, target, _ = make()
    total = kd_loss(student, teacher) + cross_entropy_loss(student, target)
    total.backward(retain_graph=True)
    first = student.grad.clone()
    (2 * total).backward()
    torch.testing.assert_close(student.grad, 3 * first, rtol=1e-12, atol=0.)


def test_a_gradient_of_the_gradient_is_refused():
    student, teacher, _, _ = make()
    with pytest.raises(UserError, match='no second derivative'):
        torch.autograd.grad(kd_loss(student, teacher), student, create_graph=True)


def test_logits_that_are_views_of_others():
    (student, teacher, target, _), columns = make(classes=22), slice(None, None, 2)
    found = with_gradient(
        lambda s: kd_loss(s[:, columns], teacher[:, columns]) + cross_entropy_loss(s[:, columns], target // 2), student,
        torch.tensor(1.))
    copy = student.detach()[:, columns].clone().requires_grad_()
    expected = with_gradient(
        lambda s: kd_loss(s, teacher[:, columns].clone()) + cross_entropy_loss(s, target // 2), copy, torch.tensor(1.))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1][:, columns], expected[1])
    assert not found[1][:, 1::2].any()


def test_a_teacher_in_inference_mode():
    student, teacher, _, weights = make()
    with torch.inference_mode():
        said = teacher * 1.
    balanced_kd_loss(student, said, weights).backward()
    expected, = torch.autograd.grad(balanced_kd_loss(student, teacher, weights), student)
    assert torch.equal(student.grad, expected)


def test_nothing_but_the_logits_is_kept_by_autograd():
    student, teacher, _, weights = make()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        balanced_kd_loss(student, teacher, weights)
    assert kept and set(kept) == {student.data_ptr()}


def test_no_image_has_no_loss():
    student, teacher, _, _ = make(batch=0)
    assert softened_kl(student, teacher, 2.).shape == (0,)
