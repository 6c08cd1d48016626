"""`PixelAdapter` against Pillow: normalisation, channels and size of another network."""
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from timm_ltkd.distill import DistillTask, PixelAdapter, Teacher, create_method, normalisation
from timm_ltkd.errors import UserError

STUDENT = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
TEACHER = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(height, width, seed=0):
    """Smooth colours with sharp edges."""
    rng = np.random.RandomState(seed)
    small = Image.fromarray(rng.randint(0, 256, (6, 6, 3), dtype=np.uint8))
    pixels = np.array(small.resize((width, height), Image.Resampling.BICUBIC))
    pixels[height // 3:height // 2, width // 4:] = rng.randint(0, 256, 3)
    return Image.fromarray(pixels)


def tensor(image, mean=(0.,), std=(1.,)):
    pixels = np.array(image, dtype=np.float64).reshape(image.height, image.width, -1) / 255
    return torch.from_numpy((pixels - np.array(mean)) / np.array(std)).permute(2, 0, 1)[None].float()


def levels(pixels, mean, std):
    shape = 1, -1, 1, 1
    return (pixels.double() * torch.tensor(std).double().view(shape) + torch.tensor(mean).double().view(shape)) * 255


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('before, after', [((32, 32), (112, 112)), ((96, 80), (32, 32)), ((20, 20), (33, 41))])
def test_it_resizes_as_pillow_does(interpolation, before, after):
    image = photo(*before)
    adapter = PixelAdapter(*TEACHER, after, interpolation)
    adapter.expect(*STUDENT)
    found = levels(adapter(tensor(image, *STUDENT)), *TEACHER)
    kind = Image.Resampling[interpolation.upper()]
    differs = (found - tensor(image.resize(after[::-1], kind)).double() * 255).abs()
    ties = 0.06 if interpolation == 'bilinear' else 0.01  # which Pillow's integer arithmetic rounds down
    shares = [float((differs > limit).double().mean()) for limit in (0.5, 1.5)]
    assert shares[0] < ties and shares[1] < 1e-3 and float(differs.max()) < 2.1  # where both passes met a tie


@pytest.mark.parametrize('before, after, mode', [(12, 8, 'bilinear'), (32, 24, 'bilinear'), (24, 8, 'bicubic')])
def test_the_last_bit_of_a_pixel_is_no_other_level(before, after, mode):
    """As it comes from another device; where a resized pixel lies halfway between two levels, too."""
    pixels = torch.randint(256, (16, 3, before, before), generator=torch.Generator().manual_seed(0)).float()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in STUDENT)
    adapter = PixelAdapter(*TEACHER, (after, after), mode)
    adapter.expect(*STUDENT)
    first, other = adapter((pixels / 255 - mean) / std), adapter(pixels * (1 / (255 * std)) - mean / std)
    assert torch.equal(first, other)
    pictures = [Image.fromarray(image.permute(1, 2, 0).byte().numpy()) for image in pixels]
    resized = torch.cat([tensor(image.resize((after, after), Image.Resampling[mode.upper()])) for image in pictures])
    differs = levels(first, *TEACHER) - resized.double() * 255
    assert float((differs.abs() > 0.5).double().mean()) < 0.01


def test_other_interpolations_are_bicubic():
    image = tensor(photo(32, 32))
    bicubic, lanczos, bilinear = (
        PixelAdapter(*STUDENT, (40, 40), mode)(image) for mode in ('bicubic', 'lanczos', 'bilinear'))
    assert torch.equal(bicubic, lanczos) and not torch.equal(bicubic, bilinear)


def test_colours_become_the_luminance_that_pillow_has():
    image = photo(24, 24)
    adapter = PixelAdapter((0.3,), (0.7,))
    adapter.expect(*STUDENT)
    found = adapter(tensor(image, *STUDENT))
    assert found.shape == (1, 1, 24, 24)
    differs = levels(found, (0.3,), (0.7,)) - tensor(image.convert('L')).double() * 255
    assert float(differs.abs().max()) < 1, 'Pillow rounds'


@pytest.mark.parametrize('size', [None, (30, 30)])
def test_grey_is_repeated(size):
    grey = photo(24, 24).convert('L')
    adapter = PixelAdapter(*TEACHER, size)
    adapter.expect((0.3,), (0.7,))
    found = levels(adapter(tensor(grey, (0.3,), (0.7,))), *TEACHER)
    wanted = tensor((grey.resize(size, Image.Resampling.BICUBIC) if size else grey).convert('RGB')).double() * 255
    assert found.shape == wanted.shape and float((found - wanted).abs().max()) < 1.5


def test_other_channels_are_refused():
    with pytest.raises(UserError, match='images of 3 channels cannot be turned into 4'):
        PixelAdapter((0.5,) * 4, (0.5,) * 4).expect(*STUDENT)


def test_noise_beyond_black_and_white_is_cut_off():
    adapter = PixelAdapter((0.,), (1.,), (8, 8))
    assert adapter(torch.tensor([[-9., 9.]]).expand(1, 1, 2, 2)).min() == 0
    assert float(adapter(torch.full((1, 1, 4, 4), 9.)).max()) == 1.


def test_normalisation_of_a_network():
    assert normalisation(nn.Flatten()) == TEACHER
    grey = timm.create_model('test_resnet', in_chans=1)
    (mean,), (std,) = normalisation(grey)
    cfg = grey.pretrained_cfg
    assert mean == pytest.approx(sum(cfg['mean']) / 3) and std == pytest.approx(sum(cfg['std']) / 3)


@pytest.mark.parametrize('student_channels, teacher_channels', [(3, 1), (1, 3), (1, 1)])
def test_student_and_teacher_of_other_channels(student_channels, teacher_channels):
    torch.manual_seed(0)
    student, teacher = (
        timm.create_model('test_resnet', in_chans=channels, num_classes=5).eval()
        for channels in (student_channels, teacher_channels))
    image = photo(32, 32)
    view = tensor(image.convert('L' if student_channels == 1 else 'RGB'), *normalisation(student))
    task = DistillTask(student, teacher, create_method('kd'))
    assert task(view, torch.tensor([0]))['loss'].isfinite()
    own = tensor(image.convert('L'))
    own = own.expand(1, teacher_channels, 32, 32)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in normalisation(teacher))
    with torch.no_grad():
        wanted = teacher((own - mean) / std)
    assert torch.allclose(task.teacher(view).logits, wanted, atol=0.02)


def test_a_teacher_takes_the_interpolation_of_its_configuration():
    network = timm.create_model('test_resnet')
    for mode in ('bilinear', 'bicubic'):
        network.pretrained_cfg = {**network.pretrained_cfg, 'interpolation': mode}
        assert Teacher(network, img_size=40).pixels.mode == mode
