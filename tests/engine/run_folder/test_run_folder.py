"""Where a run goes: fresh, resumed, replaced, and never into files of others."""
import errno
import multiprocessing
import os
import signal
import subprocess
from argparse import Namespace
from types import SimpleNamespace

import pytest

from timm_ltkd import files
from timm_ltkd.engine.run_folder import finished
from timm_ltkd.engine.run_folder import folder as folder_module
from timm_ltkd.engine.run_folder.checkpoint import rng_state, save_checkpoint
from timm_ltkd.engine.run_folder.folder import RunFolder, check_key, check_shared, find_folder, short_name
from timm_ltkd.errors import UserError

ALONE = SimpleNamespace(num_processes=1, is_main_process=True)


def ask(root, experiment=None, resume=None, overwrite=False, key='k'):
    args = Namespace(output=str(root), experiment=experiment, resume=resume, overwrite=overwrite)
    return find_folder(args, 'net-bkd', key)


def make_run(path, key='k', epochs=1, seconds=None):
    """A run's folder with its mark and checkpoints, the newest of which was written at `seconds`."""
    folder = RunFolder(path, key, resume=False)
    folder.claim('lr: 1\n')
    for epoch in range(1, epochs + 1):
        save_checkpoint(folder.last, epoch, {}, ALONE, rng_state())
        if seconds is not None:
            os.utime(folder.last / f'checkpoint-{epoch:06d}.pt', (seconds, seconds))
    (path / 'summary.csv').write_text('epoch\n0\n')
    return path


def test_a_folder_that_not_all_processes_see(tmp_path, monkeypatch):
    """Told before anything is trained; the folder goes, as nothing is in it."""
    two = SimpleNamespace(num_processes=2, is_main_process=True)
    folder = RunFolder(tmp_path / 'run', 'k', resume=False)
    folder.made, path = folder.claim('lr: 1\n')
    elsewhere = RunFolder(tmp_path / 'other' / 'run', 'k', resume=False)
    monkeypatch.setattr(folder_module, '_SEEN_WITHIN', 0.)
    monkeypatch.setattr(folder_module, 'gather_object', lambda mine: [True, *mine])
    check_shared(folder, two)
    with pytest.raises(UserError, match='process 1 does not see .*other/run, which process 0 has made'):
        check_shared(elsewhere, two)
    monkeypatch.setattr(folder_module, 'gather_object', lambda mine: [*mine, False])
    with pytest.raises(UserError, match='process 1 does not see'):
        check_shared(folder, two)
    assert not path.exists()
    monkeypatch.setattr(folder_module, 'gather_object', pytest.fail)
    check_shared(folder, ALONE)


def tree(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob('*')}


def test_fresh_names_differ(tmp_path):
    first = ask(tmp_path)
    assert first.path.parent == tmp_path and first.path.name.endswith('-net-bkd') and not first.resume
    assert list(tmp_path.iterdir()) == [], 'nothing is written yet'
    names = set()
    for _ in range(4):  # several within one second
        folder = ask(tmp_path)
        folder.claim('')
        names.add(folder.path)
    assert len(names) == 4


@pytest.mark.parametrize('model, name', [
    ('hf-hub:me/net@main', 'hf-hub_me_net@main'), (r'local-dir:C:\Users\me\a', 'local-dir_C__Users_me_a')])
def test_a_model_is_part_of_one_name_on_any_system(model, name):
    assert short_name(model) == name


@pytest.mark.parametrize('ended', [False, True])
def test_of_two_that_were_started_in_one_second_the_second_takes_the_next_name(tmp_path, ended):
    first, second = ask(tmp_path), ask(tmp_path)
    second.place(first.path)
    first.claim('one')
    if ended:
        first.release()
    made, path = second.claim('two')
    assert made and path == second.path == first.path.with_name(f'{first.path.name}-2')
    for folder, text in ((first, 'one'), (second, 'two')):
        assert (folder.path / 'args.yaml').read_text() == text


