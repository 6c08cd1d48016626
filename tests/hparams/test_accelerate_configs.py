"""hparams/accelerate: Accelerate reads each file as it is meant; that of two processes on the CPU really starts two."""
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'hparams' / 'accelerate'
TINY = '--imbalance-factor 144 --model test_resnet --epochs 1 --warmup-epochs 0 -b 64'.split()
MEANT = {  # processes, machines, precision, type
    'cpu': (1, 1, 'no', 'NO'),
    'cpu_two_processes': (2, 1, 'no', 'MULTI_GPU'),
    'one_gpu': (1, 1, 'bf16', 'NO'),
    'many_gpus': (8, 1, 'bf16', 'MULTI_GPU'),
    'many_nodes': (16, 2, 'bf16', 'MULTI_GPU'),
}


def launch(name, *words):
    return [sys.executable, '-m', 'accelerate.commands.launch', '--config_file', str(FOLDER / f'{name}.yaml'), *words]


def environment():
    """Of a user who has set nothing."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith('ACCELERATE_')}
    return kept | {'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': str(ROOT), 'MPLBACKEND': 'Agg'}


def test_every_file_is_looked_at_and_explained():
    assert {path.stem for path in FOLDER.iterdir()} == MEANT.keys()
    page = (ROOT / 'docs' / 'multi_gpu.md').read_text(encoding='utf-8')
    for path in FOLDER.iterdir():
        assert path.read_text().startswith('# ') and f'`{path.name}`' in page


@pytest.mark.parametrize('name', MEANT)
def test_accelerate_reads_what_is_meant(name):
    config = load_config_from_file(str(FOLDER / f'{name}.yaml'))
    found = config.num_processes, config.num_machines, config.mixed_precision, config.distributed_type.value
    assert found == MEANT[name]
    assert config.use_cpu == name.startswith('cpu')


@pytest.mark.parametrize('name, words, expected', [
    ('many_gpus', [], {'nproc_per_node': '8', 'num_machines': 1}),
    ('many_gpus', ['--num_processes', '4'], {'nproc_per_node': '4'}),
    ('many_nodes', [], {'nproc_per_node': '8', 'nnodes': '2', 'node_rank': 0, 'rdzv_endpoint': '10.0.0.1:29500'}),
    ('many_nodes', ['--machine_rank', '1', '--main_process_ip', 'first'],
     {'node_rank': 1, 'rdzv_endpoint': 'first:29500'}),
])
def test_what_the_launcher_makes_of_those_for_gpus(name, words, expected, monkeypatch):
    monkeypatch.setattr('accelerate.utils.launch.is_port_in_use', lambda port: False)
    args = launch_command_parser().parse_args(['--config_file', str(FOLDER / f'{name}.yaml'), *words, 'distill.py'])
    args, _, _ = _validate_launch_command(args)
    assert args.multi_gpu
    environment = prepare_multi_gpu_env(args)
    assert environment['ACCELERATE_MIXED_PRECISION'] == 'bf16'
    assert {key: getattr(args, key) for key in expected} == expected


@pytest.mark.parametrize('name, wanted', [
    ('one_gpu', {'CUDA_VISIBLE_DEVICES': '0', 'ACCELERATE_MIXED_PRECISION': 'bf16', 'ACCELERATE_USE_CPU': 'False'}),
    ('cpu', {'ACCELERATE_MIXED_PRECISION': 'no', 'ACCELERATE_USE_CPU': 'True'})])
def test_what_one_process_is_told(name, wanted, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')  # else the launcher sets it
    args = launch_command_parser().parse_args(['--config_file', str(FOLDER / f'{name}.yaml'), 'distill.py'])
    args, _, _ = _validate_launch_command(args)
    assert not args.multi_gpu and args.num_processes == 1
    command, environment = prepare_simple_launcher_cmd_env(args)
    assert command == [sys.executable, 'distill.py']
    assert {key: environment[key] for key in wanted} == wanted


def test_two_processes_on_the_cpu_are_two(tmp_path):
    (tmp_path / 'told.py').write_text(
        'from timm_ltkd.engine.processes.launch import create_accelerator\nhere = create_accelerator()\n'
        'line = f"{here.process_index} {here.num_processes} {here.device.type} {here.mixed_precision}\\n"\n'
        'print(line, end="")')  # in one piece, as the other process writes too
    done = subprocess.run(
        launch('cpu_two_processes', str(tmp_path / 'told.py')), env=environment(), capture_output=True, text=True,
        timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(done.stdout.splitlines()) == ['0 2 cpu no', '1 2 cpu no']


@pytest.mark.slow
def test_two_machines_meet(tmp_path):
    """Two launchers on this machine take the part of two machines with a process each."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    words = ['--num_processes', '2', '--main_process_ip', '127.0.0.1', '--main_process_port', port,
             '--mixed_precision', 'no']
    machines = [
        subprocess.Popen(
            launch('many_nodes', *words, '--machine_rank', rank, str(ROOT / 'train.py'), *TINY, '--output',
                   str(tmp_path)),
            env=environment() | {'ACCELERATE_USE_CPU': 'true'}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True)
        for rank in '01']
    said = [machine.communicate(timeout=300)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert 'global batch 128 = 2 processes × 64;' in said[0] and 'global batch' not in said[1]
    assert len(list(tmp_path.glob('*/report.json'))) == 1
