"""Figures: they show the figures they were given, and leave matplotlib's global state alone."""
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from timm_ltkd.errors import UserError
from timm_ltkd.metrics import calibration
from timm_ltkd.prior import ClassPrior
from timm_ltkd.report import (
    plot_accuracy_by_frequency,
    plot_calibration,
    plot_class_profile,
    plot_curves,
    plot_difference,
    plot_group_confusion,
    plot_groups,
    plot_teacher_student,
)

PRIOR = ClassPrior([30, 500, 120, 10])
HISTORY = [
    {'epoch': epoch, 'train_loss': 2. / (epoch + 1), 'eval_loss': 2.5 / (epoch + 1), 'eval_top1': 10. * epoch,
     'eval_few': 5. * epoch, 'lr': 0.1 ** epoch} for epoch in range(4)]


@pytest.fixture
def saved(monkeypatch):
    """The figure that was saved, to look inside."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, *args, **kw: (figures.append(self), save(self, *args, **kw)))
    return figures


def assert_is_picture(path):
    with Image.open(path) as image:
        assert image.format == 'PNG' and image.width >= 800 and image.height >= 300
        assert len(image.convert('RGB').getcolors(1 << 24)) > 10


def test_accuracy_is_drawn_over_the_classes_by_training_images(tmp_path, saved):
    rows = {'teacher $r_1$': {'per_class': [3., 1., 2., 4.]}, '_student': {'per_class': [30., 10., None, 40.]}}
    plot_accuracy_by_frequency(tmp_path / 'a.png', rows, PRIOR)
    assert_is_picture(tmp_path / 'a.png')
    upper, lower = saved[0].axes
    teacher, student = upper.lines
    assert teacher.get_xdata().tolist() == [1, 2, 3, 4] and teacher.get_ydata().tolist() == [1., 2., 3., 4.]
    assert student.get_xdata().tolist() == [1, 3, 4] and student.get_ydata().tolist() == [10., 30., 40.]
    assert lower.patches[-1].get_data().values.tolist() == [500., 120., 30., 10.]
    assert lower.get_yscale() == 'log'
    assert [text.get_text() for text in upper.texts] == ['many', 'medium', 'few']


def test_axes_count_in_whole_numbers_however_few_there_are(tmp_path, saved):
    for counts in ([5], [1], [7, 3], [12, 11], [13, 7, 3], [500, 3]):
        rows = {'student': {'per_class': [50.] * len(counts)}}
        plot_accuracy_by_frequency(tmp_path / 'a.png', rows, ClassPrior(counts))
        axes = saved[-1].axes[1]
        left, right = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if left <= tick <= right] == list(range(1, len(counts) + 1))
        low, high = axes.get_ylim()
        labels = [text.get_text() for text in axes.get_yticklabels() if low <= text.get_position()[1] <= high]
        assert labels and all(label.isdigit() for label in labels)


def test_profile_is_sorted_and_coloured_by_group(tmp_path, saved):
    plot_class_profile(tmp_path / 'p.png', PRIOR)
    assert_is_picture(tmp_path / 'p.png')
    axes, = saved[0].axes
    assert [patch.get_data().values.tolist() for patch in axes.patches] == [[500., 120.], [30.], [10.]]
    assert [patch.get_data().edges.tolist() for patch in axes.patches] == [[0.5, 1.5, 2.5], [2.5, 3.5], [3.5, 4.5]]
    assert len({patch.get_facecolor() for patch in axes.patches}) == 3
    assert axes.get_yscale() == 'log' and axes.get_title() == '4 classes, 660 training images, imbalance factor 50'
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        'many: 2 classes, 620 images', 'medium: 1 classes, 30 images', 'few: 1 classes, 10 images']
    plot_class_profile(tmp_path / 'p.png', ClassPrior([1, 19, 20]))
    few = saved[1].axes[0].patches[1]
    assert few.get_data().values.tolist() == [19., 1.] and few.get_facecolor() == axes.patches[2].get_facecolor()


def test_the_legend_names_every_row(tmp_path, saved):
    rows = {'_teacher': {'per_class': [1., 1., 2., 4.]}, 'a$b$': {'per_class': [1., 2., 3., 4.]}}
    plot_accuracy_by_frequency(tmp_path / 'a.png', rows, PRIOR)
    assert len(saved[0].legends[0].get_texts()) == 2


def test_many_classes_get_a_running_mean(tmp_path, saved):
    counts = np.linspace(500, 5, 100).astype(int)
    accuracy = np.linspace(90, 0, 100)
    plot_accuracy_by_frequency(tmp_path / 'a.png', {'student': {'per_class': accuracy.tolist()}}, ClassPrior(counts))
    dots, mean = saved[0].axes[0].lines
    assert dots.get_ydata() == pytest.approx(accuracy)
    assert mean.get_ydata()[10:-10] == pytest.approx(accuracy[10:-10])  # the mean of a straight line is the line
    assert 0 < mean.get_ydata()[-1] < accuracy[-6]


def test_a_report_of_other_data_is_refused(tmp_path):
    with pytest.raises(UserError, match='3 classes, the training set 4'):
        plot_accuracy_by_frequency(tmp_path / 'a.png', {'student': {'per_class': [1., 2., 3.]}}, PRIOR)
    assert not list(tmp_path.iterdir())


def test_curves(tmp_path, saved):
    plot_curves(tmp_path / 'c.png', HISTORY)
    assert_is_picture(tmp_path / 'c.png')
    loss, accuracy, lr = saved[0].axes
    assert [line.get_label() for line in loss.lines] == ['train_loss', 'eval_loss']
    assert [line.get_label() for line in accuracy.lines] == ['eval_top1', 'eval_few']
    assert accuracy.lines[1].get_ydata().tolist() == [0., 5., 10., 15.]
    assert lr.get_yscale() == 'log'


def test_curves_of_a_history_with_holes(tmp_path, saved):
    plot_curves(tmp_path / 'c.png', [{'epoch': 3, 'train_loss': 1., 'lr': 0.}, {'epoch': 4, 'train_loss': None},
                                     {'epoch': 5, 'train_loss': float('nan'), 'lr': 0.1}])
    loss, lr = saved[0].axes
    assert loss.lines[0].get_xdata().tolist() == [4, 6]  # counted from 1
    assert lr.get_yscale() == 'linear'  # a rate of 0 has no logarithm


def test_nothing_to_draw(tmp_path):
    with pytest.raises(UserError, match='no loss'):
        plot_curves(tmp_path / 'c.png', [])


def test_curves_that_coincide_are_told_apart_without_colour(tmp_path, saved):
    plot_curves(tmp_path / 'c.png', [{'epoch': 0, 'eval_top1': 5., 'eval_balanced': 5.}])
    top1, balanced = saved[0].axes[0].lines
    assert top1.get_linestyle() != balanced.get_linestyle()


def test_teacher_and_student_are_rings_by_group(tmp_path, saved):
    prior = ClassPrior([500, 400, 50, 10, 9])
    teacher = {'per_class': [50., 0., 0., 0., None]}
    student = {'per_class': [40., 20., 20., 20., 90.]}
    plot_teacher_student(tmp_path / 's.png', teacher, student, prior, ('teacher $r$', 'student'))
    assert_is_picture(tmp_path / 's.png')
    axes, = saved[0].axes
    many, medium, few = axes.collections
    assert many.get_offsets().tolist() == [[0., 20.], [50., 40.]] and few.get_offsets().tolist() == [[0., 20.]]
    each = few.get_sizes()[0]
    assert many.get_sizes().tolist() == [3 * each, each] and medium.get_sizes().tolist() == [2 * each]
    assert [text.get_text() for text in saved[0].legends[0].get_texts()] == [
        'many: 1 above, 0 on, 1 below', 'medium: 1 above, 0 on, 0 below', 'few: 1 above, 0 on, 0 below']
    assert axes.get_xlabel() == r'class accuracy of teacher \$r\$ (%)'


def test_thousands_of_classes_at_few_places_fit_their_marks(tmp_path, saved):
    counts = np.linspace(1000, 2, 8142).astype(int)
    accuracy = np.random.RandomState(0).choice([0., 100 / 3, 200 / 3, 100.], (2, 8142)).tolist()
    plot_teacher_student(tmp_path / 's.png', {'per_class': accuracy[0]}, {'per_class': accuracy[1]}, ClassPrior(counts))
    sizes = np.concatenate([marks.get_sizes() for marks in saved[0].axes[0].collections])
    assert len(sizes) == 48 and 8 <= sizes.min() and sizes.max() <= 900


def test_group_confusion_is_in_percent_of_its_rows_and_in_order(tmp_path, saved):
    confusion = {'few': {'few': 1, 'many': 3}, 'many': {'few': 0, 'many': 10}}  # sorted, as a file has it
    rows = {name: {'group_confusion': confusion} for name in ('a', '_b')}
    plot_group_confusion(tmp_path / 'g.png', rows)
    assert_is_picture(tmp_path / 'g.png')
    for axes in saved[0].axes:
        assert axes.images[0].get_array().tolist() == [[100., 0.], [75., 25.]]
        assert [text.get_text() for text in axes.texts] == ['100.0 %', '0.0 %', '75.0 %', '25.0 %']
        assert [text.get_text() for text in axes.get_yticklabels()] == ['many\n10', 'few\n4']


def test_one_group_only(tmp_path):
    plot_group_confusion(tmp_path / 'g.png', {'a': {'group_confusion': {'medium': {'medium': 5}}}})
    assert_is_picture(tmp_path / 'g.png')


def test_calibration_draws_the_bins_that_have_images(tmp_path, saved):
    bins = calibration(np.array([0.1, 0.5, 0.52, 0.95]), np.array([0, 1, 0, 1]))
    plot_calibration(tmp_path / 'c.png', {'student': {'calibration': bins, 'ece': 12.345}})
    assert_is_picture(tmp_path / 'c.png')
    upper, lower = saved[0].axes
    assert upper.lines[1].get_xdata() == pytest.approx([10., 51., 95.])
    assert upper.lines[1].get_ydata() == pytest.approx([0., 50., 100.])
    assert lower.patches[0].get_data().values.sum() == 4
    assert [text.get_text() for text in saved[0].legends[0].get_texts()] == ['student (ece 12.35)']


def test_groups_of_several_runs(tmp_path, saved):
    rows = {
        name: {'balanced': 10. * (i + 1), 'few': None if i else 5., 'worst': 1.} for i, name in enumerate('abcdefgh')}
    plot_groups(tmp_path / 'g.png', rows, {'a': {'balanced': 2.}})
    axes, = saved[0].axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ['balanced', 'few', 'worst']
    assert [bars[0].get_height() for bars in axes.containers if hasattr(bars, 'patches')] == [
        10. * (i + 1) for i in range(8)]
    looks = {(bars[0].get_facecolor(), bars[0].get_hatch()) for bars in axes.containers if hasattr(bars, 'patches')}
    assert len(looks) == 8  # six colours are told apart; then hatching begins
    with pytest.raises(UserError, match='no report'):
        plot_groups(tmp_path / 'none.png', {})


def test_differences_are_to_the_first(tmp_path, saved):
    rows = {name: {'per_class': values} for name, values in
            {'a': [1., 2., 3., 4.], 'b': [2., 2., 5., None], 'c': [0., 0., 0., 0.]}.items()}
    plot_difference(tmp_path / 'd.png', rows, PRIOR)
    upper, lower = saved[0].axes
    assert (upper.get_title('left'), lower.get_title('left')) == ('b', 'c')
    assert saved[0].get_suptitle() == 'class accuracy minus that of a'
    steps = [patch.get_data().values.tolist() for patch in upper.patches if hasattr(patch, 'get_data')]
    assert steps == [[0., 2.], [1.], [0.]]  # counts 500 and 120; 30; 10, which has no test image
    with pytest.raises(UserError, match="the report 'b' has 1 classes"):
        plot_difference(tmp_path / 'e.png', {'a': rows['a'], 'b': {'per_class': [1.]}}, PRIOR)


@pytest.mark.parametrize('count', [3, 12])
def test_long_names_take_nothing_from_the_axes(tmp_path, saved, count):
    rows = {f'results/cifar100_lt100/a_method_of_{i}': {'per_class': [float(i)] * 4} for i in range(count)}
    plot_accuracy_by_frequency(tmp_path / 'a.png', rows, PRIOR)
    upper, lower = saved[0].axes
    assert upper.get_window_extent().height > 250 and lower.get_window_extent().height > 80  # of 690 for one row


@pytest.mark.parametrize('names', [
    ['teacher', 'cross-entropy', 'KD', 'BKD', 'KRDistill', 'balanced softmax + KD'],
    ['WWWWWWWW' * 3] * 4, ['teacher resnet50', 'student resnet18'], [f'run {i}' for i in range(12)], ['a' * 60, 'b']])
def test_the_legend_is_not_cut_off(tmp_path, saved, names):
    rows = {f'{name}{" " * i}': {'per_class': [float(i)] * 4} for i, name in enumerate(names)}
    plot_accuracy_by_frequency(tmp_path / 'a.png', rows, PRIOR)
    picture, box = saved[0], saved[0].legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= picture.bbox.width
    assert box.y0 >= picture.axes[0].get_window_extent().y1 and box.y1 <= picture.bbox.height


def test_more_rows_than_colours_are_told_apart(tmp_path, saved):
    rows = {str(i): {'per_class': [float(i)] * 4} for i in range(9)}
    plot_accuracy_by_frequency(tmp_path / 'a.png', rows, PRIOR)
    lines = saved[0].axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 9


@pytest.mark.parametrize('names, expected, slanted', [
    (['ant', 'bee', 'cat', '$dog$'], ['bee', '\\$dog\\$', 'cat', 'ant'], False),
    (['a' * 40, 'b' * 25, 'c' * 24, '_d'], ['b' * 23 + '…', ' _d', 'c' * 24, 'a' * 23 + '…'], True),
    (['蟻', 'bee', 'cat', 'dog'], ['1', '2', '3', '4'], False),  # matplotlib's own font has no such letter
    (None, ['1', '2', '3', '4'], False),
])
def test_few_classes_are_named(tmp_path, saved, recwarn, names, expected, slanted):
    prior = ClassPrior([10, 500, 30, 120])
    rows = {'a': {'per_class': [1., 2., 3., 4.]}, 'b': {'per_class': [4., 2., 3., 1.]}}
    plot_class_profile(tmp_path / 'p.png', prior, names)
    plot_accuracy_by_frequency(tmp_path / 'a.png', rows, prior, names)
    plot_difference(tmp_path / 'd.png', rows, prior, names)
    for picture in saved:
        axes = picture.axes[-1]
        left, right = axes.get_xlim()
        told = [label for label in axes.get_xticklabels() if left <= label.get_position()[0] <= right]
        assert [label.get_text() for label in told] == expected
        assert all(bool(label.get_rotation()) == slanted for label in told)
    assert not recwarn.list


def test_many_classes_are_not_named(tmp_path, saved):
    plot_class_profile(tmp_path / 'p.png', ClassPrior(range(1, 22)), [f'class {i}' for i in range(21)])
    assert not any('class' in label.get_text() for label in saved[0].axes[0].get_xticklabels())