@pytest.mark.parametrize('output, experiment, message', [
    ('output', '../mine', r'mine holds files that are no run of ours'),
    ('new/../mine', 'sub', r'sub holds files that are no run of ours'),
    ('output', '..', r'--experiment \.\.: .* is the folder of all runs, or one around it'),
    ('output', '.', r'--experiment \.: .* is the folder of all runs'),
])
def test_a_way_back_leads_to_no_folder_of_the_user(tmp_path, monkeypatch, output, experiment, message):
    """Though what it starts from is not there yet."""
    monkeypatch.chdir(tmp_path)
    for folder in ('mine', 'mine/sub'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'file.txt').write_text('mine')
    before = tree(tmp_path)
    with pytest.raises(UserError, match=message):
        ask(output, experiment)
    folder = ask(output, '../mine/runs')
    assert folder.path == tmp_path / 'mine/runs' and folder.hold()
    folder.release()
    assert tree(tmp_path) == before


def test_an_experiment_is_a_new_or_an_empty_folder(tmp_path):
    (tmp_path / 'empty').mkdir()
    killed = tmp_path / 'killed/last'
    killed.mkdir(parents=True)
    (killed / '.run.json.x1y2.tmp.json').write_text('{')
    for name in ('new', 'empty', 'killed'):
        for resume in (None, 'auto'):
            folder = ask(tmp_path, name, resume)
            assert (folder.path, folder.resume, folder.replace) == (tmp_path / name, False, False)


def test_a_run_is_not_written_over_unless_asked(tmp_path):
    run = make_run(tmp_path / 'run')
    before = tree(run)
    with pytest.raises(UserError, match='--resume auto continues it, --overwrite replaces it'):
        ask(tmp_path, 'run')
    assert ask(tmp_path, 'run', 'auto').resume
    folder = ask(tmp_path, 'run', overwrite=True)
    assert folder.replace and not folder.resume
    assert tree(run) == before, 'it is replaced when all is checked'
    folder.claim('lr: 2\n')
    assert sorted(path.name for path in run.iterdir()) == ['args.yaml', 'last']
    assert (run / 'args.yaml').read_text() == 'lr: 2\n'
    assert sorted(path.name for path in folder.last.iterdir()) == ['.lock', 'run.json']


@pytest.mark.parametrize('how', [{}, {'overwrite': True}, {'resume': 'auto'}])
def test_files_of_others_are_left_alone(tmp_path, how):
    thesis = tmp_path / 'thesis/chapter'
    thesis.mkdir(parents=True)
    (thesis / 'one.tex').write_text('precious')
    with pytest.raises(UserError, match='no run of ours'):
        ask(tmp_path, 'thesis', **how)
    assert (thesis / 'one.tex').read_text() == 'precious'


def test_auto_takes_what_came_furthest_whatever_the_clock_says(tmp_path):
    make_run(tmp_path / 'a', seconds=300, epochs=12)
    make_run(tmp_path / 'b', seconds=400, epochs=2)
    assert ask(tmp_path, resume='auto').path == tmp_path / 'a'


def test_auto_finds_the_newest_run_with_these_settings(tmp_path):
    make_run(tmp_path / 'a', seconds=200)
    make_run(tmp_path / 'b', seconds=300)
    make_run(tmp_path / 'c', seconds=400, key='other')
    make_run(tmp_path / 'd', epochs=0)  # no checkpoint yet
    (tmp_path / 'e/last').mkdir(parents=True)
    (tmp_path / 'e/last/run.json').write_text('not JSON')
    folder = ask(tmp_path, resume='auto')
    assert folder.resume and folder.path == tmp_path / 'b'
    fresh = ask(tmp_path, resume='auto', key='none of these')
    assert not fresh.resume and not fresh.path.exists()


@pytest.mark.parametrize('part', ['', 'last'])
def test_resume_by_path(tmp_path, part):
    run = make_run(tmp_path / 'run')
    folder = ask(tmp_path / 'elsewhere', resume=str(run / part))
    assert folder.resume and folder.path == run


def test_a_checkpoint_file_is_no_folder_to_resume(tmp_path):
    run = make_run(tmp_path / 'run')
    with pytest.raises(UserError, match='name the folder of the run'):
        ask(tmp_path, resume=str(run / 'last/checkpoint-000001.pt'))


