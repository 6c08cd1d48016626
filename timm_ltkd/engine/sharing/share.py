"""A finished run, or any other network, for others: a folder of its own, a repository on the hub."""
import json
import logging
import shlex
import shutil
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from huggingface_hub import ModelCard

from ...distill import describe_losses, describe_methods
from ...errors import UserError, last_line
from ...files import replace_file
from ...models import HUB, model_origin, network_name
from ...options import listed
from ...plain_yaml import dump_yaml, load_yaml
from ...report.card import model_card, with_repository
from ..processes.launch import on_main
from .hub import AUTO, auto_name, open_repository, upload
from .public import public_name, public_options

_logger = logging.getLogger(__name__)
WEIGHTS, CONFIG, CARD, REPORT, OPTIONS = 'model.safetensors', 'config.json', 'README.md', 'report.json', 'args.yaml'
# what a run leaves that names nothing of the machine; report.md and report.html do
_AS_THEY_ARE = (
    'summary.csv', 'per_class.csv', 'accuracy_by_frequency.png', 'teacher_student.png', 'group_confusion.png',
    'calibration.png', 'curves.png', 'class_profile.png')
# of report.json; what is not known here may name files
_FACTS = {
    'data': ('num_classes', 'num_train', 'imbalance_factor', 'class_counts', 'class_names', 'groups', 'many_shot',
             'few_shot'),
    'run': ('student', 'teacher', 'method', 'data', 'args', 'versions', 'hardware', 'processes', 'precision',
            'git_commit', 'git_commits', 'key', 'best', 'val_split', 'rectification', 'skipped_images')}


# ---- before and after a training -------------------------------------------------------------------------------------

def check_sharing(plans: Sequence[Namespace], accelerator: Accelerator) -> None:
    """Whether what `--push-to-hub` asks for is going to succeed: told before the hours of a training.

    Args:
        plans: Options of each run.
        accelerator: The hub is asked by the main process.

    Raises:
        UserError: On every process; see `open_repository`.
    """
    if plans[0].hub_private and not plans[0].push_to_hub:
        raise UserError('--hub-private goes with --push-to-hub')
    for args in plans if plans[0].push_to_hub else ():
        if args.push_to_hub == AUTO and args.experiment:
            auto_name(Path(args.experiment).name)
        on_main(accelerator, lambda args=args: open_repository(args.push_to_hub, args.hub_private))


def share_runs(plans: Sequence[tuple[Namespace, Path]], main_process: bool) -> None:
    """Push finished runs whose options ask for it; call when the processes have parted.

    Args:
        plans: Options and folder of each run.
        main_process: The only one that pushes.

    Raises:
        UserError: A push failed; the others were tried, and the message says how to push later.
    """
    failed = []
    for args, folder in plans if main_process else ():
        if args.push_to_hub:
            try:
                push_folder(folder, args.push_to_hub, args.hub_private)
            except UserError as e:
                again = f'python -m timm_ltkd.export {shlex.quote(str(folder))} --push-to-hub {args.push_to_hub}'
                failed.append(f'{e}; the run in {folder} is complete, push it later: {again}'
                              f'{" --hub-private" if args.hub_private else ""}')
    if failed:
        raise UserError('; '.join(failed))


# ---- a folder --------------------------------------------------------------------------------------------------------

def push_folder(
        folder: Path, wanted: str, private: bool, *, license: str | None = None, name: str | None = None) -> None:
    """Put the files of a model's folder that are for others into a repository.

    Args:
        folder: Holds model.safetensors and config.json.
        wanted: `OWNER/NAME`, `NAME`, or `auto` for the folder's name.
        private: Nobody else is to see it.
        license: Of the weights, by its name on the hub.
        name: What `auto` stands for, if not the folder's own name.
    """
    repo = open_repository(wanted, private, name or folder.resolve().name)
    address = upload(repo, shared_files(folder, license=license, repo=repo))
    _logger.info(f"pushed to {address}: timm.create_model('hf-hub:{repo}', pretrained=True)")


def copy_folder(folder: Path, target: Path, *, license: str | None = None) -> None:
    """Put the files of a model's folder that are for others into another one.

    Raises:
        UserError: There are files in it, or it cannot be written.
    """
    files = shared_files(folder, license=license)
    check_target(target)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            with replace_file(target / name) as aside:
                if isinstance(content, bytes):
                    aside.write_bytes(content)
                else:
                    shutil.copyfile(content, aside)
    except OSError as e:
        raise UserError(f'--export-dir {target} cannot be written ({e.strerror})') from e
    _logger.info(f'in {target}: {", ".join(sorted(files))}')


def check_target(target: Path) -> None:
    """Raise a UserError for a folder that is not new and not empty."""
    if target.exists() and not target.is_dir():
        raise UserError(f'--export-dir {target} is a file; name a folder')
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f'--export-dir {target} holds files; name a new folder, or an empty one')


