"""Data sets that stay in memory as bytes: decoded once, then augmented and normalised a batch at a time."""
from .images import ResidentImages
from .loaders import ResidentEvalLoader, ResidentTrainLoader
from .machine import machine_memory
from .shared_memory import Exchange
from .steps import take_apart

__all__ = [
    'Exchange',
    'ResidentEvalLoader',
    'ResidentImages',
    'ResidentTrainLoader',
    'machine_memory',
    'take_apart',
]
