"""README.md of a model's folder, as the Hugging Face hub shows it: the model card."""
import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..models import network_name
from ..prior import ClassPrior
from .content import difference_grid, legend, repeating_command, row_name, told_best, unmeasured
from .markdown import bullets
from .profile import data_profile, group_classes
from .table import markdown_grid, markdown_table
from .text import flag, markdown_escape, words

HERE = 'local-dir:FOLDER'  # how the card calls its model until it is on the hub
_FIGURES = {  # shown by the hub beside the card
    'top1': 'top-1 accuracy', 'balanced': 'balanced accuracy (mean over classes)',
    'many': 'accuracy, many-shot classes', 'medium': 'accuracy, medium-shot classes',
    'few': 'accuracy, few-shot classes'}
_ON_THE_HUB = {  # data sets by their names without lt/ and torch/
    r'cifar10(_lt\d+)?': 'uoft-cs/cifar10',
    r'cifar100(_lt\d+)?': 'uoft-cs/cifar100',
    r'imagenet(_by_counts)?': 'ILSVRC/imagenet-1k',
}
_OPTIONS = (  # those that shape a recipe; args.yaml has all
    'epochs', 'batch_size', 'grad_accum_steps', 'opt', 'lr', 'weight_decay', 'momentum', 'sched', 'warmup_epochs',
    'model_ema', 'class_sampling', 'train_crop_mode', 'hflip', 'color_jitter', 'aa', 'mixup', 'cutmix', 'reprob',
    'smoothing', 'no_aug', 'stage', 'holdout', 'seed')
_OFF_AT_ZERO = {'warmup_epochs', 'hflip', 'color_jitter', 'mixup', 'cutmix', 'reprob', 'smoothing', 'holdout'}


def model_card(
        config: Mapping[str, Any],
        report: Mapping[str, Any] | None = None,
        *,
        origin: Mapping[str, str],
        learnt_by: Mapping[str, str] | None = None,
        left_out: Sequence[str] = (),
        files: Sequence[str] = (),
        license: str | None = None,
) -> str:
    """The card as Markdown with YAML in front.

    Args:
        config: config.json of the model.
        report: report.json of its run, if there is one, with nothing private in `run`; without figures (`student` and
            so on) if they are of another network.
        origin: Where the network comes from, as `timm_ltkd.models.model_origin` says.
        learnt_by: What the distillation methods and losses of the run are, a line each, by name.
        left_out: Options of the run that are private.
        files: What lies beside the card.
        license: Of the weights, by its name on the hub.
    """
    run = (report or {}).get('run') or {}
    prior = _prior(config, report)
    title = _title(config, run, prior)
    sections = [f'# {title}', _summary(config, prior)]
    measured = report if 'student' in (report or {}) else None
    if measured is not None:
        sections += _figures(measured, prior, files)
    sections += ['## Use', _usage(config, origin)]
    if prior is not None:
        sections += ['## Training data', _data(config, run, prior)]
    if report is not None:
        sections += ['## Training', _training(run, learnt_by or {}, left_out, files)]
    sections += ['## Network', _network(config, origin, run)]
    sections += ['## Intended use and limits', _limits(measured, prior, config.get('label_names'))]
    front = _front(title, run, measured, prior, origin, license).to_yaml()
    return f'---\n{front}\n---\n\n' + '\n\n'.join(sections) + '\n'


def with_repository(card: str, repo: str) -> str:
    """The card with the model's name on the hub in place of that of a folder."""
    return card.replace(HERE, f'hf-hub:{repo}')


# ---- what is in front ------------------------------------------------------------------------------------------------

def _front(
        title: str,
        run: Mapping[str, Any],
        measured: Mapping[str, Any] | None,
        prior: ClassPrior | None,
        origin: Mapping[str, str],
        license: str | None,
) -> ModelCardData:
    methods = [name for name in str(run.get('method') or '').split(' + ') if name]
    tags = ['image-classification', 'timm', 'timm_ltkd', *(['long-tailed'] if _tailed(prior) else [])]
    tags += ['knowledge-distillation', *methods] if methods else []
    data = _hub_data(run)
    results = None if measured is None else _eval_results(measured, data)
    return ModelCardData(
        library_name='timm', pipeline_tag='image-classification', tags=tags, license=license,
        base_model=origin.get('weights'), datasets=[data] if data else None,
        metrics=['accuracy'] if results else None, eval_results=results,
        model_name=_plain(title) if results else None)