def write_card(folder: Path, license: str | None = None, run: Path | None = None) -> None:
    """README.md of a folder that holds model.safetensors, config.json, and a run's report if there was one.

    Args:
        folder: Where it is written.
        license: Of the weights, by its name on the hub.
        run: Of whose network this one was made, if it is another; its training is told, and not its figures.
    """
    with replace_file(folder / CARD) as aside:
        aside.write_bytes(_card_of(folder, license, run))


def card_of(folder: Path) -> bytes | None:
    """What `write_card` would write; None where the files are not those of a finished run."""
    try:
        return _card_of(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def shared_files(folder: Path, *, license: str | None = None, repo: str | None = None) -> dict[str, Path | bytes]:
    """What of a model's folder others get, by file name: bytes, or the file it is copied from.

    Options that name files and folders of this machine are taken out. A README.md that is there is taken as it is,
    perhaps edited.

    Args:
        folder: Holds model.safetensors and config.json.
        license: Of the weights, by its name on the hub.
        repo: Where they go to on the hub.

    Raises:
        UserError: No finished run, or a file that cannot be read.
    """
    try:
        files: dict[str, Path | bytes] = {
            name: folder / name for name in (WEIGHTS, *_AS_THEY_ARE) if (folder / name).is_file()}
        if WEIGHTS not in files:
            raise UserError(f'{folder} is no finished run or timm model folder (there is no {WEIGHTS})')
        files[CONFIG] = _licensed(folder / CONFIG, license)
        if (folder / REPORT).is_file():
            files[REPORT] = _json(_public_report(folder)[0])
        if (folder / OPTIONS).is_file():
            options = load_yaml((folder / OPTIONS).read_text(encoding='utf-8'), str(folder / OPTIONS))
            files[OPTIONS] = shown_options(options)
        card = (folder / CARD).read_bytes() if (folder / CARD).is_file() else _card_of(folder, license)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise e if isinstance(e, UserError) else UserError(
            f'{folder} holds files that are not those of a finished run ({last_line(e)})') from e
    files[CARD] = _for_others(card.decode('utf-8', 'replace'), license, repo).encode()
    return files


def _licensed(config: Path, license: str | None) -> bytes:
    content = json.loads(config.read_text(encoding='utf-8'))
    if license is not None:
        content['pretrained_cfg'] = {**(content.get('pretrained_cfg') or {}), 'license': license}
    return _json(content)


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + '\n').encode()


def _for_others(card: str, license: str | None, repo: str | None) -> str:
    """A card with this license and the name of its repository."""
    if license is not None:
        try:
            parsed = ModelCard(card, ignore_metadata_errors=True)
            parsed.data.license = license
            card = str(parsed)
        except (ValueError, yaml.YAMLError) as e:
            raise UserError(f'{CARD}: the lines between --- are no metadata ({last_line(e)})') from e
    return with_repository(card, repo) if repo else card


def _card_of(folder: Path, license: str | None = None, made_of: Path | None = None) -> bytes:
    config = json.loads((folder / CONFIG).read_text(encoding='utf-8'))
    report, left_out = None, []
    if (folder / REPORT).is_file():
        report, left_out = _public_report(folder)
    elif made_of is not None and (made_of / REPORT).is_file():
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # of another program
            report, left_out = _public_report(made_of)
            report = {key: report[key] for key in _FACTS}
    run = (report or {}).get('run') or {}
    args = run.get('args') or {}
    return model_card(
        config, report, origin=_origin(config, run), learnt_by=_learnt_by(args), left_out=left_out,
        files=[path.name for path in folder.iterdir()], license=license or args.get('license')).encode()


def _origin(config: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, str]:
    """Of the network that config.json builds; its weights' as the run names them."""
    made_by = config['architecture']
    network, asked = network_name(config), str(run.get('student'))
    named = asked if asked.partition('.')[0] == network else network
    origin = model_origin(named, bool((run.get('args') or {}).get('pretrained')))
    if asked.startswith(HUB):
        origin['weights'] = asked.partition(':')[2].partition('@')[0]
    package = model_origin(made_by).get('package')
    return {**origin, 'package': package} if package else origin


def _learnt_by(args: Mapping[str, Any]) -> dict[str, str]:
    """A line, with the paper, of each method and loss of a run."""
    known = describe_methods(), describe_losses()
    named = listed(args.get('kd')), listed(args.get('loss'))
    return {name: lines[name] for names, lines in zip(named, known, strict=True) for name in names if name in lines}


def shown_options(options: Mapping[str, Any]) -> bytes:
    """args.yaml without what tells of the machine's files."""
    return dump_yaml(public_options(options)[0]).encode()


def _public_report(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """report.json without what tells of the machine's files, and the options that were left out."""
    whole = json.loads((folder / REPORT).read_text(encoding='utf-8'))
    report = {key: whole[key] for key in ('student', 'teacher', 'holdout', 'best') if key in whole}
    report |= {key: {name: whole[key][name] for name in names if name in whole[key]} for key, names in _FACTS.items()}
    run = report['run']
    for role in ('student', 'teacher'):
        if isinstance(run.get(role), str):
            run[role] = ' + '.join(public_name(name) for name in run[role].split(' + '))
    run['args'], left_out = public_options(run.get('args') or {})
    return report, left_out
