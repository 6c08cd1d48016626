"""python -m timm_ltkd.export: a trained network to a folder, to the hub, to ONNX; --help lists the options."""
from .cli.run import export

if __name__ == '__main__':
    export()