def _eval_results(report: Mapping[str, Any], data: str | None) -> list[EvalResult]:
    name = _dataset(report['run'])
    return [
        EvalResult(
            task_type='image-classification', task_name='Image Classification', dataset_type=data or _plain(name),
            dataset_name=name, dataset_split=_split(report['run']), metric_type='accuracy', metric_name=told,
            metric_value=round(report['student'][key], 2))
        for key, told in _FIGURES.items() if report['student'].get(key) is not None]


def _hub_data(run: Mapping[str, Any]) -> str | None:
    """Name of the training data on the hub, if they are known to be there."""
    name = _dataset(run)
    kind, _, rest = name.partition('/')
    if kind in ('hfds', 'hfids') and re.fullmatch(r'[\w.-]+/[\w.-]+', rest):
        return rest
    known = [hub for pattern, hub in _ON_THE_HUB.items() if re.fullmatch(pattern, name.removeprefix('torch/'))]
    return known[0] if known else None


def _plain(text: str) -> str:
    """The text as the hub takes names in its metadata."""
    return re.sub(r'[^\w.+-]+', '-', text, flags=re.ASCII).strip('-') or 'model'


# ---- the sections ----------------------------------------------------------------------------------------------------

def _title(config: Mapping[str, Any], run: Mapping[str, Any], prior: ClassPrior | None) -> str:
    name = markdown_escape(run.get('student') or network_name(config))
    if not run:
        return name
    how = f' distilled from {markdown_escape(run["teacher"])} by {markdown_escape(run["method"])}' \
        if run.get('method') else ' trained'
    kind = 'long-tailed ' if _tailed(prior) else ''
    return f'{name}{how} on {kind}{markdown_escape(_dataset(run))}'


def _summary(config: Mapping[str, Any], prior: ClassPrior | None) -> str:
    if prior is None:
        return f'An image classifier of {config.get("num_classes")} classes.'
    spread = 'that are spread evenly over them' if not _tailed(prior) else (
        f'that are spread unevenly over them: {prior.counts.max():,.0f} of the most frequent class, '
        f'{prior.counts.min():,.0f} of the rarest (imbalance factor {prior.imbalance_factor:.4g})')
    return (
        f'An image classifier of {prior.num_classes:,} classes, trained with timm_ltkd on {prior.num_samples:,} images '
        f'{spread}.')


def _tailed(prior: ClassPrior | None) -> bool:
    return prior is not None and prior.imbalance_factor > 1


def _figures(report: Mapping[str, Any], prior: ClassPrior, files: Sequence[str]) -> list[str]:
    run = report.get('run') or {}
    rows = {row_name(role, run): report[role] for role in ('teacher', 'student') if report.get(role)}
    sections = ['## Figures', markdown_table(rows), markdown_escape(
        f'{legend(prior)} Measured on {report["student"]["num_samples"]:,} images of the split '
        f'{_split(run) or "validation"}.')]
    if len(rows) == 2:
        sections += ['Student beside teacher, by shot group:', markdown_grid(difference_grid(*rows.values(), prior))]
    if report.get('best'):
        sections.append(markdown_escape(told_best(report['best'], run.get('args'))))
    if 'accuracy_by_frequency.png' in files:
        sections.append('![Accuracy of each class against its training images](accuracy_by_frequency.png)')
    return sections


def _usage(config: Mapping[str, Any], origin: Mapping[str, str]) -> str:
    package = origin.get('package', 'timm')
    register = '' if package == 'timm' else f'import {package}  # registers the network with timm\n'
    grey = (config.get('pretrained_cfg') or {}).get('input_size', (3,))[0] == 1
    names = "model.pretrained_cfg['label_names']" if config.get('label_names') else 'range(model.num_classes)'
    return f"""```python
import timm
import torch
{register}from PIL import Image

model = timm.create_model('{HERE}', pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
names = {names}
with torch.inference_mode():
    image = transform(Image.open('image.png').convert('{'L' if grey else 'RGB'}'))
    probabilities = model(image[None]).softmax(dim=1)[0]
for value, index in zip(*probabilities.topk(min(5, len(names)))):
    print(names[index], float(value))
```"""


def _data(config: Mapping[str, Any], run: Mapping[str, Any], prior: ClassPrior) -> str:
    lines = data_profile(prior, config.get('label_names') or None).splitlines()
    if run:
        lines.insert(0, f'data set: {_dataset(run)}')
    if run.get('data'):
        lines.append(run['data'])
    if skipped := run.get('skipped_images'):
        lines.append(
            f"{skipped.get('train', 0)} training images and {skipped.get('val', 0)} of those the figures are of could "
            'not be read and were left out')
    return bullets(lines)


