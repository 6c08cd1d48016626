"""Post-hoc fixes of trained networks: measured, their strength chosen on a holdout."""
import logging
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..distill import linear_classifier
from ..errors import UserError
from ..posthoc import TAU_SWEEP, adjust_logits, tau_normalise
from ..prior import ClassPrior
from .evaluate import evaluate
from .recipe import Data, holdout_is_unseen

_logger = logging.getLogger(__name__)
OPTIONS = {'tau-norm': 'tau_norm', 'logit-adjust': 'logit_adjust'}


def wanted_fixes(args: Namespace) -> dict[str, list[float]]:
    """Values of τ to try, by name of the fix, as the options say; empty without any.

    Raises:
        UserError: Several values and no holdout to choose on, or 'sweep' among values.
    """
    found = {}
    for name, dest in OPTIONS.items():
        taus = getattr(args, dest)
        if 'sweep' in taus and len(taus) > 1:
            raise UserError(f'--{name}: give values, or sweep alone')
        taus = list(TAU_SWEEP) if 'sweep' in taus else sorted(set(taus))
        if len(taus) > 1 and not args.holdout:
            raise UserError(
                f'--{name}: {len(taus)} values to choose from, and no holdout to choose on (never on the test set); '
                'train with --holdout 0.1, or give one value')
        if taus:
            found[name] = taus
    return found


def check_holdout_is_unseen(source: str, args: Namespace, data: Data) -> None:
    """Whether a checkpoint was trained without the images that are to choose for it; a warning if it doesn't say.

    Raises:
        UserError: It is a run of ours that was trained on other images, perhaps on these.
    """
    unseen = holdout_is_unseen(source, args, data)
    if unseen is None:
        _logger.warning(
            f'{source} does not say what it was trained on: its τ is only fair if the holdout was no part of that')
    elif not unseen:
        raise UserError(
            f'{source} was trained with another holdout or on other data, perhaps on the very images that would choose '
            'its τ; measure it alone, or give one value')


class Batch(NamedTuple):
    """What a network made of some images: `features` [B, D] before its classifier (if kept), `logits` [B, C]."""
    features: torch.Tensor | None
    logits: torch.Tensor
    target: torch.Tensor
    index: torch.Tensor


class Recording:
    """What a network made of a data set, kept in host memory so that many fixes cost one pass over the images.

    A loader of (recorded, target, index) for `evaluate`.

    Args:
        batches: Of this process.
        dataset: What they come from, of all processes.
        device: Where they are given.
        column: What is recorded: `features` or `logits`.
    """

    def __init__(self, batches: Sequence[Batch], dataset: Dataset, device: torch.device, column: str = 'logits'):
        self.batches, self.dataset, self.device, self.column = batches, dataset, device, column

    def of(self, column: str) -> 'Recording':
        """The same, of `features` or `logits`."""
        return Recording(self.batches, self.dataset, self.device, column)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        for batch in self.batches:
            yield tuple(part.to(self.device) for part in (getattr(batch, self.column), batch.target, batch.index))


@torch.no_grad()
def record(
        network: nn.Module,
        loader: DataLoader,
        accelerator: Accelerator,
        classifier: nn.Linear | None = None,
        channels_last: bool = False,
) -> Recording:
    """One pass of a network over the images.

    Args:
        network: On the accelerator's device; put in eval mode.
        loader: Yields (input, target, index), on the device, with every index of the data set once over all processes.
        accelerator: Device, processes.
        classifier: Part of the network whose inputs are to be kept too.
        channels_last: Memory layout of the inputs.

    Raises:
        UserError: What the classifier returns is not what the network returns.
    """
    network.eval()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    entered: list[torch.Tensor] = []
    hook = classifier and classifier.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    batches = []
    try:
        for input, target, index in loader:
            entered.clear()
            logits = network(input.contiguous(memory_format=layout))
            features = None if classifier is None else _features(classifier, entered, logits)
            batches.append(Batch(features, logits.cpu(), target.cpu(), index.cpu()))
    finally:
        if hook is not None:
            hook.remove()
    return Recording(batches, loader.dataset, accelerator.device)


