"""Post-hoc fixes of trained networks: measured, their strength chosen on a holdout; or built in."""
import logging
from argparse import Namespace
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from ..distill import linear_classifier
from ..errors import UserError
from ..posthoc import TAU_SWEEP, adjust_logits, tau_normalise
from ..prior import ClassPrior
from .evaluate import answers, figures

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


class Batch(NamedTuple):
    """What a network made of some images: `features` [B, D] before its classifier (if kept), `logits` [B, C]."""
    features: torch.Tensor | None
    logits: torch.Tensor
    target: torch.Tensor
    index: torch.Tensor


@torch.no_grad()
def record(
        network: nn.Module,
        loader: DataLoader,
        classifier: nn.Linear | None = None,
        channels_last: bool = False,
) -> list[Batch]:
    """One pass of a network over the images, kept in host memory so that many fixes cost no other.

    Args:
        network: On the accelerator's device; put in eval mode.
        loader: Yields (input, target, index), on the device.
        classifier: Part of the network whose inputs are to be kept too.

    Raises:
        UserError: What the classifier returns is not what the network returns.
    """
    batches, entered = [], []
    hook = classifier and classifier.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    with hook or nullcontext():
        for logits, target, index in answers(network, loader, channels_last):
            features = _features(classifier, entered, logits, 'tau-norm') if classifier else None
            entered.clear()
            batches.append(Batch(features, logits.cpu(), target.cpu(), index.cpu()))
    return batches


def _features(classifier: nn.Linear, entered: list[torch.Tensor], logits: torch.Tensor, fix: str) -> torch.Tensor:
    """What entered the classifier, if the logits are what came out of it; else a UserError about a fix."""
    if len(entered) == 1 and entered[0].shape[:-1] == logits.shape[:-1]:
        features = entered[0].float()
        bias = None if classifier.bias is None else classifier.bias.float()
        again = F.linear(features, classifier.weight.float(), bias)
        if torch.allclose(again, logits.float(), rtol=2e-2, atol=2e-2 * float(logits.abs().max())):  # bf16 is coarse
            return features.cpu().contiguous()
    raise UserError(f'--{fix} needs a network whose logits are what its one linear classifier returns')


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
        prior: Of the data, whose shot groups are reported on.
        trained: Of what the network was trained on, by which its logits are adjusted; `prior` if None.

    Returns:
        By what is appended to the row's name: '' for the plain network, then e.g. 'tau-norm 0.7'. Those of the fixes
        also have `fix`, `tau` and `chosen_on` ('holdout', or None for a given value).

    Raises:
        UserError: No linear classifier to normalise, or a metric that the holdout doesn't have.
    """
    device, log_prior = accelerator.device, (trained or prior).log_prior()
    classifier = linear_classifier(network, '--tau-norm needs')[1] if 'tau-norm' in fixes else None

    def fixed(batches: list[Batch], name: str, tau: float) -> Iterator[tuple[torch.Tensor, ...]]:
        """With a fix, or as they are without its name; what `figures` takes."""
        weight = tau_normalise(classifier.weight, tau) if name == 'tau-norm' else None
        for features, logits, target, index in batches:
            if name == 'tau-norm':
                logits = F.linear(features.to(device), weight)  # without the bias, as in the paper
            elif name == 'logit-adjust':
                logits = adjust_logits(logits.to(device), log_prior, tau)
            yield logits.to(device), target.to(device), index.to(device)

    def reports(loader: DataLoader, fixes: dict[str, list[float]]) -> dict[str, dict[float, dict[str, Any]]]:
        """By name and τ, of one pass over the images."""
        batches, count = record(network, loader, classifier, channels_last), len(loader.dataset)
        return {
            name: {tau: figures(fixed(batches, name, tau), count, accelerator, prior) for tau in taus}
            for name, taus in fixes.items()}

    unsure = {name: taus for name, taus in fixes.items() if len(taus) > 1}
    held_out = reports(holdout_loader, unsure) if unsure else {}
    chosen = {name: [_best_tau(name, found, metric)] for name, found in held_out.items()}
    rows = {}
    for name, found in reports(loader, {'': [0.]} | fixes | chosen).items():
        for tau, report in found.items():
            how = {'fix': name, 'tau': tau, 'chosen_on': 'holdout' if name in chosen else None} if name else {}
            rows[f'{name} {tau:g}' if name else ''] = report | how
    return rows


@torch.no_grad()
def build_in(network: nn.Module, fix: str, tau: float, log_prior: torch.Tensor | None = None) -> None:
    """Put a fix into the linear classifier of a network, so that it returns what is measured with it; in place.

    Args:
        network: On the CPU, and knows the size of its images; put in eval mode.
        fix: 'tau-norm' or 'logit-adjust'.
        tau: Its strength.
        log_prior: log π `[C]` of what it was trained on, for 'logit-adjust'.

    Raises:
        UserError: Its logits are not what one linear layer returns, or that has no bias to take the log prior off.
    """
    classifier, entered = linear_classifier(network, f'--{fix} needs')[1], []
    images = torch.randn(2, *network.pretrained_cfg['input_size'], generator=torch.Generator().manual_seed(0))
    with classifier.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0])):
        logits = network.eval()(images)
    _features(classifier, entered, logits, fix)
    if fix == 'tau-norm':
        classifier.weight.copy_(tau_normalise(classifier.weight, tau))
        if classifier.bias is not None:
            classifier.bias.zero_()  # as in the paper
    elif classifier.bias is None:
        raise UserError(f'--{fix}: the classifier of {type(network).__name__} has no bias to take the log prior off')
    else:
        classifier.bias.copy_(adjust_logits(classifier.bias, log_prior, tau))


def _best_tau(name: str, reports: dict[float, dict[str, Any]], metric: str) -> float:
    if any(report.get(metric) is None for report in reports.values()):
        raise UserError(f"--eval-metric {metric}: the holdout has no image of such a class; choose balanced")
    best = max(reports, key=lambda tau: reports[tau][metric])
    figures = ', '.join(f'{tau:g}: {report[metric]:.2f}' for tau, report in reports.items())
    _logger.info(f'--{name}: {metric} on the holdout by τ: {figures}; τ = {best:g}')
    return best
