"""Random wrong input, given to all three scripts: each case ends in one line and exit code 2, or has no mistake."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parents[2] / 'benchmarks' / 'fuzz.py'
pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='each case is a child of one process')


def campaign(cases, seed):
    """How many cases were refused; fails with what the script says of those that ended otherwise."""
    done = subprocess.run(
        [sys.executable, str(FUZZ), '--cases', str(cases), '--seed', str(seed)], capture_output=True, text=True,
        env=os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(FUZZ.parents[1])})
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-5_000:]
    assert f'{cases} cases, 0 wrong' in done.stdout
    return sum(int(number) for number in re.findall(r'refused +(\d+)$', done.stdout, re.M))


def test_a_few():
    assert campaign(150, seed=0) > 75


@pytest.mark.slow
def test_thousands():
    assert campaign(2000, seed=1000) > 1000
