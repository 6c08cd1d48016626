"""The network that a training starts with."""
from argparse import Namespace
from functools import partial

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from .build import check_recipe, create_criterion
from .loaders import choose_loader
from .networks.create import WEIGHTS_OF, check_takes_images, checkpoint_activations, create_network
from .networks.input import resolve_input, set_input
from .networks.trained import load_initial, warn_of_other_images
from .run_data import Data
from .stages import check_stage, prepare_stage


def trainable_network(args: Namespace, name: str, data: Data, accelerator: Accelerator, option: str) -> nn.Module:
    """A network as the options describe it, seeded, that knows how its images come; the whole recipe is checked."""
    if stage := getattr(args, 'stage', None):
        check_stage(args)
    set_seed(args.seed)
    make = partial(
        create_network, name, data.prior.num_classes, option=option,
        pretrained=args.pretrained and not args.initial_checkpoint,  # whose weights take the place of all others
        img_size=args.img_size, small_image_stem=args.small_image_stem, model_kwargs=args.model_kwargs,
        drop_path_rate=args.drop_path, global_pool=args.gp)
    network = make(drop_rate=args.drop or None)  # not every network takes one
    if not args.drop and getattr(network, 'drop_rate', 0.) and 'drop_rate' not in args.model_kwargs:
        set_seed(args.seed)
        network = make(drop_rate=0.)  # a few of timm's have dropout unless told otherwise
    if args.initial_checkpoint:
        load_initial(args, network, data, WEIGHTS_OF[option])
    if args.grad_checkpointing:
        checkpoint_activations(network, f"{option} '{name}'")
    set_input(network, resolve_input(args, network.pretrained_cfg))
    if stage and args.initial_checkpoint:
        warn_of_other_images(args.initial_checkpoint, network, network.pretrained_cfg, WEIGHTS_OF[option])
    check_takes_images(network, network.pretrained_cfg['input_size'], f"{option} '{name}'")
    create_criterion(args, data).prepare(network)
    if stage:
        prepare_stage(network, stage, seed=args.seed)
    choose_loader(args, accelerator, data, network.pretrained_cfg)
    check_recipe(args, accelerator, data, network)
    return network
