"""What is told about a run: tables, summary.csv, figures and the report files."""
from .figures import (
    plot_accuracy_by_frequency,
    plot_calibration,
    plot_class_profile,
    plot_curves,
    plot_difference,
    plot_group_confusion,
    plot_groups,
    plot_teacher_student,
)
from .profile import data_profile, group_classes
from .summary import read_summary, write_summary
from .table import format_table, markdown_table, spread
from .write import write_report

__all__ = [
    'data_profile',
    'format_table',
    'group_classes',
    'markdown_table',
    'plot_accuracy_by_frequency',
    'plot_calibration',
    'plot_class_profile',
    'plot_curves',
    'plot_difference',
    'plot_group_confusion',
    'plot_groups',
    'plot_teacher_student',
    'read_summary',
    'spread',
    'write_report',
    'write_summary',
]
