"""How a teacher is trained: its recipe, completed from its student and from the weights it starts with."""
import logging
from argparse import Namespace

import timm
from accelerate import Accelerator
from torch import nn

from ..errors import UserError
from ..models import ELSEWHERE
from .doubts import takes_rates_of_sgd
from .loaders import automatic_loader, choose_loader
from .networks.create import create_network
from .networks.described import network_options
from .networks.input import resolve_input, set_normalisation
from .networks.trained import load_network
from .processes.launch import on_main
from .run_data import Data

_logger = logging.getLogger(__name__)


def complete_recipe(
        args: Namespace,
        recipe: Namespace,
        source: str | None,
        accelerator: Accelerator,
        data: Data,
        student: nn.Module,
) -> nn.Module:
    """Fill in what a recipe leaves open, in place; the order matters, as each step looks at the ones before.

    Args:
        args: Options of distill.py.
        recipe: Options of the teacher's own training.
        source: The --teacher-checkpoint that it starts from.
        data: What is taught.
        student: What it teaches, whose images it is trained on where it is trained whole.

    Returns:
        A network of the teacher's shape, untrained.

    Raises:
        UserError: Weights that are not there or don't fit; a classifier alone to be trained, and no weights.
    """
    _choose_start(args, recipe, source, accelerator)
    _choose_rate(args, recipe)
    height, width = student.pretrained_cfg['input_size'][-2:]
    if args.teacher_tune == 'all' and recipe.img_size is None and height == width:
        recipe.img_size = height
    network = create_network(
        recipe.model, data.prior.num_classes, option='--teacher', img_size=recipe.img_size,
        small_image_stem=recipe.small_image_stem, model_kwargs=recipe.model_kwargs, global_pool=recipe.gp)
    set_normalisation(network, args.teacher_mean, args.teacher_std, '--teacher')
    if args.teacher_tune == 'head':
        if not (recipe.pretrained or recipe.initial_checkpoint):
            raise UserError(
                f"--teacher-tune head trains a classifier on weights that are there already, and '{recipe.model}' has "
                'none; give its --teacher-checkpoint, or train it whole (--teacher-tune all)')
        recipe.stage = 'head'
    if source is not None:
        _see_as_before(args, recipe, load_network(
            source, recipe.model, None, '--teacher-checkpoint', small_image_stem=recipe.small_image_stem,
            model_kwargs=recipe.model_kwargs, normalised=(args.teacher_mean, args.teacher_std)))
    elif recipe.pretrained:
        _see_as_before(args, recipe, network)
    _scale_padding(args, recipe)
    if recipe.loader == 'auto' and args.loader != 'auto' and args.loader != automatic_loader(
            args, accelerator, data, resolve_input(args, student.pretrained_cfg)):
        recipe.loader = args.loader  # was asked for; a run's args.yaml has what auto came to, for its student alone
    choose_loader(recipe, accelerator, data, resolve_input(recipe, network.pretrained_cfg))
    return network


def _choose_start(args: Namespace, recipe: Namespace, source: str | None, accelerator: Accelerator) -> None:
    """Note in a recipe which weights its training starts from; in place."""
    if source is None:
        if recipe.pretrained is None:
            recipe.pretrained = on_main(accelerator, lambda: _fetch_zoo_weights(recipe.model))
    elif source.startswith(ELSEWHERE):
        recipe.model, recipe.pretrained = source, True
    else:
        own = network_options(source, '--teacher-checkpoint')
        vars(recipe).update(own, initial_checkpoint=source, new_head=True, pretrained=False)


def _choose_rate(args: Namespace, recipe: Namespace) -> None:
    """The student's learning rate, where the teacher's recipe has none; a tenth of it for a teacher that starts from
    weights beside a student from scratch, and with SGD ten times of it the other way round (our choice). In place."""
    if recipe.lr is not None:
        return
    recipe.lr = args.lr
    there, its = (bool(options.pretrained or options.initial_checkpoint) for options in (recipe, args))
    if args.teacher_tune == 'all' and there != its and (there or takes_rates_of_sgd(recipe.opt)):
        recipe.lr = args.lr / 10 if there else args.lr * 10
        how, share = ('weights that are trained already', 'a tenth') if there else ('scratch', 'ten times')
        _logger.info(
            f"teacher {recipe.model} starts from {how}: its learning rate is {recipe.lr:g}, {share} of the student's "
            '(lr in a --teacher-config chooses another)')


def _fetch_zoo_weights(name: str) -> bool:
    """Whether the weights that timm knows for a model can be had; fetches them, or warns that they can't."""
    if name.startswith(ELSEWHERE):
        return True
    if timm.get_pretrained_cfg(name) is None or not timm.get_pretrained_cfg(name).has_weights:
        return False
    try:
        create_network(name, None, option='--teacher', pretrained=True)
    except UserError as e:
        _logger.warning(f'{e}: the teacher starts from scratch')
        return False
    return True


def _see_as_before(args: Namespace, recipe: Namespace, network: nn.Module) -> None:
    """Let weights that were trained before see images normalised as then (or as the options say), and of that size if
    they are frozen; in place."""
    cfg = network.pretrained_cfg
    recipe.mean, recipe.std, recipe.interpolation = list(cfg['mean']), list(cfg['std']), cfg['interpolation']
    side = cfg['input_size'][-1]
    if args.teacher_img_size:
        return
    if recipe.stage == 'head':
        recipe.img_size = side
    elif recipe.img_size not in (None, side):
        _logger.info(
            f"the weights of teacher '{recipe.model}' are of images of {side} pixels, and are tuned to the student's "
            f'of {recipe.img_size}; --teacher-img-size chooses others')


def _scale_padding(args: Namespace, recipe: Namespace) -> None:
    """Pad the teacher's images by the same share as the student's, unless its recipe says otherwise; in place."""
    if recipe.img_size and args.img_size and recipe.crop_padding == args.crop_padding:
        recipe.crop_padding = round(args.crop_padding * recipe.img_size / args.img_size)
