"""What every test shares: no hub, few threads, and where the project's own data pack may lie."""
import os

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ.setdefault('ACCELERATE_USE_CPU', 'true')  # what is asserted of bits and devices is of a CPU; see `on_gpu`

import copy  # noqa: E402
import importlib  # noqa: E402
import io  # noqa: E402
import logging  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import tarfile  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope='session')
def _one_thread():
    """Tests run side by side: one thread each is fastest, and makes results repeatable."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope='session')
def _interruptible():
    """Ctrl-C is heard, and by what is started from here, also where these tests were started in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope='module')
def no_plots():
    """Figures take most of the time of a small run: that at its start is empty, those of its report are left out.

    Tests of figures override this.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('timm_ltkd.engine.fit.plot_class_profile', lambda path, *args: path.touch())
        patch.setattr('timm_ltkd.report.write.plot_pictures', lambda *args: None)
        yield


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


@pytest.fixture(scope='session')
def write_shards():
    """`write_shards(kind, folder, split, images, labels, sizes, names)`: a split of a stream, in shards of `sizes`.

    The kinds are 'parquet', 'imagefolder' (which has no shards) and 'tar'. Labels are class indices.
    """
    def write(kind, folder, split, images, labels, sizes, names=('ant', 'bee', 'cat')):
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            part = slice(start, start + size)
            folder.mkdir(parents=True, exist_ok=True)
            if kind == 'parquet':
                path = folder / f'{split}-{i:05d}-of-{len(sizes):05d}.parquet'
                _write_parquet(path, images[part], labels[part], names)
            elif kind == 'tar':
                _write_tar(folder / f'{split}-{i:03d}.tar', images[part], labels[part])
            else:
                for j, (image, label) in enumerate(zip(images[part], labels[part], strict=True)):
                    (folder / split / names[label]).mkdir(parents=True, exist_ok=True)
                    image.save(folder / split / names[label] / f'{start + j:05d}.png')
        return folder
    return write


def _encoded(image):
    file = io.BytesIO()
    image.save(file, 'png')
    return file.getvalue()


def _write_parquet(path, images, labels, names):
    import datasets
    datasets.disable_progress_bars()
    features = datasets.Features({'image': datasets.Image(), 'label': datasets.ClassLabel(names=list(names))})
    rows = {'image': [{'bytes': _encoded(image), 'path': None} for image in images], 'label': [int(c) for c in labels]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


def _write_tar(path, images, labels):
    with tarfile.open(path, 'w') as archive:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            for ending, data in (('png', _encoded(image)), ('cls', str(int(label)).encode())):
                member = tarfile.TarInfo(f'{path.stem}-{i:05d}.{ending}')
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


@pytest.fixture(scope='session')
def fresh_accelerate():
    """Accelerate keeps its precision and processes for the life of a process; call this to start anew."""
    from accelerate.state import AcceleratorState, GradientState

    def reset():
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    return reset


@pytest.fixture
def on_gpu(monkeypatch, fresh_accelerate):
    """For the few tests that want the GPU of the machine, where it has one."""
    fresh_accelerate()
    monkeypatch.delenv('ACCELERATE_USE_CPU', raising=False)
    yield
    fresh_accelerate()


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """`own_module(name, code)`: a module in the working folder; what it registers is forgotten after the test."""
    from timm.models import _registry

    from timm_ltkd.data import own
    from timm_ltkd.distill import method
    from timm_ltkd.distill.losses import loss
    for registry in (method, loss, own, _registry):
        for key, value in list(vars(registry).items()):
            if isinstance(value, dict | set) and key.startswith('_') and not key.startswith('__'):
                monkeypatch.setattr(registry, key, copy.copy(value))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    names = []

    def write(name, code):
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        (tmp_path / f'{name}.py').write_text(code)
        names.append(name)
    yield write
    for name in names:
        sys.modules.pop(name, None)
