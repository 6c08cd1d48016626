"""One of each family of methods, losses, stages and fixes, through the command line in one process and in two."""
import csv
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

TINY_VIT = '--model-kwargs patch_size=4 embed_dim=16 depth=2 num_heads=2'.split()  # no batch norm: batches are alike
GLOBAL_BATCH = 8
DETERMINED = ('teacher', 'bkd', 'krdistill', 'crt')  # the others look at the batch, or draw, process by process


@pytest.fixture(scope='module')
def data(make_images, tmp_path_factory):
    """32 training images, of which 8 can be held out: full global batches; 11 to measure on."""
    return make_images(
        tmp_path_factory.mktemp('data') / 'all', {'ant': 16, 'bee': 12, 'cat': 4}, {'ant': 3, 'bee': 4, 'cat': 4})


@pytest.fixture(scope='module')
def pictures(data, tmp_path_factory):
    """A user's folder: the validation images, and one that is broken."""
    folder = tmp_path_factory.mktemp('user') / 'pictures'
    shutil.copytree(data / 'val', folder)
    (folder / 'broken.png').write_bytes(b'nonsense')
    return folder


def jobs(data, pictures, out, processes):
    """Name, script and arguments of each, as `worker_probe.py` reads them; later ones start from earlier ones."""
    common = [
        '--dataset', '', '--data-dir', str(data), '--img-size', '8', '--workers', '0', '-b',
        str(GLOBAL_BATCH // processes)]
    recipe = [
        *common, '--epochs', '2', '--lr', '0.01', '--opt', 'momentum', '--warmup-epochs', '0', '--train-crop-mode',
        'pad', '--crop-padding', '1', *TINY_VIT, '--output', str(out), '--experiment']
    held_out = ['--holdout', '0.25']
    teacher, network = str(out / 'teacher'), 'vit_tiny_patch16_224'

    def train(name, *words):
        return ['train', [*recipe, name, '--model', network, *words]]

    def distil(method, name=None, words=()):
        return ['distill', [*recipe, name or method, '--student', network, '--teacher-checkpoint', teacher, '--kd',
                            method, *words]]
    return {
        'teacher': train('teacher', *held_out),
        'bkd': distil('bkd', words=['--class-sampling', 'sqrt']),
        'krdistill': distil('krdistill', words=held_out),
        'ldam': distil('dist', 'ldam', ['--loss', 'ldam']),
        'mixup': distil('kd', 'mixup', ['--mixup', '0.5', '--cutmix', '1', '--mixup-mode', 'elem']),
        'crt': train('crt', '--stage', 'crt', '--initial-checkpoint', teacher, *held_out),
        'validate': ['validate', [teacher, '--workers', '0', '--tau-norm', 'sweep', '--logit-adjust', '0', '1',
                                  '--results-file', str(out / 'fixes.json')]],
        'predict': ['validate', [teacher, '--workers', '0', '-b', '2', '--predict', str(pictures),
                                 '--predictions-file', str(out / 'predictions.csv')]],
    }


@pytest.fixture(scope='module')
def runs(data, pictures, probe, tmp_path_factory):
    """By number of processes: the folder of all runs, what each process recorded, and what the launch said."""
    done = {}
    for processes in (1, 2):
        out = tmp_path_factory.mktemp(f'out{processes}')
        done[processes] = out, *probe(jobs(data, pictures, out, processes), out, processes)
    return done


def report(folder):
    return json.loads((folder / 'report.json').read_text())


@pytest.mark.parametrize('processes', [1, 2])
@pytest.mark.parametrize('name', ['teacher', 'bkd', 'krdistill', 'ldam', 'mixup', 'crt'])
def test_trains_and_says_so(runs, name, processes):
    out, records, _ = runs[processes]
    assert len(records) == processes
    for record in records:
        assert record[name]['world'] == processes and 'exit' not in record[name]
        assert record[name]['weights'].keys() == records[0][name]['weights'].keys()
        for key, value in record[name]['weights'].items():
            assert torch.equal(value, records[0][name]['weights'][key]), key
    figures = report(out / name)
    assert figures['student']['num_samples'] == 11 and figures['run']['processes'] == processes
    losses = [float(row['train_loss']) for row in csv.DictReader(open(out / name / 'summary.csv'))]
    assert len(losses) == 2 and losses[1] < losses[0] or name == 'mixup'


@pytest.mark.parametrize('name', DETERMINED)
def test_two_processes_train_what_one_trains(runs, name):
    one, two = (load_file(runs[processes][0] / name / 'model.safetensors') for processes in (1, 2))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f'{key}: {text}')


def test_what_was_rectified_is_counted_over_all(runs):
    one, two = (report(runs[processes][0] / 'krdistill')['run']['rectification'] for processes in (1, 2))
    assert one['inert'] == two['inert'] and one['feature_shift'].keys() == two['feature_shift'].keys() != set()
    for group, value in one['feature_shift'].items():
        assert two['feature_shift'][group] == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize('processes', [1, 2])
def test_a_new_classifier_leaves_the_features(runs, processes):
    out = runs[processes][0]
    before, after = (load_file(out / name / 'model.safetensors') for name in ('teacher', 'crt'))
    assert {key for key in before if not torch.equal(before[key], after[key])} == {'head.weight', 'head.bias'}


def test_the_strength_of_a_fix_is_chosen_alike(runs):
    one, two = (json.loads((runs[processes][0] / 'fixes.json').read_text()) for processes in (1, 2))
    assert len(one) == 3 and [row.get('tau') for row in one.values()] == [row.get('tau') for row in two.values()]
    assert [row.get('chosen_on') for row in one.values()] == [None, 'holdout', 'holdout']
    for mine, other in zip(one.values(), two.values(), strict=True):
        assert mine['num_samples'] == other['num_samples'] == 11
        assert mine['loss'] == pytest.approx(other['loss'], rel=1e-4)


def test_every_picture_is_predicted_once(runs):
    one, two = (list(csv.DictReader(open(runs[processes][0] / 'predictions.csv'))) for processes in (1, 2))
    assert [row['file'] for row in one] == [row['file'] for row in two]
    assert len({row['file'] for row in one}) == len(one) == 11
    for mine, other in zip(one, two, strict=True):
        assert mine['class'] == other['class']
        assert float(mine['probability']) == pytest.approx(float(other['probability']), abs=1e-4)


@pytest.mark.parametrize('processes', [1, 2])
def test_the_broken_picture_is_named_once_and_all_processes_tell(runs, pictures, processes):
    _, records, said = runs[processes]
    assert said.count(f"cannot read image '{pictures / 'broken.png'}'") == 1
    assert [record['predict']['exit'] for record in records] == [1] * processes
