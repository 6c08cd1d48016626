"""What a run may be continued with or reuse: teachers, weights without a config, the best figure."""
import csv
import json
from types import SimpleNamespace

import pytest
from accelerate import Accelerator

from timm_ltkd.cli.arguments import distill_parser, train_parser
from timm_ltkd.cli.config import parse
from timm_ltkd.engine.recipe import file_key, recipe_key
from timm_ltkd.engine.record import Record
from timm_ltkd.engine.run_data import load_data


@pytest.fixture
def key():
    """`recipe_key` of a train.py command line, and of teachers."""
    accelerator = Accelerator()

    def of(*words, teachers=()):
        args = parse(train_parser(), words)
        return recipe_key(args, load_data(args, accelerator), accelerator, teachers)
    return of


@pytest.mark.parametrize('words, counts', [
    (['--eval-metric', 'few'], False), (['--crop-pct', '0.5'], False), (['--workers', '3'], False),
    (['--sched', 'plateau', '--eval-metric', 'few'], True), (['--sched', 'plateau', '--val-interval', '2'], True),
    (['--holdout', '0.2', '--crop-pct', '0.5'], True), (['--lr', '0.3'], True),
])
def test_what_counts_in_the_key(key, words, counts):
    without = words[:2] if len(words) > 2 else []
    assert (key(*words) != key(*without)) == counts


@pytest.mark.parametrize('parser, known', [(train_parser, '65ab18b61d580478'), (distill_parser, '566e883ac938f8d1')])
def test_a_new_option_leaves_the_keys_of_runs_without_it(parser, known):
    """Or these could not go on, nor their teachers be used, after an upgrade: where this fails, leave the option out of
    the key where it is off, as `recipe_key` does with others, and the figures here as they are."""
    assert recipe_key(parse(parser(), []), SimpleNamespace(fingerprint='0'), Accelerator()) == known


def test_teachers_count_in_the_key(key):
    assert len({key(), key(teachers=['a']), key(teachers=['b']), key(teachers=['a', 'b'])}) == 4


def test_weights_are_known_by_what_they_hold(tmp_path):
    (tmp_path / 'a.pt').write_bytes(b'a')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'model.safetensors').write_bytes(b'a')
    assert file_key(str(tmp_path / 'a.pt')) == file_key(str(tmp_path / 'run'))
    (tmp_path / 'a.pt').write_bytes(b'b')
    assert file_key(str(tmp_path / 'a.pt')) != file_key(str(tmp_path / 'run'))
    assert file_key('hf-hub:timm/resnet18') == 'hf-hub:timm/resnet18'


def test_weights_to_start_from_count_by_what_they_hold(key, tmp_path):
    first, moved, network = (tmp_path / name for name in ('a.pt', 'b.pt', 'net'))
    network.mkdir()
    for file in (first, moved, network / 'model.safetensors'):
        file.write_bytes(b'a')
    options = ['--initial-checkpoint', str(first)], ['--model', f'local-dir:{network}']
    before = [key(*words) for words in options]
    assert before[0] == key('--initial-checkpoint', str(moved)) and len({*before, key()}) == 3
    for file in (first, network / 'model.safetensors'):
        file.write_bytes(b'b')
    after = [key(*words) for words in options]
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_a_student_does_not_continue_under_another_teacher(script, options, tmp_path, capsys):
    recipe = tmp_path / 'recipe.yaml'
    argv = [*options, '--teacher', 'resnet20', '--student', 'resnet20', '--epochs', '1', '--experiment', 'run',
            '--teacher-config', str(recipe)]
    recipe.write_text('lr: 0.01')
    script('distill', argv)
    recipe.write_text('lr: 0.02')
    with pytest.raises(SystemExit):
        script('distill', [*argv, '--resume', 'auto'])
    err = capsys.readouterr().err
    assert 'was started with other settings or data' in err
    assert '--teacher-config was lr=0.01 and is lr=0.02' in err


