"""Where networks come from: each of ours names its paper and page, and timm's are told by timm's registry."""
import pytest
import timm
from timm.models import list_modules, model_entrypoint

import timm_ltkd.models
from timm_ltkd.models import model_origin

OURS = sorted(
    name for name in timm.list_models(pretrained=False)
    if model_entrypoint(name).__module__.startswith('timm_ltkd.'))


def test_all_registered_models_are_looked_at():
    others = {
        'CifarNet', 'PadShortcut', 'PreActBlock', 'ELSEWHERE', 'HUB', 'model_origin', 'network_name',
        'register_new_model', 'unknown_model'}
    assert set(OURS) == set(timm_ltkd.models.__all__) - others
    assert 'resnet' in list_modules()


@pytest.mark.parametrize('name', OURS)
def test_ours_name_their_source(name):
    cfg = timm.get_pretrained_cfg(name)
    assert cfg.paper_ids.startswith('arXiv:') and cfg.paper_name and cfg.license == 'apache-2.0'
    assert cfg.origin_url.startswith('https://github.com/')
    origin = model_origin(name)
    assert origin == {
        'package': 'timm_ltkd', 'page': cfg.origin_url, 'paper': cfg.paper_name,
        'paper_url': f'https://arxiv.org/abs/{cfg.paper_ids.removeprefix("arXiv:")}'}


def test_the_paper_is_that_of_the_network():
    assert model_origin('resnet32')['paper_url'].endswith('/1512.03385')
    assert model_origin('resnet32x4')['paper'] == 'Contrastive Representation Distillation'
    assert model_origin('wrn_40_2')['paper_url'].endswith('/1605.07146')


def test_timms_own():
    """The papers in timm's registry are those of the weights."""
    plain = model_origin('resnet18')
    assert plain == {'package': 'timm', 'page': 'https://huggingface.co/timm/resnet18.a1_in1k'}
    begun = model_origin('resnet18.a1_in1k', pretrained=True)
    assert begun == plain | {
        'paper': 'arXiv:2110.00476', 'paper_url': 'https://arxiv.org/abs/2110.00476',
        'weights': 'timm/resnet18.a1_in1k', 'license': 'apache-2.0'}
    assert model_origin('resnet18', pretrained=True) == begun
    other = model_origin('resnet18.tv_in1k', pretrained=True)
    assert other['weights'] == 'timm/resnet18.tv_in1k' and other['license'] == 'bsd-3-clause'


def test_what_timm_does_not_know():
    assert model_origin('no_such_network') == {}
    assert model_origin('resnet18.of_another_version', pretrained=True)['weights'] == 'timm/resnet18.a1_in1k'
