"""What of a run's options is shown to others: no path of the machine, whatever option it is in."""
import pytest

from timm_ltkd.cli.arguments import distill_parser, train_parser
from timm_ltkd.engine.export import _short_name
from timm_ltkd.engine.sharing.public import PRIVATE, public_name, public_options


@pytest.mark.parametrize('name, shown', [
    ('resnet18.a1_in1k', 'resnet18.a1_in1k'),
    ('hf-hub:me/net@main', 'hf-hub:me/net@main'),
    ('local-dir:/home/me/runs/a', 'local-dir:a'),
    ('local-dir:../a/', 'local-dir:a'),
    (r'local-dir:C:\Users\me\a', 'local-dir:a'),
    ('lt/cifar100', 'lt/cifar100'),
    ('torch/cifar100_lt100', 'torch/cifar100_lt100'),
    ('lt/hfds/me/birds', 'lt/hfds/me/birds'),
    ('lt/hfds//data/me/birds', 'lt/hfds/birds'),
    ('hfids/./birds', 'hfids/birds'),
    ('hfds/a/b/birds', 'hfds/birds'),
    ('hfds/~/birds', 'hfds/birds'),
    (r'hfds/me\data\birds', 'hfds/birds'),
    ('', ''), ('folder', 'folder'), (None, None),
])
def test_names(name, shown):
    assert public_name(name) == shown


def test_a_folder_that_looks_like_a_repository(tmp_path, monkeypatch):
    (tmp_path / 'data/birds').mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name('lt/hfds/data/birds') == 'lt/hfds/birds'
    assert public_name('lt/hfds/data/cats') == 'lt/hfds/data/cats'


@pytest.mark.parametrize('source', ['local-dir:/home/me/a', r'local-dir:C:\Users\me\a', 'hf-hub:me/a'])
def test_a_repository_is_named_after_the_last_part(source):
    assert _short_name(source) == 'a'


def test_options():
    seen, hidden = public_options({
        'lr': 0.1, 'seeds': None, 'dataset': 'lt/hfds//data/x', 'data_dir': '/data/x', 'output': '/home/me/out',
        'teacher': ['resnet20', 'local-dir:/home/me/t'], 'teacher_checkpoint': ['/home/me/t', 'hf-hub:me/t'],
        'initial_checkpoint': 'hf-hub:me/start', 'kd_kwargs': {'alpha': 1.0}, 'loss_kwargs': {'file': '/home/me/f'},
        'class_map': None, 'log_with': [], 'train_split': '../secret', 'teacher_bank': '/scratch/bank',
        'model_kwargs': {'deep': [{'er': '~/x'}]}, 'train_list': 'lists/a.txt', 'hub_private': True})
    assert seen == {
        'lr': 0.1, 'seeds': None, 'dataset': 'lt/hfds/x', 'teacher': ['resnet20', 'local-dir:t'],
        'initial_checkpoint': 'hf-hub:me/start', 'kd_kwargs': {'alpha': 1.0}, 'log_with': []}
    assert hidden == ['data_dir', 'teacher_checkpoint', 'loss_kwargs', 'train_split', 'model_kwargs', 'train_list']


@pytest.mark.parametrize('parser', [train_parser, distill_parser])
def test_every_option_that_names_a_file_is_private(parser):
    named = {action.dest for action in parser()._actions if action.metavar in ('DIR', 'FILE', 'PATH')}
    assert named <= PRIVATE
