"""Real handwritten digits that come with scikit-learn: the data set that needs no download."""
import numpy as np
from PIL import Image
from torch.utils.data import Dataset

DIGITS_IMBALANCE_FACTOR = 50  # 144 images of '0' down to 2 of '9': a many-shot, four medium, five few-shot classes
TEST_IMAGES_PER_CLASS = 30
_SPLIT_SEED = 1797  # our choice; has nothing to do with the imbalance seed, so the test images never change
_SIZE = 32


class DigitsDataset(Dataset):
    """The 1,797 digits of scikit-learn's `load_digits` as 32x32 RGB images, in two fixed parts.

    The 8x8 images of 16 grey levels (the test part of the UCI "Optical Recognition of Handwritten Digits" set) are
    scaled to 0-255 and enlarged bicubically. 30 images of each class, drawn once and for all, are the test split; the
    other 1,497 (144 to 153 of each class) are for training. Both keep scikit-learn's order.

    Attributes:
        images: uint8 [N, 32, 32].
        targets: int64 [N].
        classes: '0' ... '9'.
        transform, target_transform: Applied in `__getitem__` when set.
    """

    def __init__(self, train: bool = True, transform=None, target_transform=None):
        from sklearn.datasets import load_digits  # takes a while to import, and only this set needs it
        digits = load_digits()
        targets = digits.target.astype(np.int64)
        test = held_out_positions(targets)
        kept = np.delete(np.arange(targets.size), test) if train else test
        self.images = np.stack([_enlarge(image) for image in digits.images[kept]])
        self.targets = targets[kept]
        self.classes = [str(c) for c in range(10)]
        self.transform = transform
        self.target_transform = target_transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        image, target = Image.fromarray(self.images[index]).convert('RGB'), int(self.targets[index])
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target


def held_out_positions(targets: np.ndarray) -> np.ndarray:
    """The positions of the test images, ascending: `TEST_IMAGES_PER_CLASS` of each class."""
    rng = np.random.RandomState(_SPLIT_SEED)
    drawn = [rng.permutation(np.flatnonzero(targets == c))[:TEST_IMAGES_PER_CLASS] for c in range(10)]
    return np.sort(np.concatenate(drawn))


def _enlarge(image: np.ndarray) -> np.ndarray:
    grey = Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8))
    return np.asarray(grey.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC))
