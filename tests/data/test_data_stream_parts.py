"""Which images of a stream each process and loader worker gets: all of them, once, in an order that can be repeated."""
import itertools
import random
from collections import Counter
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from timm_ltkd.data import create_eval_loader, create_splits, create_train_loader, epoch_plan, stop_workers
from timm_ltkd.data.streams import EvalStream, StreamDataset, TrainStream, parts
from timm_ltkd.data.streams.counts import count_images
from timm_ltkd.data.streams.shuffle import SHUFFLED_AT_ONCE, ClassesAtOnce, if_mixed, shuffled
from timm_ltkd.errors import UserError

MANY, ONE = (5, 1, 8, 3, 4, 6, 2, 9, 7), (45,)


class MemoryShards:
    """Shards of images that say which they are: the first pixel."""

    name, split, files, folder, class_names, lengths = 'memory', 'train', (), None, ['even', 'odd'], None

    def __init__(self, sizes):
        self.starts = np.cumsum([0, *sizes]).tolist()
        self.reads = []

    def __len__(self):
        return len(self.starts) - 1

    def read(self, shard):
        self.reads.append(shard)
        for number in range(self.starts[shard], self.starts[shard + 1]):
            file = BytesIO()
            Image.new('RGB', (2, 2), (number, 0, 0)).save(file, 'png')
            yield file.getvalue(), number % 2

    def labels(self, shard):
        return (label for _, label in self.read(shard))


def stream_of(sizes, known=True):
    shards = MemoryShards(sizes)
    counts = count_images(shards)
    shards.reads.clear()
    return StreamDataset(
        shards, counts if known else counts._replace(shards=None), class_names=shards.class_names, transform=who)


def who(image):
    return image.getpixel((0, 0))[0]


def test_counting_is_told_of_where_no_bar_is_shown(monkeypatch, caplog, log):
    caplog.set_level('INFO', 'timm_ltkd')
    monkeypatch.setattr('timm_ltkd.progress._SILENCE', 0.)
    counts = count_images(MemoryShards([3, 2]))
    assert counts.shards.tolist() == [3, 2] and counts.classes.tolist() == [3, 2]
    assert [line.partition(': ')[2] for line in log] == ['1 of 2 shards', '2 of 2 shards']


@pytest.fixture
def epoch(monkeypatch):
    """Batches of an epoch by rank, as loaders with so many workers would give them."""
    def batches_of(stream, world_size, workers, batch_size=4, number=0, seed=0):
        by_rank = []
        for rank in range(world_size):
            part = TrainStream(stream, batch_size, seed=seed, rank=rank, world_size=world_size)
            part.set_epoch(number)
            by_worker = []
            for worker in range(workers):
                monkeypatch.setattr(parts, 'loader_worker', lambda worker=worker: (worker, workers))
                images = [image for image, _ in part]
                by_worker.append([images[i:i + batch_size] for i in range(0, len(images), batch_size)])
            turns = itertools.chain.from_iterable(itertools.zip_longest(*by_worker))
            by_rank.append([batch for batch in turns if batch])
            assert [len(batch) for batch in by_rank[-1]] == part.batch_sizes()
        return by_rank
    return batches_of


def images_of(batches):
    return [image for batch in batches for image in batch]


WORLDS = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 4)]


@pytest.mark.parametrize('sizes', [MANY, ONE])
@pytest.mark.parametrize(('world_size', 'workers'), WORLDS)
def test_an_epoch_shows_each_image_once_but_for_the_repeats(epoch, sizes, world_size, workers):
    stream = stream_of(sizes)
    ranks = epoch(stream, world_size, workers)
    shown = Counter(image for batches in ranks for image in images_of(batches))
    repeats = TrainStream(stream, 4, seed=0, world_size=world_size).repeats
    assert set(shown) == set(range(45))
    assert shown.total() == 45 + repeats
    assert max(shown.values()) <= 1 + (repeats > 0)
    assert len({tuple(map(len, batches)) for batches in ranks}) == 1, 'the processes take as many steps'


