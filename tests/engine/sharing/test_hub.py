"""Pushes to a hub: checked before a training, made by one process, never at the cost of a run.

The hub is a server of this machine that knows the few requests of the client.
"""
import base64
import hashlib
import json
import subprocess
import sys
import threading
from argparse import Namespace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.utils import _http

from timm_ltkd.cli import run
from timm_ltkd.engine.sharing import hub as hub_module
from timm_ltkd.engine.sharing.hub import open_repository, upload
from timm_ltkd.engine.sharing.share import check_sharing
from timm_ltkd.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


class Hub(ThreadingHTTPServer):
    """Serves at `url` until `stop`.

    Attributes:
        repos: `{'OWNER/NAME': {'private': bool, 'files': {name: bytes}, 'commits': int}}`.
        asked: (method, path) of each request, in order.
        fail: Path endings that are answered by this status.
    """

    def __init__(self):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.url = f'http://127.0.0.1:{self.server_port}'
        self.repos, self.asked, self.fail, self.role = {}, [], {}, 'write'
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._take()

    do_HEAD = do_POST = do_GET

    def _take(self):
        hub, path = self.server, self.path.partition('?')[0]
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        hub.asked.append((self.command, path))
        for ending, status in hub.fail.items():
            if path.endswith(ending):
                return self._answer({'error': 'no room for it'}, status)
        if path == '/':
            return self._answer({})
        if '/resolve/' in path:
            return self._file(path)
        if self.headers.get('Authorization') != 'Bearer hf_good':
            return self._answer({'error': 'Invalid user token.'}, 401)
        if path == '/api/whoami-v2':
            orgs = [{'name': 'lab', 'roleInOrg': 'write'}, {'name': 'club', 'roleInOrg': 'read'}]
            return self._answer({'name': 'me', 'orgs': orgs, 'auth': {'accessToken': {'role': hub.role}}})
        if path == '/api/repos/create':
            return self._create(json.loads(body))
        if path == '/api/validate-yaml':
            return self._answer({'errors': [], 'warnings': []})
        kind, _, repo = path.removeprefix('/api/').partition('/')
        name = '/'.join(repo.split('/')[:2])
        if kind != 'models' or name not in hub.repos:
            return self._answer({'error': 'Repository not found'}, 404)
        if '/preupload/' in path:
            wanted = json.loads(body)['files']
            return self._answer({'files': [
                {'path': file['path'], 'uploadMode': 'regular', 'shouldIgnore': False} for file in wanted]})
        if '/commit/' in path:
            return self._commit(name, body)
        return self._answer({'id': name, 'private': hub.repos[name]['private'], 'sha': '1' * 40, 'siblings': [],
                             'tags': [], 'downloads': 0, 'likes': 0})

    def _create(self, asked):
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.server.repos:
            return self._answer({'error': 'You already created this model repo'}, 409,
                                url=f'{self.server.url}/{name}')
        private = asked.get('private') or asked.get('visibility') == 'private'  # of older clients, of newer ones
        self.server.repos[name] = {'private': bool(private), 'files': {}, 'commits': 0}
        return self._answer({'url': f'{self.server.url}/{name}', 'id': name})

    def _commit(self, name, body):
        repo = self.server.repos[name]
        for line in map(json.loads, body.splitlines()):
            if line['key'] == 'file':
                assert line['value']['encoding'] == 'base64'
                repo['files'][line['value']['path']] = base64.b64decode(line['value']['content'])
        repo['commits'] += 1
        return self._answer({'commitUrl': f'{self.server.url}/{name}/commit/{"1" * 40}', 'commitOid': '1' * 40,
                             'success': True, 'pullRequestUrl': None})

    def _file(self, path):
        name, _, file = path.strip('/').partition('/resolve/')
        content = self.server.repos.get(name, {'files': {}})['files'].get(file.partition('/')[2])
        if content is None:
            self.send_response(404)
            self.send_header('X-Error-Code', 'EntryNotFound')
            self.send_header('Content-Length', '0')
            return self.end_headers()
        self.send_response(200)
        self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header('X-Repo-Commit', '1' * 40)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)

    def _answer(self, content, status=200, **more):
        data = json.dumps({**content, **more}).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(data)))
        if 'error' in content:
            self.send_header('X-Error-Message', content['error'])
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.stop()


