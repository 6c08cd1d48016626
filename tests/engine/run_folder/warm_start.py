"""Runs scripts in processes that are forked from this one, which has imported everything; started by `warm`.

Each line of standard input is a JSON object that asks for something, each line of standard output the answer:
{"script", "argv", "log", "before"} starts a script after the code of `before` and answers its process number,
{"wait": PID} answers its exit status.
"""
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / 'benchmarks'))
from faults import ended, fork  # noqa: E402

from timm_ltkd.cli import run  # noqa: E402
from timm_ltkd.engine import validate  # noqa: E402, F401


def start(script, argv, log, before=''):
    def child():
        exec(before, {})
        getattr(run, script)(argv)
    return fork(child, Path(log))


def main():
    torch.set_num_threads(1)
    for line in sys.stdin:
        wanted = json.loads(line)
        print(ended(wanted['wait']) if 'wait' in wanted else start(**wanted), flush=True)


if __name__ == '__main__':
    main()
