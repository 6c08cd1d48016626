"""Data that are only measured on: without a training split, whose classes and counts a network knows."""
from argparse import Namespace

from ..data import create_val_split, fingerprint
from ..errors import UserError
from ..prior import ClassPrior
from .networks.described import label_names, trained_counts
from .networks.trained import load_network
from .run_data import Data, check_data_folder, same_data, warn_of_unmeasured


def open_val_data(args: Namespace, source: str) -> Data:
    """The split to measure on, under the class names and training counts of a network.

    Args:
        args: Options of validate.py, whose `--train-split` is empty.
        source: The network, as `load_network` takes it.

    Returns:
        Data whose training split is not to be looked at: it is the other one.

    Raises:
        UserError: A network that does not say what it was trained on, options that want training images, or what
            `create_val_split` refuses.
    """
    wanting = {
        '--train-list': args.train_list, '--val-list': args.val_list, '--holdout': args.holdout,
        '--imbalance-factor': args.imbalance_factor,
        '--max-per-class': args.max_per_class, '--class-counts': args.class_counts, '--class-map': args.class_map,
        '--on-bad-image skip': args.on_bad_image == 'skip'}
    if given := next((option for option, value in wanting.items() if value), None):
        raise UserError(f"--train-split '' is for a split that is measured as it is; leave {given} out")
    check_data_folder(args)
    network = load_network(source, args.model, None, 'checkpoint', pretrained=args.pretrained)
    names, counts = label_names(source, network), trained_counts(source, network)
    if names is None or counts is None:
        raise UserError(
            f"--train-split '': {source} does not say its classes, and how many training images each had; name data "
            'with a training split, or a run')
    splits = create_val_split(
        args.dataset, args.data_dir, args.val_split, names, input_key=args.input_key, target_key=args.target_key,
        download=args.dataset_download)
    prior = ClassPrior(counts, names, many=args.many_shot, few=args.few_shot)
    warn_of_unmeasured(splits)
    return same_data(Data(splits, prior, fingerprint(splits)), args)
