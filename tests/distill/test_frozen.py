"""Copies of a teacher's network that answer the same in less time."""
import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import prune

import timm_ltkd.models  # noqa: F401  (registers resnet20)
from timm_ltkd.distill import Teacher, TeacherEnsemble, model_output, share_teacher
from timm_ltkd.distill.frozen import fold_batch_norm, hold_weights, share_weights

# how many batch norms there are, and how many cannot be folded: they follow a sum, or a convolution that also goes past
NETWORKS = {
    'resnet20': (19, 0), 'wrn_16_2': (13, 6), 'test_resnet': (15, 0), 'test_efficientnet': (13, 0),
    'test_byobnet': (14, 0), 'test_nfnet': (0, 0), 'test_vit': (0, 0), 'mobilenetv3_small_050': (34, 0),
}


def norms(network):
    return [module for module in network.modules() if getattr(module, 'running_mean', None) is not None]


def trained(name, dtype=torch.float32):
    """A network in eval mode whose batch norm does something."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=7) if isinstance(name, str) else name
    for norm in norms(network):
        norm.running_mean.normal_(0., 0.3)
        norm.running_var.uniform_(0.5, 2.)
        if norm.weight is not None:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0., 0.3)
    return network.eval().requires_grad_(False).to(dtype)


def pixels(network, batch=3):
    size = getattr(network, 'pretrained_cfg', {}).get('input_size', (3, 32, 32))
    size = size if size[-1] == 32 or network.pretrained_cfg.get('fixed_input_size') else (3, 64, 64)
    dtype = next(network.parameters()).dtype
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(1)).to(dtype)


def deviation(given, expected):
    return max(float((mine - its).abs().max() / its.abs().max()) for mine, its in zip(given, expected, strict=True))


@pytest.mark.parametrize('dtype, most', [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize('name', NETWORKS)
def test_folding_changes_logits_and_features_by_rounding_alone(name, dtype, most):
    network = trained(name, dtype)
    before, input = copy.deepcopy(network.state_dict()), pixels(network)
    folded = fold_batch_norm(network, input[:2])
    assert (len(norms(network)), len(norms(folded))) == NETWORKS[name]
    assert (folded is network) == (not NETWORKS[name][0])
    assert deviation(model_output(folded, input, True), model_output(network, input, True)) <= most
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in folded.parameters())


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('name', NETWORKS)
def test_held_weights_give_the_same_bits_under_autocast(name, layout):
    network = trained(name).to(memory_format=layout)
    input = pixels(network).contiguous(memory_format=layout)
    for model in {network, fold_batch_norm(network, input)}:
        held = hold_weights(model, torch.bfloat16, input[:2])
        assert torch.bfloat16 in {parameter.dtype for parameter in held.parameters()}
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        with torch.autocast('cpu', torch.bfloat16):
            for mine, its in zip(model_output(held, input, True), model_output(model, input, True), strict=True):
                assert torch.equal(mine, its)


def test_half_precision_is_no_further_from_the_truth():
    network = trained('resnet20')
    input = pixels(network, 64)
    folded = fold_batch_norm(network, input)
    exact = copy.deepcopy(network).double()(input.double())
    with torch.autocast('cpu', torch.bfloat16):
        errors = [float((model(input).double() - exact).square().mean()) for model in (folded, network)]
    assert errors[0] < 1.3 * errors[1]


class Odd(nn.Module):
    """Convolutions whose batch norm must stay: `way` says why."""
    num_classes = 4

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.conv, self.norm = nn.Conv2d(3, 4, 1, bias=way == 'plain'), nn.BatchNorm2d(4, affine=way != 'plain')
        if way == 'no statistics':
            self.norm = nn.BatchNorm2d(4, track_running_stats=False)
        if way == 'standardised':
            self.conv = timm.layers.StdConv2d(3, 4, 1)
        if way == 'tied':
            self.other = nn.Conv2d(3, 4, 1)
            self.other.weight = self.conv.weight
        self.fc = nn.Linear(4, 4)

    def forward(self, input):
        map = self.conv(input)
        normed = self.norm(map)
        if self.way == 'used again':
            normed = normed + map
        if self.way == 'its view is used again':
            normed = normed + map.flatten(2).mean(dim=2)[:, :, None, None]
        if self.way == 'called twice':
            normed = normed + self.norm(self.conv(-input))
        if self.way == 'norm called twice':
            normed = self.norm(normed)
        if self.way == 'reads the weights':
            normed = normed * self.conv.weight.mean()
        if self.way == 'tied':
            normed = normed + self.other(input)
        return self.fc(normed.mean((2, 3)))


@pytest.mark.parametrize('way', [
    'used again', 'its view is used again', 'called twice', 'norm called twice', 'no statistics', 'standardised',
    'reads the weights'])
def test_what_cannot_be_folded_stays(way):
    network = trained(Odd(way))
    input = torch.randn(2, 3, 5, 5)
    assert fold_batch_norm(network, input) is network


class Tokens(nn.Module):
    """A batch norm that takes the tokens of a linear layer for channels."""

    def __init__(self, tokens, width):
        super().__init__()
        self.num_classes = 4
        self.linear, self.norm, self.fc = nn.Linear(3, width), nn.BatchNorm1d(tokens), nn.Linear(width, 4)

    def forward(self, input):
        return self.fc(self.norm(self.linear(input.flatten(2).mT)).mean(1))


@pytest.mark.parametrize('width', [6, 25])
def test_a_norm_over_tokens_is_not_folded(width):
    network, input = trained(Tokens(25, width)), torch.randn(2, 3, 5, 5)
    assert fold_batch_norm(network, input) is network
    assert torch.equal(Teacher(network, fast=True)(input).logits, network(input))


@pytest.mark.parametrize('wrap', [
    nn.utils.spectral_norm, nn.utils.weight_norm, lambda layer: prune.l1_unstructured(layer, 'weight', 0.5)])
@pytest.mark.filterwarnings('ignore::FutureWarning')
def test_weights_that_are_made_anew_at_each_call_stay(wrap):
    network, input = Odd('plain'), torch.randn(2, 3, 5, 5)
    wrap(network.conv)
    network = trained(network)
    assert fold_batch_norm(network, input) is network
    teacher = Teacher(network, fast=True)
    assert torch.equal(teacher(input).logits, network(input))
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(teacher(input).logits, network(input))


class Peculiar(nn.Module):
    """A network whose forward does more with its layers than call them."""
    num_classes = 4

    def __init__(self, way):
        super().__init__()
        self.way, self.conv, self.norm, self.fc = way, nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 4)

    def forward(self, input):
        map = self.conv(input)
        if self.way == 'by name':
            normed = self.norm(input=map)
        elif self.way == 'looks at the norm':
            normed = self.norm(map.to(self.norm.weight.dtype))
        else:
            normed = self.norm(map)
        features = normed.mean((2, 3))
        if self.way in ('leaves autocast', 'rounded'):
            with torch.autocast('cpu', enabled=False):
                weight = self.fc.weight if self.way == 'leaves autocast' else self.fc.weight.float() * 64
                return nn.functional.linear(features.float(), weight)
        return self.fc(features)


@pytest.mark.parametrize('way', ['by name', 'looks at the norm', 'leaves autocast', 'rounded'])
def test_a_network_that_a_copy_cannot_stand_for_answers_itself(way):
    network, input = trained(Peculiar(way)), torch.randn(2, 3, 5, 5)
    plain, fast = Teacher(network), Teacher(network, fast=True)
    for autocast in (False, True):
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            given, expected = (teacher(input).logits for teacher in (fast, plain))
        assert deviation([given.float()], [expected.float()]) < (0.02 if autocast else 1e-5)
    if way in ('leaves autocast', 'rounded'):
        folded = fast._copies[None]
        assert not norms(folded) and fast._copies[torch.bfloat16] is folded


def test_a_float64_teacher_is_not_rounded_by_autocast():
    network, input = trained('resnet20', torch.float64), torch.randn(2, 3, 32, 32)
    with torch.autocast('cpu', torch.bfloat16):
        given, expected = (Teacher(network, fast=fast)(input).logits for fast in (True, False))
    assert given.dtype == torch.float64 and deviation([given], [expected]) < 1e-12


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_inputs_are_cast_to_the_precision_of_the_weights(dtype):
    network = trained('resnet20')
    input = pixels(network)
    said = Teacher(network)(input.to(dtype)).logits
    assert said.dtype == torch.float32 and torch.equal(said, network(input.to(dtype).float()))


@pytest.mark.parametrize('way', ['plain', 'tied', 'none of these'])
def test_what_can_be_folded(way):
    network = trained(Odd(way), torch.float64)
    input = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    folded = fold_batch_norm(network, input)
    assert not norms(folded) and norms(network)
    assert deviation([folded(input)], [network(input)]) < 1e-14


def test_the_activation_of_a_batch_norm_stays():
    network = trained('test_efficientnet')
    folded = fold_batch_norm(network, pixels(network))
    assert type(folded.bn1) is type(network.bn1.act) and type(network.bn1) is timm.layers.BatchNormAct2d


# of a teacher

def test_a_fast_teacher_answers_alike():
    network = trained('resnet20')
    plain, fast = Teacher(network), Teacher(network, fast=True)
    input = pixels(network)
    for features in (False, True):
        given, expected = (teacher(input, features) for teacher in (fast, plain))
        assert not torch.equal(given.logits, expected.logits)
        assert deviation(*([part for part in said if part is not None] for said in (given, expected))) < 1e-5
    assert fast.model is network and fast.state_dict().keys() == plain.state_dict().keys()
    with torch.autocast('cpu', torch.bfloat16):
        held, rounded = fast(input, True), Teacher(fold_batch_norm(network, input))(input, True)
    assert torch.equal(held.logits, rounded.logits) and torch.equal(held.features, rounded.features)
    assert torch.equal(fast(input).logits, given.logits), 'in float32 after autocast'


def test_a_fast_teacher_that_is_moved_makes_new_copies():
    network = trained('resnet20')
    teacher = Teacher(network, fast=True)
    input = pixels(network)
    single = teacher(input).logits
    double = teacher.double()(input.double()).logits
    assert double.dtype == torch.float64 and deviation([single.double()], [double]) < 1e-5
    assert {parameter.dtype for parameter in teacher.model.parameters()} == {torch.float64}
    copies = dict(teacher._copies)
    assert copies and teacher.to('cpu', torch.float64)._copies == copies, 'nothing has moved: a CUDA graph may use them'


@pytest.mark.parametrize('dtype', [None, torch.bfloat16])
@pytest.mark.parametrize('name', ['resnet20', 'test_vit'])
def test_a_shared_teacher_shares_its_copies(name, dtype, monkeypatch):
    network = trained(name)
    teacher, input = Teacher(network, fast=True), pixels(network)
    autocast = torch.autocast('cpu', dtype, enabled=dtype is not None)
    with autocast:
        expected = teacher(input, True)
    ensemble = TeacherEnsemble([teacher, teacher])
    for make in ('fold_batch_norm', 'hold_weights'):
        monkeypatch.setattr(f'timm_ltkd.distill.teacher.{make}', lambda *_: pytest.fail('a copy was made anew'))
    for other in (share_teacher(teacher), *share_teacher(ensemble).teachers):
        with autocast:
            given = other(input, True)
        assert torch.equal(given.logits, expected.logits) and torch.equal(given.features, expected.features)
        assert other.model is not network
        for key, held in teacher._copies.items():
            pairs = zip(other._copies[key].parameters(), held.parameters(), strict=True)
            assert other._copies[key] is not held and all(mine.data_ptr() == its.data_ptr() for mine, its in pairs)


@pytest.mark.parametrize('through', ['network', 'teacher', 'copy'])
def test_a_fast_teacher_answers_by_the_weights_that_are_loaded(through):
    network, other = trained('resnet20'), trained('resnet20')
    nn.init.normal_(other.fc.weight)
    teacher, input = Teacher(network, fast=True), pixels(network)
    before, first = teacher(input).logits, teacher
    if through == 'copy':
        teacher = copy.deepcopy(teacher)
        assert torch.equal(teacher(input).logits, before)
    if through == 'network':
        network.load_state_dict(other.state_dict())
    else:
        teacher.load_state_dict(Teacher(other).state_dict())
    loaded = teacher(input).logits
    assert deviation([other(input)], [loaded]) < 1e-5 and not torch.allclose(loaded, before, rtol=1e-2)
    assert through != 'copy' or torch.equal(first(input).logits, before)


def test_what_is_compiled_or_in_half_precision_is_left_as_it_is():
    network = trained('resnet20')
    compiled = copy.deepcopy(network)
    compiled.compile(backend='eager')
    input = pixels(network)
    assert torch.equal(Teacher(compiled, fast=True)(input).logits, network(input))
    half = [Teacher(copy.deepcopy(network), dtype=torch.bfloat16, fast=fast)(input).logits for fast in (True, False)]
    assert torch.equal(*half)


def test_a_task_trains_with_fast_teachers():
    """What a fast teacher says can be kept for a backward pass."""
    teacher = TeacherEnsemble([Teacher(trained('resnet20'), fast=True)])
    input = pixels(teacher.networks[0])
    said = teacher(input, needs_features=True)
    student = torch.zeros_like(said.features, requires_grad=True)
    nn.functional.mse_loss(student, said.features).backward()
    assert student.grad.any() and not said.features.requires_grad


def test_a_copy_has_modules_of_its_own_and_the_same_tensors():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    copy = share_weights(module)
    assert copy[0] is not module[0]
    for one, two in zip(module.state_dict().values(), copy.to('cpu').state_dict().values(), strict=True):
        assert one.data_ptr() == two.data_ptr()
