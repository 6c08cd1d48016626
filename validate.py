"""Measure checkpoints on long-tailed data, in one table; --help lists the options."""
from timm_ltkd.cli.run import validate

if __name__ == '__main__':
    validate()
