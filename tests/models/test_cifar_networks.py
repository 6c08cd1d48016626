"""The CIFAR networks compute what the papers say: each against a direct derivation in float64."""
import math
import re

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from timm_ltkd.models import PadShortcut

# depth of a network -> blocks in a stage: (depth - 2) / 6 for ResNet, (depth - 4) / 6 for WRN
THIN = {'resnet20': 3, 'resnet32': 5, 'resnet44': 7, 'resnet56': 9, 'resnet110': 18}
WIDE = {'resnet8x4': 1, 'resnet32x4': 5}
WRN = {'wrn_16_2': 2, 'wrn_40_2': 6}


class Weights(dict):
    """A random float64 state dict, filled by naming layers."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def _random(self, *shape):
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator)

    def conv(self, name, in_chs, out_chs, kernel):
        self[f'{name}.weight'] = self._random(out_chs, in_chs, kernel, kernel) / math.sqrt(in_chs * kernel**2)

    def norm(self, name, chs):
        self[f'{name}.weight'] = 0.7 + 0.1 * self._random(chs)
        self[f'{name}.bias'] = 0.1 * self._random(chs)
        self[f'{name}.running_mean'] = 0.1 * self._random(chs)
        self[f'{name}.running_var'] = 0.5 + self._random(chs).abs()
        self[f'{name}.num_batches_tracked'] = torch.tensor(7)

    def linear(self, name, in_chs, out_chs):
        self[f'{name}.weight'] = self._random(out_chs, in_chs) / math.sqrt(in_chs)
        self[f'{name}.bias'] = self._random(out_chs)


def published_resnet(blocks, widths=(16, 16, 32, 64), projection=False, num_classes=10):
    """The layout of the public CIFAR ResNet checkpoints: a DataParallel prefix and a `linear` classifier."""
    weights = Weights()
    weights.conv('module.conv1', 3, widths[0], 3)
    weights.norm('module.bn1', widths[0])
    in_chs = widths[0]
    for stage, out_chs in enumerate(widths[1:], start=1):
        for i in range(blocks):
            name = f'module.layer{stage}.{i}'
            weights.conv(f'{name}.conv1', in_chs, out_chs, 3)
            weights.norm(f'{name}.bn1', out_chs)
            weights.conv(f'{name}.conv2', out_chs, out_chs, 3)
            weights.norm(f'{name}.bn2', out_chs)
            if projection and in_chs != out_chs:
                weights.conv(f'{name}.downsample.0', in_chs, out_chs, 1)
                weights.norm(f'{name}.downsample.1', out_chs)
            in_chs = out_chs
    weights.linear('module.linear', in_chs, num_classes)
    return dict(weights)


def published_wrn(blocks, widths=(16, 32, 64, 128), num_classes=10):
    """The layout of the public WRN checkpoints: `blockN.layer.i`, and `convShortcut` in each stage's first block."""
    weights = Weights()
    weights.conv('conv1', 3, widths[0], 3)
    in_chs = widths[0]
    for stage, out_chs in enumerate(widths[1:], start=1):
        for i in range(blocks):
            name = f'block{stage}.layer.{i}'
            weights.norm(f'{name}.bn1', in_chs)
            weights.conv(f'{name}.conv1', in_chs, out_chs, 3)
            weights.norm(f'{name}.bn2', out_chs)
            weights.conv(f'{name}.conv2', out_chs, out_chs, 3)
            if in_chs != out_chs:
                weights.conv(f'{name}.convShortcut', in_chs, out_chs, 1)
            in_chs = out_chs
    weights.norm('bn1', in_chs)
    weights.linear('fc', in_chs, num_classes)
    return dict(weights)


def rename(weights):
    """Public names to timm's."""
    renamed = {}
    for key, value in weights.items():
        key = key.removeprefix('module.').replace('linear.', 'fc.').replace('convShortcut', 'downsample')
        renamed[re.sub(r'^block(\d)\.layer\.', r'layer\1.', key)] = value
    return renamed


def norm(weights, name, x):
    mean, var, gain, bias = (
        weights[f'{name}.{key}'].view(1, -1, 1, 1) for key in ('running_mean', 'running_var', 'weight', 'bias'))
    return (x - mean) / (var + 1e-5).sqrt() * gain + bias


def conv(weights, name, x, stride=1):
    weight = weights[f'{name}.weight']
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)


