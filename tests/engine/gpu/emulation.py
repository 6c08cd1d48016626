"""A CUDA GPU that is emulated on a CPU: what is computed there is real, and what a GPU would refuse is refused.

Tensors on it say that they are on `cuda:0`, and compute as those of the CPU. Refused are operations on tensors of both,
numpy arrays of them, generators of the other device, and use in loader workers. Noted is what would make the host wait:
values that are read back, shapes that depend on values, copies that are not from page-locked memory. Not emulated are
time, memory, streams (all is done at once) and rounding.
"""
import os
import threading
import traceback
from collections import Counter
from contextlib import ExitStack, contextmanager, nullcontext
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

GPU, CPU = torch.device('cuda', 0), torch.device('cpu')
aten = torch.ops.aten
_READ_BACK = {
    aten._local_scalar_dense.default, aten._unique2.default, aten.bincount.default, aten.equal.default,
    aten.is_nonzero.default, aten.masked_select.default, aten.nonzero.default, aten.repeat_interleave.Tensor,
    aten.unique_consecutive.default}
_INDEX = {aten.index.Tensor, aten._index_put_impl_.default, aten.index_put.default, aten.index_put_.default}
_generator, _autocast = torch.Generator, torch.autocast


class GpuTensor(torch.Tensor):
    """A tensor of the CPU that says it is on the GPU."""
    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self):
        return GPU.index

    def tolist(self):
        _emulation.wait('tolist')
        return _to_cpu(self).tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def __reduce_ex__(self, protocol):
        return _to_cpu(self).__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [isinstance(tensor, GpuTensor) for tensor in tensors]
        if func is aten.copy_.default:
            if there[0] != there[1]:
                late = args[2] if len(args) > 2 else kwargs.get('non_blocking', False)
                _emulation.copy(args[1] if there[0] else args[0], late, there[0])
        elif func in _INDEX and there[0]:
            if not all(there):
                _emulation.wait('indices from the host')
            if any(index.dtype in (torch.bool, torch.uint8) for index in tree_leaves(args[1]) if index is not None):
                _emulation.wait('a mask as index')
        elif any(tensor.ndim and not on for tensor, on in zip(tensors, there, strict=True)):
            raise RuntimeError(f'Expected all tensors to be on the same device, but found cuda:0 and cpu ({func})')
        if func in _READ_BACK:
            _emulation.wait(func.name())
        with torch._C._DisableTorchDispatch():
            out = func(*args, **kwargs)
        if func is aten.copy_.default:
            return args[0]
        return tree_map(lambda leaf: _on_gpu(leaf) if isinstance(leaf, torch.Tensor) else leaf, out)


class EmulatedGpu(TorchFunctionMode):
    """Inside, `cuda` is a device.

    Attributes:
        waits: How often the host would have waited, by why and where; while `noting`.
    """

    def __init__(self):
        super().__init__()
        self.waits, self.noting, self._pinned, self._process = Counter(), False, {}, os.getpid()

    @contextmanager
    def noted(self):
        """Inside, `waits` are counted, from none."""
        self.waits.clear()
        self.noting = True
        try:
            yield self.waits
        finally:
            self.noting = False

    def wait(self, why):
        if self.noting:
            frames = [frame for frame in traceback.extract_stack() if f'{os.sep}timm_ltkd{os.sep}' in frame.filename]
            where = os.path.basename(frames[-1].filename) if frames else ''
            self.waits[why, where] += 1

    def copy(self, host, late, to_gpu):
        if not (late and host.untyped_storage().data_ptr() in self._pinned):
            self.wait('copy to the GPU' if to_gpu else 'copy from the GPU')

    def pin(self, tensor):
        self._pinned[tensor.untyped_storage().data_ptr()] = tensor  # kept, so that no other is in its place
        return tensor

    def forget(self):
        self._pinned.clear()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(func, '__name__', '')
        if name == 'pin_memory':
            if isinstance(args[0], GpuTensor):
                raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
            return self.pin(args[0].clone())
        if name in ('cuda', 'cpu') and args and isinstance(args[0], torch.Tensor):
            return self._move(args[0], GPU if name == 'cuda' else CPU, kwargs.get('non_blocking', False))
        if func is torch.Tensor.to:
            return self._to(*args, **kwargs)
        device = kwargs.get('device')
        if device is None or name == '_parse_to':
            return func(*args, **kwargs)
        return self._make(func, torch.device(device), args, kwargs)

    def _to(self, tensor, *args, **kwargs):
        """`Tensor.to`, of which some arguments may name a device."""
        if 'other' in kwargs:
            args = kwargs.pop('other'),
        device, rest = kwargs.pop('device', None), []
        for value in args:
            if isinstance(value, torch.Tensor):
                device = value.device
                rest.append(value.dtype)
            elif isinstance(value, str | torch.device):
                device = value
            elif value is not None or rest:
                rest.append(value)
        late = kwargs.pop('non_blocking', False)
        if rest and isinstance(rest[-1], bool):  # non_blocking by its place
            late = rest.pop() or late
        tensor = self._move(tensor, device, late)
        return tensor.to(*rest, **kwargs) if rest or kwargs else tensor

    def _move(self, tensor, device, late=False):
        if device is None or torch.device(device).type == tensor.device.type:
            return tensor
        if torch.device(device).type == 'meta':
            return _to_cpu(tensor).to('meta')
        to_gpu = torch.device(device).type == 'cuda'
        host = tensor if to_gpu else _to_cpu(tensor)
        self.copy(host, late, to_gpu)
        with torch.no_grad():
            moved = host.detach().clone()
        return (_on_gpu(moved) if to_gpu else moved).requires_grad_(tensor.requires_grad)

    def _make(self, func, device, args, kwargs):
        """A tensor on the device that is asked for."""
        on_gpu, pinned = device.type == 'cuda', kwargs.pop('pin_memory', False)
        if on_gpu:
            if os.getpid() != self._process:
                raise RuntimeError('Cannot re-initialize CUDA in forked subprocess.')
            kwargs['device'] = CPU
        generator = kwargs.get('generator')
        if generator is not None and getattr(generator, 'on_gpu', False) != on_gpu:
            raise RuntimeError(f"Expected a '{device.type}' device type for generator")
        out = func(*args, **kwargs)
        if not isinstance(out, torch.Tensor):
            return out
        if on_gpu:
            if func in (torch.tensor, torch.as_tensor):
                self.wait('values from the host')
            return _on_gpu(out.detach()).requires_grad_(out.requires_grad)
        out = _to_cpu(out) if isinstance(out, GpuTensor) else out
        return self.pin(out) if pinned else out