def test_nothing_to_resume(tmp_path):
    (tmp_path / 'run').mkdir()
    for path in (tmp_path / 'run', tmp_path / 'nowhere'):
        with pytest.raises(UserError, match='no checkpoint there'):
            ask(tmp_path, resume=str(path))


def test_other_settings_are_not_resumed(tmp_path):
    run = make_run(tmp_path / 'run', key='k')
    check_key(RunFolder(run, 'k', resume=True), Namespace(lr=2))
    with pytest.raises(UserError, match='the options are the same, but not the images.*; choose another --experiment'):
        check_key(RunFolder(run, 'k2', resume=True), Namespace(lr=1))


@pytest.mark.parametrize('before, now, said', [
    ('lr: 0.1\nepochs: 3\n', dict(lr=0.2, epochs=3), '--lr was 0.1 and is 0.2'),
    ('lr: 1.0e-05\nscale: [0.5, 1.0]\n', dict(lr=1e-5, scale=(0.5, 1.)), 'the options are the same, but not the ima'),
    ('img_size: null\nkd: bkd\n', dict(img_size=32, kd=['bkd', 'kd']),
     '--img-size was not given and is 32, --kd was bkd and is bkd kd'),
    ('kd_kwargs: {alpha: 1}\nlog_with: []\n', dict(kd_kwargs={}, log_with=['wandb']),
     '--kd-kwargs was alpha=1 and is empty;'),
    ('workers: 2\nlog_interval: 3\n', dict(workers=4, log_interval=5, output='here', new=1),
     'the options are the same'),
    ('a: 0\nb: 0\nc: 0\nd: 0\ne: 0\nf: 0\ng: 0\n', dict.fromkeys('abcdefg', 1), '--e was 0 and is 1, 2 more;'),
    ('lr: [\n', dict(lr=1), 'args.yaml cannot be read'),
    ('- 1\n', dict(lr=1), 'args.yaml cannot be read, or holds no options'),
])
def test_which_settings_differ_is_told(tmp_path, before, now, said):
    run = make_run(tmp_path / 'run', key='k')
    (run / 'args.yaml').write_text(before)
    with pytest.raises(UserError) as told:
        check_key(RunFolder(run, 'k2', resume=True), Namespace(**now))
    assert said in str(told.value) and '\n' not in str(told.value)
    (run / 'args.yaml').unlink()
    with pytest.raises(UserError, match='args.yaml cannot be read, or holds no options; repeat them'):
        check_key(RunFolder(run, 'k2', resume=True), Namespace(**now))


def test_a_name_that_cannot_be_written(tmp_path):
    for where in (dict(root=tmp_path / 'a\udfff'), dict(root=tmp_path, experiment='b\udfff')):
        with pytest.raises(UserError, match=r'\\udfff has characters that this locale cannot write'):
            ask(**where)


def test_the_mark_comes_first(tmp_path, monkeypatch):
    """So that a run killed while it claims its folder can be started again."""
    folder = RunFolder(tmp_path / 'run', 'k', resume=False)
    write = folder_module.write_text
    monkeypatch.setattr(
        folder_module, 'write_text', lambda path, text: write(path, None if path.suffix == '.yaml' else text))
    with pytest.raises(TypeError):
        folder.claim('lr: 1\n')  # stops at args.yaml
    assert ask(tmp_path, 'run', 'auto').resume


def test_what_killed_processes_left_half_written_goes(tmp_path):
    run = make_run(tmp_path / 'run', epochs=3)
    (run / 'last/checkpoint-000001.pt').write_bytes(b'old')  # killed before it was removed
    (run / '.export.tmp.abcd').mkdir()
    for path in (run / '.export.tmp.abcd/model.safetensors', run / 'last/.checkpoint-000004.pt.ef.tmp.pt'):
        path.write_bytes(b'half')
        os.utime(path, (4e9, 4e9))  # whatever the clock said
    RunFolder(run, 'k', resume=True).claim('lr: 1\n')
    assert sorted(path.name for path in run.iterdir()) == ['args.yaml', 'last', 'summary.csv']
    assert sorted(path.name for path in (run / 'last').iterdir()) == [
        '.lock', 'checkpoint-000002.pt', 'checkpoint-000003.pt', 'run.json']


