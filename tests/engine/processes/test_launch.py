"""How processes agree, and which of them speaks."""
import threading
from types import SimpleNamespace

import pytest
import torch

from timm_ltkd.cli.run import one_line_errors
from timm_ltkd.engine.processes import launch
from timm_ltkd.errors import UserError


@pytest.mark.parametrize('rank, who', [(0, 'train.py'), (1, 'train.py, process 1')])
def test_each_process_tells_its_own_mistake(monkeypatch, capsys, rank, who):
    """A corrupt image is met by one process only, and that one may not be the first."""
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', str(rank))
    with pytest.raises(SystemExit) as stopped, one_line_errors('train.py'):
        raise UserError('x.png cannot be read')
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f'{who}: error: x.png cannot be read\n'


def test_there_are_no_more_loader_workers_than_cores(monkeypatch):
    monkeypatch.setattr(launch.os, 'sched_getaffinity', lambda pid: {0, 5, 7}, raising=False)
    assert [launch.loader_workers(asked) for asked in (0, 1, 3, 4, 64)] == [0, 1, 3, 3, 3]
    monkeypatch.delattr(launch.os, 'sched_getaffinity')
    monkeypatch.setattr(launch.os, 'cpu_count', lambda: 2)
    assert launch.loader_workers(4) == 2
    monkeypatch.setattr(launch.os, 'cpu_count', lambda: None)
    assert launch.loader_workers(4) == 1


def test_all_processes_have_as_many_loader_workers(monkeypatch):
    """By whose number a stream is shared out among them; where one has fewer cores, too."""
    monkeypatch.setattr(launch.os, 'sched_getaffinity', lambda pid: set(range(4)), raising=False)
    monkeypatch.setattr(launch, '_cores_of_all', [4, 2])
    assert [launch.loader_workers(asked) for asked in (0, 1, 3)] == [0, 1, 2]


@pytest.mark.parametrize('answer', [['found', None], [None, 'not there']])
def test_what_the_first_process_finds_holds_for_all(monkeypatch, answer):
    """Another process does not look itself; it takes the answer, or the mistake, of the first."""
    def broadcast(objects):
        objects[:] = answer
    monkeypatch.setattr(launch, 'broadcast_object_list', broadcast)
    second = SimpleNamespace(is_main_process=False, num_processes=2)
    look = pytest.fail
    if answer[1] is None:
        assert launch.on_main(second, look) == 'found'
    else:
        with pytest.raises(UserError, match='not there'):
            launch.on_main(second, look)
    alone = SimpleNamespace(is_main_process=True, num_processes=1)
    assert launch.on_main(alone, lambda: 'mine') == 'mine'


@pytest.mark.parametrize('precision, hint', [('fp8', "precision 'fp8'"), ('bf61', "did you mean 'bf16'")])
def test_a_precision_that_is_not_ours_is_told_before_accelerate_looks_for_it(monkeypatch, precision, hint):
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', precision)
    monkeypatch.setattr(launch, 'Accelerator', pytest.fail)
    with pytest.raises(UserError, match=hint):
        launch.create_accelerator()


def test_processes_that_nothing_connects_do_not_train_alone(monkeypatch):
    """As where Accelerate has no backend for the device: it takes each of them for the only one."""
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('LOCAL_RANK', '0')
    alone = SimpleNamespace(num_processes=1, device=SimpleNamespace(type='mps'))
    monkeypatch.setattr(launch, 'Accelerator', lambda **options: alone)
    with pytest.raises(UserError, match='2 processes were launched and each would train alone: .* on mps'):
        launch.create_accelerator()


@pytest.mark.parametrize('environment, project', [({}, 'timm_ltkd'), ({'WANDB_PROJECT': 'moths'}, 'moths')])
def test_trackers_are_told_the_name_of_the_run(tmp_path, monkeypatch, environment, project):
    """As they take it; wandb is to write into the folder too."""
    monkeypatch.delenv('WANDB_PROJECT', raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    accelerator, told = launch.create_accelerator(['tensorboard']), []
    monkeypatch.setattr(accelerator, 'init_trackers', lambda *args, **kwargs: told.append((args, kwargs)))
    launch.start_trackers(accelerator, ['tensorboard'], str(tmp_path / 'run7'), {'lr': 0.1, 'kd': ['bkd']})
    (args, kwargs), = told
    assert args == (project,) and kwargs['config'] == {'lr': 0.1, 'kd': "['bkd']"}
    assert kwargs['init_kwargs']['wandb'] == {'name': 'run7', 'dir': str(tmp_path / 'run7')}
    assert kwargs['init_kwargs']['mlflow'] == {'run_name': 'run7'}


def test_another_thread_does_not_change_how_a_weight_is_cast(monkeypatch):
    """Autocast's cache is the process's: seeds that train together would empty each other's between two uses."""
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'bf16')
    accelerator = launch.create_accelerator()

    def gradient(between):
        torch.manual_seed(0)
        layer = torch.nn.Linear(16, 16)
        with accelerator.autocast():
            once = layer(torch.randn(8, 16))
            between()
            layer(once).float().square().mean().backward()
        return layer.weight.grad

    def other():
        with accelerator.autocast():
            pass

    def in_another_thread():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert torch.equal(gradient(lambda: None), gradient(in_another_thread))
