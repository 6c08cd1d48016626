"""Checkpoints: random states to the last bit, whole files only, two of them, and nothing unsafe loaded."""
import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from timm_ltkd.engine.run_folder import checkpoint
from timm_ltkd.engine.run_folder.checkpoint import (
    check_same_epoch,
    checkpoint_files,
    load_checkpoint,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from timm_ltkd.errors import UserError

ALONE = SimpleNamespace(num_processes=1, is_main_process=True)


def draw():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(2).tolist()


@pytest.fixture(autouse=True)
def _own_generators():
    before = rng_state()
    yield
    set_rng_state(before)


def test_random_states_survive_a_file_that_loads_without_pickled_code(tmp_path):
    random.gauss(0, 1), np.random.randn()  # each keeps a second number back
    torch.save(rng_state(), tmp_path / 'rng.pt')
    first = draw()
    assert draw() != first
    set_rng_state(torch.load(tmp_path / 'rng.pt', weights_only=True))
    assert draw() == first


def test_the_two_newest_stay(tmp_path):
    for epoch in (8, 9, 10, 11):
        save_checkpoint(tmp_path / 'last', epoch, {'x': torch.tensor(epoch)}, ALONE, rng_state())
    names = [path.name for path in checkpoint_files(tmp_path / 'last')]
    assert names == ['checkpoint-000011.pt', 'checkpoint-000010.pt']
    state = load_checkpoint(tmp_path / 'last')
    assert (state['epoch'], int(state['x']), len(state['rng'])) == (11, 11, 1)


def test_an_error_while_writing_leaves_the_old_one_and_no_other_file(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {'x': 1}, ALONE, rng_state())
    content = (tmp_path / 'checkpoint-000001.pt').read_bytes()

    def half(state, file):
        file.write(content[:100])
        raise OSError('no space left on device')
    monkeypatch.setattr(torch, 'save', half)
    for epoch in (1, 2):
        with pytest.raises(OSError):
            save_checkpoint(tmp_path, epoch, {'x': 2}, ALONE, rng_state())
    assert [path.name for path in tmp_path.iterdir()] == ['checkpoint-000001.pt']
    assert load_checkpoint(tmp_path)['x'] == 1


def test_what_another_run_has_removed_already_is_no_error(tmp_path, monkeypatch):
    for epoch in (1, 2):
        save_checkpoint(tmp_path, epoch, {}, ALONE, rng_state())
    files = checkpoint_files(tmp_path)
    files[-1].unlink()
    monkeypatch.setattr(
        'timm_ltkd.engine.run_folder.checkpoint.checkpoint_files', lambda folder: [folder / 'new.pt', *files])
    save_checkpoint(tmp_path, 3, {}, ALONE, rng_state())
    assert [path.name for path in checkpoint_files(tmp_path)] == ['checkpoint-000003.pt', 'checkpoint-000002.pt']


class Payload:
    """Would make a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.mark.parametrize('damage', ['truncated', 'empty', 'text', 'unsafe'])
def test_a_bad_newest_one_is_passed_over(tmp_path, damage, log):
    for epoch in (1, 2):
        save_checkpoint(tmp_path, epoch, {'x': torch.zeros(1000)}, ALONE, rng_state())
    newest = checkpoint_files(tmp_path)[0]
    content = newest.read_bytes()
    newest.write_bytes({
        'truncated': content[:len(content) // 2], 'empty': b'', 'text': b'not a checkpoint',
        'unsafe': pickle.dumps(Payload(tmp_path / 'touched'), protocol=2)}[damage])
    assert load_checkpoint(tmp_path)['epoch'] == 1
    assert f'{newest} cannot be read' in log[-1]
    assert not (tmp_path / 'touched').exists()
    checkpoint_files(tmp_path)[1].write_bytes(b'')
    with pytest.raises(UserError, match='remove .*, and its training starts anew'):
        load_checkpoint(tmp_path)


def test_no_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path / 'nowhere') is None
    (tmp_path / '.checkpoint-000001.pt.abcd.tmp.pt').write_bytes(b'half')
    assert load_checkpoint(tmp_path) is None


def test_processes_that_find_different_checkpoints_do_not_train(tmp_path, monkeypatch):
    """As where each machine has a folder of its own."""
    two = SimpleNamespace(num_processes=2, is_main_process=True)
    monkeypatch.setattr(checkpoint, 'gather_object', lambda mine: [*mine, None])
    with pytest.raises(UserError, match='one of epoch 3, none, in their order.*that all machines share') as error:
        check_same_epoch({'epoch': 3}, two, tmp_path)
    assert '\n' not in str(error.value)
    check_same_epoch(None, two, tmp_path)
    monkeypatch.setattr(checkpoint, 'gather_object', lambda mine: mine * 2)
    check_same_epoch({'epoch': 3}, two, tmp_path)
    monkeypatch.setattr(checkpoint, 'gather_object', pytest.fail)
    check_same_epoch({'epoch': 3}, ALONE, tmp_path)
