"""The training set in a few lines."""
import pytest

from timm_ltkd.errors import UserError
from timm_ltkd.prior import ClassPrior
from timm_ltkd.report import data_profile, group_classes

PRIOR = ClassPrior([30, 500, 120, 10])


def test_profile():
    assert data_profile(PRIOR, ['ant', 'bee\n', 'cat', 'dog']).splitlines() == [
        'classes: 4',
        'training images: 660',
        "largest class: 1 'bee ' (500 images)",
        "smallest class: 3 'dog' (10 images)",
        'imbalance factor: 50',
        'classes by training images (many > 100, few < 20): many 2 (620 images), medium 1 (30 images), '
        'few 1 (10 images)',
    ]


def test_other_boundaries_and_no_names():
    text = data_profile(ClassPrior(PRIOR.counts, many=400, few=5))
    assert 'largest class: 1 (500 images)' in text
    assert text.endswith('(many > 400, few < 5): many 1 (500 images), medium 3 (160 images)')


def test_groups_have_a_class():
    assert group_classes(PRIOR) == {'many': [1, 2], 'medium': [0], 'few': [3]}
    assert group_classes(ClassPrior([5, 5])) == {'few': [0, 1]}


def test_names_must_fit():
    with pytest.raises(UserError, match='2 class names for 4 classes'):
        data_profile(PRIOR, ['a', 'b'])
