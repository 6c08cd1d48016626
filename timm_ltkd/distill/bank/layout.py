"""What teachers say as rows of 32-bit words, and back."""
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ...errors import UserError
from ..output import Output

DTYPES = ('float32', 'float16')
_LARGEST_HALF = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class TeacherRow:
    """What one teacher says of an image.

    Attributes:
        classes: Logits, C.
        dtype: Of the logits as they come from the teacher, and as they come back.
        features: Length D of the features; 0 where they are not kept.
        features_dtype: As `dtype`, of the features.
    """
    classes: int
    dtype: str
    features: int = 0
    features_dtype: str = 'float32'


@dataclass(frozen=True)
class RowLayout:
    """How a row of a bank holds what all teachers say of an image.

    In float32 everything comes back as it was, to the last bit. In float16 it is rounded, and cut off at ±65504;
    bfloat16 loses nothing but values below 1e-5. With `top_k` K the K largest logits of each teacher are kept, and the
    logarithm of the others' mass, which is spread evenly over them: a softmax at temperature 1 has the K probabilities
    and the mass of the rest as they were (our choice, after the sparse soft labels of Shen & Xing 2022, arXiv
    2112.01528; they smooth over the rest likewise). Any other temperature is an approximation.

    Args:
        teachers: What each says.
        separate: Whether they speak one by one, as a tuple, and not as one `Output`.
        dtype: 'float32' or 'float16'.
        top_k: K; None keeps all logits.
    """
    teachers: tuple[TeacherRow, ...]
    separate: bool
    dtype: str = 'float32'
    top_k: int | None = None

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise UserError(f"a bank keeps float32 or float16, not '{self.dtype}'")
        fewest = min(teacher.classes for teacher in self.teachers)
        if self.top_k is not None and not 0 < self.top_k < fewest:
            raise UserError(f'the {self.top_k} largest of {fewest} logits: give a smaller number, or keep them all')

    @classmethod
    def of(cls, said: Output | tuple[Output, ...], dtype: str = 'float32', top_k: int | None = None) -> 'RowLayout':
        """The layout for what a teacher said of a batch, or several."""
        separate = not isinstance(said, Output)
        return cls(tuple(_row_of(output) for output in (said if separate else (said,))), separate, dtype, top_k)

    @classmethod
    def from_json(cls, entries: dict[str, Any]) -> 'RowLayout':
        """What `to_json` gave."""
        return cls(**{**entries, 'teachers': tuple(TeacherRow(**teacher) for teacher in entries['teachers'])})

    def to_json(self) -> dict[str, Any]:
        """As plain types."""
        return asdict(self) | {'teachers': [asdict(teacher) for teacher in self.teachers]}

    @property
    def needs_features(self) -> tuple[bool, ...]:
        """Of which teachers features are kept."""
        return tuple(teacher.features > 0 for teacher in self.teachers)

    @property
    def words(self) -> int:
        """Length W of a row."""
        return sum(codec.words for _, codec in self._codecs())

    def holds(self, needed: 'RowLayout') -> bool:
        """Whether rows of this layout have all that rows of another hold, with features besides perhaps."""
        bare = [
            mine if other.features else TeacherRow(mine.classes, mine.dtype)
            for mine, other in zip(self.teachers, needed.teachers, strict=False)]
        return needed == RowLayout(tuple(bare), self.separate, self.dtype, self.top_k)

    def pack(self, said: Output | tuple[Output, ...]) -> torch.Tensor:
        """Rows int32 [B, W] of what was said of a batch, on its device."""
        outputs = said if self.separate else (said,)
        parts = [codec.pack(getattr(outputs[at], name)) for (at, name), codec in self._codecs()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def unpack(self, rows: torch.Tensor, needs_features: Sequence[bool] | None = None) -> Output | tuple[Output, ...]:
        """What was said of a batch, from its rows int32 [B, W].

        Args:
            rows: As `pack` gave them.
            needs_features: Of which teachers to return features; of all that have them if None.
        """
        wanted = self.needs_features if needs_features is None else needs_features
        outputs, start = [Output(None) for _ in self.teachers], 0
        for (at, name), codec in self._codecs():
            if name == 'logits' or wanted[at]:
                outputs[at] = outputs[at]._replace(**{name: codec.unpack(rows[:, start:start + codec.words])})
            start += codec.words
        return tuple(outputs) if self.separate else outputs[0]

    def _codecs(self) -> list[tuple[tuple[int, str], '_Dense | _TopK']]:
        codecs = []
        for at, teacher in enumerate(self.teachers):
            if self.top_k is None:
                codecs.append(((at, 'logits'), _Dense(teacher.classes, self.dtype, teacher.dtype)))
            else:
                codecs.append(((at, 'logits'), _TopK(teacher.classes, self.dtype, self.top_k)))
            if teacher.features:
                codecs.append(((at, 'features'), _Dense(teacher.features, self.dtype, teacher.features_dtype)))
        return codecs


def _row_of(output: Output) -> TeacherRow:
    logits, features = output
    row = logits.shape[1], _name(logits.dtype)
    return TeacherRow(*row) if features is None else TeacherRow(*row, features.shape[1], _name(features.dtype))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


class _Dense:
    """All values, in the bank's dtype."""

    def __init__(self, width: int, kept: str, given: str):
        self.width, self.kept, self.given = width, getattr(torch, kept), getattr(torch, given)
        self.words = -(-width * self.kept.itemsize // 4)

    def pack(self, values: torch.Tensor) -> torch.Tensor:
        return _as_words(_fitting(values, self.kept))

    def unpack(self, words: torch.Tensor) -> torch.Tensor:
        return words.view(self.kept)[:, :self.width].to(self.given).contiguous()


class _TopK:
    """The largest values, their classes, and the logarithm of what the exponentials of the others add up to."""

    def __init__(self, width: int, kept: str, top_k: int):
        self.width, self.top_k = width, top_k
        self.values = _Dense(top_k, kept, 'float32')
        self.classes = _Dense(top_k, 'int16' if width <= 2 ** 15 else 'int32', 'int64')
        self.words = self.values.words + self.classes.words + 1

    def pack(self, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.float()
        values, classes = logits.topk(self.top_k, dim=1)
        rest = logits.scatter(1, classes, -math.inf).logsumexp(dim=1, keepdim=True)
        return torch.cat([self.values.pack(values), self.classes.pack(classes), _as_words(rest)], dim=1)

    def unpack(self, words: torch.Tensor) -> torch.Tensor:
        values, classes, rest = words.split([self.values.words, self.classes.words, 1], dim=1)
        each = rest.contiguous().view(torch.float32) - math.log(self.width - self.top_k)
        return each.repeat(1, self.width).scatter(1, self.classes.unpack(classes), self.values.unpack(values))


def _fitting(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """In another dtype; nothing becomes infinite that was not."""
    if dtype == torch.float16 and values.dtype != dtype:
        values = values.float().clamp(-_LARGEST_HALF, _LARGEST_HALF)  # bfloat16 has no such number
    return values.to(dtype)


def _as_words(values: torch.Tensor) -> torch.Tensor:
    """The bits of a batch [B, N] as int32 [B, W], with zeros behind them where a word is not full."""
    missing = -values.shape[1] * values.itemsize % 4 // values.itemsize
    return F.pad(values, (0, missing)).contiguous().view(torch.int32)
