"""torchvision's sets of grey images, as every other set is: in colours."""
from torch.utils.data import Dataset
from torchvision.datasets import VisionDataset

from .labels import dataset_class_names, dataset_targets
from .reading import convert


class Coloured(Dataset):
    """A set whose images are RGB, whatever it keeps: networks and transforms take them as those of other sets.

    Args:
        base: torchvision's; its transforms are taken over, and come after the conversion.
    """

    def __init__(self, base: VisionDataset):
        self.transform, self.target_transform = base.transform, base.target_transform
        base.transform = base.target_transform = None
        self.base, self.targets, self.class_names = base, dataset_targets(base), dataset_class_names(base)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple:
        image, target = self.base[index]
        image = convert(image, 'RGB')
        return (
            image if self.transform is None else self.transform(image),
            target if self.target_transform is None else self.target_transform(target))
