"""The model card: what it says, that the hub's own parser reads it, and that no name breaks out of it."""
import re

import pytest
from huggingface_hub import ModelCard

from timm_ltkd.report.card import HERE, model_card, with_repository

PER_CLASS = [90., 60., None]
STUDENT = dict(top1=71.234, top5=99., balanced=70., many=90., medium=60., worst=60., ece=4.25, num_samples=1200,
               per_class=PER_CLASS)
CONFIG = {
    'architecture': 'resnet20', 'num_classes': 3, 'label_names': ['ant', 'bee', 'cat'], 'class_counts': [300, 50, 3],
    'model_args': {'num_classes': 3}, 'pretrained_cfg': {'input_size': [3, 32, 32]}}
ORIGIN = {
    'package': 'timm_ltkd', 'paper': 'Deep *Nets*', 'paper_url': 'https://arxiv.org/abs/1', 'page': 'https://a.b/c'}


def make_report(**run):
    return {
        'student': STUDENT, 'teacher': {**STUDENT, 'balanced': 65., 'medium': 50.},
        'data': {'class_counts': [300, 50, 3], 'many_shot': 100, 'few_shot': 20},
        'best': {'metric': 'balanced', 'value': 71., 'epoch': 4, 'chosen_on': 'holdout'},
        'run': {
            'student': 'resnet20', 'teacher': 'resnet32', 'method': 'bkd + feature', 'precision': 'bf16',
            'processes': 2, 'hardware': 'a GPU', 'versions': {'timm': '1.0', 'torch': '2.7'}, **run,
            'args': {
                'dataset': 'lt/cifar100', 'val_split': 'test', 'epochs': 5, 'lr': 0.1, 'kd': ['bkd', 'feature'],
                'kd_kwargs': {'alpha': 0.5}, 'loss': 'ce', **run.get('args', {})}}}


def read(text):
    """The card by the hub's own parser: metadata and text."""
    card = ModelCard(text)
    return card.data, card.text


def test_the_front_matter():
    data, _ = read(model_card(CONFIG, make_report(), origin=ORIGIN, license='mit'))
    assert data.library_name == 'timm' and data.pipeline_tag == 'image-classification' and data.license == 'mit'
    assert {'timm', 'timm_ltkd', 'long-tailed', 'knowledge-distillation', 'bkd', 'feature'} <= set(data.tags)
    assert data.datasets == ['uoft-cs/cifar100'] and data.metrics == ['accuracy'] and data.base_model is None
    figures = {result.metric_name: result.metric_value for result in data.eval_results}
    assert figures == {
        'top-1 accuracy': 71.23, 'balanced accuracy (mean over classes)': 70., 'accuracy, many-shot classes': 90.,
        'accuracy, medium-shot classes': 60.}, 'there is no few-shot figure, and none is made up'
    first = data.eval_results[0]
    assert (first.dataset_name, first.dataset_split, first.dataset_type) == ('cifar100', 'test', 'uoft-cs/cifar100')


def test_no_license_unless_given():
    data, _ = read(model_card(CONFIG, make_report(), origin={**ORIGIN, 'license': 'apache-2.0'}))
    assert data.license is None


@pytest.mark.parametrize('sched, chosen_on, told', [
    ('cosine', 'test', 'the best is no fair estimate'), ('plateau', 'test', 'so they are no fair estimate either'),
    ('plateau', 'holdout', 'nothing was chosen on the split')])
def test_what_chose_an_epoch_or_steered_the_rate(sched, chosen_on, told):
    report = make_report(args={'sched': sched})
    report['best']['chosen_on'] = chosen_on
    assert told in model_card(CONFIG, report, origin=ORIGIN).replace('\\', '')


def test_what_it_says():
    report = make_report(skipped_images={'train': 4, 'val': 1, 'listed_in': 'skipped_images.csv'})
    _, text = read(model_card(
        CONFIG, report, origin=ORIGIN, learnt_by={'bkd': 'Balanced (arXiv 2104.10510).'},
        left_out=['data_dir', 'train_list'], files=['args.yaml', 'accuracy_by_frequency.png']))
    for part in (
            'resnet20 distilled from resnet32 by bkd + feature on long-tailed cifar100', 'imbalance factor 100',
            'of 600 images on average', '1 of 3 classes without a test image are in no figure: cat',
            '| few | 0 of 1 | 3 |',
            '| teacher resnet32 | 71.23 |', '| medium | 1 | 50 | 50.00 | 60.00 | +10.00 |', 'Measured on 1,200 images',
            "smallest class: 2 'cat' (3 images)", 'Balanced (arXiv 2104.10510).', '--kd-kwargs alpha=0.5',
            'accelerate launch --mixed_precision bf16 --num_processes 2 distill.py -c args.yaml --data-dir … '
            '--train-list …', r'[Deep \*Nets\*](https://arxiv.org/abs/1)', 'page: https://a.b/c', 'timm 1.0, torch 2.7',
            'epoch 5 (counted from 1), chosen on holdout', '![Accuracy of each class',
            '1 of 3 classes had fewer than 20',
            '4 training images and 1 of those the figures are of could not be read'):
        assert part in text, part


