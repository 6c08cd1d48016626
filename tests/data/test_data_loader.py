"""Batches: the same for any number of workers and processes, and no effect on anything else."""
import random

import numpy as np
import pytest
import torch
from torch._utils import ExceptionWrapper

from timm_ltkd.data import (
    DigitsDataset,
    LongTailedDataset,
    create_dataset,
    create_eval_loader,
    create_eval_transform,
    create_train_loader,
    create_train_transform,
)
from timm_ltkd.data.workers import read_once
from timm_ltkd.errors import UserError, last_line

PIXELS = dict(input_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
AUGMENTED = create_train_transform(
    crop_mode='pad', color_jitter=0.4, reprob=0.5, aa='rand-m9-mstd0.5-inc1', **PIXELS)
PLAIN = create_eval_transform(crop_pct=1., **PIXELS)


@pytest.fixture(scope='module')
def digits():
    return create_dataset('lt/digits', imbalance_factor=50)


def epochs(loader, chosen=(0, 1)):
    batches = []
    for epoch in chosen:
        loader.batch_sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


@pytest.mark.filterwarnings('ignore:This DataLoader will create')
def test_batches_are_bit_equal_for_any_number_of_workers_however_they_start(digits):
    runs = []
    for workers, start in ((0, None), (1, None), (3, None), (1, 'spawn')):  # which is how other systems start them
        torch.manual_seed(workers)
        random.seed(workers)
        np.random.seed(workers)
        loader = create_train_loader(digits, AUGMENTED, batch_size=64, seed=1, workers=workers)
        if start:
            loader.multiprocessing_context = start
        runs.append(epochs(loader))
        assert len(runs[-1]) == 2 * len(loader)
    for run in runs[1:]:
        for ours, first in zip(run, runs[0], strict=True):
            assert torch.equal(ours[0], first[0]) and torch.equal(ours[1], first[1])
    input, target = runs[0][0]
    assert input.dtype == torch.float32 and input.shape == (64, 3, 32, 32) and target.dtype == torch.int64


def test_an_image_looks_the_same_on_whichever_rank(digits):
    def by_pixels(world, batch_size):
        return {
            image.numpy().tobytes()
            for rank in range(world)
            for images, _ in epochs(create_train_loader(
                digits, AUGMENTED, batch_size=batch_size, seed=1, rank=rank, world_size=world), [3])
            for image in images
        }

    assert by_pixels(1, 32) == by_pixels(2, 16)


def test_epochs_and_seeds_differ(digits):
    loader = create_train_loader(digits, AUGMENTED, batch_size=64, seed=1)
    first, second = epochs(loader, [0])[0][0], epochs(loader, [1])[0][0]
    assert not torch.equal(first, second)
    assert torch.equal(epochs(loader, [0])[0][0], first)
    assert not torch.equal(epochs(create_train_loader(digits, AUGMENTED, batch_size=64, seed=2), [0])[0][0], first)


@pytest.mark.parametrize('workers', [0, 1])
def test_loading_draws_from_no_global_generator(digits, workers):
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    epochs(create_train_loader(digits, AUGMENTED, batch_size=64, seed=1, workers=workers), [0])
    list(create_eval_loader(digits, PLAIN, batch_size=64, workers=workers))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1] and (np.random.get_state()[1] == before[2]).all()


@pytest.mark.parametrize('workers', [0, 2])
def test_evaluation_gives_every_image_once_with_its_index(workers):
    test = create_dataset('lt/digits', split='test')
    seen, targets = [], []
    for rank in range(3):
        loader = create_eval_loader(test, PLAIN, batch_size=32, rank=rank, world_size=3, workers=workers)
        for input, target, index in loader:
            assert input.shape[1:] == (3, 32, 32)
            assert torch.equal(input[0], PLAIN(test[int(index[0])][0]))
            seen += index.tolist()
            targets += target.tolist()
    assert sorted(seen) == list(range(300))
    assert (test.targets[seen] == targets).all()


def test_reading_all_images_is_told_of_where_no_bar_is_shown(monkeypatch, caplog, log):
    caplog.set_level('INFO', 'timm_ltkd')
    loader = torch.utils.data.DataLoader(range(1, 1200, 2), batch_size=250)
    for seconds, progress, lines in ((60., True, 0), (0., False, 0), (0., True, 3)):
        log.clear()
        monkeypatch.setattr('timm_ltkd.progress._SILENCE', seconds)
        with read_once(loader, 'checking train images', 1200, progress) as bar:
            for batch in loader:
                bar.update(2 * len(batch))
        assert len(log) == lines
    assert log[1:] == [f'checking train images: {count} of 1,200 images' for count in ('1,000', '1,200')]
    assert bar.n == 0 and bar.disable, 'there is no bar'


def test_a_loader_leaves_the_dataset_and_its_base_alone():
    base = DigitsDataset(train=False)
    train, val = LongTailedDataset(base, range(0, 200)), LongTailedDataset(base, range(200, 300))
    train_loader = create_train_loader(train, lambda image: torch.zeros(1), batch_size=8, seed=0)
    val_loader = create_eval_loader(val, lambda image: torch.ones(1), batch_size=8)
    assert next(iter(train_loader))[0].sum() == 0 and next(iter(val_loader))[0].sum() == 8
    assert base.transform is None and train.transform is None and val.transform is None
    assert next(iter(create_eval_loader(base, PLAIN, batch_size=2)))[1].tolist() == base.targets[:2].tolist()


def test_of_a_cuda_error_the_line_that_names_it():
    error = RuntimeError(
        'CUDA error: operation not permitted when stream is capturing\nCUDA kernel errors might be asynchronous\n'
        'Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n')
    assert last_line(error) == 'CUDA error: operation not permitted when stream is capturing'


def test_a_broken_image_is_named_in_the_last_line(image_root):
    dataset = create_dataset('folder', image_root)
    victim = image_root / 'train' / 'bee' / '004.png'
    victim.write_bytes(victim.read_bytes()[:60])
    with pytest.raises(UserError) as error:
        list(create_train_loader(dataset, PLAIN, batch_size=8, seed=0))
    assert str(error.value).startswith(f"cannot read image '{victim}'")
    with pytest.raises(UserError) as from_worker:  # as a loader raises a worker's error (a real one takes 5 s to end)
        ExceptionWrapper((UserError, error.value, error.tb)).reraise()
    assert last_line(from_worker.value) == str(error.value)
