"""One augmented view of an image, for student and teacher in pixels of their own."""
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from PIL import Image

from .seeded import generator_states, set_generator_states


class Views(NamedTuple):
    """The same images for the student `[B, C, H, W]` and, perhaps of another size, for the teacher."""
    student: torch.Tensor
    teacher: torch.Tensor

    def to(self, *args: Any, **kwargs: Any) -> 'Views':
        """Both, as `Tensor.to`."""
        return Views(*(view.to(*args, **kwargs) for view in self))

    def contiguous(self, **kwargs: Any) -> 'Views':
        """Both, as `Tensor.contiguous`."""
        return Views(*(view.contiguous(**kwargs) for view in self))


class TwoViews:
    """A transform from an image to `Views`: two transforms of the same image, with the same random draws.

    Each makes its pixels from the image itself, so that the teacher sees what a smaller student cannot, and the
    student sees to the last bit what it would see alone.

    Args:
        student: From `create_train_transform`.
        teacher: Another one, made with `drawn_for` the student's size.
    """

    def __init__(self, student: Callable, teacher: Callable):
        self.student, self.teacher = student, teacher

    def __call__(self, image: Image.Image) -> Views:
        draws = generator_states()
        student = self.student(image)
        set_generator_states(draws)
        return Views(student, self.teacher(image))
