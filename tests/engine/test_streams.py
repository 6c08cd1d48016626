"""Whole runs on streams: nothing of a run needs its images by index."""
import json

import pytest
import torch
from safetensors.torch import load_file

from timm_ltkd.data.streams.huggingface import HuggingFaceShards


@pytest.fixture(scope='module')
def parquet(shards, options):
    return ['--dataset', f'hfids/{shards}/parquet', *options[4:]]


@pytest.fixture(scope='module')
def tar(shards, options):
    pytest.importorskip('webdataset')
    return ['--dataset', 'wds/any', '--data-dir', str(shards / 'tar'), '--train-split', 'train-{000..004}.tar',
            '--val-split', 'validation-{000..001}.tar', *options[4:]]


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


@pytest.mark.parametrize(('more', 'message'), [
    (['--imbalance-factor', '10'], 'is a stream and cannot be indexed'),
    (['--holdout', '0.1'], 'nothing can be held out of it'),
    (['--class-sampling', 'class'], "class sampling 'class'"),
    (['--loader', 'resident'], 'is a stream and cannot be kept in memory; use --loader timm'),
    (['--dataset-download'], 'never downloaded'),
])
def test_what_needs_an_index_is_refused_before_anything_is_trained(script, parquet, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as refused:
        script('train', [*parquet, '--model', 'resnet20', *more])
    assert refused.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
