"""Which options say nothing of what a run trains; whatever looks at options puts these aside."""

PLACE = frozenset(('config', 'output', 'experiment', 'resume', 'overwrite', 'push_to_hub', 'hub_private'))
"""Where a run comes from and goes."""

MANNER = frozenset((
    'workers', 'pin_mem', 'validation_batch_size', 'num_classes', 'log_with', 'log_interval', 'checkpoint_interval',
    'license'))
"""How it is carried out, watched and labelled."""
