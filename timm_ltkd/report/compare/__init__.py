"""Finished runs side by side: one row for the seeds of a recipe, the options that differ, and figures of all."""
from .comparison import Comparison, compare_runs
from .runs import FinishedRun, read_run, read_runs
from .write import comparison_text, write_comparison

__all__ = ['Comparison', 'FinishedRun', 'compare_runs', 'comparison_text', 'read_run', 'read_runs', 'write_comparison']
