"""Evaluation: each image once, in order, whatever the batch size and the number of processes."""
import contextlib
from argparse import Namespace

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from timm_ltkd import ClassPrior
from timm_ltkd.data import create_eval_transform
from timm_ltkd.engine import evaluate as evaluate_module
from timm_ltkd.engine.evaluate import answers, evaluate
from timm_ltkd.engine.networks.create import create_network
from timm_ltkd.engine.networks.input import resolve_input, set_input
from timm_ltkd.metrics import long_tail_report

PRIOR = ClassPrior([100, 40, 30, 20, 10, 5])


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(17, 3, 2, 2, generator=generator), torch.randint(6, (17,), generator=generator), torch.arange(17))


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 6))


@pytest.mark.parametrize('batch_size', [1, 4, 17])
def test_figures_are_those_of_all_logits_at_once(images, network, batch_size):
    report = evaluate(network.train(), DataLoader(images, batch_size), Accelerator(cpu=True), PRIOR)
    input, target, _ = images.tensors
    with torch.no_grad():
        logits = network.eval()(input)
    expected = long_tail_report(logits, target, PRIOR)
    assert report['loss'] == pytest.approx(float(nn.functional.cross_entropy(logits, target)), rel=1e-6)
    assert report['per_class'] == expected.pop('per_class')
    assert {key: report[key] for key in expected} == pytest.approx(expected)


@pytest.mark.parametrize('indices', [range(16), [*range(17), 3], [0, *range(16)]])
def test_an_image_missing_or_twice_is_noticed(images, network, indices):
    loader = DataLoader(images, batch_size=4, sampler=list(indices))
    with pytest.raises(RuntimeError, match='each image exactly once'):
        evaluate(network, loader, Accelerator(cpu=True), PRIOR)
    evaluate(network, DataLoader(Subset(images, range(16)), 4), Accelerator(cpu=True), PRIOR)


def test_shares_of_unequal_length_are_put_together(images, network, monkeypatch):
    """Three processes with 9, 8 and no images."""
    whole, sent = evaluate(network, DataLoader(images, batch_size=4), Accelerator(cpu=True), PRIOR), []

    def keep(share):
        sent.extend(share)
        return share
    monkeypatch.setattr(evaluate_module, 'gather_object', keep)
    for indices in (range(0, 17, 2), range(1, 17, 2), []):
        with contextlib.suppress(RuntimeError, IndexError):  # it is not all images
            evaluate(network, DataLoader(images, 4, sampler=list(indices)), Accelerator(cpu=True), PRIOR)
    assert [len(share.get('index', ())) for share in sent] == [9, 8, 0]
    monkeypatch.setattr(evaluate_module, 'gather_object', lambda share: sent)
    assert evaluate(network, DataLoader(images, 4, sampler=[]), Accelerator(cpu=True), PRIOR) == whole


class Features(nn.Module):
    """A body and a classifier; `num_classes` finds it, as timm's get_classifier would."""
    num_classes = 6

    def __init__(self, classifier):
        super().__init__()
        self.body, self.fc = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU()), classifier

    def forward(self, input):
        return self.fc(self.body(input))


@pytest.fixture
def seen(monkeypatch):
    """Logits of each batch of an evaluation, as they are measured."""
    batches = []
    per_sample = evaluate_module.per_sample

    def look(logits, target):
        batches.append(logits)
        return per_sample(logits, target)
    monkeypatch.setattr(evaluate_module, 'per_sample', look)
    return batches


def test_as_trained_is_bf16_up_to_the_classifier(images, seen):
    torch.manual_seed(0)
    network, loader = Features(nn.Linear(8, 6)), DataLoader(images, 17)
    accelerator = Accelerator(cpu=True, mixed_precision='bf16')
    evaluate(network, loader, accelerator, PRIOR, as_trained=True)
    evaluate(network, loader, accelerator, PRIOR)
    with torch.no_grad():
        with torch.autocast('cpu', torch.bfloat16):
            entered = network.body(images.tensors[0])
        assert entered.dtype == torch.bfloat16
        assert torch.equal(seen[0], network.fc(entered.float()))
        assert torch.equal(seen[1], network(images.tensors[0]))
    assert not torch.equal(*seen)
    assert not network.fc._forward_hooks


def test_as_trained_takes_a_classifier_that_is_called_by_name(images, seen):
    class ByName(Features):
        def forward(self, input):
            return self.fc(input=self.body(input))
    torch.manual_seed(0)
    network = ByName(nn.Linear(8, 6))
    evaluate(network, DataLoader(images, 17), Accelerator(cpu=True, mixed_precision='bf16'), PRIOR, as_trained=True)
    assert seen[0].dtype == torch.float32


