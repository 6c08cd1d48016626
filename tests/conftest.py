"""What every test shares: no hub, few threads, and where the project's own data pack may lie."""
import os

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('MPLBACKEND', 'Agg')

import logging  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope='session')
def _one_thread():
    """Tests run side by side: one thread each is fastest, and makes results repeatable."""
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def shared():
    """The folder with golden figures and real data beside the checkout; tests that need it skip without it."""
    folder = ROOT.parent / 'shared'
    if not folder.is_dir():
        pytest.skip('needs the shared data folder beside the checkout')
    return folder


@pytest.fixture
def log():
    """Messages of the package, as a list that grows."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger('timm_ltkd')
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
