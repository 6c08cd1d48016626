"""Train a network (a teacher or a baseline) on long-tailed data; --help lists the options."""
from timm_ltkd.cli.run import train

if __name__ == '__main__':
    train()
