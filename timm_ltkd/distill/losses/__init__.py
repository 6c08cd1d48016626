"""Hard-label losses: each a pure function and, beside it, the module that `--loss` makes of it."""
from .balanced_softmax import BalancedSoftmax, balanced_softmax_loss
from .ce import CrossEntropy, cross_entropy_loss
from .class_weights import ClassWeights
from .cosine import CosineLinear, cosine_classifier, plain_classifier
from .focal import Focal, focal_loss
from .ldam import LDAM, ldam_loss, ldam_margins
from .logit_adjust import LogitAdjust, logit_adjusted_loss
from .loss import HardLabelLoss, create_loss, describe_losses, list_losses, loss_class, register_loss
from .weighted_ce import WeightedCrossEntropy, weighted_cross_entropy_loss

__all__ = [
    'LDAM', 'BalancedSoftmax', 'ClassWeights', 'CosineLinear', 'CrossEntropy', 'Focal', 'HardLabelLoss', 'LogitAdjust',
    'WeightedCrossEntropy', 'balanced_softmax_loss', 'cosine_classifier', 'create_loss', 'cross_entropy_loss',
    'describe_losses', 'focal_loss', 'ldam_loss', 'ldam_margins', 'list_losses', 'logit_adjusted_loss',
    'loss_class', 'plain_classifier', 'register_loss', 'weighted_cross_entropy_loss',
]
