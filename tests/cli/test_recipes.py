"""Recipes named `hparams/NAME` in a folder that has none: those of the checkout, or of an installation without it."""
from pathlib import Path

import pytest

from timm_ltkd.cli import recipes
from timm_ltkd.cli.arguments import distill_parser
from timm_ltkd.cli.config import parse
from timm_ltkd.cli.recipes import find_recipe
from timm_ltkd.errors import UserError

NAME = 'hparams/cifar100_lt100_bkd.yaml'
OF_CHECKOUT = Path(__file__).resolve().parents[2] / NAME


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_checkouts_from_any_folder():
    assert find_recipe(NAME).samefile(OF_CHECKOUT)
    of_name, of_path = (vars(parse(distill_parser(), ['-c', str(file)])) for file in (NAME, OF_CHECKOUT))
    assert of_name | {'config': str(OF_CHECKOUT)} == of_path and of_name['dataset'] == 'torch/cifar100_lt100'


def test_a_file_of_that_name_here_comes_first(tmp_path):
    (tmp_path / 'hparams').mkdir()
    (tmp_path / NAME).write_text('epochs: 7\n')
    assert parse(distill_parser(), ['-c', NAME]).epochs == 7


def test_the_options_of_a_run_by_its_folder(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/args.yaml').write_text('epochs: 7\n')
    assert parse(distill_parser(), ['-c', 'run']).epochs == 7
    (tmp_path / 'run/args.yaml').unlink()
    with pytest.raises(UserError, match='cannot read the config file run: Is a directory'):
        parse(distill_parser(), ['-c', 'run'])


@pytest.mark.parametrize('name', ['hparams/none.yaml', Path(NAME).name, f'other/{NAME}'])
def test_no_other_name_is_looked_up(name):
    assert find_recipe(name) == Path(name)
    with pytest.raises(UserError, match=f'cannot read the config file {name}'):
        parse(distill_parser(), ['-c', name])


def test_that_of_an_installation(tmp_path, monkeypatch):
    site, record = tmp_path / 'lib' / 'site-packages', tmp_path / 'lib' / 'site-packages' / 'timm_ltkd-9.dist-info'
    record.mkdir(parents=True)
    (record / 'METADATA').write_text('Metadata-Version: 2.1\nName: timm_ltkd\nVersion: 9\n')
    (record / 'RECORD').write_text(f'timm_ltkd/cli/recipes.py,,\n../../share/timm_ltkd/{NAME},,\n')
    installed = tmp_path / 'share' / 'timm_ltkd' / NAME
    installed.parent.mkdir(parents=True)
    installed.write_text('epochs: 8\n')
    monkeypatch.setattr(recipes, '__file__', str(site / 'timm_ltkd' / 'cli' / 'recipes.py'))
    monkeypatch.syspath_prepend(site)
    assert find_recipe(NAME) == installed.resolve()
    assert parse(distill_parser(), ['-c', NAME]).epochs == 8
    assert find_recipe('hparams/none.yaml') == Path('hparams/none.yaml')
