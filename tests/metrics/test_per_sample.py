"""per_sample against torch, timm and float64, and its ties."""
import pytest
import timm.utils
import torch
import torch.nn.functional as F

from timm_ltkd.errors import UserError
from timm_ltkd.metrics import per_sample


def random_batch(num_classes=12, batch=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(batch, num_classes, generator=generator),
            torch.randint(num_classes, (batch,), generator=generator))


def test_agrees_with_torch_and_timm():
    logits, target = random_batch()
    columns = per_sample(logits, target)
    assert list(columns) == ['prediction', 'confidence', 'loss', 'top5']
    assert {name: column.dtype for name, column in columns.items()} == {
        'prediction': torch.int64, 'confidence': torch.float32, 'loss': torch.float32, 'top5': torch.bool}
    assert torch.equal(columns['prediction'], logits.argmax(1))
    torch.testing.assert_close(columns['loss'], F.cross_entropy(logits, target, reduction='none'))
    torch.testing.assert_close(columns['confidence'], logits.softmax(1).amax(1))
    top1, top5 = timm.utils.accuracy(logits, target, topk=(1, 5))
    assert 100 * (columns['prediction'] == target).double().mean().item() == pytest.approx(top1.item())
    assert 100 * columns['top5'].double().mean().item() == pytest.approx(top5.item())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_measured_in_float32(dtype):
    logits, target = random_batch()
    logits = logits.to(dtype)
    columns, exact = per_sample(logits, target), per_sample(logits.double(), target)
    torch.testing.assert_close(columns['loss'], exact['loss'], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(columns['confidence'], exact['confidence'], rtol=1e-5, atol=1e-6)
    assert columns['confidence'].dtype == torch.float32


def test_stays_in_float32_under_autocast():
    logits, target = random_batch()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        columns = per_sample(logits, target)
    assert all(torch.equal(columns[name], column) for name, column in per_sample(logits, target).items())


def test_large_logits_do_not_overflow():
    columns = per_sample(torch.tensor([[1e4, -1e4], [-1e4, 1e4]]), torch.tensor([0, 0]))
    assert columns['loss'].tolist() == [0., 2e4]
    assert columns['confidence'].tolist() == [1., 1.]


def test_equal_logits_rank_in_class_order():
    target = torch.arange(8)
    columns = per_sample(torch.zeros(8, 8), target)
    assert columns['prediction'].tolist() == [0] * 8
    assert columns['top5'].tolist() == [True] * 5 + [False] * 3  # a constant model is not right about everything


@pytest.mark.parametrize('num_classes', [1, 2, 5])
def test_no_top5_with_five_classes_or_fewer(num_classes):
    assert 'top5' not in per_sample(torch.randn(3, num_classes), torch.zeros(3, dtype=torch.int64))


def test_keeps_no_graph_and_takes_int32_targets():
    logits, target = random_batch()
    columns = per_sample(logits.requires_grad_(), target.int())
    assert not columns['loss'].requires_grad


@pytest.mark.parametrize('logits, target', [((4, 10), (3,)), ((4,), (4,)), ((4, 10), (4, 10))])
def test_refuses_other_shapes(logits, target):
    with pytest.raises(UserError, match='logits \\[B, C\\]'):
        per_sample(torch.zeros(logits), torch.zeros(target, dtype=torch.int64))


def test_never_waits_for_the_device():
    """On the meta device a value that is read back to the host is an error."""
    columns = per_sample(torch.empty(4, 8, device='meta'), torch.empty(4, dtype=torch.int64, device='meta'))
    assert {name: tuple(column.shape) for name, column in columns.items()} == dict.fromkeys(columns, (4,))