def option_a(x, out_chs):
    """He et al. 2016: subsample, then zeros around the channels."""
    batch, in_chs, height, width = x.shape
    out = x.new_zeros(batch, out_chs, (height + 1) // 2, (width + 1) // 2)
    before = (out_chs - in_chs) // 2
    out[:, before:before + in_chs] = x[:, :, ::2, ::2]
    return out


def forward_resnet(weights, blocks, x):
    x = norm(weights, 'module.bn1', conv(weights, 'module.conv1', x)).relu()
    for stage in (1, 2, 3):
        for i in range(blocks):
            name = f'module.layer{stage}.{i}'
            stride = 2 if stage > 1 and i == 0 else 1
            out = norm(weights, f'{name}.bn1', conv(weights, f'{name}.conv1', x, stride)).relu()
            out = norm(weights, f'{name}.bn2', conv(weights, f'{name}.conv2', out))
            if f'{name}.downsample.0.weight' in weights:
                x = norm(weights, f'{name}.downsample.1', conv(weights, f'{name}.downsample.0', x, stride))
            elif stride == 2:
                x = option_a(x, out.shape[1])
            x = (out + x).relu()
    return x.mean((2, 3)) @ weights['module.linear.weight'].T + weights['module.linear.bias']


def forward_wrn(weights, blocks, x):
    x = conv(weights, 'conv1', x)
    for stage in (1, 2, 3):
        for i in range(blocks):
            name = f'block{stage}.layer.{i}'
            stride = 2 if stage > 1 and i == 0 else 1
            activated = norm(weights, f'{name}.bn1', x).relu()
            out = norm(weights, f'{name}.bn2', conv(weights, f'{name}.conv1', activated, stride)).relu()
            out = conv(weights, f'{name}.conv2', out)
            x = out + (conv(weights, f'{name}.convShortcut', activated, stride) if i == 0 else x)
    return norm(weights, 'bn1', x).relu().mean((2, 3)) @ weights['fc.weight'].T + weights['fc.bias']


def load(name, weights):
    model = timm.create_model(name, num_classes=10).double().eval()
    model.load_state_dict(rename(weights), strict=True)
    return model


def assert_same_outputs(model, forward, weights, blocks):
    for size in ((32, 32), (11, 18)):
        x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(model(x), forward(weights, blocks, x), rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize('name, blocks', THIN.items())
def test_thin_resnet_is_the_published_network(name, blocks):
    weights = published_resnet(blocks)
    assert_same_outputs(load(name, weights), forward_resnet, weights, blocks)


@torch.no_grad()
@pytest.mark.parametrize('name, blocks', WIDE.items())
def test_wide_resnet_is_the_published_network(name, blocks):
    weights = published_resnet(blocks, widths=(32, 64, 128, 256), projection=True)
    assert_same_outputs(load(name, weights), forward_resnet, weights, blocks)


@torch.no_grad()
@pytest.mark.parametrize('name, blocks', WRN.items())
def test_wrn_is_the_published_network(name, blocks):
    weights = published_wrn(blocks)
    assert_same_outputs(load(name, weights), forward_wrn, weights, blocks)


def test_pad_shortcut_by_hand():
    x = torch.arange(1., 19.).view(1, 2, 3, 3)
    out = PadShortcut(2, 4, stride=2)(x)
    assert out.shape == (1, 4, 2, 2)
    assert torch.equal(out[0, 1:3], torch.tensor([[[1., 3.], [7., 9.]], [[10., 12.], [16., 18.]]]))
    assert not out[0, 0].any() and not out[0, 3].any()
    assert not list(PadShortcut(16, 32, 2).parameters())


@pytest.mark.parametrize('name', ['resnet32', 'resnet8x4', 'wrn_16_2'])
def test_weights_start_kaiming_normal(name):
    torch.manual_seed(0)
    model = timm.create_model(name)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    model.reset_classifier(1000)
    layers.append(model.fc)
    scaled = []
    for layer in layers:
        fan_in = layer.weight[0].numel()
        scaled.append(layer.weight.detach().flatten() / math.sqrt(2 / fan_in))
        error = 6 / math.sqrt(layer.weight.numel())  # some standard errors
        assert abs(scaled[-1].std() - 1) < error and abs(scaled[-1].mean()) < error
        if isinstance(layer, nn.Linear):
            assert layer.bias.abs().max() <= 1 / math.sqrt(layer.in_features)
            assert layer.bias.abs().max() > 0
    everything = torch.cat(scaled)
    assert (everything**4).mean() == pytest.approx(3, abs=0.1)  # a normal's fourth moment; a uniform's is 1.8
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


def test_initialisation_follows_the_seed():
    torch.manual_seed(3)
    first = timm.create_model('resnet20').state_dict()
    torch.manual_seed(3)
    second = timm.create_model('resnet20').state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_real_weights_load(shared):
    path = shared / 'data' / 'resnet32_cifar100_lt100_ce.safetensors'
    if not path.is_file():
        pytest.skip(f'needs {path.name} in the shared data folder')
    model = timm.create_model('resnet32', num_classes=100, checkpoint_path=str(path)).eval()
    assert model.bn1.num_batches_tracked > 0
    assert model(torch.zeros(1, 3, 32, 32)).isfinite().all()
