"""A network as a folder that timm loads."""
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import nn

from ...data import seeded_generators
from ...distill import plain_classifier
from ...errors import last_line
from ...files import replace_file


def export_network(
        folder: Path,
        network: nn.Module,
        class_names: Sequence[str] | None = None,
        class_counts: Sequence[float] | None = None,
        license: str | None = None,
        fix: str | None = None,
) -> None:
    """model.safetensors and config.json, so that `timm.create_model('local-dir:FOLDER', pretrained=True)` loads it.

    config.json also holds the class names, the training images per class, and the name of a post-hoc fix that is built
    in. A cosine classifier is exported as the plain one that predicts the same. The license is that of the weights;
    that of weights they began with is not told.
    """
    config: dict[str, Any] = {}
    if class_names is not None:
        config['label_names'] = list(class_names)
    if class_counts is not None:
        config['class_counts'] = [int(count) for count in class_counts]
    if fix is not None:
        config['posthoc'] = fix
    network.pretrained_cfg = {**network.pretrained_cfg, 'license': license}
    network.to(memory_format=torch.contiguous_format)  # safetensors takes no other
    model_args = {key: value for key, value in network.model_args.items() if value is not None}
    with tempfile.TemporaryDirectory(dir=folder, prefix='.export.tmp.') as aside, plain_classifier(network):
        save_for_hf(network, aside, model_config=config, model_args=model_args, safe_serialization=True)
        for name in ('model.safetensors', 'config.json'):
            with replace_file(folder / name) as path:
                shutil.copyfile(Path(aside) / name, path)  # its content alone: safetensors makes private files


def why_not_loaded(network: nn.Module) -> str | None:
    """Why `timm.create_model('local-dir:FOLDER', pretrained=True)` would give another network than `export_network`
    writes, as timm leaves it to the network's own function to load weights; None if it gives this one."""
    cfg = network.pretrained_cfg
    with tempfile.TemporaryDirectory() as folder, seeded_generators(0):
        try:
            export_network(Path(folder), network)
            again = timm.create_model(f'local-dir:{folder}', pretrained=True)
        except Exception as e:  # whatever the user's own code raises
            return last_line(e)
        finally:
            network.pretrained_cfg = cfg
    weights, loaded = network.state_dict(), again.state_dict()
    if weights.keys() != loaded.keys() or any(not torch.equal(value, loaded[key]) for key, value in weights.items()):
        return 'its function does not load the weights'
    known = getattr(again, 'pretrained_cfg', {})
    lost = [key for key in ('input_size', 'mean', 'std') if list(known.get(key) or ()) != list(cfg[key])]
    return f'its function does not keep {", ".join(lost)} of the images' if lost else None
