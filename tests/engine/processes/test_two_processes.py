"""One process against two on the CPU: the same work, shared; asserted for a world that really is two."""
import csv
import json

import pytest
import timm
import torch
from safetensors.torch import load_file

EPOCHS = 3
TINY_VIT = '--model vit_tiny_patch16_224 --model-kwargs patch_size=4 embed_dim=16 depth=2 num_heads=2'.split()


def common(data, side=8):
    return ['--dataset', '', '--data-dir', str(data), '--img-size', str(side), '--workers', '0',
            '--train-crop-mode', 'pad', '--crop-padding', '1', '--warmup-epochs', '0', '--lr', '0.05']


@pytest.fixture(scope='module')
def data(images, make_images, tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    return {
        'odd': images,  # 23 images
        'even': make_images(root / 'even', {'ant': 10, 'bee': 7, 'cat': 3}, {'ant': 3, 'bee': 4, 'cat': 4}),
        'one more': make_images(root / 'more', {'ant': 9, 'bee': 5, 'cat': 3}, {'ant': 1}),  # 17 = 2 × 2 × 4 + 1
    }


@pytest.fixture(scope='module')
def vit_options(data):
    """A network without batch norm; momentum SGD; the last window of gradients is a short one with a short batch."""
    return [*common(data['even']), *TINY_VIT, '--epochs', '2', '--opt', 'momentum', '--clip-grad', '1']


@pytest.fixture(scope='module')
def resident(vit_options):
    return [*vit_options, '--color-jitter', '0']  # all that keeps images from staying in memory is off


def mapped(data, out):
    """A teacher of seven classes and images of 16 pixels, which the loader makes."""
    torch.manual_seed(0)
    torch.save(timm.create_model('resnet20', num_classes=7).state_dict(), out / 'seven.pth')
    (out / 'map.txt').write_text('5\n0\n2\n')
    return [*common(data['odd']), '--student', 'resnet20', '--teacher', 'resnet20', '--teacher-checkpoint',
            str(out / 'seven.pth'), '--teacher-class-map', str(out / 'map.txt'), '--teacher-img-size', '16',
            '--teacher-resize', 'host', '--epochs', '1', '-b', '4', '--output', str(out), '--experiment', 'mapped']


@pytest.fixture(scope='module')
def out(tmp_path_factory):
    return tmp_path_factory.mktemp('two')


@pytest.fixture(scope='module')
def ranks(out, data, vit_options, resident, lists, spoiled, shards, probe):
    """Records of both processes of one launch that runs all jobs."""
    distill = [*common(data['odd']), '--student', 'resnet20', '--teacher', 'resnet20', '--epochs', str(EPOCHS),
               '-b', '4', '--drop', '0.2', '--output', str(out)]
    several = ['--teacher', 'resnet20', 'wrn_16_2', '--kd', 'bkd', 'krdistill', '--epochs', '2']
    train = ['--output', str(out), '--experiment']
    pixels = [*common(data['odd']), '--epochs', '1', '-b', '4']
    bank = [*pixels, '--epochs', str(EPOCHS), '--loader', 'resident', '--color-jitter', '0', '--student', 'resnet20',
            '--teacher-checkpoint', str(out / 'whole'), '--output', str(out), '--experiment']
    stream = ['--dataset', f'hfids/{shards}/parquet', *pixels[4:], '--epochs', str(EPOCHS), '--output', str(out)]
    small = [*common(data['one more'], side=4), '--model', 'resnet20', '--epochs', '1', '-b', '4', *train]
    jobs = {
        'mapped': ['distill', mapped(data, out)],
        'distill': ['distill', [*distill, '--experiment', 'whole']],
        'again-interrupted': ['distill', [*distill, '--experiment', 'again']],
        'again': ['distill', [*distill, '--experiment', 'again', '--resume', 'auto']],
        'several': ['distill', [*distill, *several, '--experiment', 'several']],
        'more-interrupted': ['distill', [*distill, *several, '--experiment', 'more']],
        'more': ['distill', [*distill, *several, '--experiment', 'more', '--resume', 'auto']],
        'broadcast': ['train', [*small, 'broadcast', '--dist-bn', 'broadcast', '--model-ema']],
        'vit': ['train', [*vit_options, '-b', '4', '--grad-accum-steps', '2', *train, 'vit']],
        'resident': ['train', [*resident, '-b', '4', *train, 'resident']],
        'lists': ['train', [*lists, *pixels[4:], '--few-shot', '4', *train, 'lists']],
        'spoiled': ['train', [*pixels, '--data-dir', str(spoiled), '--on-bad-image', 'skip', *train, 'spoiled']],
        'stream': ['train', [*stream, '--experiment', 'stream']],
        'stream-interrupted': ['train', [*stream, '--experiment', 'stream2']],
        'stream2': ['train', [*stream, '--experiment', 'stream2', '--resume', 'auto']],
        'stream3': ['distill', [*stream, '--student', 'resnet20', '--teacher', 'resnet20', '--kd', 'krdistill',
                                '--experiment', 'stream3', '--workers', '1']],
        'online': ['distill', [*bank, 'online']],
        'fill': ['distill', [*bank, 'fill', '--teacher-bank', str(out / 'bank')]],
        'read': ['distill', [*bank, 'read', '--teacher-bank', str(out / 'bank')]],
        'validate': ['validate', [*common(data['odd'])[:6], str(out / 'whole'), '-b', '3', '--workers', '0',
                                  '--results-file', str(out / 'two.json')]],
        'validate stream': ['validate', [str(out / 'stream3'), '-b', '3', '--results-file', str(out / 'stream.json')]],
    }
    records, log = probe(jobs, out)
    (out / 'log').write_text(log)
    return records


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def report(folder):
    return json.loads((folder / 'report.json').read_text())


@pytest.mark.parametrize('job', [
    'mapped', 'distill', 'again', 'several', 'more', 'broadcast', 'vit', 'resident', 'lists', 'spoiled', 'stream',
    'stream2', 'stream3', 'online', 'fill', 'read'])
def test_there_are_two_and_they_end_with_the_same_weights(ranks, job):
    first, second = (rank[job] for rank in ranks)
    assert first['world'] == second['world'] == 2
    assert 'exit' not in first and 'exit' not in second
    assert same(first['weights'], second['weights'])


@pytest.mark.parametrize('job', ['distill', 'vit', 'validate'])
def test_the_processes_part_when_all_is_done(ranks, job):
    """And not after the teacher's training."""
    for rank in ranks:
        assert rank[job]['group_ended_after'] == [len(rank[job]['evaluated'])]


def test_every_training_image_once_an_epoch_but_for_the_logged_repeats(ranks, out):
    trained = [rank['distill']['trained'] for rank in ranks]
    for stage in range(2):  # the teacher's epochs, then the student's
        for epoch in range(EPOCHS):
            share = len(trained[0]) // (2 * EPOCHS)
            start = (stage * EPOCHS + epoch) * share
            mine, others = ([index for e, index in keys[start:start + share] if e == epoch] for keys in trained)
            assert len(mine) == len(others) == 12
            assert set(mine) | set(others) == set(range(23))
            assert len(set(mine) & set(others)) <= ranks[0]['distill']['repeats'] == 1
    log = (out / 'log').read_text()
    assert '1 images are seen twice an epoch' in log
    assert 'broadcast_buffers' not in log, 'nor is there noise beside it'


def test_every_test_image_counts_once(ranks, out):
    seen = [rank['distill']['evaluated'] for rank in ranks]
    evaluations = (EPOCHS + 1) + 1 + (EPOCHS + 1)  # teacher's epochs and end, teacher on its pixels, student's
    assert seen[0] == [0, 2, 4, 6, 8, 10] * evaluations
    assert seen[1] == [1, 3, 5, 7, 9] * evaluations
    found = report(out / 'whole')
    assert found['student']['num_samples'] == found['teacher']['num_samples'] == 11


def test_a_mapped_teacher_with_its_own_pixels_is_as_in_one_process(ranks, out, data, script, tmp_path):
    argv = mapped(data, out)
    script('distill', [*argv[:-4], '--experiment', 'one'])
    folders = tmp_path / 'one', out / 'mapped'
    one, two = (report(folder)['teacher'] for folder in folders)
    assert one['num_samples'] == 11 and one['per_class'] == two['per_class']
    assert one['ece'] == pytest.approx(two['ece'], abs=1e-4)
    seen = [rank['mapped']['evaluated'] for rank in ranks]  # the teacher, the epoch, and the end
    assert seen == [[0, 2, 4, 6, 8, 10] * 3, [1, 3, 5, 7, 9] * 3]


def test_a_process_without_a_test_image_is_no_hindrance(ranks, out):
    assert [rank['broadcast']['evaluated'] for rank in ranks] == [[0, 0], []]
    assert report(out / 'broadcast')['student']['num_samples'] == 1


def test_a_checkpoint_has_the_same_figures_in_one_process(ranks, out, data, script):
    script('validate', [*common(data['odd'])[:6], str(out / 'whole'), '-b', '5', '--workers', '0', '--results-file',
                        str(out / 'one.json')])
    one, two = (next(iter(json.loads((out / name).read_text()).values())) for name in ('one.json', 'two.json'))
    assert one.keys() == two.keys() >= {'top1', 'balanced', 'few', 'worst', 'ece', 'loss', 'per_class', 'num_samples'}
    confused = one.pop('group_confusion')
    assert confused == two['group_confusion'] and sum(sum(row.values()) for row in confused.values()) == 11
    assert one.pop('mistakes') == two['mistakes']
    bins = one.pop('calibration')
    assert bins['images'] == two['calibration']['images'] and sum(bins['images']) == 11
    for key in one:
        assert one[key] == pytest.approx(two[key], rel=1e-6, abs=1e-6), key
    assert [rank['validate']['evaluated'] for rank in ranks] == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9]]


