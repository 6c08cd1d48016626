"""The baseline: CIFAR-sized images and the training loop of public BKD code, written anew.

An image at a time by Pillow and torchvision in 4 worker processes, float32, the loss read back at every step, teacher
and student evaluated together after every epoch. What it writes to disk is left out.
"""
import copy
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.utils import AverageMeter, accuracy
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from timm_ltkd.data import LongTailedDataset

MEAN, STD, BATCH, TEMPERATURE, BETA = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 128, 2., 0.9999
Batch = tuple[torch.Tensor, torch.Tensor]


class Pixels(Dataset):
    """Images in an array, as torchvision keeps CIFAR's; random ones of 32 x 32 pixels if none are given."""

    def __init__(self, targets: Sequence[int], data: np.ndarray | None = None, transform=None):
        self.targets = [int(target) for target in targets]
        self.data = data
        if data is None:
            self.data = np.random.default_rng(0).integers(0, 256, (len(self.targets), 32, 32, 3), dtype=np.uint8)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int):
        image = Image.fromarray(self.data[index])
        return image if self.transform is None else self.transform(image), self.targets[index]

    @classmethod
    def of(cls, dataset: LongTailedDataset) -> 'Pixels':
        """Those of a data set, decoded."""
        return cls(dataset.targets, np.stack([np.asarray(dataset[i][0].convert('RGB')) for i in range(len(dataset))]))

    def with_transform(self, transform) -> 'Pixels':
        return Pixels(self.targets, self.data, transform)


def random_pixels(classes: int = 100, largest: int = 500, of_test: int = 100) -> tuple[Pixels, Pixels]:
    """Training and test images; as many of each class as CIFAR-100-LT has at imbalance factor 100, but one at least."""
    counts = np.maximum(1, (largest * 100. ** (-np.arange(classes) / (classes - 1))).astype(int))
    return Pixels(np.repeat(np.arange(classes), counts)), Pixels(np.repeat(np.arange(classes), of_test))


def create_loaders(train: Pixels, test: Pixels, workers: int = 4) -> tuple[DataLoader, DataLoader]:
    """Of what is trained on, and of what is evaluated."""
    normalize = transforms.Normalize(MEAN, STD)
    augment = transforms.Compose([
        transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize])
    common = dict(num_workers=workers, pin_memory=torch.cuda.is_available())
    return (
        DataLoader(train.with_transform(augment), BATCH, shuffle=True, **common),
        DataLoader(test.with_transform(transforms.Compose([transforms.ToTensor(), normalize])), 100, **common))


def class_weights(counts: Sequence[int]) -> torch.Tensor:
    """Effective-number weights with mean 1, in float64."""
    weights = (1 - BETA) / (1 - np.power(BETA, np.asarray(counts, dtype=np.float64)))
    return torch.tensor(weights / weights.sum() * len(weights))


def bkd_loss(
        student: torch.Tensor,
        teacher: torch.Tensor,
        target: torch.Tensor,
        weights: torch.Tensor,
        alpha: float = 1.,
) -> torch.Tensor:
    """Cross-entropy + α · T² · KL to the weighted and normalised probabilities of the teacher, term by term."""
    taught = F.softmax(teacher / TEMPERATURE, dim=1) * weights
    taught = taught / taught.sum(dim=1, keepdim=True)
    divergence = F.kl_div(F.log_softmax(student / TEMPERATURE, dim=1), taught, reduction='none')
    return F.cross_entropy(student, target) + alpha * divergence.mean(dim=0).sum() * TEMPERATURE ** 2


class PlainTraining:
    """A student that learns from a teacher, or from the labels alone.

    Args:
        student: On its device.
        teacher: Likewise; None for cross-entropy alone.
        weights: Of the classes; for a teacher.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module | None = None, weights: torch.Tensor | None = None):
        self.student, self.teacher = student, teacher
        weight = next(student.parameters())
        self.device, self.class_weights = weight.device, weights
        self.weights = None if weights is None else weights.to(weight)
        self.optimizer = torch.optim.SGD(student.parameters(), 0.1, momentum=0.9, weight_decay=2e-4)

    def loss(self, input: torch.Tensor, target: torch.Tensor, alpha: float = 1.) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a batch on the device; and the student's logits."""
        if self.teacher is None:
            logits = self.student(input)
            return F.cross_entropy(logits, target), logits
        with torch.no_grad():
            said = self.teacher(input)
        logits = self.student(input)
        return bkd_loss(logits, said, target, self.weights, alpha), logits

    def train_epoch(self, batches: Iterable[Batch]) -> float:
        """Train on each batch; the mean loss."""
        losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
        self.student.train()
        for input, target in batches:
            input, target = self._to_device(input, target)
            loss, logits = self.loss(input, target)
            for meter, value in zip((top1, top5), accuracy(logits, target, topk=(1, 5)), strict=True):
                meter.update(value, len(target))
            losses.update(loss.item(), len(target))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return losses.avg

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> tuple[float, np.ndarray]:
        """Mean cross-entropy of the student, whose teacher is asked as well, and its accuracy in each class."""
        losses, top1, top5, hits, targets = AverageMeter(), AverageMeter(), AverageMeter(), [], []
        self.student.eval()
        for input, target in batches:
            input, target = self._to_device(input, target)
            loss, logits = self.loss(input, target, alpha=0.)
            for meter, value in zip((top1, top5), accuracy(logits, target, topk=(1, 5)), strict=True):
                meter.update(value, len(target))
            losses.update(loss.item(), len(target))
            hits.extend((logits.argmax(dim=1) == target).cpu().numpy())
            targets.extend(target.cpu().numpy())
        images = np.bincount(targets)
        return losses.avg, np.bincount(targets, weights=hits) / np.maximum(images, 1)

    def _to_device(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        return [tensor.to(self.device, non_blocking=True) for tensor in tensors]


def loss_and_gradient(training: PlainTraining, input: torch.Tensor, target: torch.Tensor, exact: bool) -> Batch:
    """Of a batch on the device, for the student's parameters, flat; in float64 if `exact`. Changes nothing."""
    student, teacher = copy.deepcopy((training.student, training.teacher))
    if exact:
        input, student, teacher = input.double(), student.double(), teacher and teacher.double()
    student.train()
    loss, _ = PlainTraining(student, teacher, training.class_weights).loss(input, target)
    gradients = torch.autograd.grad(loss, list(student.parameters()))
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])