def test_as_trained_ties_no_classes(images, seen):
    """Logits that bf16 cannot tell apart: 256 and 256.5."""
    classifier = nn.Linear(8, 6)
    with torch.no_grad():
        classifier.weight.zero_()
        classifier.bias.copy_(torch.tensor([256., 256.5, 0, 0, 0, 0]))
    accelerator = Accelerator(cpu=True, mixed_precision='bf16')
    report = evaluate(Features(classifier), DataLoader(images, 4), accelerator, PRIOR, as_trained=True)
    share = (images.tensors[1] == 1).float().mean()
    assert report['top1'] == pytest.approx(100 * float(share))


def test_as_trained_is_float32_in_a_float32_run_and_without_a_classifier(images, network, seen):
    for precision, model in (('no', Features(nn.Linear(8, 6))), ('bf16', network)):
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True, mixed_precision=precision)
        seen.clear()
        for as_trained in (False, True):
            evaluate(model, DataLoader(images, 17), accelerator, PRIOR, as_trained=as_trained)
        assert torch.equal(*seen) and seen[0].dtype == torch.float32


@pytest.mark.parametrize('name', ['test_vit', 'test_efficientnet', 'test_resnet', 'deit_tiny_distilled_patch16_224'])
def test_as_trained_takes_networks_of_timm(name, seen):
    network = timm.create_model(name, num_classes=6).eval()
    side = network.pretrained_cfg['input_size'][-1]
    data = TensorDataset(torch.randn(4, 3, side, side), torch.arange(4), torch.arange(4))
    for as_trained in (True, False):
        evaluate(network, DataLoader(data, 4), Accelerator(cpu=True, mixed_precision='bf16'), PRIOR,
                 as_trained=as_trained)
    assert seen[0].dtype == torch.float32 and not torch.equal(*seen)
    torch.testing.assert_close(*seen, rtol=0.05, atol=0.05 * float(seen[1].abs().max()))


@pytest.mark.parametrize('name', [
    'convnext_tiny.fb_in22k_ft_in1k_384', 'resnet50.a1_in1k', 'vit_base_patch16_224.augreg_in21k', 'test_vit'])
def test_images_are_shown_as_timm_shows_them(name):
    """Also to networks that want the whole image squashed."""
    cfg = timm.get_pretrained_cfg(name).to_dict()
    asked = Namespace(img_size=None, mean=None, std=None, interpolation=None, crop_pct=None)
    ours = create_eval_transform(**resolve_input(asked, cfg))
    theirs = create_transform(**resolve_data_config({}, pretrained_cfg=cfg))
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (300, 500, 3), np.uint8))
    assert torch.equal(ours(image), theirs(image))


def test_a_compiled_network_begins_anew_with_each_batch(images, network, monkeypatch):
    """Or it would record a CUDA graph for each of them."""
    begun = []
    monkeypatch.setattr(torch.compiler, 'cudagraph_mark_step_begin', lambda: begun.append(1))
    evaluate(network, DataLoader(images, 4), Accelerator(cpu=True), PRIOR)
    assert not begun
    network.compile(backend='eager')
    evaluate(network, DataLoader(images, 4), Accelerator(cpu=True), PRIOR)
    assert len(begun) == 5


def test_a_long_pass_is_told_of(images, network, monkeypatch, caplog, log):
    caplog.set_level('INFO', 'timm_ltkd')
    evaluate(network, DataLoader(images, 4), Accelerator(cpu=True), PRIOR)
    assert not log
    monkeypatch.setattr('timm_ltkd.progress._SILENCE', 0.)
    evaluate(network, DataLoader(images, 4), Accelerator(cpu=True), PRIOR)
    assert log == [f'evaluation: batch {count}/5' for count in range(1, 6)]
    log.clear()
    assert len(list(answers(network, (batch for batch in DataLoader(images, 9)), what='predictions'))) == 2
    assert log == ['predictions: batch 1', 'predictions: batch 2'], 'of a pass whose length nobody knows'


def test_an_exported_network_is_measured_by_timm_at_the_size_it_was_trained_at():
    network = create_network('resnet18', 5, small_image_stem=True)
    set_input(network, {'input_size': (3, 32, 32), 'crop_pct': 1.})
    config = resolve_data_config({}, pretrained_cfg=network.pretrained_cfg, use_test_size=True)
    assert config['input_size'] == (3, 32, 32)