def test_a_run_repeats_with_the_teachers_recipe_that_it_had(script, options, tmp_path, log):
    recipe, run = tmp_path / 'recipe.yaml', tmp_path / 'run'
    recipe.write_text('lr: 0.01\nloss: focal\nloss_kwargs: {gamma: 1}\n')
    script('distill', [*options, '--teacher', 'resnet20', '--student', 'resnet20', '--kd', 'kd', '--epochs', '1',
                       '--experiment', 'run', '--teacher-config', str(recipe)])
    recipe.write_text('lr: 0.02')
    log.clear()
    script('distill', ['-c', str(run / 'args.yaml'), '--output', str(tmp_path), '--experiment', 'again'])
    assert any('trained before' in line for line in log)
    assert (run / 'model.safetensors').read_bytes() == (tmp_path / 'again/model.safetensors').read_bytes()
    for name, left_out in (('run', 'lr: 0.01'), ('again', 'lr: 0.02')):
        assert left_out not in (tmp_path / name / 'README.md').read_text()
    assert json.loads((run / 'report.json').read_text())['run']['args']['teacher_config'] == {
        'lr': 0.01, 'loss': 'focal', 'loss_kwargs': {'gamma': 1}}


def test_an_empty_value_in_a_teachers_recipe_is_the_default(script, options, tmp_path):
    (tmp_path / 'recipe.yaml').write_text('lr:\n')
    script('distill', [*options, '--teacher', 'resnet20', '--student', 'resnet20', '--epochs', '1',
                       '--experiment', 'run', '--teacher-config', str(tmp_path / 'recipe.yaml')])
    assert list((tmp_path / 'teachers').glob('*/report.json'))


def test_weights_beside_their_config_see_the_same_pixels(script, options, tmp_path):
    script('train', [*options, '--model', 'resnet20', '--epochs', '1', '--experiment', 'run', '--mean', '0.1',
                     '--std', '0.9'])
    run, results = tmp_path / 'run', tmp_path / 'r.json'
    script('validate', [
        str(run), str(run / 'model.safetensors'), '--model', 'resnet20', '--workers', '0',
        '--results-file', str(results)])
    folder, file = json.loads(results.read_text()).values()
    assert folder == file


def test_the_best_figure_is_of_one_metric(script, options, tmp_path):
    argv = [*options, '--model', 'resnet20', '--experiment', 'run', '--epochs', '2']
    script('train', argv)
    for path in (tmp_path / 'run' / 'last').glob('checkpoint-000002.pt'):
        path.unlink()
    script('train', [*argv, '--resume', 'auto', '--eval-metric', 'few'])
    report = json.loads((tmp_path / 'run' / 'report.json').read_text())
    with open(tmp_path / 'run' / 'summary.csv') as file:
        few = [float(row['eval_few']) for row in csv.DictReader(file)]
    assert report['best'] == {
        'metric': 'few', 'value': max(few), 'epoch': few.index(max(few)), 'chosen_on': report['best']['chosen_on']}


def test_the_best_epoch_is_found_again_by_another_figure():
    record = Record()
    for epoch, (top1, few) in enumerate([(10., 40.), (20., 30.), (15., 40.), (30., None)]):
        record.history.append({'epoch': epoch, 'eval_top1': top1, 'eval_few': few})
        record.note_best(epoch, 'top1', top1, 'test', None)
    assert record.best == {'metric': 'top1', 'value': 30., 'epoch': 3, 'chosen_on': 'test'}
    record.choose_by('few')
    assert record.best == {'metric': 'few', 'value': 40., 'epoch': 0, 'chosen_on': 'test'}
    record.note_best(4, 'few', 10., 'test', None)
    assert record.best['epoch'] == 0
    record.choose_by('balanced')
    assert record.best is None


def test_a_teacher_sees_images_of_the_size_it_was_trained_with(script, options, teacher, tmp_path, log):
    large = [word if options[i - 1] != '--img-size' else '16' for i, word in enumerate(options)]
    script('distill', [*large, '--student', 'resnet32', '--teacher-checkpoint', str(teacher),
                       '--epochs', '1', '--experiment', 'student'])
    assert 'teacher resnet20 sees images of 8 pixels, as it was trained; the student of 16' in log
    own, beside = (json.loads((folder / 'report.json').read_text()) for folder in (teacher, tmp_path / 'student'))
    assert beside['run']['teacher'] == 'resnet20'  # by its folder, not by the default of --teacher
    assert own['student'].keys() == beside['teacher'].keys()
