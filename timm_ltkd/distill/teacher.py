"""A frozen network to learn from, fed as it expects."""
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models import get_pretrained_cfg
from timm.task import DistillationTeacher
from timm.utils import unwrap_model
from torch import nn

from ..errors import UserError
from ..models import ELSEWHERE, unknown_model
from .frozen import fold_batch_norm, hold_weights, share_weights
from .output import Output, is_compiled, model_output
from .pixels import PixelAdapter, normalisation

_HALF = (torch.float16, torch.bfloat16)


class Teacher(DistillationTeacher):
    """timm's `DistillationTeacher`, frozen: always in eval mode, no gradients, its own pixels, its head checked.

    Args:
        model: A network, or the name of a timm model, which is made with its pretrained weights.
        num_classes: Size of the label space, needed for a name.
        img_size: Side in pixels, or (height, width), to resize inputs to, on their device and with the interpolation
            of the network's `pretrained_cfg`. Without it inputs are resized only for a network that takes no other
            size than its own.
        pretrained_path: Weights for a model given by name, instead of its own; of a head with `num_classes`.
        device: Where to put it.
        dtype: Precision of its weights; inputs are cast to it and outputs come back in float32 at least.
        class_map: Where the head is of another label space: the index in it of each of the classes that are taught,
            `[C]`. The other logits are left out, so that a softmax is over the C alone.
        fast: Answer by copies of the network, made when they are first needed, whose batch norm is folded and whose
            weights are in autocast's dtype, see `fold_batch_norm` and `hold_weights`: the same but for rounding. The
            network itself stays as it is, and must: the copies follow nothing but load_state_dict. Not where it is
            compiled.

    Raises:
        UserError: A name that timm doesn't know or has no weights for, or whose pretrained head has another number of
            classes: timm would give it a random head; a file of weights for a network that is made already, or without
            `num_classes`; a class map that points outside the head, or twice to one class.
    """
    class_map: torch.Tensor | None

    def __init__(
            self,
            model: str | nn.Module,
            num_classes: int | None = None,
            img_size: int | tuple[int, int] | None = None,
            pretrained_path: str | None = None,
            device: torch.device | None = None,
            dtype: torch.dtype | None = None,
            class_map: Sequence[int] | None = None,
            fast: bool = False,
    ):
        head_classes = num_classes if class_map is None else None
        _check_path(model, head_classes, pretrained_path)
        if isinstance(model, str) and not model.startswith(ELSEWHERE):
            _check_name(model, head_classes, bool(pretrained_path))
        super().__init__(model, num_classes=head_classes if pretrained_path else None, pretrained_path=pretrained_path)
        self.register_buffer('class_map', None, persistent=False)
        if class_map is not None:
            self.class_map = self._checked_class_map(class_map)
        if isinstance(model, str) and num_classes is not None:
            self.check_label_space(num_classes)
        self.requires_grad_(False)
        cfg = getattr(unwrap_model(self.model), 'pretrained_cfg', None) or {}
        size = _own_size(unwrap_model(self.model), cfg) if img_size is None else img_size
        size = (size, size) if isinstance(size, int) else size
        self.pixels = PixelAdapter(
            *normalisation(self.model), None if size is None else (size[0], size[1]),
            cfg.get('interpolation') or 'bicubic')
        self.fast = fast
        self._copies = _Copies()
        if fast:
            unwrap_model(self.model).register_load_state_dict_post_hook(self._copies)
        self.to(device=device)
        self.model.to(dtype=dtype)

    @property
    def num_classes(self) -> int | None:
        """Size of the label space that is taught, None for a network that does not say."""
        if self.class_map is not None:
            return len(self.class_map)
        return getattr(unwrap_model(self.model), 'num_classes', None)

    @property
    def img_size(self) -> tuple[int, int] | None:
        """(height, width) that inputs are resized to; None if they are not."""
        return self.pixels.size

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)

    @property
    def members(self) -> list['Teacher']:
        """Itself, in a list as those of a `TeacherEnsemble`."""
        return [self]

    @property
    def networks(self) -> list[nn.Module]:
        """The network alone, in a list as that of a `TeacherEnsemble`."""
        return [unwrap_model(self.model)]

    def train(self, mode: bool = True) -> 'Teacher':
        """A teacher never trains: it stays in eval mode whatever its parent is told."""
        return super().train(False)

    def check_label_space(self, num_classes: int) -> None:
        """Raise a UserError if it teaches another number of classes."""
        if self.num_classes not in (None, num_classes):
            raise UserError(
                f"the teacher's head has {self.num_classes} classes and the student's {num_classes}: "
                'they must share one label space')

    def expect_input(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """State how arriving pixels are normalised, with a value for each of their channels.

        If that is not the teacher's way they are converted; see `PixelAdapter`.
        """
        self.pixels.expect(mean, std)

    @torch.no_grad()
    def forward(  # type: ignore[override]  # timm's gives logits alone
            self, input: torch.Tensor, needs_features: bool = False, exact: bool = False) -> Output:
        """Logits, and pooled features if asked for, of a batch `[B, channels, H, W]`, normalised as `expect_input` was
        told; `exact` ones are of the network itself, whatever is faster."""
        input, dtype = self.pixels(input), self.dtype
        input = input.to(dtype)
        logits, features = model_output(self.model if exact else self._network(input), input, needs_features)
        if dtype in _HALF:
            logits, features = logits.float(), None if features is None else features.float()
        if self.class_map is not None:
            logits = logits[:, self.class_map]
        return Output(logits, features)

    def _network(self, input: torch.Tensor) -> nn.Module:
        """What is asked about a batch: the network, or the copy of it for the precision of now."""
        if not self.fast or self.dtype in _HALF or is_compiled(self.model):
            return self.model
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        if None not in self._copies:
            self._copies[None] = fold_batch_norm(self.model, input[:2])
        if dtype is not None and dtype not in self._copies:
            self._copies[dtype] = hold_weights(self._copies[None], dtype, input[:2])
        return self._copies[dtype]

    def share_copies(self, other: 'Teacher') -> None:
        """Answer by copies around the weights of another's copies; the networks of both have the same weights."""
        for dtype, network in other._copies.items():
            self._copies[dtype] = self.model if network is other.model else share_weights(network)

    def _apply(self, *args, **kwargs) -> 'Teacher':
        """Whatever moves or casts the network; then, and only then, its copies are to be made anew."""
        before = self._places()
        super()._apply(*args, **kwargs)
        if self._places() != before:
            self._copies.clear()
        return self

    def _places(self) -> list[tuple]:
        tensors = (*self.model.parameters(), *self.model.buffers())
        return [(tensor.device, tensor.dtype, tensor.data_ptr()) for tensor in tensors]

    def _checked_class_map(self, class_map: Sequence[int]) -> torch.Tensor:
        indices, head = torch.as_tensor(class_map, dtype=torch.int64), self.num_classes
        if indices.ndim != 1 or len(indices) == 0 or len(indices.unique()) < len(indices):
            raise UserError('a class map names a class of the teacher for each that is taught, none of them twice')
        if int(indices.min()) < 0 or (head is not None and int(indices.max()) >= head):
            raise UserError(
                f"the class map goes from {int(indices.min())} to {int(indices.max())} and the teacher's head has "
                f'{head} classes')
        return indices


def share_teacher(teacher: nn.Module) -> nn.Module:
    """A teacher, or several, around the very weights of another, and of its copies that answer faster.

    For a thread of its own: modules hold state while they run.

    Args:
        teacher: A `Teacher`, or what holds some.
    """
    other = share_weights(teacher)
    for old, new in zip(teacher.modules(), other.modules(), strict=True):
        if isinstance(old, Teacher) and isinstance(new, Teacher):
            new.share_copies(old)
    return other


class _Copies(dict):
    """Copies of a network by the dtype of autocast; as a hook of its load_state_dict it drops them."""

    def __call__(self, network: nn.Module, incompatible_keys: Any) -> None:
        self.clear()

    def __reduce__(self):
        return _Copies, ()  # a copy of the network has copies of its own, and none yet


def _own_size(network: nn.Module, cfg: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of a network that takes no other; its configuration may say another than it was made for."""
    if not cfg.get('fixed_input_size'):
        return None
    return getattr(getattr(network, 'patch_embed', None), 'img_size', None) or cfg['input_size'][-2:]


def _check_path(model: str | nn.Module, num_classes: int | None, path: str | None) -> None:
    """Refuse a file of weights that would not be loaded, or could not."""
    if path and not isinstance(model, str):
        raise UserError(
            'pretrained_path is for a model given by name, and this is a network: load the weights into it, by its '
            'load_state_dict')
    if path and num_classes is None:
        raise UserError(
            f"'{model}' with pretrained_path: give num_classes, how many classes the head of these weights has; with a "
            'class_map, make the network first and pass it')


def _check_name(name: str, num_classes: int | None, has_weights: bool) -> None:
    """Refuse a model name that cannot become a teacher, before anything is downloaded for it."""
    if unknown := unknown_model(name):
        raise UserError(unknown)
    if has_weights:
        return
    cfg = get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise UserError(f"timm knows no weights for '{name}'; train the teacher first and pass its network")
    if num_classes not in (None, cfg.num_classes):
        raise UserError(
            f"the pretrained head of '{name}' has {cfg.num_classes} classes and the data {num_classes}: it would be "
            'random; train the teacher on this data first, or pass its network')
