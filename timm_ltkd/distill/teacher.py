"""A frozen network to learn from, fed as it expects."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models import get_pretrained_cfg, is_model, list_models
from timm.task import DistillationTeacher
from timm.utils import unwrap_model
from torch import nn

from ..errors import UserError, nearest
from .method import Output, model_output


class Teacher(DistillationTeacher):
    """timm's `DistillationTeacher`, frozen: always in eval mode, no gradients, its own pixels, its head checked.

    Args:
        model: A network, or the name of a timm model, which is made with its pretrained weights.
        num_classes: Size of the label space, needed for a name.
        img_size: Side in pixels to resize inputs to, on their device. Without it inputs are resized only for a network
            that takes no other size than its own.
        pretrained_path: Weights for a model given by name, instead of its own.
        device: Where to put it.
        dtype: Precision of its weights; inputs are cast to it and outputs come back in float32.

    Raises:
        UserError: A name that timm doesn't know or has no weights for, or whose pretrained head has another number of
            classes: timm would give it a random head.
    """

    def __init__(
            self,
            model: str | nn.Module,
            num_classes: int | None = None,
            img_size: int | None = None,
            pretrained_path: str | None = None,
            device: torch.device | None = None,
            dtype: torch.dtype | None = None,
    ):
        if isinstance(model, str) and not model.startswith(('hf-hub:', 'hf_hub:', 'local-dir:')):
            _check_name(model, num_classes, bool(pretrained_path))
        super().__init__(model, num_classes=num_classes if pretrained_path else None, pretrained_path=pretrained_path)
        if isinstance(model, str) and num_classes is not None:
            self.check_label_space(num_classes)
        self.requires_grad_(False)
        self.to(device=device, dtype=dtype)
        self.dtype = dtype
        cfg = getattr(unwrap_model(self.model), 'pretrained_cfg', None) or {}
        if img_size is None and cfg.get('fixed_input_size'):
            made_for = getattr(getattr(unwrap_model(self.model), 'patch_embed', None), 'img_size', None)
            self.img_size = tuple(made_for or cfg['input_size'][-2:])  # its configuration may say another size
        else:
            self.img_size = (img_size, img_size) if img_size else None
        self.register_buffer('input_scale', None, persistent=False)
        self.register_buffer('input_shift', None, persistent=False)

    @property
    def num_classes(self) -> int | None:
        """Size of the label space, None for a network that does not say."""
        return getattr(unwrap_model(self.model), 'num_classes', None)

    @property
    def networks(self) -> list[nn.Module]:
        """The network alone, in a list as that of a `TeacherEnsemble`."""
        return [unwrap_model(self.model)]

    def train(self, mode: bool = True) -> 'Teacher':
        """A teacher never trains: it stays in eval mode whatever its parent is told."""
        return super().train(False)

    def check_label_space(self, num_classes: int) -> None:
        """Raise a UserError if the head has another number of classes."""
        if self.num_classes not in (None, num_classes):
            raise UserError(
                f"the teacher's head has {self.num_classes} classes and the student's {num_classes}: "
                'they must share one label space')

    def expect_input(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """State how arriving pixels are normalised; if that is not the teacher's way, they are converted."""
        as_given = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (mean, std))
        mean, std = as_given
        own_mean, own_std = self.mean_kd.double().cpu(), self.std_kd.double().cpu()
        if torch.allclose(mean, own_mean, rtol=0, atol=1e-6) and torch.allclose(std, own_std, rtol=0, atol=1e-6):
            self.input_scale = self.input_shift = None
        else:
            like = dict(device=self.mean_kd.device, dtype=torch.float32)
            self.input_scale = (std / own_std).to(**like)
            self.input_shift = ((mean - own_mean) / own_std).to(**like)

    @torch.no_grad()
    def forward(self, input: torch.Tensor, needs_features: bool = False) -> Output:
        """Logits, and pooled features if asked for, of a batch `[B, 3, H, W]` normalised as `expect_input` was told."""
        if self.input_scale is not None:
            input = input * self.input_scale.to(input.dtype) + self.input_shift.to(input.dtype)
        if self.img_size is not None and tuple(input.shape[-2:]) != self.img_size:
            input = F.interpolate(input, self.img_size, mode='bicubic', antialias=True, align_corners=False)
        if self.dtype is not None:
            input = input.to(self.dtype)
        logits, features = model_output(self.model, input, needs_features)
        if self.dtype is not None:
            logits, features = logits.float(), None if features is None else features.float()
        return Output(logits, features)


def _check_name(name: str, num_classes: int | None, has_weights: bool) -> None:
    """Refuse a model name that cannot become a teacher, before anything is downloaded for it."""
    architecture = name.split('.')[0]
    if not is_model(architecture):
        raise UserError(f"unknown model '{name}'{nearest(architecture, list_models())}")
    if has_weights:
        return
    cfg = get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise UserError(f"timm knows no weights for '{name}'; train the teacher first and pass its network")
    if num_classes not in (None, cfg.num_classes):
        raise UserError(
            f"the pretrained head of '{name}' has {cfg.num_classes} classes and the data {num_classes}: it would be "
            'random; train the teacher on this data first, or pass its network')
