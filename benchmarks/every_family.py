"""One small network of every family that timm has, as a student of features would use it; --help lists the options."""
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import timm
import torch
from torch import nn

from timm_ltkd.cli.kinds import Parser, number
from timm_ltkd.cli.run import one_line_errors
from timm_ltkd.distill import feature_dim, model_output

CLASSES, BATCH = 7, 2
SIDES = (32, 48, 64, 96, 128, 160, 192, 224, 240, 256)


class Finding(NamedTuple):
    """What became of a network: at which side in pixels, with how long features, and what was wrong if anything was."""
    side: int | None
    length: int | None
    verdict: str


def create_parser() -> Parser:
    parser = Parser(
        prog='every_family.py',
        description='Take the smallest network of every class of networks in timm, at the smallest images it takes, '
                    'and ask it for logits and features in one forward: the features are compared with timm\'s own '
                    'pre-logits, and gradients are sent back through both. Ends with status 1 if any fails.')
    add = parser.add_argument
    add('models', nargs='*', metavar='MODEL', help='only these')
    add('--most', metavar='M', type=number(float, above=0), default=60.,
        help='leave out families whose smallest network has more million parameters (default: %(default)s)')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each network as it is done."""
    failed = 0
    with one_line_errors('every_family.py'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        args = create_parser().parse_args(argv)
        names = [(name, None) for name in args.models] or smallest_of_each(args.most)
        for name, reason in names:
            start = time.perf_counter()
            found = Finding(None, None, reason) if reason else examine(name)
            failed += found.verdict not in ('ok', reason)
            seconds = time.perf_counter() - start
            figures = f'{found.side or "-":>4} px  {found.length or "-":>5} features'
            print(f'{name:<44} {figures}  {found.verdict}  ({seconds:.0f} s)', flush=True)
    if failed:
        raise SystemExit(1)


def smallest_of_each(most: float) -> Iterator[tuple[str, str | None]]:
    """The smallest model of each class in each of timm's modules, and why it is left out, if it is."""
    for module in timm.list_modules():
        sizes: dict[type, tuple[int, str]] = {}
        for name in timm.list_models(module=module):
            try:
                with torch.device('meta'):  # parameters without memory
                    network = timm.create_model(name)
            except Exception as e:  # e.g. one that wants an option
                yield name, f'left out: {e}'
                continue
            size = sum(parameter.numel() for parameter in network.parameters())
            sizes[type(network)] = min(sizes.get(type(network), (size, name)), (size, name))
        for size, name in sizes.values():
            yield name, f'left out: {size / 1e6:.0f} M parameters' if size > most * 1e6 else None


def examine(name: str) -> Finding:
    """Make a network for the smallest images that it takes, and look at its logits and features."""
    cfg = timm.get_pretrained_cfg(name)
    channels, own = cfg.input_size[0], cfg.input_size[-1]
    problem = ''
    for side in (*(side for side in SIDES if side < own), own):
        options = {'img_size': side} if cfg.fixed_input_size and side != own else {}
        images = torch.randn(BATCH, channels, side, side)
        try:
            network = timm.create_model(name, num_classes=CLASSES, **options).eval()
            with torch.no_grad():
                expected = network(images)
        except Exception as e:  # whatever a network raises for images that are too small for it
            problem = str(e)
            continue
        try:
            return look_at(network, images, expected, side)
        except Exception as e:  # what this script is there to find
            return Finding(side, None, f'FAILED: {type(e).__name__}: {e}')
    return Finding(None, None, f'FAILED at {own} px: {problem}')


def look_at(network: nn.Module, images: torch.Tensor, expected: torch.Tensor, side: int) -> Finding:
    """Whether logits are the network's own, features timm's pre-logits, and both give gradients."""
    length = feature_dim(network)
    with torch.no_grad():
        logits, features = model_output(network, images, needs_features=True)
        pre_logits = network.forward_head(network.forward_features(images), pre_logits=True)
    if not torch.equal(logits, expected) or logits.shape != (BATCH, CLASSES):
        return Finding(side, length, 'FAILED: other logits')
    if features.shape != (BATCH, length):
        return Finding(side, length, f'FAILED: features of shape {list(features.shape)}')
    if pre_logits.numel() != features.numel() or not torch.allclose(pre_logits.flatten(1), features, atol=1e-5):
        return Finding(side, length, 'FAILED: other features than timm\'s pre-logits')
    logits, features = model_output(network.train(), images, needs_features=True)
    (logits.sum() + features.sum()).backward()
    unused = [key for key, value in network.named_parameters() if value.requires_grad and value.grad is None]
    return Finding(side, length, f'FAILED: no gradient for {unused[0]}' if unused else 'ok')


if __name__ == '__main__':
    main()
