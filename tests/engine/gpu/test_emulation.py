"""That the emulated GPU refuses what a GPU refuses, and tells where a host would wait."""
import copy
import multiprocessing
import threading

import pytest
import torch
from emulation import GpuTensor, emulated_gpu
from torch import nn


@pytest.fixture
def gpu():
    with emulated_gpu() as gpu:
        yield gpu


def test_computes_as_the_cpu_does(gpu):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(5, 4)
    twin = copy.deepcopy(net).to('cuda')
    assert all(isinstance(value, GpuTensor) for value in twin.state_dict().values())
    for module, input in ((net, x), (twin, x.cuda())):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, fused=True)
        for _ in range(3):
            with torch.autocast(input.device.type, torch.bfloat16):
                loss = module(input).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.)
            optimizer.step()
            optimizer.zero_grad()
    for name, value in net.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name].cpu()), name


def test_parameters_stay_the_same_objects(gpu):
    net = nn.Linear(2, 2)
    before = [*net.parameters()]
    for moved in (net.to('cuda'), net.to(torch.float64), net.cpu()):
        assert all(old is new for old, new in zip(before, moved.parameters(), strict=True))
    assert type(net.weight) is nn.Parameter and net.weight.dtype == torch.float64


@pytest.mark.parametrize('make', [
    lambda: torch.zeros(2, device='cuda'), lambda: torch.zeros(2).cuda(), lambda: torch.zeros(2).to('cuda:0'),
    lambda: torch.zeros(2).to(torch.zeros(1, device='cuda')), lambda: torch.tensor([1., 2.], device='cuda'),
    lambda: torch.zeros(2, device='cuda') + torch.tensor(1.), lambda: torch.zeros(2, device='cuda').new_ones(3),
    lambda: torch.zeros_like(torch.zeros(2), device='cuda'), lambda: torch.zeros(4, device='cuda').view(2, 2)[0],
    lambda: torch.randn(2, device='cuda', generator=torch.Generator('cuda').manual_seed(0)),
], ids=range(10))
def test_what_is_there_says_so(gpu, make):
    tensor = make()
    assert tensor.device == torch.device('cuda', 0) and tensor.is_cuda and not tensor.is_cpu
    assert tensor.cpu().device.type == 'cpu' and type(tensor.cpu()) is torch.Tensor


def in_a_worker():
    context = multiprocessing.get_context('fork')
    process = context.Process(target=torch.zeros, args=(1,), kwargs={'device': 'cuda'})
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError('in a worker')


@pytest.mark.parametrize('mistake, said', [
    (lambda there, here: there + here, 'same device'), (lambda there, here: torch.stack([there, here]), 'same device'),
    (lambda there, here: here[there.long()], 'same device'), (lambda there, here: there.numpy(), 'numpy'),
    (lambda there, here: there.pin_memory(), 'cannot pin'),
    (lambda there, here: torch.randn(2, device='cuda', generator=torch.Generator()), 'generator'),
    (lambda there, here: in_a_worker(), 'worker'),
], ids=['sum', 'stack', 'index', 'numpy', 'pin', 'generator', 'worker'])
def test_refuses(gpu, mistake, said, capfd):
    if said == 'worker' and 'fork' not in multiprocessing.get_all_start_methods():
        pytest.skip('no fork here')
    with pytest.raises((RuntimeError, TypeError), match=said):
        mistake(torch.ones(2, device='cuda'), torch.ones(2))


WAITS = {
    'item': lambda there, here: there[0].item(), 'float': lambda there, here: float(there[0]),
    'if': lambda there, here: bool(there[0] > 0), 'tolist': lambda there, here: there.tolist(),
    'mask': lambda there, here: there[there > 0], 'nonzero': lambda there, here: there.nonzero(),
    'to the host': lambda there, here: there.cpu(), 'from its memory': lambda there, here: here.cuda(non_blocking=True),
    'into its memory': lambda there, here: here.copy_(there), 'indices': lambda there, here: there[here.long()],
    'in a thread': lambda there, here: run_in_thread(there.cpu), 'equal': lambda there, here: torch.equal(there, there),
}


def run_in_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


@pytest.mark.parametrize('name', WAITS)
def test_tells_of_waits(gpu, name):
    there, here = torch.ones(2, device='cuda'), torch.ones(2)
    with gpu.noted() as waits:
        WAITS[name](there, here)
    assert sum(waits.values()) == 1


def test_tells_of_nothing_else(gpu):
    there, here = torch.ones(2, device='cuda'), torch.ones(2).pin_memory()
    late = torch.empty(2, device='cpu', pin_memory=True)
    with gpu.noted() as waits:
        here.cuda(non_blocking=True)
        late.copy_(there, non_blocking=True)
        (there * 2 + 1).softmax(0).topk(1), torch.zeros(3, device='cuda'), there[there.long()], there.to(torch.float64)
    assert not waits
