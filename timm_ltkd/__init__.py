"""Long-tailed knowledge distillation for timm: importing this registers its models and datasets with timm."""
from . import data, distill, metrics, models, posthoc
from .data import create_dataset, register_dataset
from .data.plugin import register as _register_datasets
from .distill import DistillTask, Teacher, create_loss, create_method, create_methods, list_losses, list_methods
from .errors import UserError
from .prior import ClassPrior
from .version import __version__

_register_datasets()

__all__ = [
    'ClassPrior', 'DistillTask', 'Teacher', 'UserError', '__version__', 'create_dataset', 'create_loss',
    'create_method', 'create_methods', 'data', 'distill', 'list_losses', 'list_methods', 'metrics', 'models',
    'posthoc', 'register_dataset',
]
