"""Freed memory that the process keeps."""
import platform
import subprocess
import sys

import pytest

from timm_ltkd.engine.processes.memory import keep_freed_memory

FAULTS = '''
import resource
import numpy as np
from timm_ltkd.engine.processes.memory import keep_freed_memory

def faults(times=20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        pieces = [np.ones(2 ** 20) for _ in range(6)]  # 8 MB each
        del pieces
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / times

faults()
before, kept = faults(), keep_freed_memory()
faults()
print(kept, before, faults())
'''


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='of glibc')
def test_pages_are_used_again(environment):
    answer = subprocess.run([sys.executable, '-c', FAULTS], env=environment, capture_output=True, text=True, check=True)
    said, before, after = answer.stdout.split()
    assert said == 'True' and float(before) > 1000 and float(after) < 10


def test_what_the_environment_says_and_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr('ctypes.CDLL', pytest.fail)
    monkeypatch.setattr('platform.libc_ver', lambda: ('', ''))
    assert not keep_freed_memory()
    monkeypatch.setattr('platform.libc_ver', lambda: ('glibc', '2.36'))
    monkeypatch.setenv('MALLOC_TRIM_THRESHOLD_', '100000')
    assert not keep_freed_memory()
