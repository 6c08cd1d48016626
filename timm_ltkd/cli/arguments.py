"""The commands, each with its options."""
from .defaults import DEFAULTS_HELP
from .groups import (
    add_augmentation,
    add_data,
    add_distillation,
    add_flag,
    add_input,
    add_loading,
    add_loss,
    add_mixing,
    add_model_kwargs,
    add_network,
    add_optimisation,
    add_pixels,
    add_run,
    add_sharing,
    add_speed,
)
from .kinds import NATURAL, NOT_NEGATIVE, Parser, tau


def train_parser() -> Parser:
    """Options of train.py."""
    parser = Parser(prog='train.py', description='Train a network on long-tailed data.', epilog=DEFAULTS_HELP)
    _add_config(parser)
    parser.add_argument('--model', metavar='MODEL', default='resnet32', help='any timm model (default: %(default)s)')
    parser.add_argument(
        '--stage', choices=('crt', 'lws', 'head'),
        help='second stage, on the frozen network of --initial-checkpoint and with all classes shown equally often: '
             'train a new classifier (crt), or a scale for each class of the old one (lws); head: a new classifier '
             'with images shown as they come, on --pretrained weights as well')
    for add in (
            add_data, add_loading, add_input, add_network, add_loss, add_optimisation, add_augmentation, add_mixing,
            add_speed, add_run, add_sharing):
        add(parser)
    return parser


def distill_parser() -> Parser:
    """Options of distill.py."""
    parser = Parser(
        prog='distill.py', description='Distil a student from a teacher on long-tailed data.', epilog=DEFAULTS_HELP)
    _add_config(parser)
    for add in (
            add_distillation, add_data, add_loading, add_input, add_network, add_loss, add_optimisation,
            add_augmentation, add_mixing, add_speed, add_run, add_sharing):
        add(parser)
    return parser


def validate_parser() -> Parser:
    """Options of validate.py."""
    parser = Parser(prog='validate.py', description='Measure checkpoints on long-tailed data, in one table.')
    _add_config(parser)
    add = parser.add_argument
    _add_checkpoint(parser, '*')
    add('-b', '--batch-size', metavar='N', type=NATURAL, default=256, help='per process (default: %(default)s)')
    add('--results-file', metavar='FILE', help='write the figures to a .json or .csv file')
    add('--predict', metavar='PATH',
        help='instead of figures, the classes of the images in this folder and those below it, or of one image file: a '
             'CSV with probabilities; no data set and no labels are needed')
    add('--predictions-file', metavar='FILE', help='write them to this file (default: to standard output)')
    add('--topk', metavar='N', type=NATURAL, help='of each image the N likeliest classes (default: 5)')
    add('--tau-norm', metavar='TAU', type=tau, nargs='+', default=[],
        help='also with class weights divided by their length to the power TAU; of several values, or sweep (0 to 2), '
             'the one that is best on the --holdout')
    add('--logit-adjust', metavar='TAU', type=tau, nargs='+', default=[],
        help='also with TAU times the log prior taken from the logits; several values and sweep as above')
    add('--eval-metric', choices=('top1', 'balanced', 'few'), default='balanced',
        help='figure that chooses TAU on the holdout (default: %(default)s)')
    add_flag(parser, '--channels-last', 'channels_last memory layout, in which convolutions are faster', True)
    add_data(parser)
    add_input(parser)
    return parser


def export_parser() -> Parser:
    """Options of python -m timm_ltkd.export."""
    parser = Parser(
        prog='python -m timm_ltkd.export',
        description='A trained network for others: to a folder of its own, to the Hugging Face hub, to an ONNX file.')
    _add_import(parser)
    add = parser.add_argument
    _add_checkpoint(parser, '?')
    add('--export-dir', metavar='DIR',
        help='write weights, config.json, model card, report and figures to this new folder, which timm loads by '
             'local-dir:DIR, without what tells of this machine\'s files')
    add('--logit-adjust', metavar='TAU', type=NOT_NEGATIVE,
        help='take TAU times the log prior of its training images off the bias of its classifier, for good: what '
             'validate.py --logit-adjust measures')
    add('--tau-norm', metavar='TAU', type=NOT_NEGATIVE,
        help='divide its class weights by their length to the power TAU: what validate.py --tau-norm measures')
    add('--onnx', metavar='FILE',
        help='write the network as ONNX, for batches of any size, and compare it with torch (needs timm_ltkd[onnx])')
    add_flag(parser, '--with-normalisation', 'the ONNX file takes pixels from 0 to 1, and normalises them itself')
    add('--opset', metavar='N', type=NATURAL, help='version of the ONNX operators (default: the exporter\'s)')
    add_pixels(parser, 'the network\'s')
    add_sharing(parser)
    return parser


def compare_parser() -> Parser:
    """Options of python -m timm_ltkd.compare."""
    parser = Parser(
        prog='python -m timm_ltkd.compare',
        description='Finished runs side by side: their figures, and which options differ. Runs that differ in their '
                    'seed alone are one row: mean ± standard deviation.')
    parser.add_argument('runs', nargs='+', metavar='RUN', help='the folder of a finished run; all on the same data')
    parser.add_argument(
        '--output', metavar='FOLDER', help='also write compare.md, compare.html and figures there')
    return parser


def _add_config(parser: Parser) -> None:
    parser.add_argument('-c', '--config', metavar='FILE', help='YAML of defaults; the command line wins')
    _add_import(parser)


def _add_checkpoint(parser: Parser, nargs: str) -> None:
    parser.add_argument('checkpoint', nargs=nargs, metavar='CHECKPOINT',
                        help='a run\'s folder, a file of weights (with --model), or hf-hub:NAME')
    parser.add_argument('--model', metavar='MODEL',
                        help='network of what does not name its own; alone with --pretrained: the weights that timm '
                             'knows')
    add_flag(parser, '--pretrained', 'the weights that timm knows')
    add_model_kwargs(parser)


def _add_import(parser: Parser) -> None:
    parser.add_argument('--import', metavar='MODULE', nargs='+',
                        help='import these first, from the working folder or as installed: modules of your own that '
                             'register a method, a loss or a network')
