"""What data sets are called: `lt/` before a name of timm's stands for a set that is, or can be made, long-tailed."""
PREFIX = 'lt/'


def is_long_tailed_name(name: str) -> bool:
    """Whether a name begins with `lt/`."""
    return name.lower().startswith(PREFIX)


def plain_name(name: str) -> str:
    """A name without `lt/`; most are without."""
    return name[len(PREFIX):] if is_long_tailed_name(name) else name
