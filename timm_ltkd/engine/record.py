"""What a run has shown so far: the figures of its epochs, and which of them was the best."""
from typing import Any

import torch
from torch import nn

from .evaluate import OUR_FIGURES


class Record:
    """Figures of a run, as its checkpoints keep them and its report tells them.

    Attributes:
        history: A row of figures of each epoch, as summary.csv has them.
        best: `metric`, `value`, `epoch` and `chosen_on` of the best epoch; None before the first evaluation.
        best_weights: Of that epoch, where they are to be taken in the end.
        method_report: What the method has counted in the last epoch.
        commits: Of this package's checkout while the run was trained, the first first; empty where there is none.
    """

    def __init__(self):
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.method_report: dict[str, Any] = {}
        self.commits: list[str] = []

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        kept = {} if self.best_weights is None else {'best_weights': self.best_weights}
        return kept | {
            'history': self.history, 'best': self.best, 'method_report': self.method_report, 'commits': self.commits}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.history, self.best, self.method_report = state['history'], state['best'], state['method_report']
        self.best_weights = state.get('best_weights')
        self.commits = state.get('commits', [])

    def note_commit(self, commit: str | None) -> None:
        """Remember the code that trains from here on."""
        if commit is not None and commit not in self.commits[-1:]:
            self.commits = [*self.commits, commit]

    def choose_by(self, metric: str) -> None:
        """Let another figure say which of the epochs so far was the best; of weights that are kept it cannot."""
        if self.best is None or self.best['metric'] == metric:
            return
        key, chosen_on, self.best = f'eval_{metric}', self.best['chosen_on'], None
        for row in self.history:
            if row.get(key) is not None:
                self.note_best(row['epoch'], metric, row[key], chosen_on, None)

    def note_best(self, epoch: int, metric: str, value: float, chosen_on: str, network: nn.Module | None) -> None:
        """Remember an epoch if it is better than those before; its weights too, if a network is given."""
        if self.best is None or value > self.best['value']:
            self.best = {'metric': metric, 'value': value, 'epoch': epoch, 'chosen_on': chosen_on}
            if network is not None:
                self.best_weights = {
                    key: weight.detach().to('cpu', copy=True) for key, weight in network.state_dict().items()}


def epoch_line(row: dict[str, Any], epochs: int, seconds: float, rate: float, where: str = '') -> str:
    """What the log tells of an epoch.

    Args:
        row: Of `Record.history`.
        epochs: Of the whole run.
        seconds: That the training took.
        rate: Images per second.
        where: What the figures are of, if that needs to be said.
    """
    figures = [f'loss {row["train_loss"]:.4f}']
    measured = [f'{key} {row[f"eval_{key}"]:.2f}' for key in ('top1', *OUR_FIGURES) if f'eval_{key}' in row]
    if measured and where:
        measured[0] = f'on {where} {measured[0]}'
    figures += measured
    figures += [f'lr {row["lr"]:.3g}', f'{rate:.0f} img/s', f'{seconds:.1f} s']
    return f'epoch {row["epoch"] + 1}/{epochs}: {", ".join(figures)}'
