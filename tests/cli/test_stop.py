"""How the scripts end: what is told of signals, machines and other processes, and with which exit code."""
import errno
import os
import signal
import threading

import pytest
import torch

from timm_ltkd.cli.run import one_line_errors
from timm_ltkd.errors import Fault, Terminated, disk_error, fault
from timm_ltkd.files import replace_file


def end_of(error, capsys):
    """Exit code and message of a script that an error ends."""
    with pytest.raises(SystemExit) as stopped, one_line_errors('train.py', '; go on'):
        raise error
    return stopped.value.code, capsys.readouterr().err


@pytest.mark.parametrize('error, code, told', [
    (KeyboardInterrupt(), 130, 'interrupted; go on'),
    (Terminated(), 143, 'stopped by SIGTERM; go on'),
    (Fault('process 1 of 2 has died'), 2, 'error: process 1 of 2 has died; go on'),
    (OSError(errno.ENOSPC, 'No space left on device', 'a.png'), 2,
     'error: a.png: No space left on device; make room, or see to its rights; go on'),
    (RuntimeError('DataLoader worker (pid(s) 12, 13) exited unexpectedly'), 2,
     'error: a loader worker exited unexpectedly: there may be too little memory, or shared memory (/dev/shm); use '
     'fewer --workers, or --workers 0; go on'),
    (RuntimeError('DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader\'s '
                  'workers are out of shared memory. Please try to raise your shared memory limit.'), 2,
     'error: a loader worker killed by signal: Bus error: there may be too little memory, or shared memory (/dev/shm); '
     'use fewer --workers, or --workers 0; go on'),
])
def test_one_line(error, code, told, capsys):
    assert end_of(error, capsys) == (code, f'train.py: {told}\n')


@pytest.mark.parametrize('error', [ValueError('a bug'), OSError(errno.ENOENT, 'No such file', 'x'), RuntimeError('x')])
def test_a_mistake_in_the_code_is_none_of_these(error):
    assert fault(error) is None
    with pytest.raises(type(error)), one_line_errors('train.py'):
        raise error


@pytest.mark.parametrize('name, code', [('SIGTERM', 143), ('SIGINT', 130)])
def test_signals(name, code, capsys):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as stopped, one_line_errors('train.py'):
        try:
            signal.raise_signal(getattr(signal, name))
        except KeyboardInterrupt as e:  # torch makes such an error of what is raised while it writes
            signal.raise_signal(signal.SIGTERM)  # which nobody hears any more
            raise RuntimeError('unexpected pos') from e
    assert stopped.value.code == code
    assert capsys.readouterr().err.startswith('train.py: ' + ('stopped by SIGTERM' if code == 143 else 'interrupted'))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert not any(isinstance(thread, threading.Timer) and not thread.finished.is_set()
                   for thread in threading.enumerate()), 'nobody cuts off what has ended'


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with one_line_errors('train.py'):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def full():
    raise OSError(errno.ENOSPC, 'No space left on device')


def test_a_disk_that_torch_cannot_write(tmp_path, monkeypatch):
    """What torch raises of it is a RuntimeError about positions."""
    class Full:
        def write(self, data):
            if len(data) > 1000:
                full()
            return len(data)

    with pytest.raises(RuntimeError) as told:
        torch.save({'x': torch.zeros(10 ** 6)}, Full())
    assert disk_error(told.value).errno == errno.ENOSPC
    (tmp_path / 'a').write_text('old')
    with pytest.raises(OSError) as told, replace_file(tmp_path / 'a'):
        torch.save({'x': torch.zeros(10 ** 6)}, Full())
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(tmp_path / 'a'))
    assert os.listdir(tmp_path) == ['a'] and (tmp_path / 'a').read_text() == 'old'


@pytest.mark.parametrize('full, absent', [
    ('I/O error: No space left on device (os error 28)', 'I/O error: No such file or directory (os error 2)'),
    ('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })',  # before 0.6
     'IoError(Os { code: 2, kind: NotFound, message: "No such file or directory" })'),
])
def test_a_disk_that_safetensors_cannot_write(full, absent):
    assert disk_error(Exception(f'Error while serializing: {full}')).errno == errno.ENOSPC
    assert disk_error(Exception(absent)) is None


def test_files_have_the_rights_that_new_ones_have(tmp_path, monkeypatch):
    """The umask is the process's, and other threads write at the same time: nobody changes it, even for a moment."""
    mask = os.umask(0o027)
    try:
        with monkeypatch.context() as patch, replace_file(tmp_path / 'a') as aside:
            patch.setattr(os, 'umask', lambda mask: pytest.fail('it was changed'))
            aside.write_text('x')
        assert (tmp_path / 'a').stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(mask)
