"""`small_image_stem`: what it changes of a ResNet, and that an export of it loads again."""
import dataclasses
import json

import pytest
import timm
import torch
from timm.models import _registry, save_for_hf
from torch import nn

import timm_ltkd.models  # noqa: F401  (registers it)
from timm_ltkd.errors import UserError


def make(network, **kwargs):
    return timm.create_model('small_image_stem', network=network, num_classes=4, **kwargs).eval()


@pytest.mark.parametrize('network', ['resnet10', 'resnet10t', 'seresnet18', 'resnest14d', 'resnetrs50', 'test_resnet'])
def test_it_keeps_four_times_the_resolution(network):
    plain, small = timm.create_model(network, num_classes=4).eval(), make(network)
    assert (small.conv1.kernel_size, small.conv1.stride) == ((3, 3), (1, 1)) and isinstance(small.maxpool, nn.Identity)
    images = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        sides = [net.forward_features(images).shape[-1] for net in (plain, small)]
    assert sides[1] == 4 * sides[0] == 32 // small.feature_info[-1]['reduction']
    reductions = [level['reduction'] for level in small.feature_info]
    assert reductions == [max(level['reduction'] // 4, 1) for level in plain.feature_info]


def test_features_only():
    found = make('resnet10', features_only=True)(torch.zeros(1, 3, 32, 32))
    assert [level.shape[-1] for level in found] == [32, 32, 16, 8, 4]


@pytest.mark.parametrize('network', ['vit_tiny_patch16_224', 'resnet20', 'efficientnet_b0', 'regnety_002'])
def test_networks_without_such_a_stem_are_refused(network):
    with pytest.raises(UserError, match=f"'{network}' has no stem that could be made smaller; timm's ResNets have"):
        make(network)


def test_an_unknown_network_is_refused():
    with pytest.raises(UserError, match="no network 'resnet21'"):
        make('resnet21')


@pytest.mark.parametrize('network', ['resnet10', 'resnet10t'])
@pytest.mark.parametrize('channels', [3, 1])
def test_an_export_loads_again(tmp_path, network, channels):
    torch.manual_seed(0)
    model = make(network, in_chans=channels)
    model.pretrained_cfg = {**model.pretrained_cfg, 'num_classes': 4, 'input_size': (channels, 32, 32)}
    save_for_hf(
        model, tmp_path, model_args={'network': network, 'in_chans': channels}, safe_serialization=True)
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['architecture'] == 'small_image_stem' and config['model_args']['network'] == network
    images = torch.randn(2, channels, 32, 32)
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    other_head = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, num_classes=7)
    assert other_head.fc.out_features == 7 and torch.equal(other_head.conv1.weight, model.conv1.weight)


def test_an_export_takes_other_channels(tmp_path):
    model = make('resnet10t')
    model.pretrained_cfg = {**model.pretrained_cfg, 'num_classes': 4}
    save_for_hf(model, tmp_path, model_args={'network': 'resnet10t'}, safe_serialization=True)
    grey = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, in_chans=1)
    assert torch.allclose(grey.conv1.weight[:, 0], model.conv1.weight.sum(1), atol=1e-6)


def test_zoo_weights_are_taken_but_for_the_first_convolution(tmp_path, monkeypatch):
    torch.manual_seed(1)
    zoo = timm.create_model('resnet10t', num_classes=4)
    torch.save(zoo.state_dict(), tmp_path / 'zoo.pt')
    cfg = dataclasses.replace(
        timm.get_pretrained_cfg('resnet10t'), file=str(tmp_path / 'zoo.pt'), hf_hub_id=None, num_classes=4)
    for name in ('resnet10t', 'resnet10t.c3_in1k'):
        monkeypatch.setitem(_registry._model_pretrained_cfgs, name, cfg)
    torch.manual_seed(2)
    found, wanted = make('resnet10t', pretrained=True).state_dict(), zoo.state_dict()
    for key in set(found) & set(wanted):
        assert torch.equal(found[key], wanted[key]), key
    assert [key for key in found if key not in wanted] == ['conv1.weight']
    assert {key.split('.')[0] for key in wanted if key not in found} == {'conv1'}
    std = (2 / (3 * 3 * 64)) ** 0.5
    assert float(found['conv1.weight'].std()) == pytest.approx(std, rel=0.1), 'Kaiming-normal, fan out'