def test_a_zero_is_told_where_it_is_not_off():
    args = {'epochs': 3, 'seed': 0, 'weight_decay': 0., 'momentum': 0.9, 'mixup': 0., 'model_ema': False, 'aa': '',
            'no_aug': True}
    text = model_card(CONFIG, make_report(args=args), origin=ORIGIN).replace('\\', '')
    assert 'options: --epochs 3, --lr 0.1, --weight-decay 0.0, --momentum 0.9, --no-aug, --seed 0\n' in text


def test_a_balanced_set_is_not_called_long_tailed():
    report = make_report(val_split='test', args={'val_split': 'validation'})
    report['data']['class_counts'] = [50, 50, 50]
    data, text = read(model_card({**CONFIG, 'class_counts': [50, 50, 50]}, report, origin=ORIGIN))
    assert 'long-tailed' not in data.tags and 'by bkd + feature on cifar100' in text
    assert '150 images that are spread evenly over them.' in text
    assert data.eval_results[0].dataset_split == 'test' and 'of the split test' in text


@pytest.mark.parametrize('dataset, on_the_hub', [
    ('torch/cifar100_lt100', 'uoft-cs/cifar100'), ('lt/torch/cifar10', 'uoft-cs/cifar10'),
    ('lt/imagenet_by_counts', 'ILSVRC/imagenet-1k'), ('hfds/me/birds', 'me/birds'),
    ('lt/hfds//home/me/cifar10_mine', None), ('hfds/cifar100_birds', None), ('wds/imagenet_22k', None),
    ('cifar10_mine', None), ('lt/folder', None)])
def test_only_data_known_to_be_on_the_hub_are_named(dataset, on_the_hub):
    data, _ = read(model_card(CONFIG, make_report(args={'dataset': dataset}), origin=ORIGIN))
    assert data.datasets == (on_the_hub and [on_the_hub])


@pytest.mark.parametrize('facts, command', [
    (dict(processes=1), 'accelerate launch --mixed_precision bf16 --num_processes 1 distill.py'),
    (dict(processes=2, hardware='cpu (4 cores)'),
     'ACCELERATE_USE_CPU=true accelerate launch --mixed_precision bf16 --multi_gpu --num_processes 2 distill.py')])
def test_the_command_starts_as_many_processes_as_the_run_had(facts, command):
    assert f'\n{command} -c args.yaml' in model_card(CONFIG, make_report(**facts), origin=ORIGIN, files=['args.yaml'])


@pytest.mark.parametrize('package, line', [
    ('timm', None), ('timm_ltkd', 'import timm_ltkd  #'), ('mine', 'import mine  #')])
def test_how_to_load(package, line):
    text = model_card(CONFIG, origin={'package': package})
    code = text.partition('```python\n')[2].partition('```')[0]
    compile(code, 'card', 'exec')
    assert f"timm.create_model('{HERE}', pretrained=True)" in code
    assert (line in code) if line else 'ltkd' not in code
    assert "timm.create_model('hf-hub:me/net', pretrained=True)" in with_repository(text, 'me/net')


def test_a_network_without_a_run():
    data, text = read(model_card({'architecture': 'resnet18', 'num_classes': 7}, origin={'package': 'timm'}))
    assert data.eval_results is None and '7 classes' in text and '## Training' not in text and '# resnet18' in text
    assert 'long-tailed' not in data.tags and 'long-tailed' not in text


def test_weights_it_began_with():
    data, text = read(model_card(CONFIG, make_report(), origin={
        'package': 'timm', 'weights': 'timm/resnet18.a1_in1k', 'license': 'apache-2.0'}))
    assert data.base_model == 'timm/resnet18.a1_in1k' and data.license is None
    assert 'began with the weights timm/resnet18.a1_in1k (license: apache-2.0)' in text


HOSTILE = [
    '</td><script>alert(1)</script>', 'a\n---\nlicense: mit', '`x` ![i](http://e.vil/p.png)', '| a | b |', '[c](d) *e*',
    '\x1b[31mred\u202e', '{{ x }}', "'; import os", '---', '\ud800', '']


@pytest.mark.parametrize('name', HOSTILE)
def test_names_stay_names(name):
    config = {**CONFIG, 'label_names': [name, 'bee', name]}
    report = make_report(student=name or 'x', teacher=name or 'x', args={'dataset': name, 'loss_kwargs': {'k': name}})
    text = model_card(config, report, origin=ORIGIN)
    data, body = read(text)
    assert data.license is None and data.library_name == 'timm'
    assert body.count('\n## ') == 6 and '<script>' not in body and '\n---' not in body
    assert re.findall(r'(?<!\\)\]\(.*?\)', body) == ['](https://arxiv.org/abs/1)'] and '\x1b' not in text
    assert body.count('```') == 2
    for line in body.splitlines():
        if line.startswith('| teacher'):
            assert line.replace('\\|', '').count('|') == 9
    text.encode('utf-8')