@pytest.fixture
def logged_in(hub, monkeypatch):
    """This process knows the hub, and has a token for it."""
    monkeypatch.setattr(constants, 'ENDPOINT', hub.url)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setenv('HF_TOKEN', 'hf_good')
    anew = getattr(_http, 'reset_sessions', lambda: None)  # older clients look at the above once
    anew()
    yield hub
    monkeypatch.undo()
    anew()


@pytest.fixture
def quick(options):
    return [*options, '--epochs', '1', '--model', 'test_resnet']


def refused(capsys, function, argv):
    """The one line, and the last one, with which a command ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        function(argv)
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert sum('error: ' in line for line in said) == 1
    return said[-1]


def no_training(monkeypatch):
    def fit(*args, **kwargs):
        raise AssertionError('the training began')
    monkeypatch.setattr('timm_ltkd.engine.seeds.fit.fit', fit)


# ---- a repository ----------------------------------------------------------------------------------------------------

def test_names_of_repositories(logged_in):
    assert open_repository('net', False) == 'me/net' and open_repository('me/net', False) == 'me/net'
    assert open_repository('lab/net', True) == 'lab/net'
    assert open_repository('auto', False, 'a-bkd+feature--b..c-') == 'me/a-bkd-feature-b-c'
    before = dict(logged_in.repos)
    assert open_repository('auto', False) is None, 'only the login is known'
    assert logged_in.repos == before and logged_in.repos['lab/net']['private'] and not before['me/net']['private']


def test_a_folder_of_whose_name_nothing_is_left(logged_in):
    with pytest.raises(UserError, match="the folder's name '实验' has no letter or digit"):
        open_repository('auto', False, '实验')
    for experiment in ('实验', 'sweep/实验'):
        args = Namespace(push_to_hub='auto', hub_private=False, experiment=experiment)
        with pytest.raises(UserError, match="'实验' has no letter"):
            check_sharing([args], accelerator=None)
    assert not logged_in.repos


@pytest.mark.parametrize('wanted, private, message', [
    ('a b', False, "'a b' is no name of a repository"), ('a/b/c', False, 'is no name'), ('a--b', False, 'is no name'),
    ('somebody/net', False, 'somebody/net: the login writes to me, lab only'), ('club/net', False, 'me, lab only'),
    ('me/there', True, 'me/there is there already, and public'),
])
def test_repositories_that_cannot_be(logged_in, wanted, private, message):
    logged_in.repos['me/there'] = {'private': False, 'files': {}, 'commits': 0}
    with pytest.raises(UserError, match=message):
        open_repository(wanted, private)
    assert set(logged_in.repos) == {'me/there'}


def test_logins_that_do_not_do(logged_in, monkeypatch):
    logged_in.role = 'read'
    with pytest.raises(UserError, match='the token of me only reads'):
        open_repository('net', False)
    monkeypatch.setenv('HF_TOKEN', 'hf_bad')
    with pytest.raises(UserError, match=r'does not know the login \(.*; `hf auth login` anew') as told:
        open_repository('net', False)
    assert '\n' not in str(told.value)
    monkeypatch.delenv('HF_TOKEN')
    monkeypatch.setattr(hub_module, 'get_token', lambda: None)
    with pytest.raises(UserError, match='not logged in.*HF_TOKEN'):
        open_repository('net', False)
    assert not logged_in.repos


def test_a_hub_out_of_reach(hub, logged_in, monkeypatch):
    hub.stop()
    with pytest.raises(UserError, match='the hub cannot be reached') as told:
        open_repository('net', False)
    assert '\n' not in str(told.value)


def test_upload(logged_in, tmp_path):
    (tmp_path / 'weights').write_bytes(bytes(range(256)))
    assert upload(open_repository('net', False), {'w.bin': tmp_path / 'weights', 'README.md': b'# x'}) == \
        f'{logged_in.url}/me/net'
    assert logged_in.repos['me/net'] == {
        'private': False, 'commits': 1, 'files': {'w.bin': bytes(range(256)), 'README.md': b'# x'}}


# ---- around a training -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('words, message', [
    (['--push-to-hub', 'somebody/net'], 'the login writes to me, lab only'),
    (['--push-to-hub', 'a b'], 'is no name of a repository'),
    (['--hub-private'], '--hub-private goes with --push-to-hub'),
])
def test_what_is_wrong_is_told_before_the_training(logged_in, quick, monkeypatch, capsys, tmp_path, words, message):
    no_training(monkeypatch)
    argv = [*quick, '--output', str(tmp_path), *words]
    assert message in refused(capsys, run.train, argv)
    argv[argv.index('--model')] = '--student'
    assert message in refused(capsys, run.distill, [*argv, '--teacher', 'resnet20'])
    assert not list(tmp_path.iterdir()) and not logged_in.repos


def test_an_offline_machine_is_told_before_the_training(quick, monkeypatch, capsys, tmp_path):
    no_training(monkeypatch)
    monkeypatch.setenv('HF_TOKEN', 'hf_good')
    argv = [*quick, '--output', str(tmp_path), '--push-to-hub']
    assert 'the hub cannot be reached' in refused(capsys, run.train, argv)


def test_a_failed_upload_costs_nothing(script, logged_in, quick, capsys, tmp_path):
    logged_in.fail = {'/commit/main': 507}
    argv = [*quick, '--experiment', 'run', '--push-to-hub', 'net', '--hub-private']
    said = refused(capsys, lambda argv: script('train', argv), argv)
    assert 'the upload failed (' in said and 'no room for it' in said
    command = said.partition('push it later: ')[2]
    assert command == f'python -m timm_ltkd.export {tmp_path / "run"} --push-to-hub net --hub-private'
    assert (tmp_path / 'run/report.json').is_file() and logged_in.repos['me/net']['commits'] == 0
    logged_in.fail = {}
    run.export(command.split()[3:])
    repo = logged_in.repos['me/net']
    assert repo['commits'] == 1 and repo['private']
    assert repo['files']['model.safetensors'] == (tmp_path / 'run/model.safetensors').read_bytes()
    assert b"timm.create_model('hf-hub:me/net', pretrained=True)" in repo['files']['README.md']
    assert str(tmp_path).encode() not in b''.join(repo['files'].values())


def test_a_student_of_each_seed(script, logged_in, quick, tmp_path):
    script('train', [
        *quick, '--color-jitter', '0', '--seeds', '1', '2', '--experiment', 'run', '--push-to-hub', 'net'])
    assert {name: repo['commits'] for name, repo in logged_in.repos.items()} == {'me/net-seed1': 1, 'me/net-seed2': 1}
    for seed in (1, 2):
        weights = (tmp_path / f'run-seed{seed}/model.safetensors').read_bytes()
        assert logged_in.repos[f'me/net-seed{seed}']['files']['model.safetensors'] == weights


def test_weights_of_a_file_under_their_name(logged_in, tmp_path):
    torch.save(timm.create_model('test_resnet', num_classes=3).state_dict(), tmp_path / 'my.best.pt')
    run.export([str(tmp_path / 'my.best.pt'), '--model', 'test_resnet', '--push-to-hub', '--license', 'mit'])
    assert set(logged_in.repos['me/my.best']['files']) == {'README.md', 'config.json', 'model.safetensors'}


def test_two_processes_push_once_and_timm_loads_it(hub, quick, environment, launcher, tmp_path):
    """From `accelerate launch` to `timm.create_model('hf-hub:…')`, by the client's own requests."""
    env = environment | {
        'HF_ENDPOINT': hub.url, 'HF_HUB_OFFLINE': '0', 'HF_TOKEN': 'hf_good', 'HF_HOME': str(tmp_path / 'home'),
        'HF_HUB_DISABLE_TELEMETRY': '1'}
    done = subprocess.run(
        [*launcher(), str(ROOT / 'train.py'), *quick, '--output', str(tmp_path / 'out'), '--experiment', 'run',
         '--push-to-hub', '--hub-private'],
        env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / 'out/run/report.json').read_text())
    assert report['run']['processes'] == 2 and (tmp_path / 'out/run/class_profile.png').is_file()
    assert list(hub.repos) == ['me/run'] and hub.repos['me/run']['commits'] == 1 and hub.repos['me/run']['private']
    assert done.stderr.count(f'pushed to {hub.url}/me/run') == 1
    assert hub.asked.count(('POST', '/api/repos/create')) == 1
    code = ("import sys, timm, torch; network = timm.create_model('hf-hub:me/run', pretrained=True);"
            "torch.save(network.state_dict(), sys.argv[1])")
    subprocess.run([sys.executable, '-c', code, str(tmp_path / 'found.pt')], env=env, check=True, timeout=300)
    found = torch.load(tmp_path / 'found.pt', weights_only=True)
    wanted = timm.create_model(f'local-dir:{tmp_path / "out/run"}', pretrained=True).state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in found.items()) and found.keys() == wanted.keys()
