"""ruff over all files, mypy over the public API, as pyproject.toml says; warnings of this package are errors."""
import configparser
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize('tool, words', [('ruff', ('check', '.')), ('mypy', ())])
def test_checker_finds_nothing(tool, words, tmp_path):
    pytest.importorskip(tool)
    if tool == 'mypy' and int(torch.__version__.split('.')[1]) < 9:
        pytest.skip('the annotations of older torch and timm say less')
    done = subprocess.run([sys.executable, '-m', tool, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_types_are_marked_for_others():
    assert (ROOT / 'timm_ltkd' / 'py.typed').is_file()
    assert 'py.typed' in (ROOT / 'setup.cfg').read_text()


def test_a_checkout_is_on_the_path_and_not_behind_a_finder():
    """Else `import timm_ltkd` beside a checkout of that name, installed with -e, finds the checkout's folder."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    assert config['options']['package_dir'].split() == ['=', '.']


def warn_from(module: str, category: type[Warning]) -> None:
    """Warn as code of that module would."""
    warnings.warn_explicit('old', category, f'{module}.py', 1, module=module, registry={})


@pytest.mark.parametrize('category', [DeprecationWarning, FutureWarning, UserWarning, ResourceWarning])
@pytest.mark.parametrize('module', ['timm_ltkd', 'timm_ltkd.distill', 'timm_ltkd.data.resident.decode'])
def test_a_warning_from_any_file_of_the_package_is_an_error(module, category):
    with pytest.raises(category):
        warn_from(module, category)


def test_a_warning_from_elsewhere_is_none():
    for module in ('timm', 'torch.nn', 'not_timm_ltkd'):
        with warnings.catch_warnings():
            warnings.simplefilter('default', append=True)
            warn_from(module, DeprecationWarning)


def requirements() -> dict[str, str]:
    """The floor of everything that a user or a test needs, by name as pip spells it."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    extras = config['options.extras_require'].values()
    lines = ' '.join([config['options']['install_requires'], *extras]).split()
    floors = (line.split('>=') for line in lines if not line.startswith('timm_ltkd['))  # extras of extras
    return {name.lower().replace('_', '-'): floor for name, floor in floors}


@pytest.mark.parametrize('file', ['oldest', 'newest'])
def test_constraints_name_every_requirement(file):
    lines = (ROOT / 'constraints' / f'{file}.txt').read_text().splitlines()
    pinned = dict(line.split('==') for line in lines if line and not line.startswith('#'))
    for name, floor in requirements().items():
        have, least = (list(map(int, version.split('.'))) for version in (pinned[name], floor))
        assert have[:len(least)] == least if file == 'oldest' else have >= least, name