def _features(classifier: nn.Linear, entered: list[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
    """What entered the classifier, if the logits are what came out of it."""
    if len(entered) == 1 and entered[0].shape[:-1] == logits.shape[:-1]:
        features = entered[0].float()
        bias = None if classifier.bias is None else classifier.bias.float()
        again = F.linear(features, classifier.weight.float(), bias)
        if torch.allclose(again, logits.float(), rtol=2e-2, atol=2e-2 * float(logits.abs().max())):  # bf16 is coarse
            return features.cpu()
    raise UserError('--tau-norm needs a network whose logits are what its one linear classifier returns')


class NormalisedHead(nn.Module):
    """Logits of a tau-normalised classifier; without its bias, as in the paper.

    Args:
        classifier: Left as it is.
        tau: τ.
    """

    def __init__(self, classifier: nn.Linear, tau: float):
        super().__init__()
        self.register_buffer('weight', tau_normalise(classifier.weight, tau))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.linear(features, self.weight)


class AdjustedLogits(nn.Module):
    """Logits without τ times the log prior."""

    def __init__(self, prior: ClassPrior, tau: float):
        super().__init__()
        self.log_prior, self.tau = prior.log_prior(), tau

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return adjust_logits(logits, self.log_prior, self.tau)


def measure_fixes(
        network: nn.Module,
        fixes: dict[str, list[float]],
        metric: str,
        loader: DataLoader,
        holdout_loader: DataLoader | None,
        accelerator: Accelerator,
        prior: ClassPrior,
        channels_last: bool = False,
        trained: ClassPrior | None = None,
) -> dict[str, dict[str, Any]]:
    """Reports of a network plain and with each fix.

    Where there are several values of τ, the one with the highest `metric` on the holdout is taken, the smallest of
    equals; nothing is looked up on the test set.

    Args:
        network: On the accelerator's device.
        fixes: Of `wanted_fixes`.
        metric: A figure of `long_tail_report`.
        loader: Images to report on.
        holdout_loader: Images to choose on, none of which was trained on; not looked at for a single value.
        accelerator: Device, processes.
        prior: Of the data, whose shot groups are reported on.
        channels_last: Memory layout of the inputs.
        trained: Of what the network was trained on, by which its logits are adjusted; `prior` if None.

    Returns:
        By what is appended to the row's name: '' for the plain network, then e.g. 'tau-norm 0.7'. Those of the fixes
        also have `fix`, `tau` and `chosen_on` ('holdout', or None for a given value).

    Raises:
        UserError: No linear classifier to normalise, or a metric that the holdout doesn't have.
    """
    classifier = linear_classifier(network, '--tau-norm needs')[1] if 'tau-norm' in fixes else None

    def report(recording: Recording, name: str, tau: float) -> dict[str, Any]:
        if name == 'tau-norm':
            return evaluate(NormalisedHead(classifier, tau), recording.of('features'), accelerator, prior)
        return evaluate(AdjustedLogits(trained or prior, tau), recording.of('logits'), accelerator, prior)

    taus = {name: values[0] for name, values in fixes.items() if len(values) == 1}
    if len(taus) < len(fixes):
        held_out = record(network, holdout_loader, accelerator, classifier, channels_last)
        for name, values in fixes.items():
            if name not in taus:
                taus[name] = _best_tau(name, {tau: report(held_out, name, tau) for tau in values}, metric)
    test = record(network, loader, accelerator, classifier, channels_last)
    rows = {'': evaluate(nn.Identity(), test.of('logits'), accelerator, prior)}
    for name, values in fixes.items():
        chosen_on = 'holdout' if len(values) > 1 else None
        rows[f'{name} {taus[name]:g}'] = report(test, name, taus[name]) | {
            'fix': name, 'tau': taus[name], 'chosen_on': chosen_on}
    return rows


def _best_tau(name: str, reports: dict[float, dict[str, Any]], metric: str) -> float:
    if any(report.get(metric) is None for report in reports.values()):
        raise UserError(f"--eval-metric {metric}: the holdout has no image of such a class; choose balanced")
    best = max(reports, key=lambda tau: reports[tau][metric])
    figures = ', '.join(f'{tau:g}: {report[metric]:.2f}' for tau, report in reports.items())
    _logger.info(f'--{name}: {metric} on the holdout by τ: {figures}; τ = {best:g}')
    return best
