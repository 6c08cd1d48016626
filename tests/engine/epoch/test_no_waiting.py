"""That the host waits for no device within an epoch: no operation of a step asks for a value."""
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from timm_ltkd.distill import list_losses, list_methods
from timm_ltkd.engine.epoch.loop import EpochLoop

ASKING = ('_local_scalar_dense', 'item', 'nonzero', 'is_nonzero', 'masked_select', 'equal', '_unique', 'unique_dim',
          'repeat_interleave', '_is_all_true', '_is_any_true', 'argwhere', 'nonzero_static')


class Asked(TorchDispatchMode):
    """Keeps the names of the operations whose result, or its size, depends on values that a device would hold."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        places = args[1] if name in ('index', 'index_put', 'index_put_') else ()
        if name in ASKING or any(place is not None and place.dtype == torch.bool for place in places):
            self.names.append(name)
        return func(*args, **kwargs or {})


class Uncounted:
    """A loader whose own work, which is the host's, is not counted."""

    def __init__(self, loader):
        self.loader = loader

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        with _disable_current_modes():
            batches = iter(self.loader)
        for _ in range(len(self)):
            with _disable_current_modes():
                batch = next(batches)
            yield batch


def test_the_counter_counts():
    with Asked() as asked:
        values = torch.arange(4.)
        float(values[0]), values[values > 1], values.nonzero(), bool(values.any())
        torch.nn.functional.one_hot(torch.tensor([0, 1]), 3)
        values[torch.tensor([1, 2])].sum()
    assert {'_local_scalar_dense', 'index', 'nonzero'} <= set(asked.names) and len(asked.names) >= 5


@pytest.fixture
def asked(script, options, teacher, monkeypatch):
    """Runs a script for an epoch; what was asked for in the steps of its training."""
    seen = []
    train_epoch = EpochLoop.run

    def counted(loop, *args):
        loop.loader = Uncounted(loop.loader)
        with Asked() as counter:
            result = train_epoch(loop, *args)
        seen.append(counter.names)
        return result

    def run(name, argv):
        if name == 'distill':
            argv = ['--teacher-checkpoint', str(teacher), '--student', 'resnet20', *argv]
        else:
            argv = ['--model', 'resnet20', *argv]
        script(name, [*options, '--epochs', '1', '--log-interval', '1', '--experiment', 'run', *argv])
        return seen.pop()
    monkeypatch.setattr(EpochLoop, 'run', counted)
    return run


EXTRAS = '--clip-grad 1 --model-ema --model-ema-warmup --sched-on-updates --grad-accum-steps 2'.split()


@pytest.mark.parametrize('kd', list_methods())
def test_methods(asked, kd):
    assert asked('distill', ['--kd', kd, *EXTRAS]) == []


@pytest.mark.parametrize('loss', list_losses())
def test_losses(asked, loss):
    assert asked('train', ['--loss', loss]) == []


@pytest.mark.parametrize('argv', [
    ['--mixup', '0.2', '--cutmix', '1', '--loss', 'focal'], ['--clip-grad', '0.1', '--clip-mode', 'agc'],
    ['--clip-grad', '0.1', '--clip-mode', 'value'], ['--opt', 'adamw'],
], ids=' '.join)
def test_what_else_a_step_may_hold(asked, argv):
    assert asked('train', argv) == []
