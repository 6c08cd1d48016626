"""What is learned from: distillation methods, hard-label losses, teachers, and the task that joins them."""
from .bkd import BKD, balanced_kd_loss
from .kd import KD, kd_loss
from .loss import create_loss, list_losses
from .method import DistillMethod, Output, create_method, list_methods, register_method
from .task import DistillTask
from .teacher import Teacher

__all__ = [
    'BKD', 'KD', 'DistillMethod', 'DistillTask', 'Output', 'Teacher', 'balanced_kd_loss', 'create_loss',
    'create_method', 'kd_loss', 'list_losses', 'list_methods', 'register_method',
]
