"""Freed memory that the process keeps."""
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


@pytest.mark.skipif(sys.platform != 'linux', reason='of glibc')
@pytest.mark.parametrize('env, kept', [({}, True), ({'MALLOC_TRIM_THRESHOLD_': '100000'}, False)])
def test_pages_are_used_again(environment, env, kept):
    answer = subprocess.run(
        [sys.executable, '-c', FAULTS], env=environment | env, capture_output=True, text=True, check=True)
    said, before, after = answer.stdout.split()
    if not kept or said == 'False':  # left alone, or another C library
        assert said == 'False'
        return
    assert float(before) > 1000 and float(after) < 10


def test_other_libraries(monkeypatch):
    monkeypatch.setattr('platform.libc_ver', lambda: ('', ''))
    assert not keep_freed_memory()
