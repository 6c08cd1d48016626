"""--import: a user's own methods, losses and networks, from the command line and YAML, and in a run's key."""
import json

import pytest

from timm_ltkd.cli import run
from timm_ltkd.cli.arguments import distill_parser, train_parser
from timm_ltkd.cli.config import parse, teacher_args
from timm_ltkd.cli.own_modules import import_modules
from timm_ltkd.distill import list_losses, list_methods
from timm_ltkd.engine.recipe import own_code
from timm_ltkd.errors import UserError

LOSS = '''
from timm_ltkd.distill import HardLabelLoss, register_loss

@register_loss('my_loss')
class MyLoss(HardLabelLoss):
    """A loss of my own."""

    def forward(self, logits, target):
        return FACTOR * logits.square().mean()
'''
METHOD = '''
from timm_ltkd.distill import DistillMethod, register_method

@register_method('my_method')
class MyMethod(DistillMethod):
    """A method of my own."""
'''


def test_names_are_known_when_the_command_line_is_read(own_module, capsys):
    own_module('mine', METHOD + LOSS)
    for words in (['--list-kd', '--import', 'mine'], ['--import', 'mine', '--list-losses']):
        with pytest.raises(SystemExit):
            run.distill(words)
        assert 'of my own.' in capsys.readouterr().out


def test_modules_of_a_file_and_of_the_command_line_add_up(own_module, tmp_path):
    own_module('mine', METHOD)
    own_module('other', LOSS)
    (tmp_path / 'run.yaml').write_text('import: [mine]\nkd: my_method\n')
    args = parse(distill_parser(), ['-c', 'run.yaml', '--import', 'other', 'mine', '--loss', 'my_loss'])
    assert vars(args)['import'] == ['mine', 'other']
    assert 'my_method' in list_methods() and 'my_loss' in list_losses()


@pytest.mark.parametrize('words', [
    ['--kd', 'my_method'], ['--loss', 'my_loss'], ['--student', 'my_net'], ['--dataset', 'lt/my_data']])
def test_what_no_module_was_imported_for_is_told(words, capsys):
    with pytest.raises(SystemExit):
        run.distill(words)
    assert 'of your own, ' in capsys.readouterr().err


def test_yaml_of_run_and_of_teacher(own_module, tmp_path):
    own_module('mine', METHOD)
    own_module('of_the_teacher', LOSS)
    (tmp_path / 'run.yaml').write_text('import: [mine]\nkd: my_method\n')
    (tmp_path / 'teacher.yaml').write_text('import: [of_the_teacher]\nloss: my_loss\n')
    args = parse(distill_parser(), ['-c', 'run.yaml', '--teacher-config', 'teacher.yaml'])
    assert 'my_method' in list_methods() and 'my_loss' not in list_losses()
    own = teacher_args(args, train_parser())
    assert own.loss == 'my_loss' and vars(own)['import'] == ['of_the_teacher'] and 'my_loss' in list_losses()


@pytest.mark.parametrize('name, code, said', [
    ('absent', None, "there is no module 'absent', neither in "),
    ('absent.part', None, "there is no module 'absent.part'"),
    ('mine.py', '', "'mine.py' is no name of a module; leave out folder and .py"),
    ('folder/mine', '', 'is no name of a module'),
    ('broken', 'import not_there', "--import broken: ModuleNotFoundError: No module named 'not_there'; python -c"),
    ('broken', 'x = [', '--import broken: SyntaxError: '),
    ('broken', 'raise RuntimeError("no luck")', '--import broken: RuntimeError: no luck; python -c "import broken"'),
])
def test_what_cannot_be_imported(own_module, name, code, said):
    if code is not None:
        own_module(name.partition('.')[0].rpartition('/')[2], code)
    with pytest.raises(UserError) as e:
        import_modules([name])
    assert said in str(e.value) and '\n' not in str(e.value)


def test_a_module_that_is_nearly_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'tinynet.py').touch()
    with pytest.raises(UserError, match="nor installed; did you mean 'tinynet'?"):
        import_modules(['tinynett'])


def test_only_code_that_a_run_uses_is_in_its_key(own_module):
    own_module('mine', METHOD)
    own_module('my_losses', LOSS)
    import_modules(['mine', 'my_losses'])
    plain = parse(train_parser(), [])
    assert own_code(plain, []) == own_code(plain, ['bkd']) == {}
    assert list(own_code(plain, ['bkd', 'my_method'])) == ['mine']
    assert list(own_code(parse(train_parser(), ['--loss', 'my_loss']), ['my_method'])) == ['my_losses', 'mine']


@pytest.mark.parametrize('state', ['nn.Parameter(torch.zeros(3))', 'nn.BatchNorm1d(3)'])
def test_a_loss_that_would_be_neither_trained_nor_saved(own_module, tmp_path, capsys, state):
    own_module('mine', f'''
import torch
from torch import nn
from timm_ltkd.distill import HardLabelLoss, register_loss

@register_loss('my_loss')
class MyLoss(HardLabelLoss):
    def __init__(self):
        super().__init__()
        self.own = {state}
''')
    with pytest.raises(SystemExit):
        run.train(['--import', 'mine', '--loss', 'my_loss', '--output', str(tmp_path / 'out')])
    assert '--loss my_loss holds own' in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_a_run_is_not_resumed_with_other_code(own_module, tmp_path, capsys):
    words = ['--import', 'mine', '--loss', 'my_loss', '--model', 'test_resnet', '--epochs', '1', '--imbalance-factor',
             '144', '--workers', '0', '--output', str(tmp_path / 'out'), '--experiment', 'run']
    own_module('mine', LOSS.replace('FACTOR', '1'))
    run.train(words)
    run.train([*words, '--resume', 'auto'])
    key = json.loads((tmp_path / 'out/run/last/run.json').read_text())
    own_module('mine', LOSS.replace('FACTOR', '2'))
    from timm_ltkd.distill.losses import loss
    del loss._LOSSES['my_loss']
    with pytest.raises(SystemExit) as e:
        run.train([*words, '--resume', 'auto'])
    assert e.value.code == 2 and 'or the code of an --import' in capsys.readouterr().err
    assert json.loads((tmp_path / 'out/run/last/run.json').read_text()) == key
