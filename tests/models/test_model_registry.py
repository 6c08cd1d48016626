"""A name that timm already has stays timm's."""
import copy

import pytest
import timm
from timm.models import _registry, model_entrypoint
from torch import nn

from timm_ltkd.models import register_new_model


def resnet18(pretrained=False, **kwargs):
    """A network that would shadow timm's."""
    raise AssertionError('must not be built')


def a_name_that_timm_lacks(pretrained=False, **kwargs):
    return nn.Identity()


def test_timms_own_name_is_left_alone():
    before = model_entrypoint('resnet18')
    cfg = timm.models.get_pretrained_cfg('resnet18')
    with pytest.warns(UserWarning, match=r"own model 'resnet18'.*gives timm's network"):
        assert register_new_model(resnet18) is resnet18
    assert model_entrypoint('resnet18') is before
    assert timm.models.get_pretrained_cfg('resnet18') == cfg
    assert isinstance(timm.create_model('resnet18', num_classes=2), timm.models.ResNet)


def test_new_name_is_registered(monkeypatch, recwarn):
    for table in ('_model_entrypoints', '_model_to_module', '_module_to_models'):
        monkeypatch.setattr(_registry, table, copy.copy(getattr(_registry, table)))
    assert not timm.models.is_model('a_name_that_timm_lacks')
    register_new_model(a_name_that_timm_lacks)
    assert isinstance(timm.create_model('a_name_that_timm_lacks'), nn.Identity)
    assert not recwarn.list