def test_one_process_at_a_time(tmp_path, monkeypatch):
    """Nothing of the first one's is touched, not even to replace it."""
    monkeypatch.setattr('timm_ltkd.engine.run_folder.folder.PATIENCE', 0.1)
    first = RunFolder(tmp_path / 'run', 'k', resume=False)
    first.claim('lr: 1\n')
    save_checkpoint(first.last, 1, {}, ALONE, rng_state())
    before = tree(first.path)
    for how in ({'resume': True}, {'resume': False, 'replace': True}):
        second = RunFolder(first.path, 'k', **how)
        with pytest.raises(UserError, match='run is being trained by another process; wait'):
            second.claim('lr: 2\n')
        second.release()
        assert tree(first.path) == before
    first.release()
    assert second.claim('lr: 2\n') == (False, first.path)
    assert not list(first.last.glob('*.pt'))


def test_of_two_that_chose_a_new_folder_the_second_is_refused(tmp_path):
    """Also where the first has ended by then."""
    first, second = ask(tmp_path, 'run'), ask(tmp_path, 'run')
    first.claim('one')
    first.release()
    with pytest.raises(UserError, match='has become the folder of another run'):
        second.claim('two')
    assert (tmp_path / 'run' / 'args.yaml').read_text() == 'one'


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='the other process is forked, as it need not import anything then')
def test_a_lock_ends_with_its_process(tmp_path):
    folder = RunFolder(tmp_path / 'run', 'k', resume=False)
    here, there = multiprocessing.Pipe()

    def claim():
        other = RunFolder(folder.path, 'k', resume=False)
        other.claim('')
        there.send('claimed')
        signal.pause()
    process = multiprocessing.get_context('fork').Process(target=claim)
    process.start()
    assert here.recv() == 'claimed'
    assert not folder.hold(patience=0)
    process.kill()
    process.join()
    assert folder.hold(patience=0)


def test_a_folder_held_for_nothing_goes(tmp_path):
    folder = RunFolder(tmp_path / 'teachers/net', 'k', resume=True)
    assert folder.hold() and folder.last.is_dir()
    folder.release()
    assert not folder.path.exists()
    folder.claim('')
    folder.release()
    assert (folder.last / 'run.json').is_file()


def test_where_nothing_can_be_locked_runs_go_on(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.ENOLCK, 'no locks available')
    monkeypatch.setattr(files.FileLock, 'acquire', refuse)
    for _ in range(2):
        assert RunFolder(tmp_path / 'run', 'k', resume=True).hold()

    def never(*args, **kwargs):  # as releases of filelock that take it for a lock of another
        raise files.Timeout('there')
    monkeypatch.setattr(files.FileLock, 'acquire', never)
    assert RunFolder(tmp_path / 'run', 'k', resume=True).hold(patience=0)
    assert not list((tmp_path / 'run').rglob('.lock.*'))
    monkeypatch.setattr(files.FileLock, 'acquire', lambda *a, **k: (_ for _ in ()).throw(OSError(errno.EROFS, 'read')))
    with pytest.raises(UserError, match='cannot be written'):
        RunFolder(tmp_path / 'run', 'k', resume=True).hold()


def test_the_commit_is_that_of_this_package_or_none(tmp_path, monkeypatch):
    """An environment may lie within the checkout of something else."""
    git = ['git', '-C', str(tmp_path), '-c', 'user.name=a', '-c', 'user.email=a@b']
    try:
        subprocess.run([*git, 'init', '-q'], check=True, capture_output=True)
    except OSError:
        pytest.skip('needs git')
    subprocess.run([*git, 'commit', '-q', '--allow-empty', '-m', 'x'], check=True, capture_output=True)
    head = subprocess.run([*git, 'rev-parse', 'HEAD'], check=True, capture_output=True, text=True).stdout.strip()
    for root, commit in ((tmp_path, head), (tmp_path / 'venv' / 'lib', None)):
        (package := root / 'timm_ltkd' / 'engine' / 'run_folder').mkdir(parents=True)
        monkeypatch.setattr(finished, '__file__', str(package / 'finished.py'))
        assert finished.git_commit() == commit
