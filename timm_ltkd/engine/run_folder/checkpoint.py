"""Training state at epoch boundaries: written whole or not at all, found again, loaded without pickled code."""
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils._pytree import tree_leaves

from ...errors import UserError, last_line
from ...files import replace_file

_logger = logging.getLogger(__name__)
_KINDS = {
    'model': dict, 'optimizer': dict, 'rng': list, 'epoch': int, 'updates': int, 'history': list, 'best': dict | None,
    'method_report': dict}
KEEP = 2  # the newest, and one more in case a disk damages it


def checkpoint_files(folder: Path) -> list[Path]:
    """Checkpoints in a `last/` folder, the newest first."""
    return sorted(folder.glob('checkpoint-*.pt'), key=lambda path: path.name, reverse=True)


def save_checkpoint(
        folder: Path,
        epoch: int,
        state: dict[str, Any],
        accelerator: Accelerator,
        rng: dict[str, Any],
) -> None:
    """Save the state after `epoch` epochs with the random states of all processes; older ones go.

    Args:
        folder: `last/` of the run.
        epoch: Epochs that are done.
        state: Of `Training`.
        rng: This process's own random state, as of `rng_state`.
    """
    rng = [rng] if accelerator.num_processes == 1 else gather_object([rng])
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        with replace_file(folder / f'checkpoint-{epoch:06d}.pt') as aside, open(aside, 'wb') as file:
            torch.save({**state, 'epoch': epoch, 'rng': rng}, file)  # a file of Python's tells why it cannot be written
        remove_old(folder)


def remove_old(folder: Path) -> None:
    """Keep the newest checkpoints of a `last/` folder."""
    for old in checkpoint_files(folder)[KEEP:]:
        old.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest state that can be read; None where there is none.

    Raises:
        UserError: There are checkpoints, and none can be read.
    """
    files = checkpoint_files(folder)
    for path in files:
        try:
            state = torch.load(path, map_location='cpu', weights_only=True)
            if 'rng' not in state:
                raise ValueError('it holds no training state')
            return state
        except Exception as e:  # truncated, damaged or unsafe: torch raises a dozen kinds
            _logger.warning(f'{path} cannot be read ({last_line(e)[:120]}); trying the one before')
    if files:
        raise UserError(f'no checkpoint in {folder} can be read; remove {folder.parent}, and its training starts anew')
    return None


def check_same_epoch(state: dict[str, Any] | None, accelerator: Accelerator, folder: Path) -> None:
    """Raise a UserError, in all processes, unless they found the same checkpoint: each reads the folder for itself."""
    if accelerator.num_processes == 1:
        return
    found = gather_object([None if state is None else state.get('epoch')])
    if len({*found}) > 1:
        told = ', '.join('none' if epoch is None else f'one of epoch {epoch}' for epoch in found)
        raise UserError(
            f'the processes find different checkpoints in {folder} ({told}, in their order): --output must be a folder '
            'that all machines share')


def check_state(state: dict[str, Any]) -> None:
    """Raise a ValueError if an entry is of another kind than those that a run saves."""
    for name, kind in _KINDS.items():
        if not isinstance(state.get(name), kind):
            raise ValueError(f"its '{name}' is not what a run writes")
    if not all(isinstance(row, dict) and isinstance(row.get('epoch'), int) for row in state['history']):
        raise ValueError("its 'history' is not what a run writes")


def rng_state() -> dict[str, Any]:
    """State of every random generator of this process and its own GPU, in types that load without pickled code."""
    kind, keys, *rest = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        'python': [version, list(internal), gauss],
        'numpy': [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the generators back to what `rng_state` returned."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state['numpy']
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if state['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'])


def equal_rng_states(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether nothing was drawn between two `rng_state`s."""
    return all(
        torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
        for one, two in zip(tree_leaves(first), tree_leaves(second), strict=True))
