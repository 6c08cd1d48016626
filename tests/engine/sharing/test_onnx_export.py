"""ONNX files answer as the network does, at any batch size, or are not written."""
import json

import pytest
import timm
import torch
from torch import nn

import timm_ltkd  # noqa: F401
from timm_ltkd.cli import run
from timm_ltkd.distill.losses import cosine_classifier
from timm_ltkd.distill.losses.cosine import plain_classifier
from timm_ltkd.engine.networks.create import create_network
from timm_ltkd.engine.sharing import onnx_file
from timm_ltkd.engine.sharing.onnx_file import export_onnx
from timm_ltkd.errors import UserError

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
if torch.__version__ < (2, 9):  # compares by its parts
    pytest.skip("torch's exporter refuses some of these networks before 2.9", allow_module_level=True)
TINY_VIT = dict(patch_size=4, embed_dim=16, depth=1, num_heads=2)
SHORT = dict(layers=(1, 1, 1))  # with two shortcuts of option A, all the same


def ask(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return torch.from_numpy(session.run(['logits'], {'input': images.numpy()})[0])


def noise(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def trained(name, **kwargs):
    """A network with batch statistics of its own, as after a training."""
    torch.manual_seed(0)
    network = create_network(name, 5, model_kwargs=kwargs)
    with torch.no_grad():
        network.train()(torch.rand(8, *network.pretrained_cfg['input_size'][:1], 32, 32) - 0.5)
    return network.eval()


@pytest.mark.parametrize('name, kwargs', [
    ('resnet20', dict(SHORT, in_chans=1)),
    ('test_efficientnet', {}),  # whose logits are tiny here
    ('vit_tiny_patch16_224', dict(TINY_VIT, img_size=32)),
])
def test_it_answers_as_the_network_does(tmp_path, name, kwargs):
    network, path = trained(name, **kwargs), tmp_path / 'net.onnx'
    channels = network.pretrained_cfg['input_size'][0]
    file = export_onnx(network, path, input_size=(channels, 32, 32), class_names=list('abcdé'))
    onnx.checker.check_model(str(path), full_check=True)
    images = noise(7, channels, 32, 32)
    with torch.no_grad():
        expected = network(images)
    assert (ask(path, images) - expected).abs().max() < 1e-4 * expected.abs().max()
    assert b'.py' not in path.read_bytes(), 'no files and lines of this machine'
    assert file.size == path.stat().st_size and file.shape == ('batch', channels, 32, 32)
    assert file.deviation < 1e-4 * file.scale and file.scale == pytest.approx(float(expected.abs().max()), rel=0.5)
    model = onnx.load(str(path))
    assert model.opset_import[0].version == file.opset
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts['class_names']) == list('abcdé') and facts['architecture'] == name
    assert json.loads(facts['mean']) == pytest.approx(network.pretrained_cfg['mean'][:channels], abs=1e-6)


def test_the_cosine_classifier_of_ldam_as_it_is_exported(tmp_path):
    network = trained('resnet20', **SHORT)
    cosine_classifier(network, scale=30.)
    network.train()(torch.rand(8, 3, 32, 32))
    with plain_classifier(network):
        export_onnx(network, tmp_path / 'ldam.onnx', input_size=(3, 32, 32))
    images = noise(16, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ask(tmp_path / 'ldam.onnx', images).argmax(dim=1), network.eval()(images).argmax(dim=1))


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    network, path = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), tmp_path / 'net.onnx'
    path.write_bytes(b'the old one')
    trace = onnx_file._trace

    def wrong(network, images, opset):
        program = trace(network, images, opset)
        network[1].bias = nn.Parameter(network[1].bias + 0.5)  # what was traced is another network
        return program
    monkeypatch.setattr(onnx_file, '_trace', wrong)
    with pytest.raises(UserError, match='differs from Sequential by 0.5 .*not written'):
        export_onnx(network, path, input_size=(3, 2, 2))
    assert path.read_bytes() == b'the old one' and list(tmp_path.iterdir()) == [path]


def test_a_network_that_onnx_cannot_hold(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] if float(x.sum()) > 0 else x.flatten(1)[:, 3:6]
    with pytest.raises(UserError, match='Odd cannot be written as ONNX') as told:
        export_onnx(Odd(), tmp_path / 'odd.onnx', input_size=(3, 8, 8))
    assert '\n' not in str(told.value) and not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'onnxscript', None)
    with pytest.raises(UserError, match=r"onnxscript.*pip install 'timm_ltkd\[onnx\]'"):
        export_onnx(nn.Identity(), tmp_path / 'x.onnx', input_size=(3, 8, 8))


def test_the_command_with_normalisation_inside(tmp_path, log):
    torch.manual_seed(0)
    network = timm.create_model('resnet8x4', num_classes=4).eval()
    nn.init.zeros_(network.get_classifier().bias)  # which a fix of no strength drops
    torch.save(network.state_dict(), tmp_path / 'net.pt')
    path = tmp_path / 'net.onnx'
    run.export([
        str(tmp_path / 'net.pt'), '--model', 'resnet8x4', '--onnx', str(path), '--img-size', '16', '--mean', '0.5',
        '--std', '0.25', '--crop-pct', '0.9', '--with-normalisation', '--opset', '18', '--tau-norm', '0'])
    told = [line for line in log if 'opset' in line]
    assert len(told) == 1 and told[0].startswith(f'{path}: opset 18, ')
    assert 'MB, input batch×3×16×16 of pixels from 0 to 1, ' in told[0]
    pixels = noise(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(ask(path, pixels), network((pixels - 0.5) / 0.25), atol=1e-4, rtol=1e-4)
    assert float(told[0].partition('from torch ')[2].partition(' in logits')[0]) < 1e-4
    facts = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    assert facts['input'] == 'pixels from 0 to 1' and json.loads(facts['class_names']) == []
    assert (facts['interpolation'], facts['crop_pct']) == ('bilinear', '0.9')
    assert facts['posthoc'] == 'tau-norm 0'
