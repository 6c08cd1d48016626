"""Figures as PNG: each a function of reports that replaces a file, none touches pyplot's global state."""
from .calibration import plot_calibration
from .classes import plot_accuracy_by_frequency, plot_class_profile, plot_difference, plot_teacher_student
from .curves import plot_curves
from .groups import plot_group_confusion, plot_groups

__all__ = [
    'plot_accuracy_by_frequency',
    'plot_calibration',
    'plot_class_profile',
    'plot_curves',
    'plot_difference',
    'plot_group_confusion',
    'plot_groups',
    'plot_teacher_student',
]
