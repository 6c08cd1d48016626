"""What an epoch's losses add up to, and that nobody waits for it."""
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from timm_ltkd.engine.epoch.watch import LossWatch
from timm_ltkd.errors import UserError


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def step(loss, **parts):
    return {name: torch.tensor(value) for name, value in {'loss': loss, **parts}.items()}


def test_means_count_images(accelerator):
    watch = LossWatch(accelerator)
    watch.add(step(1., part=4.), 4)
    watch.add(step(4., part=1.), 2)
    assert watch.read(1) == {'loss': 2., 'part': 3.}
    watch.start()
    watch.add(step(7., part=1.), 3)
    assert watch.read(2) == {'loss': 7., 'part': 1.}


def test_sums_do_not_lose_small_losses(accelerator):
    watch = LossWatch(accelerator)
    for loss in (1e8, *[1.] * 10):  # of which float32 would add none
        watch.add(step(loss), 1)
    assert watch.read(1)['loss'] == pytest.approx((1e8 + 10) / 11, rel=1e-12)


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_the_first_bad_step_is_told(accelerator, bad):
    watch = LossWatch(accelerator)
    watch.add(step(1.), 4)
    watch.add(step(2.), 4)
    assert watch.check(7) == 1.5
    watch.add(step(bad), 2)
    watch.add(step(1.), 2)
    watch.add(step(-bad), 2)
    for ask in (watch.check, watch.read):
        with pytest.raises(UserError, match='epoch 7, step 3;'):
            ask(7)
    watch.start()
    watch.add(step(3.), 2)
    assert watch.check(8) == 3. and watch.read(8) == {'loss': 3.}


def test_only_the_sum_of_the_parts_has_to_be_finite(accelerator):
    watch = LossWatch(accelerator)
    watch.add(step(1., part=float('inf')), 4)
    assert watch.read(1) == {'loss': 1., 'part': float('inf')}


def test_terms_that_a_batch_decides_on_have_one_place_on_all_processes(accelerator, monkeypatch):
    """Each process meets them in an order of its own, and not all of them."""
    watches = [LossWatch(accelerator) for _ in range(2)]
    first, second = watches
    first.add(step(3., head=1.), 4)
    second.add(step(9., tail=5.), 2)
    second.add(step(3., rare=7., head=2.), 2)
    names = [watch.names for watch in watches]
    monkeypatch.setattr('timm_ltkd.engine.epoch.watch.gather_object', lambda own: names)
    sums = []
    for watch in watches:
        watch.accelerator = SimpleNamespace(
            num_processes=2, gather=lambda row: sums.append(row) or torch.cat([row, torch.zeros_like(row)]))
        read = watch.read(1)
    assert read == {'loss': 6., 'head': 1., 'tail': 2.5, 'rare': 3.5}
    assert torch.cat(sums).tolist() == [[12., 4., 0., 0., 4., 1., 1.], [24., 4., 10., 14., 4., 2., 2.]]


def test_a_look_tells_of_the_steps_since_the_last(accelerator):
    watch = LossWatch(accelerator)
    watch.add(step(1.), 4)
    assert watch.check(1) == 1.
    watch.add(step(4.), 2)
    watch.add(step(1.), 4)
    assert watch.check(1) == 2.
    assert watch.read(1) == {'loss': pytest.approx(1.6)}


def test_several_processes_are_told_at_the_end_alone(accelerator, monkeypatch):
    watch = LossWatch(accelerator)
    monkeypatch.setattr(Accelerator, 'num_processes', 2)
    watch.add(step(float('nan')), 4)
    watch.check(1)
    other = torch.tensor([[2., 4., 1., 1.]], dtype=torch.float64)
    monkeypatch.setattr(Accelerator, 'gather', lambda self, rows: torch.cat([other, rows]))
    with pytest.raises(UserError, match='in epoch 1, step 1'):
        watch.read(1)


def test_other_sums_come_with_the_same_read(accelerator, monkeypatch):
    watch = LossWatch(accelerator, lambda: {'some': torch.arange(6).view(2, 3), 'one': torch.tensor(2.5)})
    watch.add(step(1.), 4)
    gathered = []

    def gather(self, rows):
        gathered.append(rows)
        return torch.cat([rows, 3 * rows])
    monkeypatch.setattr(Accelerator, 'gather', gather)
    assert watch.read(1) == {'loss': 1.}
    assert len(gathered) == 1
    assert torch.equal(watch.sums['some'], 4. * torch.arange(6).view(2, 3)) and watch.sums['one'] == 10.


def test_a_term_may_come_in_later(accelerator):
    watch = LossWatch(accelerator)
    watch.add(step(1.), 4)
    watch.add(step(4., late=3.), 2)
    watch.add(step(1.), 4)
    assert watch.read(1) == {'loss': pytest.approx(1.6), 'late': pytest.approx(0.6)}


def test_adding_is_in_place(accelerator):
    """So that a CUDA graph which has captured it goes on with the same memory."""
    watch = LossWatch(accelerator)
    watch.add(step(1.), 4)
    place = watch.totals.data_ptr()
    watch.start()
    for loss in (1., 2.):
        watch.add(step(loss), 4)
        watch.check(1)
    assert watch.totals.data_ptr() == place
    assert watch.read(1) == {'loss': 1.5}


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_a_look_comes_late_on_cuda(on_gpu):
    watch = LossWatch(Accelerator())
    looks = []
    for loss in (1., 2., 3.):
        torch.cuda.set_sync_debug_mode('error')
        try:
            watch.add({'loss': torch.full((), loss, device='cuda')}, 4)
            looks.append(watch.check(1))
        finally:
            torch.cuda.set_sync_debug_mode('default')
        torch.cuda.current_stream().synchronize()
    assert looks == [None, 1., 2.]
    assert watch.read(1) == {'loss': 2.}
