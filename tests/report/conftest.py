"""Reports of random networks, written as runs leave them."""
import json

import numpy as np
import pytest

from timm_ltkd.metrics import calibration, group_confusion, long_tail_report, mistakes
from timm_ltkd.prior import ClassPrior
from timm_ltkd.report import write as write_module
from timm_ltkd.report import write_report


@pytest.fixture(autouse=True, scope='module')
def no_plots():
    """Figures are drawn here."""


def random_report(prior, skill=0.5, seed=0, per_class=10, logits=True):
    """Everything the engine's evaluation says of a network that is right with this probability."""
    rng = np.random.RandomState(seed)
    targets = np.repeat(np.arange(prior.num_classes), per_class)
    right = rng.rand(len(targets)) < skill
    predictions = np.where(right, targets, rng.randint(prior.num_classes, size=len(targets)))
    confidence = rng.uniform(0.3, 1., len(targets)).astype(np.float32)
    columns = {'prediction': predictions} | ({'confidence': confidence, 'top5': right} if logits else {})
    report = long_tail_report(columns, targets, prior)
    report['group_confusion'] = group_confusion(predictions, targets, prior)
    report['mistakes'] = mistakes(predictions, targets, prior.num_classes)
    return report | ({'calibration': calibration(confidence, predictions == targets)} if logits else {})


@pytest.fixture
def write_run(monkeypatch):
    """`write_run(folder, counts, names=None, …, **options)`: what `write_report` leaves of a run."""
    def write(folder, counts, names=None, teacher=True, figures=False, seed=0, skill=0.5, **options):
        prior = ClassPrior(counts, many=options.get('many_shot', 100), few=options.get('few_shot', 20))
        run = {
            'student': 'resnet20', 'args': {'seed': seed, 'lr': 0.1, 'output': 'out'} | options, 'precision': 'no',
            'processes': 1, 'versions': {'torch': '2.7'}}
        run |= {'teacher': 'resnet32', 'method': 'bkd'} if teacher else {}
        with monkeypatch.context() as patch:
            if not figures:
                patch.setattr(write_module, 'plot_pictures', lambda *args: None)
            write_report(
                folder, student=random_report(prior, skill, seed), prior=prior, run=run, history=[],
                teacher=random_report(prior, 0.3, 99) if teacher else None,
                class_names=names or [f'class {index}' for index in range(len(counts))])
        return folder
    return write


@pytest.fixture
def edit_report():
    """`edit_report(folder, change)`: the report.json of a run as `change` leaves it."""
    def edit(folder, change):
        path = folder / 'report.json'
        document = json.loads(path.read_text(encoding='utf-8'))
        change(document)
        path.write_text(json.dumps(document), encoding='utf-8')
    return edit
