"""A network as an ONNX file that was seen to answer as the network does."""
import importlib
import json
import warnings
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ...distill import normalisation
from ...errors import UserError, last_line
from ...files import replace_file
from ...version import __version__

TOLERANCE = 1e-4  # our choice: of the largest logit; float32 in another order of sums gives about 1e-6
_ROUNDING = 1e-6  # of networks whose logits are all next to nothing
_MOST = 2 ** 31 - 1  # bytes of a protobuf
_BATCHES = (2, 1, 5)  # traced with the first, compared with all: the batch may have any size


class OnnxFile(NamedTuple):
    """What was written.

    Attributes:
        opset: Version of ONNX's operators.
        size: Bytes.
        deviation: Largest difference of a logit from the network's.
        scale: Largest of these logits, without its sign.
        shape: Of the input; the batch has a name.
    """
    opset: int
    size: int
    deviation: float
    scale: float
    shape: tuple[str | int, ...]


class WithNormalisation(nn.Module):
    """A network that takes pixels from 0 to 1 and normalises them itself.

    Args:
        network: Takes normalised images.
        mean, std: Of the normalisation, per channel.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        self.register_buffer('mean', torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer('std', torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network((x - self.mean) / self.std)


def export_onnx(
        network: nn.Module,
        path: Path,
        *,
        input_size: Sequence[int],
        class_names: Sequence[str] | None = None,
        with_normalisation: bool = False,
        opset: int | None = None,
        fix: str | None = None,
) -> OnnxFile:
    """Write a network as ONNX: `input` float32 `[batch, channels, H, W]` to `logits` `[batch, C]`.

    Images of noise are shown to both, in batches of several sizes. The metadata hold the class names, how images are
    prepared (interpolation, share of the centre crop, mean, standard deviation), which of it the file does itself, and
    the name of a post-hoc fix.

    Args:
        network: A timm model on the CPU; put in eval mode.
        path: The file to replace.
        input_size: (channels, height, width) of the images.
        class_names: By class index.
        with_normalisation: Take pixels from 0 to 1 (RGB, or grey), in place of normalised ones.
        opset: Version of the operators; the exporter's own if None.
        fix: That is built in.

    Raises:
        UserError: A package is missing; the network has an operator that ONNX lacks; it is larger than 2 GB; or the
            file does not answer as the network does, and is not written.
    """
    runtime = _packages()
    mean, std = normalisation(network)
    network = network.float().to(memory_format=torch.contiguous_format)
    whole = (WithNormalisation(network, mean, std) if with_normalisation else network).eval()
    program = _trace(whole, _images(_BATCHES[0], input_size), opset)
    cfg = getattr(network, 'pretrained_cfg', None) or {}
    facts = {key: cfg.get(key) for key in ('architecture', 'interpolation', 'crop_pct')}
    facts |= {
        'class_names': list(class_names or ()),
        'mean': mean,
        'std': std,
        'input': 'pixels from 0 to 1' if with_normalisation else 'pixels from 0 to 1, minus mean, divided by std',
        'producer': f'timm_ltkd {__version__}',
    }
    if fix is not None:
        facts['posthoc'] = fix
    program.model.metadata_props.update(
        {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()})
    content = _serialise(program)
    deviation, scale = _compare(whole, content, runtime, [_images(count, input_size) for count in _BATCHES])
    with replace_file(path) as aside:
        aside.write_bytes(content)
    return OnnxFile(program.model.opset_imports[''], len(content), deviation, scale, ('batch', *input_size))


def _packages() -> Any:
    """onnxruntime, after a look at what the exporter needs."""
    try:
        return [importlib.import_module(name) for name in ('onnx', 'onnxscript', 'onnxruntime')][-1]
    except ImportError as e:
        raise UserError(f"ONNX files need more packages ({last_line(e)}): pip install 'timm_ltkd[onnx]'") from e


def _images(count: int, input_size: Sequence[int]) -> torch.Tensor:
    return torch.rand(count, *input_size, generator=torch.Generator().manual_seed(0))


def _trace(network: nn.Module, images: torch.Tensor, opset: int | None) -> Any:
    try:
        with redirect_stdout(StringIO()), warnings.catch_warnings():  # its progress and doubts: the answers will tell
            warnings.simplefilter('ignore')
            return torch.onnx.export(
                network, (images,), dynamo=True, opset_version=opset, input_names=['input'], output_names=['logits'],
                dynamic_shapes=({0: torch.export.Dim('batch')},), verbose=False)
    except Exception as e:  # what the exporter raises is as various as networks are
        newer = '' if torch.__version__ >= (2, 9) else f'; a newer torch than {torch.__version__} may know how'
        raise UserError(f'{_name(network)} cannot be written as ONNX ({last_line(e)[:200]}){newer}') from e


def _serialise(program: Any) -> bytes:
    try:
        proto = program.model_proto
        for part in (proto.graph, *proto.functions):
            _forget_origin(part.node)
        content = proto.SerializeToString()
    except ValueError as e:
        raise UserError(f'an ONNX file holds at most 2 GB, and this network is larger ({last_line(e)})') from e
    if len(content) > _MOST:
        raise UserError('an ONNX file holds at most 2 GB, and this network is larger')
    return content


def _forget_origin(nodes: Iterable[Any]) -> None:
    """Take out where the exporter met each operator: files and lines of code of this machine."""
    for node in nodes:
        del node.metadata_props[:]
        node.doc_string = ''
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                _forget_origin(graph.node)


@torch.no_grad()
def _compare(
        network: nn.Module, content: bytes, runtime: Any, batches: Sequence[torch.Tensor]) -> tuple[float, float]:
    """Largest deviation of the file's logits from the network's, and the largest of these."""
    session = runtime.InferenceSession(content, providers=['CPUExecutionProvider'])
    worst, largest = 0., 0.
    for images in batches:
        expected = network(images)
        found = torch.from_numpy(session.run(None, {'input': images.numpy()})[0])
        if found.shape != expected.shape:
            raise UserError(f'the ONNX file gives {list(found.shape)} for {list(expected.shape)}; it is not written')
        deviation, scale = float((found - expected).abs().max()), float(expected.abs().max())
        if not deviation <= TOLERANCE * scale + _ROUNDING:  # NaN neither
            raise UserError(
                f'the ONNX file differs from {_name(network)} by {deviation:.2g} in logits of up to {scale:.2g}; '
                'it is not written')
        worst, largest = max(worst, deviation), max(largest, scale)
    return worst, largest


def _name(network: nn.Module) -> str:
    return type(network.network if isinstance(network, WithNormalisation) else network).__name__