def test_batch_norm_statistics_are_averaged_before_evaluation_and_saving(ranks, out):
    first, second = (rank['distill']['bn'] for rank in ranks)
    assert len(first) == len(second) == 2 * EPOCHS
    for (before0, after0), (before1, after1) in zip(first, second, strict=True):
        assert not same(before0, before1), 'the ranks saw different images'
        assert same(after0, after1)
        for name in after0:
            assert torch.equal(after0[name], (before0[name] + before1[name]) / 2)
    saved = load_file(out / 'whole/model.safetensors')
    last = {name.removeprefix('student.'): buffer for name, buffer in first[-1][1].items()}
    assert last and all(torch.equal(saved[name], last[name]) for name in last)


def test_batch_norm_statistics_can_be_the_first_ranks(ranks):
    first, second = (rank['broadcast']['bn'] for rank in ranks)
    assert len(first) == 2, 'of the network and of its moving average'
    for (before0, after0), (before1, after1) in zip(first, second, strict=True):
        assert not same(before0, before1)
        assert same(after0, before0) and same(after1, before0)


def test_the_teacher_is_not_touched(ranks):
    for rank in ranks:
        assert same(rank['distill']['teacher'], rank['distill']['teacher_after'])
        assert set(rank['distill']['teacher_grads']) == {None}


