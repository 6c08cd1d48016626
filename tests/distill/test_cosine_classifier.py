"""The normalised classifier that LDAM trains: cosines in training, a plain linear layer for everybody else."""
import pytest
import timm
import torch
from torch import nn

import timm_ltkd.models  # noqa: F401
from timm_ltkd.distill import CosineLinear, cosine_classifier, create_loss, plain_classifier
from timm_ltkd.errors import UserError
from timm_ltkd.prior import ClassPrior

MODELS = {'resnet20': {}, 'test_vit': dict(img_size=32), 'test_efficientnet': {}, 'test_convnext': {}}


def linear(features=6, classes=4, bias=True, seed=0):
    layer = nn.Linear(features, classes, bias=bias)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator)
    return layer


def features(size=64, dim=6, seed=1):
    return torch.randn(size, dim, generator=torch.Generator().manual_seed(seed)) * 3


def test_logits_are_scaled_cosines_whatever_the_lengths():
    layer, x = linear(), features()
    cosine = CosineLinear(layer, scale=30.)
    expected = 30. * torch.cosine_similarity(x[:, None], layer.weight[None], dim=2)
    assert torch.allclose(cosine(x), expected, atol=1e-5)
    with torch.no_grad():
        cosine.weight.mul_(torch.tensor([[0.1], [1.], [7.], [100.]]))
    assert torch.allclose(cosine(5 * x), expected, atol=1e-5)


def test_starts_from_a_layer_that_it_leaves_alone_and_draws_no_random_number():
    layer, state = linear(), torch.get_rng_state()
    before = layer.weight.clone()
    cosine = CosineLinear(layer, scale=30.)
    cosine.to_linear()
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(layer.weight, before)
    assert torch.allclose(cosine.weight.norm(dim=1), torch.ones(4)) and 'bias' not in cosine.state_dict()


def test_autocast_rounds_no_margin_away():
    cosine, x = CosineLinear(linear(), scale=30.), features()
    with torch.autocast('cpu', torch.bfloat16):
        logits = cosine(x)
    assert logits.dtype == torch.float32 and torch.equal(logits, cosine(x))


def test_remembers_the_length_of_features_in_training_alone():
    cosine, x = CosineLinear(linear(), scale=30.), features()
    mean = x.norm(dim=1).mean()
    cosine(x)
    assert torch.allclose(cosine.running_mean_norm, mean), 'the first batch sets it'
    cosine(3 * x)
    assert torch.allclose(cosine.running_mean_norm, 0.9 * mean + 0.1 * 3 * mean)
    known = cosine.state_dict()['running_mean_norm'].clone()
    cosine.eval()(x)
    assert torch.equal(cosine.running_mean_norm, known)


@pytest.mark.parametrize('bias', [True, False])
def test_the_plain_layer_ranks_the_classes_alike_and_is_as_sure(bias):
    cosine, x = CosineLinear(linear(classes=10, bias=bias), scale=30.), features(1000)
    logits = cosine(x)
    plain = cosine.to_linear()
    assert type(plain) is nn.Linear and (plain.bias is not None) == bias
    assert torch.equal(plain(x).argsort(dim=1), logits.argsort(dim=1))
    of_mean_length = x / x.norm(dim=1, keepdim=True) * cosine.running_mean_norm
    assert torch.allclose(plain(of_mean_length), cosine(of_mean_length), atol=1e-4)
    sure, as_sure = (z.softmax(dim=1).amax(dim=1).mean() for z in (logits, plain(x)))
    assert abs(sure - as_sure) < 0.05


@pytest.mark.parametrize('name', MODELS)
def test_of_any_timm_network(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=7, **MODELS[name])
    names = list(network.state_dict())
    create_loss('ldam', prior=ClassPrior([9] * 7), scale=20.).prepare(network)
    cosine, images = network.get_classifier(), torch.randn(4, 3, 32, 32)
    assert isinstance(cosine, CosineLinear) and cosine.scale == 20.
    network(images)
    network.eval()
    logits = network(images)
    pooled = network.forward_head(network.forward_features(images), pre_logits=True)
    assert torch.allclose(
        logits, 20. * torch.cosine_similarity(pooled[:, None], cosine.weight[None], dim=2), atol=1e-4)
    with plain_classifier(network):
        assert list(network.state_dict()) == names
        assert torch.equal(network(images).argmax(dim=1), logits.argmax(dim=1))
        fresh = timm.create_model(name, num_classes=7, **MODELS[name])
        fresh.load_state_dict(network.state_dict())
    assert network.get_classifier() is cosine
    assert torch.equal(fresh.eval()(images).argmax(dim=1), logits.argmax(dim=1))


def test_comes_back_after_an_error():
    network = timm.create_model('resnet20', num_classes=3)
    cosine_classifier(network, 30.)
    with pytest.raises(OSError), plain_classifier(network):
        raise OSError
    assert isinstance(network.fc, CosineLinear)


@pytest.mark.parametrize('make, kind', [
    (lambda: timm.create_model('resnet20', num_classes=0), 'Identity'),
    (lambda: timm.create_model('dpn48b', num_classes=3), 'Conv2d'),
    (lambda: timm.create_model('deit_tiny_distilled_patch16_224', num_classes=3, depth=1), 'several layers'),
    (lambda: nn.Sequential(nn.Linear(3, 3)), 'not found'),
])
def test_other_classifiers_are_refused(make, kind):
    with pytest.raises(UserError, match=f'ldam normalises a linear classifier, and that of .* is {kind}; choose'):
        cosine_classifier(make(), 30.)


def test_the_other_losses_change_nothing():
    network = timm.create_model('resnet20', num_classes=3)
    classifier = network.fc
    create_loss('focal', prior=ClassPrior([3, 2, 1])).prepare(network)
    assert network.fc is classifier
