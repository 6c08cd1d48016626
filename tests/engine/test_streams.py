"""Whole runs on streams, in one process and in two: nothing of a run needs its images by index."""
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from timm_ltkd.data.streams.huggingface import HuggingFaceShards


@pytest.fixture(scope='module')
def shards(tmp_path_factory, write_shards):
    """The same images in Parquet and tar files: 23 training images in five shards, 11 validation images in two."""
    root, rng = tmp_path_factory.mktemp('streams'), np.random.RandomState(0)
    for split, counts, sizes in (('train', (13, 7, 3), (6, 2, 7, 3, 5)), ('validation', (3, 4, 4), (5, 6))):
        labels = rng.permutation(np.repeat(np.arange(3), counts))
        pixels = [rng.normal(60 + 60 * label, 40, (8, 8, 3)).clip(0, 255).astype(np.uint8) for label in labels]
        for kind in ('parquet', 'tar'):
            write_shards(kind, root / kind, split, [Image.fromarray(image) for image in pixels], labels, sizes)
    return root


@pytest.fixture(scope='module')
def common():
    return ['--img-size', '8', '--workers', '0', '--train-crop-mode', 'pad', '--crop-padding', '1', '--epochs', '3',
            '-b', '4', '--lr', '0.05', '--warmup-epochs', '0']


@pytest.fixture(scope='module')
def parquet(shards, common):
    return ['--dataset', f'hfids/{shards}/parquet', *common]


@pytest.fixture(scope='module')
def tar(shards, common):
    pytest.importorskip('webdataset')
    return ['--dataset', 'wds/any', '--data-dir', str(shards / 'tar'), '--train-split', 'train-{000..004}.tar',
            '--val-split', 'validation-{000..001}.tar', *common]


def report_of(folder):
    return json.loads((folder / 'report.json').read_text())


def test_an_interrupted_run_ends_as_one_that_was_not(script, parquet, tmp_path, interrupt):
    argv = [*parquet, '--model', 'resnet20', '--loss', 'balanced_softmax', '--mixup', '0.2']
    script('train', [*argv, '--experiment', 'whole'])
    interrupt(2)
    with pytest.raises(SystemExit):
        script('train', [*argv, '--experiment', 'resumed'])
    script('train', [*argv, '--experiment', 'resumed', '--resume', 'auto'])
    for file in ('model.safetensors', 'summary.csv', 'per_class.csv'):
        assert (tmp_path / 'whole' / file).read_bytes() == (tmp_path / 'resumed' / file).read_bytes(), file


def test_distillation_with_class_means_and_a_teacher_that_is_trained_first(script, tar, tmp_path, log):
    argv = [*tar, '--student', 'resnet20', '--teacher', 'resnet20', '--kd', 'krdistill']
    script('distill', [*argv, '--experiment', 'one'])
    report = report_of(tmp_path / 'one')
    assert report['student']['num_samples'] == report['teacher']['num_samples'] == 11
    assert json.loads((tmp_path / 'one/config.json').read_text())['class_counts'] == [13, 7, 3]
    assert any("class means of the teacher's features over 23 training images" in line for line in log)
    assert any('training images: 23' in line for line in log)
    log.clear()
    script('distill', [*argv, '--experiment', 'two', '--overwrite'])
    assert any('trained before' in line for line in log) and not any('counting' in line for line in log)
    assert (tmp_path / 'one/model.safetensors').read_bytes() == (tmp_path / 'two/model.safetensors').read_bytes()


def test_tar_files_and_parquet_files_train_the_same_network(script, tar, parquet, tmp_path):
    for name, argv in (('tar', tar), ('parquet', parquet)):
        script('train', [*argv, '--model', 'resnet20', '--experiment', name])
    tar, parquet = (load_file(tmp_path / name / 'model.safetensors') for name in ('tar', 'parquet'))
    assert all(torch.equal(tar[key], parquet[key]) for key in tar)


def test_given_counts_are_enough_to_train(script, parquet, tmp_path, monkeypatch):
    (tmp_path / 'counts.json').write_text('[13, 7, 3]')
    labels = HuggingFaceShards.labels

    def of_validation(self, shard):
        assert self.split == 'validation'
        return labels(self, shard)
    monkeypatch.setattr(HuggingFaceShards, 'labels', of_validation)
    script('distill', [
        *parquet, '--student', 'resnet20', '--teacher', 'resnet20', '--kd', 'krdistill', '--class-counts',
        str(tmp_path / 'counts.json'), '--experiment', 'given'])
    assert json.loads((tmp_path / 'given/config.json').read_text())['class_counts'] == [13, 7, 3]


@pytest.mark.parametrize(('options', 'message'), [
    (['--imbalance-factor', '10'], 'is a stream and cannot be indexed'),
    (['--holdout', '0.1'], 'nothing can be held out of it'),
    (['--class-sampling', 'class'], "class sampling 'class'"),
    (['--loader', 'resident'], 'is a stream and cannot be kept in memory; use --loader timm'),
    (['--dataset-download'], 'never downloaded'),
])
def test_what_needs_an_index_is_refused_before_anything_is_trained(script, parquet, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as refused:
        script('train', [*parquet, '--model', 'resnet20', *options])
    assert refused.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope='module')
def two(tmp_path_factory, parquet, probe):
    """Records of both processes of one launch, and the folder of its runs."""
    out = tmp_path_factory.mktemp('two')
    train = [*parquet, '--model', 'resnet20', '--output', str(out), '--experiment']
    distill = [*parquet, '--student', 'resnet20', '--teacher', 'resnet20', '--kd', 'krdistill', '--output', str(out)]
    jobs = {
        'whole': ['train', [*train, 'whole']],
        'again-interrupted': ['train', [*train, 'again']],
        'again': ['train', [*train, 'again', '--resume', 'auto']],
        'distill': ['distill', [*distill, '--experiment', 'distill', '--workers', '1']],
        'validate': ['validate', [str(out / 'distill'), '-b', '3', '--results-file', str(out / 'two.json')]],
    }
    return probe(jobs, out)[0], out


def test_two_processes_end_with_the_same_weights_also_when_resumed(two):
    ranks, out = two
    for job in ('whole', 'again', 'distill'):
        assert [rank[job]['world'] for rank in ranks] == [2, 2]
        assert [rank[job]['repeats'] for rank in ranks] == [1, 1], '23 images, an even number of them in a step'
        first, second = (rank[job]['weights'] for rank in ranks)
        assert all(torch.equal(first[key], second[key]) for key in first)
    whole, again = (ranks[0][job]['weights'] for job in ('whole', 'again'))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_two_processes_evaluate_each_image_once(two, script):
    ranks, out = two
    report = report_of(out / 'distill')
    assert report['student']['num_samples'] == report['teacher']['num_samples'] == 11
    script('validate', [str(out / 'distill'), '--workers', '0', '--results-file', str(out / 'one.json')])
    one, two = (next(iter(json.loads((out / name).read_text()).values())) for name in ('one.json', 'two.json'))
    assert one.pop('loss') == pytest.approx(two.pop('loss'), rel=1e-4)
    assert one == {**two, 'ece': pytest.approx(two['ece'], abs=1e-3)}
