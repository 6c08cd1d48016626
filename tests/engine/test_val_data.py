"""validate.py on data without a training split: classes and counts are those of the network."""
import json
import shutil

import pytest


@pytest.fixture
def trained(script, options, tmp_path):
    script('train', [*options, '--model', 'resnet20', '--epochs', '1', '--warmup-epochs', '0', '--few-shot', '5',
                     '--many-shot', '10', '--experiment', 'run'])
    return tmp_path / 'run'


@pytest.fixture
def figures(script, tmp_path):
    """What validate.py says of a run on data at a folder."""
    def call(run, root, *words):
        script('validate', [str(run), '--dataset', 'folder', '--data-dir', str(root), '--workers', '0', '--few-shot',
                            '5', '--many-shot', '10', '--results-file', str(tmp_path / 'figures.json'), *words])
        return json.loads((tmp_path / 'figures.json').read_text())[str(run)]
    return call


@pytest.fixture
def new_images(images, tmp_path):
    """Only images to measure on, and none of one class."""
    shutil.copytree(images / 'val', tmp_path / 'new/test')
    shutil.rmtree(tmp_path / 'new/test/bee')
    return tmp_path / 'new'


def test_figures_are_those_with_the_training_split_at_hand(trained, images, new_images, figures, script, capsys, log):
    alone = figures(trained, new_images, '--train-split', '', '--val-split', 'test')
    assert '1 of 3 classes have no validation image and are not measured: bee' in log
    assert alone['num_samples'] == 7 and alone['per_class'][1] is None
    shutil.copytree(images / 'train', new_images / 'train')
    assert alone == figures(trained, new_images, '--val-split', 'test')
    assert {'many', 'medium', 'few'} & alone.keys() == {'many', 'few'}, 'by the counts of training'

    adjusted = ['--logit-adjust', '1']
    script('validate', [str(trained), '--dataset', 'folder', '--data-dir', str(new_images), '--workers', '0',
                        '--train-split', '', '--val-split', 'test', *adjusted])
    assert 'logit-adjust 1' in capsys.readouterr().out


@pytest.mark.parametrize('words, message', [
    ([], None), (['--holdout', '0.1'], 'leave --holdout out'),
    (['--val-list', 'x.txt'], 'leave --val-list out'), (['--on-bad-image', 'skip'], 'leave --on-bad-image'),
    (['--val-split', 'nothing'], "there is no split 'nothing'")])
def test_what_does_not_go(trained, new_images, script, capsys, words, message):
    source = trained
    if not words:
        source, message = trained / 'model.safetensors', 'does not say its classes'
        (trained / 'config.json').unlink()
    with pytest.raises(SystemExit):
        script('validate', [str(source), '--model', 'resnet20', '--dataset', 'folder', '--data-dir', str(new_images),
                            '--workers', '0', '--train-split', '', '--val-split', 'test', *words])
    assert message in capsys.readouterr().err


def test_a_training_split_of_other_counts_is_told(trained, images, script, log):
    for words, told in (([], False), (['--dataset', 'lt/folder', '--imbalance-factor', '2'], True)):
        log.clear()
        script('validate', [str(trained), '--data-dir', str(images), '--workers', '0', *words])
        assert (f'{trained} was trained on 23 images, and not on the ' in '\n'.join(log)) == told


def test_a_class_that_the_network_does_not_know(trained, new_images, script, capsys):
    shutil.copytree(new_images / 'test/cat', new_images / 'test/dog')
    with pytest.raises(SystemExit):
        script('validate', [str(trained), '--dataset', 'folder', '--data-dir', str(new_images), '--train-split', '',
                            '--val-split', 'test'])
    assert "validation has classes that training does not have: 'dog'" in capsys.readouterr().err


def test_a_run_whose_data_are_elsewhere_now(trained, images, script, capsys):
    options = trained / 'args.yaml'
    options.write_text(options.read_text().replace(str(images), 'birds'))
    with pytest.raises(SystemExit):
        script('validate', [str(trained), '--workers', '0'])
    assert f"the data folder 'birds' of {trained} is not found from here; give it by" in capsys.readouterr().err
    tables = []
    for source in (str(trained), f'local-dir:{trained}'):
        script('validate', [source, '--workers', '0', '--data-dir', str(images)])
        tables.append(capsys.readouterr().out.splitlines()[-1].partition(str(trained))[2])
    assert tables[0] and tables[0].split() == tables[1].split()


def test_it_wants_data_of_its_own(trained, script, capsys):
    with pytest.raises(SystemExit):
        script('validate', [str(trained), '--train-split', '', '--val-split', 'test'])
    assert "is for other data than a run's: add their --dataset and --data-dir" in capsys.readouterr().err


def test_lists_are_other_data_than_those_of_a_run_without(trained, images, script, tmp_path, capsys):
    for split in ('train', 'val'):
        (tmp_path / f'{split}.txt').write_text(''.join(
            f'{path.relative_to(images)} {c}\n' for c, name in enumerate(('ant', 'bee', 'cat'))
            for path in sorted((images / split / name).iterdir())))
    lists = [word for split in ('train', 'val') for word in (f'--{split}-list', str(tmp_path / f'{split}.txt'))]
    tables = []
    for words in ([], lists, ['--dataset', 'lt/list', *lists]):
        script('validate', [str(trained), '--data-dir', str(images), '--workers', '0', *words])
        tables.append(capsys.readouterr().out)
    assert tables[0] != tables[1] == tables[2]
