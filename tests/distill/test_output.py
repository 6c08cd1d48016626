"""Logits and features of any network, from one forward: what enters the classifier, whatever that looks like."""
import copy
import io

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import AttentionPool2d
from torch import nn

import timm_ltkd.models  # noqa: F401
from timm_ltkd.distill import check_logits, feature_dim, model_output
from timm_ltkd.distill.output import FeatureTap, classifiers, tap_features
from timm_ltkd.errors import UserError

FAMILIES = {  # by what is special about their heads
    'resnet20': {},
    'test_resnet': {},
    'test_vit': dict(img_size=32),
    'test_byobnet': {},
    'test_convnext': {},  # a norm after pooling
    'test_nfnet': {},
    'efficientvit_b0': {},  # hidden layers in the head
    'mobilenetv3_small_050': {},  # a convolution after pooling
    'dla46_c': {},  # a classifier that is a convolution
    'levit_128s': dict(img_size=32),  # a classifier with a batch norm of its own
    'repvit_m0_9': {},  # two classifiers in one module
    'efficientformerv2_s0': dict(img_size=32),  # two, of the same features
    'deit_tiny_distilled_patch16_224': dict(img_size=32, embed_dim=24, num_heads=2, depth=2),  # two, of two tokens
    'crossvit_tiny_240': dict(embed_dim=(24, 48), num_heads=(2, 2), depth=((1, 2, 0),)),  # two, of a part each
    'efficientvim_m1_dist': {},  # twice four parts
    'sequencer2d_s': dict(layers=(1, 1, 1, 1)),  # one that pools maps [B, H, W, D] itself
    'xcit_nano_12_p16_224': dict(img_size=32),
}


def pixels(size=32, batch=2, seed=0):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('name', FAMILIES)
def test_a_timm_networks_features_are_its_pre_logits(name):
    if not timm.is_model(name):
        pytest.skip('this timm does not have it')
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7, **FAMILIES[name]).eval()
    images = pixels(model.pretrained_cfg['input_size'][-1] if name.startswith('crossvit') else 32)
    with torch.no_grad():
        logits, features = model_output(model, images, needs_features=True)
        pre_logits = model.forward_head(model.forward_features(images), pre_logits=True)
        assert torch.equal(logits, model(images)) and logits.shape == (2, 7)
    assert features.shape == (2, feature_dim(model))
    assert torch.allclose(features, pre_logits.flatten(1), atol=1e-5)
    assert not torch.equal(*features), 'they tell the images apart'


@pytest.mark.parametrize('name, options', [
    ('resnet20', {}), ('test_vit', dict(img_size=32)), ('mobilenetv3_small_050', {}), ('convnext_atto', {})])
def test_logits_are_made_of_these_very_features_under_dropout(name, options):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7, drop_rate=0.5, **options).train()
    ((classifier,),) = classifiers(model)
    logits, features = model_output(model, pixels(batch=4), needs_features=True)
    assert torch.allclose(classifier(features), logits, atol=1e-6)
    assert not torch.allclose(model(pixels(batch=4)), logits, atol=1e-3), 'another forward has another mask'


def test_one_forward_is_one_update_and_one_draw():
    model, plain = (timm.create_model('levit_128s', img_size=32, num_classes=7).train() for _ in range(2))
    plain.load_state_dict(model.state_dict())
    for network, ask in ((model, True), (plain, False)):
        torch.manual_seed(3)
        model_output(network, pixels(), ask)
    assert int(model.head.bn.num_batches_tracked) == 1
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in model.state_dict().items())


def test_gradients_flow_through_both():
    model = timm.create_model('resnet20', num_classes=7)
    logits, features = model_output(model, pixels(), needs_features=True)
    (by_hand,) = torch.autograd.grad(logits.sum(), features, retain_graph=True)
    assert torch.allclose(by_hand, model.fc.weight.sum(dim=0).expand(2, -1), atol=1e-6)
    features.square().sum().backward()
    assert model.conv1.weight.grad.abs().max() > 0 and model.fc.weight.grad is None


# taps

def test_a_network_is_tapped_once_and_its_copies_have_their_own():
    model = timm.create_model('resnet20', num_classes=7).train()
    ((tap,),) = tap_features(model)
    assert tap_features(model) == [[tap]] and len(model.fc._forward_pre_hooks) == 1
    model(pixels())  # leaves a tensor with its graph, which could not be copied
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        (other,) = twin.fc._forward_pre_hooks.values()
        assert isinstance(other, FeatureTap) and other is not tap and other.entered is None
        twin.eval()
        features = model_output(twin, pixels(), True).features
        assert other.entered is None and torch.equal(twin.fc(features), twin(pixels()))


def test_nothing_is_kept_after_it_was_taken():
    model = timm.create_model('resnet20', num_classes=7)
    model_output(model, pixels(), needs_features=True)
    ((tap,),) = tap_features(model)
    assert tap.take() is None
    assert not [key for key in model.state_dict() if 'tap' in key]


