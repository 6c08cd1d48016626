"""The fused update: the same as the plain one within rounding, whatever the layout in memory."""
import pytest
import timm
import torch

from timm_ltkd.cli.arguments import train_parser
from timm_ltkd.cli.config import parse
from timm_ltkd.engine.epoch.optimizer import create_optimizer
from timm_ltkd.errors import UserError

FUSED = ['sgd', 'momentum', 'adam', 'adamw']


def options(opt, **kwargs):
    args = parse(train_parser(), ['--opt', opt, '--lr', '0.05', '--weight-decay', '0.01'])
    args.opt_kwargs = kwargs
    return args


def network(layout=torch.contiguous_format):
    torch.manual_seed(0)
    return timm.create_model('resnet20', num_classes=5).to(memory_format=layout)


def step(model, optimizer, steps=3):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        input = torch.randn(8, 3, 8, 8, generator=generator)
        model(input).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def follow(one, other):
    """Give one network's gradients to another's parameters, whatever their layout."""
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        its.grad = torch.empty_like(its).copy_(mine.grad)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('opt', FUSED)
def test_the_update_is_that_of_the_plain_optimizer(opt, layout):
    model, reference = network(layout), network().double()
    fused, plain = create_optimizer(options(opt), model), create_optimizer(options(opt, foreach=False), reference)
    assert all(group['fused'] for group in fused.param_groups)
    assert not any(group['fused'] for group in plain.param_groups)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        model(torch.randn(8, 3, 8, 8, generator=generator)).square().mean().backward()
        follow(model, reference)
        fused.step()
        plain.step()
        fused.zero_grad()
    for mine, its in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.double(), its, rtol=0, atol=5e-6 * float(its.detach().abs().max()) + 1e-6)


@pytest.mark.parametrize('opt, kwargs', [
    ('momentum', {'foreach': True}), ('adamw', {'fused': False}), ('adam', {'foreach': False}),
    ('lookahead_momentum', {}), ('nadam', {}), ('lamb', {}), ('adamp', {})])
def test_what_is_not_fused(opt, kwargs):
    optimizer = create_optimizer(options(opt, **kwargs), network())
    assert not any(group.get('fused') for group in optimizer.param_groups)
    for key, value in kwargs.items():
        assert all(group[key] is value for group in optimizer.param_groups)


@pytest.mark.parametrize('opt', FUSED)
def test_a_loaded_state_goes_on_to_the_same_bit(opt):
    whole, first, second = network(), network(), network()
    optimizers = [create_optimizer(options(opt), model) for model in (whole, first, second)]
    step(whole, optimizers[0])
    step(first, optimizers[1])
    second.load_state_dict(first.state_dict())
    optimizers[2].load_state_dict(optimizers[1].state_dict())
    step(whole, optimizers[0])
    step(second, optimizers[2])
    assert all(torch.equal(mine, its) for mine, its in zip(whole.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize('opt', FUSED)
def test_a_state_of_another_layout_and_of_a_plain_optimizer_is_taken_over(opt):
    """On a CPU a fused update would take the wrong values without a word."""
    old, new = network(), network(torch.channels_last)
    plain, fused = create_optimizer(options(opt, foreach=False), old), create_optimizer(options(opt), new)
    step(old, plain)
    new.load_state_dict(old.state_dict())
    fused.load_state_dict(plain.state_dict())
    assert all(group['fused'] for group in fused.param_groups)
    old(torch.ones(2, 3, 8, 8)).square().mean().backward()
    follow(old, new)
    plain.step()
    fused.step()
    for mine, its in zip(new.parameters(), old.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=5e-6 * float(its.detach().abs().max()) + 1e-6)


@pytest.mark.parametrize('opt, fused, kwargs', [
    ('sgd', True, {}), ('momentum', True, {}), ('adamw', True, {}), ('momentum', False, {'dampening': 0.5})])
def test_skipped_updates_of_fp16(opt, fused, kwargs):
    """The first is, until the loss scale fits; a fused update must not begin with whatever memory held."""
    ends = []
    for more in ({}, {'fused': False}):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(1000))
        optimizer = create_optimizer(options(opt, **kwargs, **more), torch.nn.ParameterList([weight]), 'fp16')
        assert all(bool(group.get('fused')) == (fused and not more) for group in optimizer.param_groups)
        scaler, start = torch.amp.GradScaler('cpu', init_scale=4.), weight.detach().clone()
        for factor in (torch.inf, torch.inf, 1., torch.nan, 2.):
            for held in [torch.full((1000,), 1e30) for _ in range(20)]:  # what freed memory may hold
                del held
            scaler.scale((weight ** 2).sum() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if factor == torch.inf:
                assert torch.equal(weight, start)
        ends.append(weight.detach())
    assert not torch.equal(ends[0], start)
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize('opt', ['sgd', 'momentum', 'adamw'])
def test_a_parameter_may_get_its_first_gradient_later(opt):
    """As one of a method that comes in at a later epoch; the update is then the plain one's."""
    torch.manual_seed(0)
    start = [torch.randn(3, 2), torch.randn(4)]
    ends = []
    for kwargs in ({}, {'fused': False}):
        module = torch.nn.ParameterList(value.clone() for value in start)
        args = parse(train_parser(), ['--opt', opt])
        args.opt_kwargs = kwargs
        optimizer = create_optimizer(args, module)
        for step in range(6):
            optimizer.zero_grad()
            loss = (module[0] ** 2).sum() + ((module[1] ** 2).sum() if step > 2 else 0.)
            loss.backward()
            optimizer.step()
        ends.append([p.detach().clone() for p in module])
    for one, two in zip(*ends, strict=True):
        torch.testing.assert_close(one, two)


def test_an_optimizer_of_second_order_is_refused():
    args = parse(train_parser(), ['--opt', 'adahessian'])
    with pytest.raises(UserError, match='second derivatives'):
        create_optimizer(args, torch.nn.Linear(2, 2))
