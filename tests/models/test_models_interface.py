"""Every registered network is what a timm user expects of a timm model."""
import copy
import io
import json

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.models import group_parameters, save_for_hf
from timm.optim import param_groups_layer_decay
from torch import nn

import timm_ltkd.models
from timm_ltkd.errors import UserError
from timm_ltkd.models import CifarNet

THIN = ('resnet20', 'resnet32', 'resnet44', 'resnet56', 'resnet110')
CIFAR = (*THIN, 'resnet8x4', 'resnet32x4', 'wrn_16_2', 'wrn_40_2')
ALL = (*CIFAR, 'resnet10')
ONE_OF_EACH = ('resnet20', 'resnet8x4', 'wrn_16_2', 'resnet10')

PARAMETERS = [  # the published counts
    ('resnet20', 10, 269_722), ('resnet32', 10, 464_154), ('resnet44', 10, 658_586), ('resnet56', 10, 853_018),
    ('resnet110', 10, 1_727_962), ('resnet8x4', 100, 1_233_540), ('resnet32x4', 100, 7_433_860),
    ('wrn_16_2', 100, 703_284), ('wrn_40_2', 100, 2_255_156), ('resnet10', 1000, 5_418_792),
]


def random_model(name, seed=0, **kwargs):
    """The network in eval mode and float64, its batch-norm statistics and affine parameters random too."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **kwargs).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
    return model


def images(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('name, num_classes, count', PARAMETERS)
def test_parameter_count(name, num_classes, count):
    model = timm.create_model(name, num_classes=num_classes)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize('name', ALL)
def test_name_is_ours_and_not_timms(name):
    assert name in timm.list_models(name)
    assert timm.models.model_entrypoint(name) is getattr(timm_ltkd.models, name)
    assert not hasattr(timm.models, name)  # timm.models re-exports every entrypoint of timm
    assert name in timm_ltkd.models.__all__


@pytest.mark.parametrize('name', CIFAR)
def test_default_cfg(name):
    model = timm.create_model(name)
    assert isinstance(model, CifarNet) and model.num_classes == 100
    assert model.default_cfg is model.pretrained_cfg
    cfg = model.pretrained_cfg
    assert cfg['architecture'] == name
    assert (cfg['num_classes'], cfg['input_size'], cfg['pool_size']) == (100, (3, 32, 32), (8, 8))
    assert cfg['fixed_input_size'] is False
    assert tuple(model.forward_features(torch.zeros(1, 3, 32, 32)).shape[-2:]) == cfg['pool_size']
    data = resolve_data_config(model=model)
    assert data['input_size'] == (3, 32, 32) and data['crop_pct'] == 1.0
    assert data['mean'] == (0.4914, 0.4822, 0.4465) and data['std'] == (0.2023, 0.1994, 0.2010)
    assert model.get_submodule(cfg['first_conv']).in_channels == 3
    assert model.get_submodule(cfg['classifier']) is model.get_classifier()


def test_resnet10_default_cfg():
    model = timm.create_model('resnet10')
    data = resolve_data_config(model=model)
    assert model.num_classes == 1000 and data['input_size'] == (3, 224, 224) and data['crop_pct'] == 0.875
    assert data['mean'] == (0.485, 0.456, 0.406) and data['std'] == (0.229, 0.224, 0.225)
    assert [len(getattr(model, f'layer{i}')) for i in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert model.conv1.kernel_size == (7, 7)


@pytest.mark.parametrize('name', ALL)
def test_features_head_and_classifier(name):
    model = random_model(name, num_classes=10)
    x = images(2, 3, 32, 32)
    with torch.no_grad():
        feature_map = model.forward_features(x)
        pooled = model.forward_head(feature_map, pre_logits=True)
        logits = model(x)
    assert feature_map.shape[:2] == (2, model.num_features)
    assert pooled.shape == (2, model.head_hidden_size)
    torch.testing.assert_close(pooled, feature_map.mean((2, 3)))
    torch.testing.assert_close(logits, pooled @ model.fc.weight.T + model.fc.bias)
    torch.testing.assert_close(model.forward_head(feature_map), logits)
    assert model.get_classifier() is model.fc and model.get_classifier(name_only=True) == 'fc'


@pytest.mark.parametrize('name', CIFAR)
def test_reset_classifier(name):
    model = random_model(name, num_classes=10)
    x = images(2, 3, 32, 32)
    before = model.forward_features(x)
    model.reset_classifier(7, 'catavgmax')
    assert model.num_classes == 7 and model.head_hidden_size == 2 * model.num_features
    assert model.fc.weight.dtype == torch.float64 and not model.fc.training
    assert model(x).shape == (2, 7)
    model.reset_classifier(3)  # the pooling stays
    assert model(x).shape == (2, 3) and model.global_pool.pool_type == 'catavgmax'
    model.reset_classifier(0, 'max')
    torch.testing.assert_close(model(x), before.amax((2, 3)))


@pytest.mark.parametrize('name', ONE_OF_EACH)
def test_created_without_classifier(name):
    x = images(2, 3, 32, 32)
    features = random_model(name, num_classes=0)
    torch.testing.assert_close(features(x), features.forward_features(x).mean((2, 3)))
    assert isinstance(features.get_classifier(), nn.Identity)
    unpooled = random_model(name, num_classes=0, global_pool='')
    torch.testing.assert_close(unpooled(x), unpooled.forward_features(x))


@pytest.mark.parametrize('name', ONE_OF_EACH)
def test_one_image_of_any_size(name):
    model = random_model(name, num_classes=5, in_chans=1)
    for height, width in ((8, 8), (9, 13), (33, 8), (48, 31)):
        assert model(images(1, 1, height, width)).isfinite().all()
        reduction = model.feature_info[-1]['reduction']
        expected = (-(-height // reduction), -(-width // reduction))
        assert model.forward_features(images(1, 1, height, width)).shape[-2:] == expected


@pytest.mark.parametrize('name', CIFAR)
def test_trains_on_one_small_image(name):
    model = timm.create_model(name)
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('name', ONE_OF_EACH)
def test_copies_give_the_same_outputs(name):
    model = random_model(name, drop_path_rate=0.1)
    x = images(2, 3, 32, 32)
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    buffer = io.BytesIO()
    torch.save(model, buffer)  # pickles the module itself
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), expected)


@pytest.mark.parametrize('name', ONE_OF_EACH)
def test_channels_last(name):
    model = random_model(name)
    x = images(2, 3, 32, 32)
    expected = model(x)
    model = model.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    assert model.forward_features(x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize('name', ONE_OF_EACH)
def test_compiles_in_one_graph(name):
    model = random_model(name)
    x = images(2, 3, 32, 32)
    torch.testing.assert_close(torch.compile(model, backend='aot_eager', fullgraph=True)(x), model(x))


@pytest.mark.parametrize('name', ONE_OF_EACH)
@pytest.mark.parametrize('training', [False, True])
def test_scripts_as_timms_networks_do(name, training):
    model = random_model(name, num_classes=5, drop_path_rate=0.1 if training else 0.)
    x, scripted = images(2, 3, 32, 32), torch.jit.script(model)
    if training:
        scripted.train()(x).sum().backward()
    else:
        torch.testing.assert_close(scripted(x), model(x))


@pytest.mark.parametrize('name', ALL)
def test_local_dir_round_trip(name, tmp_path):
    model = random_model(name, num_classes=6).float()
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    x = images(2, 3, 32, 32).float()
    assert type(loaded) is type(model) and loaded.num_classes == 6
    torch.testing.assert_close(loaded(x), model(x))
    data, loaded_data = (json.dumps(resolve_data_config(model=m)) for m in (model, loaded))  # JSON has no tuples
    assert data == loaded_data
    other_head = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, num_classes=4, in_chans=1)
    assert other_head.fc.out_features == 4
    torch.testing.assert_close(other_head.conv1.weight, model.conv1.weight.sum(1, keepdim=True))


@pytest.mark.parametrize('name', ALL)
def test_features_only_agrees_with_feature_info(name):
    backbone = random_model(name, features_only=True)
    x = images(1, 3, 64, 64)
    features = backbone(x)
    assert len(features) == len(backbone.feature_info) == (5 if name == 'resnet10' else 4)
    for feature, channels, reduction in zip(
            features, backbone.feature_info.channels(), backbone.feature_info.reduction(), strict=True):
        assert feature.shape == (1, channels, 64 // reduction, 64 // reduction)
    if name != 'resnet10':
        assert backbone.feature_info.reduction() == [1, 1, 2, 4]
    model = random_model(name)
    assert torch.equal(features[-1], model.forward_features(x))  # same seed, same weights


@pytest.mark.parametrize('name', ONE_OF_EACH)
@pytest.mark.parametrize('feature_cls', ['list', 'hook', 'getter'])
def test_features_only_out_indices(name, feature_cls):
    x = images(1, 3, 32, 32)
    last, intermediates = random_model(name).forward_intermediates(x)
    assert torch.equal(last, intermediates[-1])
    for out_indices in ((1, 3), (0, 2), (-1,)):
        backbone = random_model(name, features_only=True, out_indices=out_indices, feature_cls=feature_cls)
        features = backbone(x)
        assert len(features) == len(out_indices)
        assert backbone.feature_info.channels() == [f.shape[1] for f in features]
        for feature, index in zip(features, out_indices, strict=True):
            assert torch.equal(feature, intermediates[index])


@pytest.mark.parametrize('name', ['resnet20', 'wrn_16_2'])
def test_forward_intermediates_and_pruning(name):
    x = images(1, 3, 32, 32)
    model = random_model(name)
    expected = model.forward_intermediates(x, intermediates_only=True)
    stopped, (first, second) = model.forward_intermediates(x, indices=[0, 1], stop_early=True)
    assert torch.equal(stopped, second) and torch.equal(first, expected[0]) and torch.equal(second, expected[1])
    for given, wanted in zip(model.forward_intermediates(x, 2, intermediates_only=True), expected[2:], strict=True):
        assert torch.equal(given, wanted)
    with pytest.raises(UserError, match='NHWC'):
        model.forward_intermediates(x, output_fmt='NHWC')
    assert model.prune_intermediate_layers([0, -2]) == [0, 2]
    assert len(model.layer3) == 0 and len(model.layer2) > 0
    assert not any(n.startswith('fc') for n, _ in model.named_parameters())
    assert torch.equal(model(x), expected[2]) and model.num_features == expected[2].shape[1]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('name', ONE_OF_EACH)
def test_gradient_checkpointing_changes_memory_not_results(name, training):
    model = random_model(name).train(training)
    x = images(2, 3, 64, 64)
    calls = []
    model.layer2[0].register_forward_pre_hook(lambda *_: calls.append(1))  # recomputing stops before a block's end

    def outputs_and_gradients():
        calls.clear()
        model.zero_grad()
        outputs = model(x)
        outputs.square().sum().backward()
        return [outputs.detach(), *(p.grad.clone() for p in model.parameters())], len(calls)

    plain, plain_calls = outputs_and_gradients()
    model.set_grad_checkpointing()
    recomputed, recomputed_calls = outputs_and_gradients()
    assert (plain_calls, recomputed_calls) == (1, 2)
    for a, b in zip(plain, recomputed, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(model.forward_intermediates(x, 1, intermediates_only=True)[0], model.forward_features(x))
    model.set_grad_checkpointing(False)
    assert outputs_and_gradients()[1] == 1


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('coarse', [False, True])
def test_group_matcher_orders_all_parameters_by_depth(name, coarse):
    model = timm.create_model(name)
    groups = group_parameters(model, model.group_matcher(coarse=coarse))
    assert sorted(n for names in groups.values() for n in names) == sorted(n for n, _ in model.named_parameters())
    group_of = {n: group for group, names in groups.items() for n in names}
    order = ['conv1.weight', 'layer1.0.conv1.weight', 'layer2.0.conv1.weight', 'layer3.0.conv1.weight']
    order.append('fc.weight')
    positions = [group_of[n] for n in order]
    assert positions == sorted(set(positions))
    # the norm of a pre-activation network ends it, and counts with its last block
    last_block = max(group for n, group in group_of.items() if n.startswith('layer'))
    assert group_of['bn1.weight'] == (last_block if name.startswith('wrn') else group_of['conv1.weight'])
    assert len(param_groups_layer_decay(model, layer_decay=0.5)) > 2


@pytest.mark.parametrize('name', ONE_OF_EACH)
def test_drop_rates(name):
    x = torch.randn(4, 3, 32, 32)
    model = timm.create_model(name, drop_rate=0.5)
    feature_map = model.forward_features(x).abs() + 1  # no zeros of its own
    dropped = (model.forward_head(feature_map, pre_logits=True) == 0).float().mean()
    assert 0.4 < dropped < 0.6
    assert (model.eval().forward_head(feature_map, pre_logits=True) != 0).all()
    model = timm.create_model(name, drop_path_rate=0.3)
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == 'DropPath']
    blocks = sum(len(m) for n, m in model.named_children() if n.startswith('layer'))
    assert rates == pytest.approx([0.3 * i / (blocks - 1) for i in range(1, blocks)])
    assert not any(type(m).__name__ == 'DropPath' for m in timm.create_model(name).modules())


def test_drop_path_skips_the_residual_branch():
    x = torch.randn(2, 8, 4, 4)
    for block in (
            timm_ltkd.models.cifar_resnet.basic_block(8, 8, 1, 'A', drop_path=timm.layers.DropPath(1 - 1e-9)),
            timm_ltkd.models.PreActBlock(8, 8, drop_path=timm.layers.DropPath(1 - 1e-9)),
    ):
        expected = x.relu() if isinstance(block, timm.models.resnet.BasicBlock) else x
        assert torch.equal(block.train()(x), expected)
        assert not torch.equal(block.eval()(x), expected)


def test_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match='depht'):
        timm.create_model('resnet20', depht=20)
