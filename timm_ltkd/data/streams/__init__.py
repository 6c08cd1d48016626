"""Data that is read from one end to the other and cannot be indexed: `hfids/` and `wds/`."""
from .create import check_no_selection, create_stream, is_stream_name
from .dataset import StreamDataset
from .parts import EvalStream, TrainStream
from .scan import StreamScan, without_images
from .shuffle import warn_if_sorted

__all__ = [
    'EvalStream', 'StreamDataset', 'StreamScan', 'TrainStream', 'check_no_selection', 'create_stream', 'is_stream_name',
    'warn_if_sorted', 'without_images',
]
