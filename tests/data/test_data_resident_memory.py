"""Images are decoded once for all processes of a machine, and none hangs if another fails."""
import gc
import os
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from pictures import Pictures

from timm_ltkd.data import LongTailedDataset
from timm_ltkd.data.resident import ResidentImages, machine, machine_memory, shared_memory
from timm_ltkd.data.resident.shared_memory import share_memory
from timm_ltkd.data.transforms import create_train_transform
from timm_ltkd.errors import UserError

TRANSFORM = create_train_transform(input_size=12, crop_mode='pad', mean=(0.5,) * 3, std=(0.25,) * 3)


class Watched(Pictures):
    """Tells which of them were opened."""

    def __init__(self):
        super().__init__()
        self.opened = []

    def __getitem__(self, index):
        self.opened.append(index)
        if self.pictures[index] is None:
            raise OSError('broken')
        return super().__getitem__(index)


def dataset() -> LongTailedDataset:
    return LongTailedDataset(Watched())


class Team:
    """Threads that exchange what processes would."""

    def __init__(self, size: int):
        self.size, self.said = size, [None] * size
        self.barrier = threading.Barrier(size, timeout=20)

    def exchange_of(self, rank: int):
        def exchange(value):
            self.said[rank] = value
            self.barrier.wait()
            everything = list(self.said)
            self.barrier.wait()
            return everything
        return exchange

    def run(self, work):
        """What `work(rank, exchange)` returned or raised in each."""
        results = [None] * self.size

        def call(rank):
            try:
                results[rank] = work(rank, self.exchange_of(rank))
            except Exception as e:
                results[rank] = e
        threads = [threading.Thread(target=call, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def decoded_by(count: int, spoil=lambda rank, data: None):
    """Images of each of `count` processes, and which pictures it opened."""
    sets = [dataset() for _ in range(count)]
    for rank, data in enumerate(sets):
        spoil(rank, data)

    def work(rank, exchange):
        images = ResidentImages(sets[rank], TRANSFORM, exchange=exchange)
        return images.images, images.targets
    return Team(count).run(work), [data.base.opened for data in sets]


@pytest.mark.skipif(not Path('/proc/self/fd').is_dir(), reason='processes share memory on Linux')
@pytest.mark.parametrize('count', [2, 3])
def test_each_process_decodes_its_part(count):
    alone = ResidentImages(dataset(), TRANSFORM)
    results, opened = decoded_by(count)
    for images, targets in results:
        assert torch.equal(images, alone.images) and torch.equal(targets, alone.targets)
    parts = [set(seen[1:]) for seen in opened]  # the first is looked at by all, for its size
    assert sum(map(len, parts)) == len(alone) == len(set().union(*parts))
    results[0][0][5, 3, 3, 0] += 1
    assert torch.equal(results[1][0], results[0][0]), 'the bytes are there once'


@pytest.mark.skipif(not Path('/proc/self/maps').is_file(), reason='processes share memory on Linux')
def test_nothing_is_left_behind():
    def mapped():
        gc.collect()
        return [line for line in Path('/proc/self/maps').read_text().splitlines() if 'timm_ltkd' in line]

    def handles():  # of this file alone: others come and go with what tests before this one left to collect
        links = []
        for number in os.listdir('/proc/self/fd'):
            with suppress(OSError):  # what listed them is closed by now
                links.append(os.readlink(f'/proc/self/fd/{number}'))
        return [link for link in links if 'memfd:timm_ltkd' in link]
    results, _ = decoded_by(2)
    assert mapped() and all(line.endswith('(deleted)') for line in mapped()), 'no name in any folder'
    del results
    assert not mapped() and not handles()


@pytest.mark.parametrize('hindrance', ['no file', 'other machine', 'closed'])
def test_processes_that_cannot_share_decode_alone(monkeypatch, hindrance):
    if hindrance == 'no file':
        monkeypatch.setattr(shared_memory, '_nameless_file', lambda nbytes: None)
    elif hindrance == 'closed':
        monkeypatch.setattr(shared_memory, '_opened', lambda offer, nbytes: None)
    else:
        monkeypatch.setattr(shared_memory, '_machine', lambda: ('host', str(threading.get_ident())))
    results, opened = decoded_by(2)
    assert torch.equal(results[0][0], results[1][0])
    assert all(len(set(seen)) == len(results[0][0]) for seen in opened)
    results[0][0][0, 0, 0, 0] += 1
    assert not torch.equal(results[0][0], results[1][0])


def test_a_broken_image_is_told_by_all():
    def spoil(rank, data):
        data.base.pictures[-1] = None  # of the last process's part
    results, _ = decoded_by(3, spoil)
    assert [type(result) for result in results] == [UserError] * 3 and len(set(map(str, results))) == 1


def test_too_little_memory_is_told_by_all(monkeypatch):
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: type('', (), {'available': 1000, 'total': 1000}))
    errors = Team(2).run(lambda rank, exchange: share_memory(1001, exchange))
    assert all('1000' not in str(error) and 'use --loader timm' in str(error) for error in errors)
    assert all(isinstance(result.memory, torch.Tensor) for result in Team(2).run(
        lambda rank, exchange: share_memory(1000, exchange)))
    with pytest.raises(UserError, match='memory are free'):
        share_memory(1001, None)


def test_a_containers_limit_is_no_more_than_what_is_free(monkeypatch):
    monkeypatch.setattr(shared_memory, 'machine_memory', lambda: 900)
    share_memory(900, None)
    with pytest.raises(UserError, match='memory are free'):
        share_memory(901, None)


@pytest.mark.parametrize(('lines', 'files', 'limit'), [
    ('0::/a/b\n', {'a/memory.max': '5000', 'a/b/memory.max': 'max', 'memory.max': 'max'}, 5000),
    ('0::/a/b\n', {'a/memory.max': '5000', 'a/b/memory.max': '400'}, 400),
    ('0::/\n', {'memory.max': '300'}, 300),
    ('0::/not/seen/here\n', {'memory.max': '300'}, 300),
    ('5:cpu,memory:/x\n4:pids:/x\n', {'memory/x/memory.limit_in_bytes': '200', 'memory.max': '100'}, 200),
    ('0::/a\n', {}, None),
])
def test_a_container_has_the_memory_of_its_group(lines, files, limit, tmp_path, monkeypatch):
    (tmp_path / 'own').write_text(lines)
    for name, text in files.items():
        (tmp_path / 'groups' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'groups' / name).write_text(text + '\n')
    monkeypatch.setattr(machine, '_CGROUPS', tmp_path / 'groups')
    monkeypatch.setattr(machine, '_OWN_GROUPS', tmp_path / 'own')
    assert machine_memory() == (psutil.virtual_memory().total if limit is None else limit)


def test_a_machine_without_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, '_OWN_GROUPS', tmp_path / 'missing')
    assert machine_memory() == psutil.virtual_memory().total
