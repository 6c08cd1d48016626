"""What goes to a device: moved without a wait for it, and kept there only if it leaves room for what is trained."""
import torch

_SHARE = 1 / 4  # of the memory that is free: our choice


def move(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On the device, without a wait for it."""
    if device.type == 'cuda' and values.device.type == 'cpu':
        values = values.contiguous().pin_memory()  # a copy of what has gaps would not be from page-locked memory
    return values.to(device, non_blocking=device.type == 'cuda')


def has_room(device: torch.device, nbytes: int) -> bool:
    """Whether so many bytes may stay on a device: a GPU, if a quarter of its free memory holds them."""
    if device.type != 'cuda':
        return False
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, of what was freed
    return nbytes <= (torch.cuda.mem_get_info(device)[0] + kept) * _SHARE