def test_processes_and_workers_read_shards_of_their_own(monkeypatch):
    """Four of them over nine shards: besides the whole ones, each begins or ends within at most two others."""
    stream = stream_of(MANY)
    for rank, worker in itertools.product(range(2), range(2)):
        monkeypatch.setattr(parts, 'loader_worker', lambda worker=worker: (worker, 2))
        list(TrainStream(stream, 3, seed=0, rank=rank, world_size=2))
    assert len(stream.shards.reads) <= 9 + 4


@pytest.mark.parametrize('sizes', [MANY, ONE])
def test_the_order_is_a_function_of_seed_and_epoch(epoch, sizes):
    stream = stream_of(sizes)
    first = epoch(stream, 2, 2, number=3)
    epoch(stream, 2, 2, number=1)
    assert epoch(stream_of(sizes), 2, 2, number=3) == first, 'whatever was shown before'
    others = [epoch(stream, 2, 2, number=4), epoch(stream, 2, 2, number=3, seed=1)]
    assert first not in others and others[0] != others[1]
    orders = [images_of(batches) for batches in first]
    assert all(order != sorted(order) for order in orders)


def test_fewer_images_than_a_batch_are_shown_over_and_over(epoch):
    ranks = epoch(stream_of((1, 2)), 2, 2, batch_size=8)
    assert [len(batches) for batches in ranks] == [1, 1]
    assert set(images_of(ranks[0]) + images_of(ranks[1])) == {0, 1, 2}


@pytest.mark.parametrize(('world_size', 'workers'), WORLDS)
def test_without_shard_lengths_the_steps_stay_and_the_images_come_over_the_epochs(epoch, world_size, workers):
    stream = stream_of(MANY, known=False)
    shown = Counter()
    for number in range(6):
        ranks = epoch(stream, world_size, workers, number=number)
        shown.update(image for batches in ranks for image in images_of(batches))
    assert set(shown) == set(range(45))
    assert max(shown.values()) <= 14


@pytest.mark.parametrize('sizes', [MANY, ONE])
@pytest.mark.parametrize('known', [True, False])
@pytest.mark.parametrize(('world_size', 'workers'), [*WORLDS, (7, 9)])
def test_evaluation_sees_each_image_exactly_once(monkeypatch, sizes, known, world_size, workers):
    stream, seen = stream_of(sizes, known), []
    for rank, worker in itertools.product(range(world_size), range(workers)):
        monkeypatch.setattr(parts, 'loader_worker', lambda worker=worker: (worker, workers))
        seen += EvalStream(stream, rank=rank, world_size=world_size)
    assert sorted(seen) == [(image, image % 2, image) for image in range(45)], 'image, label and position'


def noisy(image):
    return torch.tensor([who(image), random.random(), np.random.rand(), torch.rand(()).item()])


@pytest.mark.parametrize('sizes', [MANY, ONE])
def test_augmentation_is_a_function_of_seed_epoch_and_image(sizes):
    """Through real loaders, with workers that persist and without: the same pixels in other batches."""
    def shown(workers, number, seed=0):
        loader = create_train_loader(stream_of(sizes), noisy, batch_size=5, seed=seed, workers=workers)
        epoch_plan(loader).set_epoch(7)
        assert len(list(loader)) == len(loader) == 9
        epoch_plan(loader).set_epoch(number)
        rows = torch.cat([input for input, _ in loader])
        stop_workers(loader)
        return rows[rows[:, 0].argsort()]
    alone = shown(0, 2)
    assert torch.equal(alone[:, 0], torch.arange(45.))
    assert torch.equal(shown(2, 2), alone)
    assert not torch.equal(shown(0, 3)[:, 1:], alone[:, 1:])
    assert not torch.equal(shown(0, 2, seed=1)[:, 1:], alone[:, 1:])


def test_the_callers_generators_are_left_alone():
    loader = create_train_loader(stream_of(MANY), noisy, batch_size=4, seed=0)
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    undisturbed = random.random(), np.random.rand(), torch.rand(())
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    list(loader)
    assert (random.random(), np.random.rand(), torch.rand(())) == undisturbed


