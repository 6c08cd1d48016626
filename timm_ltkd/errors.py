"""What a user can get wrong, told in one line."""
import difflib
import re
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user asked for: the message is one line that says what is wrong and what to do.

    The command lines print it without a traceback and exit with code 2.
    """


def nearest(name: str, options: Iterable[str]) -> str:
    """The hint that ends a message about an unknown name, e.g. `; did you mean 'bkd'? Known: bkd, kd`."""
    options = sorted(options)
    close = difflib.get_close_matches(str(name), options, n=1, cutoff=0.4)
    hint = f"; did you mean '{close[0]}'?" if close else '.'
    return f"{hint} Known: {', '.join(options)}" if 0 < len(options) <= 40 else hint


def unknown_keyword(error: BaseException) -> str | None:
    """The keyword that a call did not take, where that is what an error says."""
    said = re.search(r"got an unexpected keyword argument '(\w+)'", str(error))
    return said and said[1]


def last_line(error: BaseException) -> str:
    """The one line of an error that matters, also when a loader worker has wrapped it in a traceback."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1].strip().removeprefix('timm_ltkd.errors.UserError: ')
