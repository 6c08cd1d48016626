"""What is learned from: distillation methods, hard-label losses, teachers, and the task that joins them."""
from .bank import DTYPES as BANK_DTYPES
from .bank import RowLayout, TeacherBank, open_bank
from .bkd import BKD, balanced_kd_loss
from .classifier import classifier_names, linear_classifier
from .dist import DIST, dist_loss
from .dive import DiVE, dive_loss
from .dkd import DKD, decoupled_kl, dkd_loss
from .ensemble import TeacherEnsemble
from .feature import Feature, feature_loss
from .kd import KD, kd_loss
from .krdistill import (
    KRDistill,
    lrd_loss,
    rectification_report,
    rectified_features,
    rectified_logits,
    rrd_loss,
)
from .losses import (
    LDAM,
    BalancedSoftmax,
    ClassWeights,
    CosineLinear,
    CrossEntropy,
    Focal,
    HardLabelLoss,
    LogitAdjust,
    WeightedCrossEntropy,
    balanced_softmax_loss,
    cosine_classifier,
    create_loss,
    cross_entropy_loss,
    describe_losses,
    focal_loss,
    ldam_loss,
    ldam_margins,
    list_losses,
    logit_adjusted_loss,
    loss_class,
    plain_classifier,
    register_loss,
    weighted_cross_entropy_loss,
)
from .ltkd import LTKD, class_thirds, grouped_kl, ltkd_loss
from .method import (
    DistillMethod,
    StandardizedLogits,
    create_method,
    describe_methods,
    list_methods,
    method_class,
    method_options,
    register_method,
    standardize_logits,
)
from .output import Output, check_logits, feature_dim, model_output
from .pixels import PixelAdapter, normalisation
from .prototypes import align_prototypes, balanced_prototypes, class_directions
from .several import SeveralMethods, check_method_count, create_methods, share_options
from .task import DistillTask
from .teacher import Teacher, share_teacher
from .wsl import WSL, soft_label_weights, wsl_loss

__all__ = [
    'BANK_DTYPES', 'BKD', 'DIST', 'DKD', 'KD', 'LDAM', 'LTKD', 'WSL', 'BalancedSoftmax', 'ClassWeights', 'CosineLinear',
    'CrossEntropy', 'DiVE', 'DistillMethod', 'DistillTask', 'Feature', 'Focal', 'HardLabelLoss', 'KRDistill',
    'LogitAdjust', 'Output', 'PixelAdapter', 'RowLayout', 'SeveralMethods', 'StandardizedLogits', 'Teacher',
    'TeacherBank', 'TeacherEnsemble', 'WeightedCrossEntropy', 'align_prototypes', 'balanced_kd_loss',
    'balanced_prototypes', 'balanced_softmax_loss', 'check_logits', 'check_method_count', 'class_directions',
    'class_thirds', 'classifier_names', 'cosine_classifier', 'create_loss', 'create_method', 'create_methods',
    'cross_entropy_loss', 'decoupled_kl', 'describe_losses', 'describe_methods', 'dist_loss', 'dive_loss', 'dkd_loss',
    'feature_dim', 'feature_loss', 'focal_loss', 'grouped_kl', 'kd_loss', 'ldam_loss', 'ldam_margins',
    'linear_classifier', 'list_losses', 'list_methods', 'logit_adjusted_loss', 'loss_class', 'lrd_loss', 'ltkd_loss',
    'method_class', 'method_options', 'model_output', 'normalisation', 'open_bank', 'plain_classifier',
    'rectification_report', 'rectified_features', 'rectified_logits', 'register_loss', 'register_method', 'rrd_loss',
    'share_options', 'share_teacher', 'soft_label_weights', 'standardize_logits', 'weighted_cross_entropy_loss',
    'wsl_loss',
]