def test_only_what_is_trained_is_wrapped(ranks):
    for rank in ranks:
        assert (rank['distill']['wrapped'], rank['distill']['wrappers']) == ('StudentWithMethod', 1)
        assert (rank['vit']['wrapped'], rank['vit']['wrappers']) == ('VisionTransformer', 1)


def test_a_last_batch_of_one_with_a_last_feature_map_of_one_pixel(ranks):
    keys = [rank['broadcast']['trained'] for rank in ranks]
    assert [len(mine) for mine in keys] == [10, 10], 'two batches of 4 and one of 2, filled up from one image in all'
    assert {index for mine in keys for _, index in mine} == set(range(17))
    assert ranks[0]['broadcast']['repeats'] == 3


def close(first, second):
    """The weights of two runs."""
    one, two = (load_file(folder / 'model.safetensors') for folder in (first, second))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)


def test_gradients_are_the_global_batchs(ranks, out, vit_options, script, tmp_path):
    """2 processes × 4 images × 2 accumulated = 1 process × 16, also for the 4 images that are left."""
    script('train', [*vit_options, '-b', '16', '--experiment', 'one'])
    close(tmp_path / 'one', out / 'vit')
    rows = [list(csv.DictReader(open(folder / 'summary.csv'))) for folder in (tmp_path / 'one', out / 'vit')]
    for mine, other in zip(*rows, strict=True):
        assert {key: float(value) for key, value in mine.items()} == pytest.approx(
            {key: float(value) for key, value in other.items()}, rel=1e-5)