# networks by hand

class Plain(nn.Module):
    """Nothing of timm's interface; `returns` makes something of its logits."""

    def __init__(self, returns=lambda logits: logits, num_classes=3):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 5, 3), nn.Linear(5, num_classes)
        self.num_classes, self.returns = num_classes, returns

    def forward(self, input):
        return self.returns(self.fc(self.conv(input).mean((2, 3))))


class ConvolutionalHead(Plain):
    """Classifies every position, then takes the mean."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Conv2d(5, 3, 1)

    def get_classifier(self):
        return self.fc

    def forward(self, input):
        return self.fc(self.conv(input)).mean((2, 3))


class AttentionHead(Plain):
    """Classifies all tokens, and returns what it says of the first."""

    def __init__(self):
        super().__init__()
        self.fc = AttentionPool2d(4, feat_size=6, out_features=3, num_heads=2)
        self.conv = nn.Conv2d(3, 4, 3)

    def get_classifier(self):
        return self.fc.proj

    def forward(self, input):
        return self.fc(self.conv(input))


class Deaf(Plain):
    """Goes around the classifier that it has."""

    def forward(self, input):
        return F.linear(self.conv(input).mean((2, 3)), self.fc.weight)


def test_a_classifier_that_is_called_by_name():
    class ByName(Plain):
        def forward(self, input):
            return self.fc(input=self.conv(input).mean((2, 3)))
    model = ByName()
    said = model_output(model, pixels(8), needs_features=True)
    assert torch.equal(model.fc(said.features), said.logits)


def test_without_any_of_timms_interface():
    model = Plain()
    logits, features = model_output(model, pixels(8), needs_features=True)
    assert feature_dim(model) == 5
    assert torch.equal(features, model.conv(pixels(8)).mean((2, 3))) and torch.equal(model.fc(features), logits)


def test_a_classifier_of_maps():
    model = ConvolutionalHead()
    logits, features = model_output(model, pixels(8), needs_features=True)
    assert features.shape == (2, feature_dim(model)) == (2, 5)
    assert torch.allclose(model.fc(features[:, :, None, None]).flatten(1), logits, atol=1e-6)


def test_a_classifier_of_tokens():
    model = AttentionHead().eval()
    logits, features = model_output(model, pixels(8), needs_features=True)
    assert features.shape == (2, feature_dim(model)) == (2, 4)
    assert torch.allclose(features, model.fc(model.conv(pixels(8)), pre_logits=True), atol=1e-6)
    assert torch.allclose(model.fc.proj(features), logits, atol=1e-6)


@pytest.mark.parametrize('returns, what', [
    (lambda logits: (logits, logits), 'returns a tuple'),
    (lambda logits: [logits], 'returns a list'),
    (lambda logits: {'logits': logits}, 'returns a dict'),
    (lambda logits: logits[:, :, None, None], r'returns shape \[2, 3, 1, 1\]'),
])
@pytest.mark.parametrize('needs_features', [False, True])
def test_what_is_no_logits_is_refused(returns, what, needs_features):
    with pytest.raises(UserError, match=f'Plain {what}, not logits') as error:
        model_output(Plain(returns), pixels(8), needs_features)
    assert '\n' not in str(error.value)


def test_maps_of_features_only_are_refused():
    maps = timm.create_model('resnet20', features_only=True)
    with pytest.raises(UserError, match='returns a list, not logits'):
        check_logits(maps, maps(pixels()))


@pytest.mark.parametrize('make, message', [
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), 'Sequential has no get_classifier'),
    (lambda: Deaf(), 'Deaf gives no features: it has a classifier, but nothing enters it'),
])
def test_what_gives_no_features_says_why(make, message):
    model = make()
    assert model_output(model, pixels(8)).features is None
    with pytest.raises(UserError, match=message) as error:
        model_output(model, pixels(8), needs_features=True)
    assert '\n' not in str(error.value)


def test_two_layers_that_could_be_the_classifier_are_none():
    model = Plain()
    model.other = nn.Linear(3, 3)
    with pytest.raises(UserError, match='nor one linear layer with an output for each class'):
        feature_dim(model)


def test_the_length_of_features_where_there_is_no_classifier_left():
    assert feature_dim(timm.create_model('resnet20', num_classes=0)) == 64
    model = Plain()
    model.get_classifier = nn.Identity
    with pytest.raises(UserError, match='Plain does not say how long its features are'):
        feature_dim(model)


@pytest.mark.parametrize('compiled', [
    lambda model: torch.compile(model, backend='eager'), lambda model: model.compile(backend='eager') or model],
    ids=['wrapped', 'in place'])
def test_what_was_compiled_too_early_says_so(compiled):
    model = compiled(Plain())
    model(pixels(8))
    with pytest.raises(UserError, match='Plain gives no features: it was compiled before'):
        model_output(model, pixels(8), needs_features=True)