_emulation = EmulatedGpu()


def _on_gpu(tensor):
    return tensor if isinstance(tensor, GpuTensor) else torch.Tensor._make_subclass(GpuTensor, tensor)


def _to_cpu(tensor):
    """The same memory as a tensor of the CPU."""
    with torch._C._DisableTorchDispatch():
        return torch.Tensor._make_subclass(torch.Tensor, tensor.detach())


class _Generator(_generator):
    def __new__(cls, device=CPU):
        made = super().__new__(cls, device=CPU)
        made.on_gpu = torch.device(device).type == 'cuda'
        return made


class _Autocast(_autocast):
    def __init__(self, device_type, *args, **kwargs):
        super().__init__('cpu' if device_type == 'cuda' else device_type, *args, **kwargs)


class _Stream:
    """A stream, or an event: all that was asked for has been done."""
    device = GPU

    def __init__(self, *args, **kwargs):
        pass

    def record(self, *args):
        pass

    wait_stream = record

    def query(self):
        return True

    def is_capturing(self):
        return False

    def synchronize(self):
        _emulation.wait('synchronize')


def _grouped(tensors, *args, _group=torch._C._group_tensors_by_device_and_dtype):
    """As torch groups them for an update of many at once, by what they say of their device."""
    groups = _group(tensors, *args)
    there = any(isinstance(tensor, GpuTensor) for column in tensors for tensor in column)
    return {(GPU if there else device, dtype): group for (device, dtype), group in groups.items()}


def _swap(old, new, _swap=torch.utils.swap_tensors):
    """A parameter stays the same object when its module is moved; one that stays on the GPU is not swapped."""
    if old.is_cuda and new.is_cuda:
        old.data = new.detach()
    else:
        _swap(old, new)


def _run_thread(self, _run=threading.Thread.run):
    with _emulation:
        _run(self)


@contextmanager
def emulated_gpu():
    """An `EmulatedGpu`, on which Accelerate puts everything."""
    enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_dtype
    patches = {
        'accelerate.Accelerator.device': property(lambda self: GPU),
        'threading.Thread.run': _run_thread,  # a mode is of one thread
        'torch.Generator': _Generator,
        'torch.autocast': _Autocast,
        'torch.is_autocast_enabled': lambda device='cuda': enabled('cpu'),
        'torch.get_autocast_dtype': lambda device: dtype('cpu'),
        'torch._C._group_tensors_by_device_and_dtype': _grouped,
        'torch.accelerator.current_device_index': lambda: GPU.index,
        'torch.accelerator.current_stream': _Stream,
        'torch.accelerator.is_available': lambda: True,
        'torch.accelerator.set_device_index': lambda *args: None,
        'torch.cuda.Event': _Stream,
        'torch.cuda.Stream': _Stream,
        'torch.cuda.current_device': lambda: GPU.index,
        'torch.cuda.current_stream': _Stream,
        'torch.cuda.default_stream': _Stream,
        'torch.cuda.get_device_name': lambda *args: 'emulated GPU',
        'torch.cuda.graph_pool_handle': lambda: (0, 0),
        'torch.cuda.is_current_stream_capturing': lambda: False,
        'torch.cuda.mem_get_info': lambda *args: (2 ** 34, 2 ** 34),
        'torch.cuda.memory_allocated': lambda *args: 0,
        'torch.cuda.memory_reserved': lambda *args: 0,
        'torch.cuda.set_device': lambda *args: None,
        'torch.cuda.stream': nullcontext,
        'torch.cuda.synchronize': lambda *args: _emulation.wait('synchronize'),
        'torch.utils.swap_tensors': _swap,
    }
    with ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch(name, value, create=True))  # not every torch has all of them
        kept = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, kept)
        stack.callback(setattr, torch.backends.cudnn, 'benchmark', torch.backends.cudnn.benchmark)  # which a run sets
        stack.callback(_emulation.forget)
        stack.enter_context(_emulation)
        yield _emulation
