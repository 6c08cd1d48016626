"""python -m timm_ltkd.compare: finished runs side by side; --help lists the options."""
from .cli.run import compare

if __name__ == '__main__':
    compare()
