"""Evaluation: each image once, in order, whatever the batch size and the number of processes."""
import contextlib
from argparse import Namespace

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from timm_ltkd import ClassPrior
from timm_ltkd.data import create_eval_transform
from timm_ltkd.engine import evaluate as evaluate_module
from timm_ltkd.engine.evaluate import evaluate
from timm_ltkd.engine.networks.create import create_network, resolve_input, set_input
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


def test_an_exported_network_is_measured_by_timm_at_the_size_it_was_trained_at():
    network = create_network('resnet18', 5, small_image_stem=True)
    set_input(network, {'input_size': (3, 32, 32), 'crop_pct': 1.})
    config = resolve_data_config({}, pretrained_cfg=network.pretrained_cfg, use_test_size=True)
    assert config['input_size'] == (3, 32, 32)
