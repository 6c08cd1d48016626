"""The recipes of `hparams/` from any folder, as an installation has them without the checkout."""
import os
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path


def find_recipe(path: str | Path) -> Path:
    """A config file, of the folder of a run its options; or where there is none and it is named `hparams/NAME`, the
    recipe that comes with the package."""
    path = Path(path)
    if os.path.isfile(path / 'args.yaml'):  # False for what can be no path, which is told where it is read
        return path / 'args.yaml'
    if path.parent != Path('hparams') or path.exists():
        return path
    of_checkout = Path(__file__).parents[2] / path
    return of_checkout if of_checkout.exists() else _installed(path) or path


def _installed(path: Path) -> Path | None:
    try:
        of_package = files('timm_ltkd') or []
    except PackageNotFoundError:
        return None
    # where a pip puts share/, the package's record of files says
    return next((Path(file.locate()).resolve() for file in of_package if file.parts[-2:] == path.parts), None)
