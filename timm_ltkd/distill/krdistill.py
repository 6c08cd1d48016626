"""Knowledge rectification distillation (Huang et al. 2024): what a biased teacher says is put right first."""
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import UserError
from ..prior import ClassPrior
from .checks import (
    check_choice,
    check_class_count,
    check_hard_labels,
    check_number,
    check_pair,
    check_seed,
    check_temperature,
    full_precision,
)
from .closed_form import softened_kl
from .feature import linear_projector
from .method import DistillMethod, Output, given_features, register_method, standardize_logits
from .prototypes import align_prototypes, balanced_prototypes, class_directions

LRD = ('swap', 'swap_adjust', 'adjust', 'none')
RRD = ('prototype', 'class_mean', 'none')
SAMPLE_WEIGHTS = ('effective', 'inverse', 'sqrt', 'uniform')
INERT_BELOW = 0.01
_FIGURES = {'lrd': 'swap_share', 'rrd': 'feature_shift'}


def rectified_logits(
        teacher_logits: torch.Tensor,
        target: torch.Tensor,
        mode: str = 'swap',
        log_prior: torch.Tensor | None = None,
        tau: float = 1.,
) -> torch.Tensor:
    """Teacher logits put right, by the label, the class prior, or both.

    Source: the aim is that of Huang et al. 2024, arXiv 2409.07694 (abstract); the form is our reading of it.

    Args:
        teacher_logits: z_t `[B, C]`; gets no gradient.
        target: Class indices `[B]`.
        mode: `swap`: where the teacher is wrong, its largest logit and the label's change places. `adjust`: τ · log π
            is taken off. `swap_adjust`: both, in this order. `none`: as they are.
        log_prior: log π `[C]`, for adjusting.
        tau: τ.

    Returns:
        `[B, C]`, in float32 at least; untouched by a swap where the label has the largest logit.

    Raises:
        UserError: An unknown mode, labels that are no class indices, or no prior to adjust by.
    """
    check_choice('krdistill', 'lrd', mode, LRD)
    logits = full_precision(teacher_logits.detach())
    if mode in ('swap', 'swap_adjust'):
        target = check_hard_labels('krdistill', target, len(logits))
        label = target.unsqueeze(1)
        top, place = logits.max(dim=1, keepdim=True)
        logits = logits.scatter(1, place, logits.gather(1, label)).scatter(1, label, top)
    if mode in ('adjust', 'swap_adjust'):
        if log_prior is None:
            raise UserError(f'krdistill: lrd={mode} frees logits of the class prior: pass log_prior')
        check_class_count(log_prior.numel(), logits)
        logits = logits - (tau * log_prior).to(logits)
    return logits


def lrd_loss(
        student_logits: torch.Tensor,
        rectified: torch.Tensor,
        sample_weights: torch.Tensor,
        temperature: float = 2.,
) -> torch.Tensor:
    """T² · w_b · KL(softmax(z_rectified / T) ‖ softmax(z_s / T)), mean over the batch; the form is our reading.

    Args:
        student_logits: z_s `[B, C]`.
        rectified: `[B, C]`, from `rectified_logits`.
        sample_weights: w `[B]`; the mean is over images, not over weights.
        temperature: T > 0.

    Returns:
        Scalar, in float32 at least.
    """
    divergence = softened_kl(student_logits, rectified, temperature)
    return (sample_weights.to(divergence) * divergence).mean() * temperature


def rectified_features(
        features: torch.Tensor,
        target: torch.Tensor,
        prior_directions: torch.Tensor,
        lam: torch.Tensor,
) -> torch.Tensor:
    """normalise((1 - λ_y) · f / |f| + λ_y · m_y): the teacher's feature, leaning on the direction of its class.

    The form is our reading. The feature is normalised first, so that λ is the share of the prior whatever its length.

    Args:
        features: Centred teacher features f `[B, D]`; get no gradient.
        target: Class indices y `[B]`.
        prior_directions: Unit vectors m `[C, D]`.
        lam: λ `[C]`, in [0, 1].

    Returns:
        Unit vectors `[B, D]`, in float32 at least.
    """
    target = check_hard_labels('krdistill', target, len(features))
    own = F.normalize(full_precision(features.detach()), dim=1)
    share = lam[target].to(own).unsqueeze(1)
    return F.normalize((1. - share) * own + share * prior_directions[target].to(own), dim=1)


