"""What python -m timm_ltkd.export does: a trained network to a folder of its own, to the hub, or to an ONNX file."""
import logging
import re
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from torch import nn

from ..errors import UserError
from ..prior import ClassPrior
from ..report.text import flag
from .combinations import corrections
from .networks.described import built_in_fix, label_names, read_config_json, run_options, trained_counts
from .networks.export import export_network
from .networks.trained import load_named, named_networks
from .posthoc import OPTIONS, build_in
from .processes.launch import set_up_logging
from .sharing.onnx_file import OnnxFile, export_onnx
from .sharing.share import check_target, copy_folder, push_folder, shown_options, write_card

_logger = logging.getLogger(__name__)


def export(args: Namespace) -> None:
    """Write what the options ask for; where several processes are launched, the first does it.

    Args:
        args: Options of `export_parser`.

    Raises:
        UserError: Nothing to export or nothing to write, options that do not go together, …
    """
    main = PartialState().is_main_process
    set_up_logging(main)
    if main:
        source, = named_networks(args)
        _check(args)
        network = None if _goes_as_it_is(args) and not args.onnx else load_named(args, source)
        if (fix := _fix(args)) is not None:
            _build_in(network, source, *fix)
        if args.export_dir or args.push_to_hub:
            with _folder(args, source, network) as folder:
                if args.export_dir:
                    copy_folder(folder, Path(args.export_dir), license=args.license)
                if args.push_to_hub:
                    push_folder(
                        folder, args.push_to_hub, args.hub_private, license=args.license,
                        name=Path(source).resolve().name if _is_folder(args) else _short_name(source))
        if args.onnx:
            _write_onnx(args, network)


def _check(args: Namespace) -> None:
    if args.logit_adjust is not None and args.tau_norm is not None:
        raise UserError('--logit-adjust and --tau-norm are two cures of one thing; choose one')
    if not (args.export_dir or args.push_to_hub or args.onnx):
        raise UserError('say what to write: --export-dir DIR, --push-to-hub REPO, --onnx FILE')
    belongs = {
        '--hub-private': (args.hub_private, args.push_to_hub, '--push-to-hub'),
        '--license': (args.license, args.export_dir or args.push_to_hub, '--export-dir or --push-to-hub'),
        '--with-normalisation': (args.with_normalisation, args.onnx, '--onnx'),
        '--opset': (args.opset, args.onnx, '--onnx'),
    }
    for option, (given, there, other) in belongs.items():
        if given and not there:
            raise UserError(f'{option} goes with {other}')
    if (args.export_dir or args.push_to_hub) and _is_folder(args):
        for option in ('img_size', 'mean', 'std', 'interpolation', 'crop_pct'):
            if getattr(args, option) is not None:
                raise UserError(
                    f'{flag(option)}: the config.json in {args.checkpoint} says how its images come; '
                    f'leave it out{", or write the ONNX file alone" if args.onnx else ""}')
    if args.export_dir:
        check_target(Path(args.export_dir))
    if args.onnx and (not Path(args.onnx).resolve().parent.is_dir() or Path(args.onnx).is_dir()):
        raise UserError(f'--onnx {args.onnx}: name a file in a folder that is there')


def _is_folder(args: Namespace) -> bool:
    return bool(args.checkpoint) and Path(args.checkpoint).is_dir()


def _short_name(source: str) -> str:
    return Path(source).stem if Path(source).is_file() else re.split(r'[/\\:]', source)[-1]


def _goes_as_it_is(args: Namespace) -> bool:
    """Whether what goes out is the folder that was named, its files as they are."""
    return _is_folder(args) and _fix(args) is None


@contextmanager
def _folder(args: Namespace, source: str, network: nn.Module | None) -> Iterator[Path]:
    """A folder with model.safetensors and config.json: the one that was named, or one of the network that was.

    The figures of a run are not of its network with a fix, and stay behind.
    """
    if _goes_as_it_is(args):
        read_config_json(Path(source), 'checkpoint')  # or it is none of a model
        yield Path(source)
        return
    license = args.license
    if license is None and _is_folder(args):
        license = (network.config_json.get('pretrained_cfg') or {}).get('license')
    with tempfile.TemporaryDirectory() as folder:
        export_network(
            Path(folder), network, label_names(network), trained_counts(network), license, _told_fix(args, network))
        if _fix(args) is not None:
            _logger.info(f'{_told_fix(args, network)} is built into the classifier; the report of a run stays behind')
        if options := run_options(source):
            (Path(folder) / 'args.yaml').write_bytes(shown_options(options))
        write_card(Path(folder), license, Path(source) if _is_folder(args) else None)
        yield Path(folder)


def _fix(args: Namespace) -> tuple[str, float] | None:
    """The fix that is to be built in, and its τ."""
    given = {name: getattr(args, dest) for name, dest in OPTIONS.items()}
    return next(((name, tau) for name, tau in given.items() if tau is not None), None)


def _told_fix(args: Namespace, network: nn.Module) -> str | None:
    """Name of the fix that a network has by now, as config.json tells it."""
    fix = _fix(args)
    return f'{fix[0]} {fix[1]:g}' if fix else built_in_fix(network)


def _build_in(network: nn.Module, source: str, fix: str, tau: float) -> None:
    """Put a fix into a network, by the class prior that its config.json tells."""
    if (before := built_in_fix(network)) is not None:
        raise UserError(f'{source} has {before} built in; export the network that it was made of')
    counts = trained_counts(network)
    if fix == 'logit-adjust' and counts is None:
        raise UserError(
            f'--logit-adjust: {source} does not say how many images of each class it was trained on (class_counts in '
            'config.json, as a run leaves it)')
    if already := corrections(run_options(source)):
        _logger.warning(
            f'{source} was trained with {" and ".join(already)}, to make up for the class frequencies already: '
            f'--{fix} may correct them twice; validate.py {source} --{fix} {tau:g} tells what it gains or loses')
    build_in(network, fix, tau, counts and ClassPrior(counts).log_prior())


def _write_onnx(args: Namespace, network: nn.Module) -> None:
    file: OnnxFile = export_onnx(
        network, Path(args.onnx), input_size=network.pretrained_cfg['input_size'],
        class_names=label_names(network), with_normalisation=args.with_normalisation, opset=args.opset,
        fix=_told_fix(args, network))
    pixels = 'pixels from 0 to 1' if args.with_normalisation else 'normalised pixels'
    shape = '×'.join(map(str, file.shape))
    _logger.info(
        f'{args.onnx}: opset {file.opset}, {file.size / 1e6:.2f} MB, input {shape} of {pixels}, '
        f'largest deviation from torch {file.deviation:.1e} in logits of up to {file.scale:.2g}')
