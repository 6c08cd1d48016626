"""Whole runs on data with broken images and hostile names: stopped with one line, or trained on what can be read."""
import csv
import json

import pytest
import torch


@pytest.fixture
def argv(options, spoiled):
    return [*options, '--data-dir', str(spoiled), '--model', 'resnet20', '--epochs', '2', '--experiment', 'run']


def listed(folder):
    with open(folder / 'skipped_images.csv', newline='') as file:
        return {(row['split'], row['file']): row['why'] for row in csv.DictReader(file)}


@pytest.mark.parametrize('loader, how', [('timm', []), ('resident', ['--color-jitter', '0'])])
def test_they_are_left_out_counted_and_listed(script, argv, spoiled, broken, tmp_path, log, loader, how):
    script('train', [*argv, '--on-bad-image', 'skip', '--loader', loader, *how])
    report = json.loads((tmp_path / 'run' / 'report.json').read_text())
    assert report['data']['class_counts'] == [12, 6, 3] and report['student']['num_samples'] == 10
    assert report['run']['skipped_images'] == {'train': 2, 'val': 1, 'listed_in': 'skipped_images.csv'}
    assert 'skipped_images' in (tmp_path / 'run' / 'report.md').read_text().replace('\\', '')
    found = listed(tmp_path / 'run')
    assert set(found) == broken and all(f'{spoiled}/{s}/{name}' in why for (s, name), why in found.items())
    said = '\n'.join(log)
    assert '2 training images and 1 to measure on cannot be read and are left out' in said
    assert 'figures are of the 10 images that are left, and not comparable with those of all 11' in said


def test_by_default_the_run_ends_with_the_name(script, argv, spoiled, broken, tmp_path, capfd):
    with pytest.raises(SystemExit) as stop:
        script('train', argv)
    said = capfd.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2 and said.startswith('train.py: error: cannot read image ')
    assert any(f'{spoiled}/{split}/{name}' in said for split, name in broken)
    assert not (tmp_path / 'run').exists()


def test_a_resumed_run_is_the_same_and_repaired_images_are_other_data(
        script, argv, spoiled, images, tmp_path, capfd):
    skip = [*argv, '--on-bad-image', 'skip']
    script('train', skip)
    weights = torch.load(tmp_path / 'run' / 'last' / 'checkpoint-000002.pt', weights_only=True)['model']
    (tmp_path / 'run' / 'last' / 'checkpoint-000002.pt').unlink()
    (tmp_path / 'run' / 'report.json').unlink()
    script('train', [*skip, '--resume', 'auto'])
    again = torch.load(tmp_path / 'run' / 'last' / 'checkpoint-000002.pt', weights_only=True)['model']
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    with pytest.raises(SystemExit):
        script('train', [*skip, '--data-dir', str(images), '--resume', 'auto'])
    assert 'was started with other settings or data' in capfd.readouterr().err


def test_a_distilled_student_and_what_validate_makes_of_it(script, options, spoiled, tmp_path, log):
    script('distill', [
        *options, '--data-dir', str(spoiled), '--teacher', 'resnet20', '--student', 'resnet20', '--epochs', '1',
        '--on-bad-image', 'skip', '--holdout', '0.2', '--experiment', 'run'])
    run = tmp_path / 'run'
    report = json.loads((run / 'report.json').read_text())
    assert report['data']['num_train'] < 21 and report['teacher']['num_samples'] == 10
    log.clear()
    script('validate', [str(run), '--workers', '0', '--results-file', str(tmp_path / 'r.json')])
    figures, = json.loads((tmp_path / 'r.json').read_text()).values()
    assert figures['top1'] == report['student']['top1'] and figures['num_samples'] == 10
    assert any('not comparable' in message for message in log)


def test_hostile_names_of_classes(script, options, make_images, tmp_path, capfd):
    names = ['=1+1', '<script>alert(1)<script>|`x`', '\x1b[31mred\nline']
    data = make_images(tmp_path / 'data', dict.fromkeys(names, 5), dict.fromkeys(names, 2))
    script('train', [*options, '--data-dir', str(data), '--model', 'resnet20', '--epochs', '1', '--experiment', 'run'])
    said = ''.join(capfd.readouterr())
    assert '\x1b' not in said
    page = (tmp_path / 'run' / 'report.md').read_text()
    assert '<script>' not in page and '\x1b' not in page
    with open(tmp_path / 'run' / 'per_class.csv', newline='') as file:
        kept = [row['name'] for row in csv.DictReader(file)]
    assert sorted(kept) == sorted(["'=1+1", *names[1:]])
    assert json.loads((tmp_path / 'run' / 'config.json').read_text())['label_names'] == sorted(names)
