"""New classifiers on weights that are trained: none starts with logits that spoil them."""
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from timm_ltkd.distill import linear_classifier
from timm_ltkd.engine.networks.head import calm_new_head

SMALL = '--img-size 32 --lr 1e-9 --weight-decay 0 --epochs 1 --experiment run'.split()


def head(network):
    return linear_classifier(network, 'the test needs')[1]


@pytest.mark.parametrize('name', ['mobilenetv3_small_050', 'efficientnet_lite0', 'mnasnet_small'])
def test_too_large_weights_are_drawn_anew(name):
    network = timm.create_model(name, num_classes=10)
    before, features = head(network).weight.clone(), head(network).in_features
    calm_new_head(network, seed=1)
    weight, bound = head(network).weight, features ** -0.5
    assert before.std() > 2 * bound and bound / 2 < weight.std() < bound and weight.abs().max() <= bound
    other = timm.create_model(name, num_classes=10)
    calm_new_head(other, seed=1)
    assert torch.equal(head(other).weight, weight) and torch.equal(head(other).bias, head(network).bias)


@pytest.mark.parametrize('name', ['resnet10t', 'test_vit', 'test_convnext'])
def test_others_stay(name):
    network = timm.create_model(name, num_classes=10)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    calm_new_head(network, seed=1)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_run_begins_with_it(script, options, tmp_path):
    """But a network whose head is not new, or that starts from scratch, with what timm gives it."""
    name, largest = 'mobilenetv3_small_050', 1024 ** -0.5 + 1e-6
    for classes in (3, 7):
        save_file(timm.create_model(name, num_classes=classes).state_dict(), tmp_path / f'{classes}.safetensors')
    for words, calm in (
            (['--initial-checkpoint', str(tmp_path / '7.safetensors'), '--new-head'], True),
            (['--initial-checkpoint', str(tmp_path / '3.safetensors')], False), ([], False)):
        script('train', [*options, *SMALL, '--model', name, *words, '--overwrite'])
        weight = load_file(tmp_path / 'run/model.safetensors')['classifier.weight']
        assert (float(weight.abs().max()) <= largest) == calm


def test_pretrained_weights_with_other_classes(script, options, tmp_path):
    name = 'mobilenetv3_small_050'
    save_file(timm.create_model(name, num_classes=1000).state_dict(), tmp_path / 'zoo.safetensors')
    overlay = ['--model-kwargs', f"pretrained_cfg_overlay={{'file': '{tmp_path}/zoo.safetensors'}}"]
    script('train', [*options, *SMALL, '--model', name, '--pretrained', *overlay])
    weight = load_file(tmp_path / 'run/model.safetensors')['classifier.weight']
    assert weight.shape[0] == 3 and float(weight.abs().max()) <= 1024 ** -0.5 + 1e-6
