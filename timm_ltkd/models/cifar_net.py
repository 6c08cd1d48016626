"""The frame all CIFAR networks share: a 3x3 stem, three stages of residual blocks, a pooled linear head.

Which block fills the stages, how many and how wide, is said by `cifar_resnet.py` and `cifar_wrn.py`.
"""
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath, create_classifier
from timm.models import build_model_with_cfg, checkpoint_seq
from timm.models._features import feature_take_indices
from torch import nn

from ..errors import UserError

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)
STAGES = ('layer1', 'layer2', 'layer3')


class CifarNet(nn.Module):
    """Residual network for small images, with the module names and the interface of timm's ResNet.

    The stem and the first stage keep the input's resolution, the second and third stage halve it.
    """

    def __init__(
            self,
            block: Callable[..., nn.Module],
            layers: Sequence[int],
            channels: Sequence[int] = (16, 32, 64),
            stem_width: int = 16,
            pre_activation: bool = False,
            num_classes: int = 100,
            in_chans: int = 3,
            global_pool: str = 'avg',
            drop_rate: float = 0.,
            drop_path_rate: float = 0.,
            device=None,
            dtype=None,
    ):
        """
        Args:
            block: Called as `block(in_chs, out_chs, stride=, drop_path=, device=, dtype=)` for each block.
            layers: Blocks in each of the three stages.
            channels: Output channels of each of the three stages.
            stem_width: Output channels of the first convolution.
            pre_activation: Blocks start with norm and activation (He et al. 2016b): the network's own norm and
                activation then follow the last stage instead of the stem.
            num_classes: Width of the classifier; 0 leaves pooled features.
            in_chans: Input channels.
            global_pool: Pooling before the classifier, by timm's names.
            drop_rate: Dropout before the classifier.
            drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first.
        """
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.pre_activation = pre_activation
        self.grad_checkpointing = False

        # timm's feature extractors replay the direct children in the order of registration
        self.conv1 = nn.Conv2d(in_chans, stem_width, 3, padding=1, bias=False, **dd)
        if not pre_activation:
            self._add_norm(stem_width, **dd)
        drop_paths = _drop_paths(drop_path_rate, sum(layers))
        in_chs = stem_width
        for name, depth, out_chs, stride in zip(STAGES, layers, channels, (1, 2, 2), strict=True):
            blocks = []
            for i in range(depth):
                blocks.append(block(in_chs, out_chs, stride=stride if i == 0 else 1, drop_path=next(drop_paths), **dd))
                in_chs = out_chs
            self.add_module(name, nn.Sequential(*blocks))
        if pre_activation:
            self._add_norm(in_chs, **dd)

        self.num_features = in_chs
        taps = ('conv1', 'layer1', 'layer2', 'act1') if pre_activation else ('act1', *STAGES)
        self.feature_info = [
            dict(num_chs=num_chs, reduction=reduction, module=module)
            for num_chs, reduction, module in zip((stem_width, *channels), (1, 1, 2, 4), taps, strict=True)
        ]
        self.apply(init_kaiming)
        self._set_head(num_classes, global_pool, **dd)

    def _add_norm(self, num_chs: int, **dd) -> None:
        self.bn1 = nn.BatchNorm2d(num_chs, **dd)
        self.act1 = nn.ReLU(inplace=True)

    def _set_head(self, num_classes: int, global_pool: str, **dd) -> None:
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool, **dd)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.fc.apply(init_kaiming)
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def group_matcher(self, coarse: bool = False) -> dict:
        """Regular expressions that sort parameters by depth, for layer-wise learning rates."""
        blocks = [(r'^layer(\d+)' if coarse else r'^layer(\d+)\.(\d+)', None)]
        if self.pre_activation:
            with_the_last_block = (99999,)  # timm's mark for the group before
            return dict(stem=r'^conv1', blocks=[*blocks, (r'^bn1', with_the_last_block)])
        return dict(stem=r'^conv1|^bn1', blocks=blocks)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def get_classifier(self, name_only: bool = False) -> str | nn.Module:
        """The classifier, or its name."""
        return 'fc' if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a freshly initialised one; `global_pool=None` keeps the pooling."""
        global_pool = self.global_pool.pool_type if global_pool is None else global_pool
        self._set_head(num_classes, global_pool, device=self.conv1.weight.device, dtype=self.conv1.weight.dtype)

    def forward_intermediates(
            self,
            x: torch.Tensor,
            indices: int | Sequence[int] | None = None,
            norm: bool = False,
            stop_early: bool = False,
            output_fmt: str = 'NCHW',
            intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Outputs of the stem (index 0) and of the stages (1 to 3), the same tensors that `features_only` gives.

        Args:
            x: Images [B, C, H, W].
            indices: Which outputs: the last n if an int, all if None.
            norm: For timm's interface; the last output always is what `forward_features` returns.
            stop_early: Skip the stages after the last wanted output.
            output_fmt: 'NCHW', the only one there is.
            intermediates_only: Return the list alone, not `(last output, list)`.

        Raises:
            UserError: another `output_fmt`.
        """
        if output_fmt != 'NCHW':
            raise UserError(f"output_fmt '{output_fmt}' is not known: this network has 'NCHW' only.")
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        x = self._forward_stem(x)
        outputs = [x]
        for stage in self._stages()[:last] if stop_early else self._stages():
            x = checkpoint_seq(stage, x) if self.grad_checkpointing else stage(x)
            outputs.append(x)
        if len(outputs) == len(self.feature_info):
            x = outputs[-1] = self._forward_norm(x)
        intermediates = [output for i, output in enumerate(outputs) if i in wanted]
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
            self,
            indices: int | Sequence[int] = 1,
            prune_norm: bool = False,
            prune_head: bool = True,
    ) -> list[int]:
        """Empty the stages that the wanted outputs do not need; returns the outputs' indices, all >= 0."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        for name in STAGES[last:]:
            setattr(self, name, nn.Sequential())
        prune_end = last < len(STAGES)
        if prune_end and self.pre_activation:
            self.bn1, self.act1 = nn.Identity(), nn.Identity()  # they belong to the last output
        if prune_end:
            self.num_features = self.feature_info[last]['num_chs']
        if prune_head or prune_end:
            self.reset_classifier(0, '')
        return wanted

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] to the last feature map [B, num_features, ceil(H / 4), ceil(W / 4)]."""
        x = self._forward_stem(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self._stages(), x, flatten=True)
        else:
            x = self.layer3(self.layer2(self.layer1(x)))
        return self._forward_norm(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Feature map to logits [B, num_classes], or to the pooled features [B, head_hidden_size] before them."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))

    def _stages(self) -> list[nn.Module]:
        return [self.layer1, self.layer2, self.layer3]

    def _forward_stem(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        return x if self.pre_activation else self.act1(self.bn1(x))

    def _forward_norm(self, x: torch.Tensor) -> torch.Tensor:
        return self.act1(self.bn1(x)) if self.pre_activation else x


def init_kaiming(module: nn.Module) -> None:
    """Kaiming-normal convolution and linear weights: fan in, gain sqrt(2), as in the public CIFAR ResNet code."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight)


def cifar_cfg(**kwargs) -> dict:
    """timm's pretrained config of a CIFAR network: 100 classes, 32 px, and no weights yet."""
    return {
        'num_classes': 100, 'input_size': (3, 32, 32), 'fixed_input_size': False, 'pool_size': (8, 8),
        'crop_pct': 1.0, 'interpolation': 'bilinear', 'mean': CIFAR_MEAN, 'std': CIFAR_STD,
        'first_conv': 'conv1', 'classifier': 'fc', 'license': 'apache-2.0',
        **kwargs,
    }


def create_cifar_net(variant: str, pretrained: bool, **kwargs) -> nn.Module:
    """Build a registered `CifarNet` with timm's builder; `features_only` gives all four outputs by default."""
    return build_model_with_cfg(
        CifarNet, variant, pretrained, feature_cfg=dict(out_indices=(0, 1, 2, 3)), **kwargs)


def _drop_paths(rate: float, num_blocks: int) -> Iterator[nn.Module | None]:
    """One stochastic depth module a block, None where the rate is 0."""
    for i in range(num_blocks):
        block_rate = rate * i / max(num_blocks - 1, 1)
        yield DropPath(block_rate) if block_rate else None