def _training(
        run: Mapping[str, Any], learnt_by: Mapping[str, str], left_out: Sequence[str], files: Sequence[str]) -> str:
    args = run.get('args') or {}
    lines = []
    if run.get('teacher'):
        lines.append(f"teacher: {run['teacher']}")
    lines += [f'{name}: {line}' for name, line in learnt_by.items()]
    for key in ('kd_kwargs', 'loss_kwargs'):
        if args.get(key):
            lines.append(f'{flag(key)} {words(args[key])}')
    lines.append('options: ' + ', '.join(
        flag(key) if args[key] is True else f'{flag(key)} {words(args[key])}'
        for key in _OPTIONS if _says_something(key, args.get(key))))
    lines.append(f"precision {run.get('precision')}, {run.get('processes')} processes, {run.get('hardware')}")
    lines.append('versions: ' + ', '.join(f'{name} {version}' for name, version in (run.get('versions') or {}).items()))
    if 'args.yaml' not in files:
        return bullets(lines)
    own = ''.join(f' {flag(key)} …' for key in left_out)
    told = f'args.yaml has all options{f", but for your own {own.strip()}" if own else ""}; they repeat the training:'
    command = repeating_command('args.yaml', run) + own
    return f'{bullets(lines)}\n\n{markdown_escape(told)}\n\n```\n{command}\n```'


def _says_something(option: str, value: Any) -> bool:
    """Whether an option is on; a seed of 0 is one as well."""
    return value not in (None, '') and value is not False and not (value == 0 and option in _OFF_AT_ZERO)


def _network(config: Mapping[str, Any], origin: Mapping[str, str], run: Mapping[str, Any]) -> str:
    name, architecture = network_name(config), str(config['architecture'])
    lines = [f'{name} of {origin["package"]}' if origin.get('package') else name]
    if architecture != name:
        lines.append(f'made by {architecture}, with a first convolution for small images')
    if config.get('posthoc'):
        lines.append(f'its classifier was changed after training: by python -m timm_ltkd.export --{config["posthoc"]}')
    lines = [markdown_escape(line) for line in lines]
    if origin.get('paper'):
        paper = markdown_escape(origin['paper'])
        lines.append(f'paper: [{paper}]({origin["paper_url"]})' if origin.get('paper_url') else f'paper: {paper}')
    if origin.get('page'):
        lines.append(f'page: {origin["page"]}')
    if origin.get('weights'):
        lines.append(markdown_escape(
            f'training began with the weights {origin["weights"]} (license: {origin.get("license", "see there")})'))
    if (start := (run.get('args') or {}).get('initial_checkpoint')) is not None:
        lines.append(f'training began with {markdown_escape(start)}')
    return '\n'.join(f'- {line}' for line in lines)


def _limits(
        report: Mapping[str, Any] | None, prior: ClassPrior | None, class_names: Sequence[str] | None) -> str:
    what = 'research on long-tailed recognition, on ' if _tailed(prior) else ''
    lines = [f'for {what}images like those it was trained on; not tested on others']
    if prior is not None and (few := len(group_classes(prior).get('few', ()))):
        lines.append(f'{few:,} of {prior.num_classes:,} classes had fewer than {prior.few} training images')
    if report is not None:
        student = report['student']
        each = student['num_samples'] / sum(accuracy is not None for accuracy in student['per_class'])
        lines.append(f'figures of single classes are of {each:,.0f} images on average, and uncertain if these are few')
        if lacking := unmeasured(student, class_names):
            lines.append(lacking)
        lines.append(
            'overall accuracy goes with how often the test set shows each class; balanced accuracy counts each class '
            'alike')
    if report is not None and report['student'].get('ece') is not None:
        lines.append(f"confidences are off by {report['student']['ece']:.1f} points on average (ece)")
    return bullets(lines)


# ---- what they are made of -------------------------------------------------------------------------------------------

def _prior(config: Mapping[str, Any], report: Mapping[str, Any] | None) -> ClassPrior | None:
    data = (report or {}).get('data') or {}
    counts = data.get('class_counts') or config.get('class_counts')
    bounds = {name: data[f'{name}_shot'] for name in ('many', 'few') if f'{name}_shot' in data}
    return ClassPrior(counts, **bounds) if counts else None


def _dataset(run: Mapping[str, Any]) -> str:
    name = str((run.get('args') or {}).get('dataset') or '')
    return (name[3:] if name.lower().startswith('lt/') else name) or 'image folders'


def _split(run: Mapping[str, Any]) -> str | None:
    """What the figures are of."""
    return run.get('val_split') or (run.get('args') or {}).get('val_split')