def test_they_share_from_memory_what_one_would_show(ranks, out, resident, script, tmp_path):
    log = (out / 'log').read_text()
    assert 'global batch 8 = 2 processes × 4' in log and 'images stay in memory: 20 + 11 of 8x8' in log
    script('train', [*resident, '-b', '8', '--experiment', 'one'])
    close(tmp_path / 'one', out / 'resident')
    one, two = (report(folder)['student'] for folder in (tmp_path / 'one', out / 'resident'))
    assert one['num_samples'] == two['num_samples'] == 11 and one['per_class'] == two['per_class']


def test_images_by_lists(ranks, out):
    found = report(out / 'lists')
    assert found['run']['processes'] == 2 and found['student']['num_samples'] == 11
    assert found['data']['groups'] == {'medium': [0, 2], 'few': [1]}


def test_both_leave_out_the_same_broken_images(ranks, out, broken):
    """Each looks at its share; both train on all that is left."""
    found = report(out / 'spoiled')
    assert found['data']['class_counts'] == [12, 6, 3] and found['student']['num_samples'] == 10
    with open(out / 'spoiled/skipped_images.csv', newline='') as file:
        assert {(row['split'], row['file']) for row in csv.DictReader(file)} == broken


def test_a_stream_is_shared_also_when_resumed(ranks):
    for job in ('stream', 'stream2', 'stream3'):
        assert [rank[job]['repeats'] for rank in ranks] == [1, 1], '23 images, an even number of them in a step'
    assert same(ranks[0]['stream']['weights'], ranks[0]['stream2']['weights'])


def test_each_image_of_a_stream_is_evaluated_once(ranks, out, script):
    found = report(out / 'stream3')
    assert found['student']['num_samples'] == found['teacher']['num_samples'] == 11
    script('validate', [str(out / 'stream3'), '--workers', '0', '--results-file', str(out / 'alone.json')])
    one, two = (next(iter(json.loads((out / name).read_text()).values())) for name in ('alone.json', 'stream.json'))
    assert one.pop('loss') == pytest.approx(two.pop('loss'), rel=1e-4)
    assert one == {**two, 'ece': pytest.approx(two['ece'], abs=1e-3)}


def test_a_bank_keeps_what_each_has_asked(ranks, out):
    """Together they end as without one."""
    online = ranks[0]['online']['weights']
    assert same(online, ranks[0]['fill']['weights']) and same(online, ranks[0]['read']['weights'])
    said = [line for line in (out / 'log').read_text().splitlines() if 'showings' in line]
    assert len(said) == 2 and 'answered 72 of 72 showings' in said[1], 'three batches of 4 an epoch and process'


def test_an_interrupted_run_ends_the_same(ranks, out):
    assert [rank['again-interrupted']['exit'] for rank in ranks] == [130, 130]
    for name in ('model.safetensors', 'summary.csv'):
        assert (out / 'whole' / name).read_bytes() == (out / 'again' / name).read_bytes()


def test_each_of_two_teachers_has_its_method_also_in_two_processes(ranks, out):
    first, second = (rank['several']['weights'] for rank in ranks)
    assert first['method.methods.teacher2.prior_directions'].shape == (3, 128)
    assert first['method.methods.teacher2.feature_centre'].abs().sum() > 0
    rows = list(csv.DictReader(open(out / 'several/summary.csv')))
    assert {'train_teacher1_bkd_loss', 'train_teacher2_rrd_loss', 'teacher2_swap_share_few'} < rows[0].keys()
    assert [rank['more-interrupted']['exit'] for rank in ranks] == [130, 130]
    for name in ('model.safetensors', 'summary.csv'):
        assert (out / 'several' / name).read_bytes() == (out / 'more' / name).read_bytes()


def test_all_processes_stop_at_a_bad_loss_of_one(ranks):
    assert [rank['bad loss'] for rank in ranks][0] == ranks[1]['bad loss']
    assert 'epoch 1, step 3' in ranks[0]['bad loss']
