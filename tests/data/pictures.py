"""A data set that tests make of nothing."""
import numpy as np
from PIL import Image
from torch.utils.data import Dataset


class Pictures(Dataset):
    """Noise of any mode and of several (height, width), labelled 0, 1, 2, 0, …"""

    classes = ['a', 'b', 'c']

    def __init__(self, count=30, sizes=((12, 12),), mode='RGB'):
        rng = np.random.default_rng(0)
        noise = [rng.integers(0, 256, (*sizes[i % len(sizes)], 3), dtype=np.uint8) for i in range(count)]
        self.pictures = [Image.fromarray(pixels).convert(mode) for pixels in noise]
        self.targets, self.transform = [i % 3 for i in range(count)], None

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        image = self.pictures[index]
        return image if self.transform is None else self.transform(image), self.targets[index]
