"""--seeds: the runs that it asks for, and what it goes with."""
import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import UserError
from ...options import listed
from ..networks.described import architecture, run_options
from ..sharing.hub import AUTO

MOST_AT_ONCE = 16  # on a GPU; torch has 32 streams and then begins anew, and a run with a CUDA graph takes two
_logger = logging.getLogger(__name__)


class SomeFailed(UserError):
    """What was wrong with runs that failed, beside the results of the others; both by name."""

    def __init__(self, results: Mapping[str, Any], failures: Mapping[str, UserError]):
        super().__init__('; '.join(f'{name}: {failure}' for name, failure in failures.items()))
        self.results = results


def each_seed(args: Namespace) -> list[Namespace]:
    """The options of each run that --seeds asks for, as they are for a run with this one seed; or the options."""
    if args.seeds is None:
        return [args]
    return [
        Namespace(**{
            **vars(args), 'seed': seed, 'seeds': None,
            'experiment': args.experiment and f'{args.experiment}-seed{seed}',
            'push_to_hub': args.push_to_hub if args.push_to_hub in (None, AUTO) else f'{args.push_to_hub}-seed{seed}',
        })
        for seed in args.seeds]


def seed_name(args: Namespace) -> str:
    """What a run is called beside others that differ in their seed."""
    return f'seed {args.seed}'


def warn_of_one_seed(args: Namespace, runs: Sequence[Namespace]) -> None:
    """Say so if a teacher that comes in the folder of its run was trained with the seed of a student."""
    for folder in listed(args.teacher_checkpoint):
        seed = run_options(folder).get('seed')
        if any(seed == run.seed for run in runs) and architecture(folder, '--teacher-checkpoint') == args.student:
            _logger.warning(
                f'the teacher in {folder} was trained with --seed {seed}, as a student of its architecture is going to '
                'be: both start from the same weights and, on the same data, see the same views in the same order; '
                'another --seed keeps them apart')


def check_seeds(args: Namespace) -> None:
    """Whether --seeds goes with the other options.

    Raises:
        UserError: A seed twice, more than a GPU has streams for, or the folder of one run to go on with.
    """
    if args.seeds is None:
        return
    if twice := [seed for seed in args.seeds if args.seeds.count(seed) > 1]:
        raise UserError(f'--seeds: {twice[0]} is named twice')
    if args.cuda_graph and len(args.seeds) > MOST_AT_ONCE:
        raise UserError(
            f'--seeds: at most {MOST_AT_ONCE} go with --cuda-graph, for which a GPU has streams, got {len(args.seeds)}')
    if args.resume not in (None, 'auto'):
        raise UserError('--seeds does not go with --resume FOLDER, which is one run; --resume auto finds those of all')