def rrd_loss(student_features: torch.Tensor, rectified: torch.Tensor) -> torch.Tensor:
    """Mean cosine distance between the student's projected features `[B, D]` and `rectified_features` `[B, D]`.

    The form is our reading. Returns a scalar, in float32 at least.
    """
    return (1. - F.cosine_similarity(full_precision(student_features), rectified.detach(), dim=1)).mean()


def rectification_report(sums: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """How much was rectified, from the sums that `KRDistill.statistics` gives, added over processes.

    Args:
        sums: `images`, and of the parts that are on `swap_share` and `feature_shift`; each `[3]`: many, medium, few.

    Returns:
        `swap_share`: share of the targets with another top class than the teacher's, by shot group; `feature_shift`:
        mean cosine distance between the teacher's feature and the rectified one; `inert`: the parts (`lrd`, `rrd`) that
        changed less than `INERT_BELOW` in every group. A group without an image, and a part that is off, is absent.
    """
    if not sums or not sums['images'].any():
        return {}
    images = dict(zip(('many', 'medium', 'few'), sums['images'].tolist(), strict=True))
    report = {
        figure: {
            group: total / images[group]
            for group, total in zip(images, sums[figure].tolist(), strict=True) if images[group]}
        for figure in _FIGURES.values() if figure in sums}
    inert = [
        part for part, figure in _FIGURES.items()
        if figure in report and all(value < INERT_BELOW for value in report[figure].values())]
    return report | {'inert': inert}


@register_method('krdistill')
class KRDistill(DistillMethod):
    """α · rectified logits + γ · rectified features; the form is ours (Huang et al. 2024, arXiv 2409.07694).

    Logits (LRD): T² · KL from `rectified_logits`, weighted by class. Features (RRD): cosine distance from
    `rectified_features` with λ_c = k / (n_c + k) to the student's, through one linear layer. The teacher's features are
    centred on the mean of its class means. The student's are centred by the layer's bias: to subtract a centre before
    the layer or its image after it is the same, and a learned one needs no statistics of batches or processes.

    What `set_class_means` computes is in the state dict.

    Args:
        prior: Class prior of the training set.
        student_features: Length of the student's pooled features; not needed where `rrd` is none.
        teacher_features: Length of the teacher's.
        rrd: What features lean on. `prototype`: evenly spread directions, rotated onto the teacher's class means;
            `class_mean`: these class means themselves; `none`: no term on features.
        lrd: How logits are put right: swap, swap_adjust, adjust or none, see `rectified_logits`.
        sample_weights: Weight of an image's logit term by its class, mean 1 over the classes: effective (numbers),
            inverse (frequency), sqrt (of it) or uniform.
        temperature: T of the logit term.
        alpha: α, weight of the logit term.
        gamma: γ, weight of the feature term.
        k: Number of images at which a class leans half on the prior.
        tau: τ of the adjustment; None is T, which takes the whole prior from the softened distribution.
        beta: β of the effective numbers.
        seed: Of prototypes and projector.
    """
    log_prior: torch.Tensor
    class_weights: torch.Tensor
    lam: torch.Tensor
    group_member: torch.Tensor
    feature_centre: torch.Tensor
    prior_directions: torch.Tensor
    needs_hard_labels = True
    standardized = False

    def __init__(
            self,
            *,
            prior: ClassPrior,
            student_features: int | None = None,
            teacher_features: int | None = None,
            rrd: str = 'prototype',
            lrd: str = 'swap_adjust',
            sample_weights: str = 'uniform',
            temperature: float = 2.,
            alpha: float = 1.,
            gamma: float = 1.,
            k: float = 20.,
            tau: float | None = None,
            beta: float = 0.9999,
            seed: int = 0,
    ):
        super().__init__()
        self.rrd = check_choice('krdistill', 'rrd', rrd, RRD)
        self.lrd = check_choice('krdistill', 'lrd', lrd, LRD)
        self.temperature = check_temperature('krdistill', temperature)
        self.alpha = check_number('krdistill', 'alpha', alpha, least=0.)
        self.gamma = check_number('krdistill', 'gamma', gamma, least=0.)
        self.tau = check_number('krdistill', 'tau', self.temperature if tau is None else tau, least=0.)
        self.seed = check_seed('krdistill', seed)
        k = check_number('krdistill', 'k', k, least=0.)
        check_choice('krdistill', 'sample_weights', sample_weights, SAMPLE_WEIGHTS)
        self.corrects_prior = 'adjust' in lrd or sample_weights != 'uniform'
        self.needs_features = self.needs_class_means = rrd != 'none'
        self.means_known = False
        self.sums: dict[str, torch.Tensor] = {}  # no buffer: DDP would copy the first process's sums to the others
        for name, buffer in (
            ('log_prior', prior.log_prior()),
            ('class_weights', _class_weights(prior, sample_weights, check_number('krdistill', 'beta', beta))),
            ('lam', k / (prior.counts + k)),
            ('group_member', torch.stack(list(prior.shot_groups().values()), dim=1).float()),
        ):
            self.register_buffer(name, buffer, persistent=False)  # made from the prior, not saved
        if self.needs_features:
            if student_features is None or teacher_features is None:
                raise UserError(
                    f'krdistill: rrd={rrd} compares features: pass student_features=feature_dim(student) and '
                    'teacher_features=feature_dim(teacher), or rrd=none')
            self.projector = linear_projector(student_features, teacher_features, seed=self.seed)
            self.register_buffer('feature_centre', torch.zeros(teacher_features))
            self.register_buffer('prior_directions', torch.zeros(prior.num_classes, teacher_features))
            self.register_load_state_dict_post_hook(_know_means)

    def set_class_means(self, means: torch.Tensor) -> None:
        """Make the directions that features lean on from the teacher's class means.

        Args:
            means: Mean feature of each class over its training images, `[C, D]`.

        Raises:
            UserError: Means of another shape, or not finite.
        """
        if not self.needs_class_means:
            return
        means, expected = means.detach().cpu().double(), self.prior_directions.shape
        if means.shape != expected or not means.isfinite().all():
            raise UserError(
                f'krdistill needs finite class means of shape {list(expected)}, got {list(means.shape)} with '
                f'{int((~means.isfinite()).sum())} that are not finite')
        directions = class_directions(means)
        if self.rrd == 'prototype':
            num_classes, length = means.shape
            directions = align_prototypes(balanced_prototypes(num_classes, length, seed=self.seed), means)
        self.feature_centre.copy_(means.mean(dim=0))
        self.prior_directions.copy_(directions)
        self.means_known = True

    def forward(self, student: Output, teacher: Output, target: torch.Tensor) -> dict[str, torch.Tensor]:
        target = check_hard_labels('krdistill', target, len(student.logits))
        check_pair(student.logits, teacher.logits)
        check_class_count(len(self.lam), student.logits)
        logits = rectified_logits(teacher.logits, target, self.lrd, self.log_prior, self.tau)
        compared = student.logits, logits
        if self.standardized:
            compared = standardize_logits(student.logits), standardize_logits(logits)
        loss = lrd_loss(*compared, self.class_weights[target], self.temperature)
        terms, figures = {'lrd_loss': self.alpha * loss}, {'images': torch.ones_like(target)}
        if self.lrd != 'none':
            figures['swap_share'] = logits.argmax(dim=1) != teacher.logits.argmax(dim=1)
        if self.needs_features:
            if not self.means_known:
                raise UserError("krdistill: give set_class_means the teacher's class means before training")
            centred = given_features(teacher).detach() - self.feature_centre
            features = rectified_features(centred, target, self.prior_directions, self.lam)
            terms['rrd_loss'] = self.gamma * rrd_loss(self.projector(given_features(student)), features)
            figures['feature_shift'] = 1. - F.cosine_similarity(centred, features, dim=1)
        if self.training:
            self._add(target, figures)
        return terms

    def statistics(self) -> dict[str, torch.Tensor]:
        return dict(self.sums)

    def reset_statistics(self) -> None:
        for total in self.sums.values():
            total.zero_()

    def describe_statistics(self, sums: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        return rectification_report(sums)

    @torch.no_grad()
    def _add(self, target: torch.Tensor, figures: dict[str, torch.Tensor]) -> None:
        """Add figures of the images `[B]` to the sums by shot group `[3]`: on the device, and in place."""
        member = self.group_member[target]
        for name, figure in figures.items():
            total = (member * figure.to(member).unsqueeze(1)).sum(dim=0)
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(total)
            self.sums[name].add_(total)


def _know_means(method: KRDistill, incompatible_keys: Any) -> None:
    """What is loaded from a checkpoint need not be computed again, unless it is from before it was."""
    method.means_known = bool(method.prior_directions.any())


def _class_weights(prior: ClassPrior, kind: str, beta: float) -> torch.Tensor:
    """Weights `[C]` of mean 1, float64."""
    effective = prior.effective_number_weights(beta)  # whatever the kind: it checks beta
    if kind == 'effective':
        return effective
    return prior.inverse_frequency_weights({'inverse': 1., 'sqrt': 0.5, 'uniform': 0.}[kind])
