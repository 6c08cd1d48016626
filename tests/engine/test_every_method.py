"""Every method, CNN and transformer on either side, through the whole engine: killed after an epoch, and resumed."""
import shutil

import pytest
import torch
from safetensors.torch import load_file

from timm_ltkd.distill import list_methods
from timm_ltkd.engine.run_folder.checkpoint import checkpoint_files

CNN = '--model-kwargs channels=(4,8,8)'.split()
VIT = '--model-kwargs patch_size=4 embed_dim=16 depth=1 num_heads=2'.split()
NETWORKS = {'cnn': ['resnet20', *CNN], 'vit': ['vit_tiny_patch16_224', *VIT]}
PAIRS = [('cnn', 'cnn'), ('vit', 'cnn'), ('cnn', 'vit')]


@pytest.fixture(scope='module')
def teachers(train_once):
    """Folders of trained teachers by kind."""
    return {kind: str(train_once(name, *more)) for kind, (name, *more) in NETWORKS.items()}


def kill_after_first_epoch(finished, folder):
    """What a run would have left, had it been killed in its second epoch."""
    (folder / 'last').mkdir(parents=True)
    for name in ('args.yaml', 'last/run.json', 'last/checkpoint-000001.pt'):
        shutil.copy(finished / name, folder / name)


def differences(first, second, where='state'):
    """Where two nested states are not equal to the last bit."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        return [d for key in first for d in differences(first[key], second[key], f'{where}.{key}')]
    if isinstance(first, list | tuple):
        assert len(first) == len(second), where
        return [d for i, pair in enumerate(zip(first, second, strict=True)) for d in differences(*pair, f'{where}.{i}')]
    same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
    return [] if same else [where]


@pytest.mark.parametrize('teacher, student', PAIRS, ids=['-to-'.join(pair) for pair in PAIRS])
@pytest.mark.parametrize('method', list_methods())
def test_trains_and_resumes(method, teacher, student, options, teachers, script, tmp_path, log):
    name, *more = NETWORKS[student]
    argv = [*options, '-b', '8', '--lr', '0.02', '--opt', 'momentum', '--student', name, *more, '--teacher-checkpoint',
            teachers[teacher], '--epochs', '2', '--kd', method, '--experiment']
    script('distill', [*argv, 'whole'])
    kill_after_first_epoch(tmp_path / 'whole', tmp_path / 'killed')
    log.clear()
    script('distill', [*argv, 'killed', '--resume', 'auto'])
    assert any('after epoch 1 of 2' in line for line in log) and not any('class means' in line for line in log)

    newest = [checkpoint_files(tmp_path / name / 'last')[0] for name in ('whole', 'killed')]
    states = [torch.load(path, weights_only=True) for path in newest]
    assert differences(*states) == []
    for file in ('model.safetensors', 'summary.csv', 'per_class.csv'):
        assert (tmp_path / 'whole' / file).read_bytes() == (tmp_path / 'killed' / file).read_bytes(), file

    first = torch.load(tmp_path / 'whole/last/checkpoint-000001.pt', weights_only=True)['model']
    trained = load_file(tmp_path / 'whole/model.safetensors')
    still = [key for key, value in trained.items() if torch.equal(value, first[f'student.{key}'])]
    assert not still, 'the second epoch has moved all weights'
