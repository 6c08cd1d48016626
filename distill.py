"""Distil a student from a teacher on long-tailed data; --help lists the options."""
from timm_ltkd.cli.run import distill

if __name__ == '__main__':
    distill()
