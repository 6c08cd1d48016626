"""The YAML recipes of the named sets: they parse, say where they come from, and name data and networks that are."""
from pathlib import Path

import pytest
import timm
import yaml
from PIL import Image
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from torch import nn
from torch.optim import SGD

import timm_ltkd.models  # noqa: F401
from timm_ltkd.cli.arguments import distill_parser, train_parser
from timm_ltkd.cli.config import parse, teacher_args
from timm_ltkd.cli.defaults import dataset_defaults
from timm_ltkd.data import create_dataset
from timm_ltkd.errors import UserError

FOLDER = Path(__file__).resolve().parents[2] / 'hparams'
NAMES = {'imagenet_lt_bkd': 'lt/imagenet', 'places_lt_bkd': 'lt/places365', 'inat2018_bkd': 'lt/inat2018',
         'tinyimagenet_lt100_bkd': 'lt/tinyimagenet'}


def parse_file(name):
    return parse(distill_parser(), ['-c', str(FOLDER / f'{name}.yaml')])


def rates(args):
    """The learning rate of each epoch."""
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=args.lr)
    scheduler, epochs = create_scheduler_v2(optimizer, **scheduler_kwargs(args), updates_per_epoch=1)
    found = []
    for epoch in range(epochs):
        found.append(optimizer.param_groups[0]['lr'])
        scheduler.step(epoch + 1)
    return found


@pytest.mark.parametrize('name', NAMES)
def test_what_a_file_says(name):
    text = (FOLDER / f'{name}.yaml').read_text(encoding='utf-8')
    assert text.startswith('# Our choice: BKD on ')  # no recipe of it is published
    args, keys = parse_file(name), yaml.safe_load(text)
    assert args.dataset == NAMES[name] and args.kd == 'bkd' and not args.kd_kwargs
    assert timm.is_model(args.student) and timm.is_model(args.teacher)
    default = vars(distill_parser().parse_args([]))
    assert {key for key in keys if vars(args)[key] == default[key]} == set()  # it says nothing that goes without
    defaults = dataset_defaults(args.dataset)
    assert (args.img_size, args.mean, args.std) == (defaults.img_size, list(defaults.mean), list(defaults.std))
    own = teacher_args(args, train_parser())
    assert (own.model, own.loss, own.epochs, own.lr) == (args.teacher, 'ce', args.epochs, None)  # the student's rate


@pytest.mark.parametrize('name, first, middle, last', [
    ('imagenet_lt_bkd', 0.2, 0.1, 0.), ('places_lt_bkd', 0.02, 0.01, 0.), ('inat2018_bkd', 0.2, 0.1, 0.),
    ('tinyimagenet_lt100_bkd', 0.02, 0.1, 1e-5)])
def test_learning_rates(name, first, middle, last):
    found = rates(parse_file(name))
    assert found[0] == pytest.approx(first) and found[len(found) // 2] == pytest.approx(middle)
    assert found[-1] == pytest.approx(last, abs=1e-3)


@pytest.mark.parametrize('name', NAMES)
def test_the_data_it_names_can_be_asked_for(name, tmp_path):
    args = parse_file(name)
    (tmp_path / 'list.txt').write_text('x/1.png 0\nx/2.png 0\ny/1.png 1\n')
    (tmp_path / 'train' / 'n01' / 'images').mkdir(parents=True)
    Image.new('RGB', (8, 8)).save(tmp_path / 'train' / 'n01' / 'images' / '0.JPEG', 'PNG')
    if name.startswith('tiny'):
        assert create_dataset(args.dataset, tmp_path).class_names == ['n01'] and args.imbalance_factor == 100
        return
    assert create_dataset(args.dataset, tmp_path, list_file=tmp_path / 'list.txt').class_names == ['x', 'y']
    with pytest.raises(UserError, match='--train-list'):
        create_dataset(args.dataset, tmp_path)


def test_photos_of_ones_own():
    """Both start from weights that are there, and the teacher has the student's recipe, its rate too."""
    text = (FOLDER / 'finetune_bkd.yaml').read_text(encoding='utf-8')
    assert text.startswith('# Our choice: BKD on ')
    args, keys = parse_file('finetune_bkd'), yaml.safe_load(text)
    default = vars(distill_parser().parse_args([]))
    assert {key for key in keys if vars(args)[key] == default[key]} == set()  # it says nothing that goes without
    assert args.pretrained and (args.lr, args.epochs, args.kd) == (0.01, 30, 'bkd')
    assert args.mean is args.img_size is None  # the networks know
    own = teacher_args(args, train_parser())
    assert (own.model, own.pretrained, own.epochs, own.weight_decay) == ('resnet50', None, 30, args.weight_decay)
    assert all(timm.get_pretrained_cfg(name).has_weights for name in (args.teacher, args.student))
    found = rates(args)
    assert found[0] == pytest.approx(1e-5) and max(found) <= 0.01 and found[-1] < 1e-3