@pytest.mark.parametrize('workers', [0, 2])
def test_loaders_evaluate_each_image_once_again_and_again(workers):
    loader = create_eval_loader(stream_of(MANY), noisy, batch_size=4, workers=workers)
    for _ in range(2):
        positions = torch.cat([index for _, _, index in loader])
        assert positions.sort().values.tolist() == list(range(45)) and len(loader.dataset) == 45
    stop_workers(loader)


def test_a_plain_loader_over_a_stream_sees_each_image_once():
    loader = DataLoader(stream_of(MANY), batch_size=4, num_workers=2)
    assert sorted(image for images, _ in loader for image in images.tolist()) == list(range(45))


def test_the_last_shard_of_a_piece_is_checked_to_its_end():
    """A worker that stops at the last image it wants has still seen whether the shard goes on."""
    stream = stream_of((4, 4))
    stream.shard_lengths = np.array([3, 5])
    with pytest.raises(UserError, match='does not have the 3 images that were counted'):
        list(itertools.islice(stream.read(np.arange(2), 0, range(8)), 3))


def test_class_sampling_is_refused():
    with pytest.raises(UserError, match="class sampling 'sqrt' .* is a stream that has none"):
        create_train_loader(stream_of(MANY), noisy, batch_size=4, seed=0, class_sampling='sqrt')


def test_images_are_held_back_at_random():
    items = list(shuffled(iter(range(100)), 4, random.Random(0)))
    assert sorted(items) == list(range(100)) and items != list(range(100))
    assert all(place >= item - 4 for place, item in enumerate(items)), 'none comes before it was read'
    assert items != list(shuffled(iter(range(100)), 4, random.Random(1)))


def at_once(*shards):
    """Classes that are shuffled at once in shards of these labels, and in the same images mixed."""
    counted = ClassesAtOnce()
    for labels in shards:
        counted.add(np.asarray(labels))
    counts = np.bincount(np.concatenate(shards))
    return counted.mean(counts), if_mixed(counts)


def test_classes_that_are_shuffled_at_once():
    labels = np.repeat(np.arange(100), SHUFFLED_AT_ONCE)
    mixed = np.random.RandomState(0).permutation(labels)
    assert at_once(labels) == (1, pytest.approx(100, abs=1e-6)), 'sorted by class'
    assert at_once(labels[:-5])[0] == pytest.approx(1.01, abs=1e-4), 'the last are held beside five of the class before'
    assert at_once(mixed)[0] == pytest.approx(100, abs=1e-6)
    assert at_once(*np.split(mixed, 4096))[0] == pytest.approx(100, abs=1e-6), 'short shards are held beside others'
    assert at_once(*np.split(labels, 100 * SHUFFLED_AT_ONCE // 16))[0] == pytest.approx(100), 'each of one class'
    assert at_once(np.sort(mixed[:100]))[0] == at_once(mixed[:100])[1], 'all are held'

    few = np.random.RandomState(0).choice(8142, (100, SHUFFLED_AT_ONCE))
    got, expected = at_once(few.ravel())
    assert expected == pytest.approx(np.mean([len(np.unique(some)) for some in few]), rel=0.01)
    assert got == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize('order', ['sorted', 'mixed', 'short'])
def test_a_stream_that_is_sorted_by_class_is_warned_of(tmp_path, monkeypatch, log, order):
    import datasets
    size = 100 if order == 'short' else 2 * SHUFFLED_AT_ONCE
    labels = np.arange(size) * 4 // size if order != 'mixed' else np.arange(size) % 4
    features = datasets.Features({'image': datasets.Image(), 'label': datasets.Value('int64')})
    table = {'image': [None] * size, 'label': labels.tolist()}
    for split in ('train', 'validation'):
        datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / f'{split}.parquet')
    for _ in range(2):  # from the labels, and from the file of counts
        log.clear()
        create_splits(f'hfids/{tmp_path}')
        told = [line for line in log if 'not well mixed' in line]
        assert len(told) == (order == 'sorted'), 'of the training split alone'
        assert all('2,048 images in a row, which are shuffled at once, have 2.0 classes on' in one for one in told)
