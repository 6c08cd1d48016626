"""`DistillTask` as a timm training task: what it returns, trains, keeps still, saves and compiles."""
import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.task import LogitDistillationTask
from torch import nn

import timm_ltkd
from timm_ltkd.distill import (
    DistillMethod,
    DistillTask,
    SeveralMethods,
    StandardizedLogits,
    Teacher,
    TeacherEnsemble,
    create_method,
    register_method,
)
from timm_ltkd.distill import method as method_module
from timm_ltkd.errors import UserError
from timm_ltkd.prior import ClassPrior

CLASSES = 5
PRIOR = ClassPrior([40, 20, 10, 5, 1])


class Tiny(nn.Module):
    """A convolution, batch norm, dropout and a head; timm's interface, with `width` features."""

    def __init__(self, width=4, num_classes=CLASSES, seed=0, **cfg):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv, self.norm = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
            self.drop, self.fc = nn.Dropout(0.5), nn.Linear(width, num_classes)
        self.num_classes, self.num_features, self.in_chans = num_classes, width, 3
        self.pretrained_cfg = {'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)} | cfg

    def forward_features(self, input):
        return F.relu(self.norm(self.conv(input)))

    def forward_head(self, x, pre_logits=False):
        x = x.mean((2, 3))
        return x if pre_logits else self.fc(self.drop(x))

    def forward(self, input):
        return self.forward_head(self.forward_features(input))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, 8, 8, generator=generator), torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.fixture
def matching(monkeypatch):
    """A method that needs features and owns a projector, registered for the test."""
    monkeypatch.setattr(method_module, '_METHODS', dict(method_module._METHODS))

    @register_method('matching')
    class Matching(DistillMethod):
        needs_features = True

        def __init__(self, *, student_width=4, teacher_width=7):
            super().__init__()
            self.project = nn.Linear(student_width, teacher_width)
            self.epochs = []

        def set_epoch(self, epoch):
            self.epochs.append(epoch)

        def forward(self, student, teacher, target):
            return {
                'match': F.mse_loss(self.project(student.features), teacher.features),
                'agree': F.mse_loss(student.logits, teacher.logits),
            }
    return create_method('matching')


def make_task(method=None, student=None, teacher=None, **kwargs):
    return DistillTask(
        student or Tiny(), teacher or Tiny(width=7, seed=1), method or create_method('bkd', prior=PRIOR), **kwargs)


def optimise(task, batch, steps=2, opt='momentum', **kwargs):
    optimizer = create_optimizer_v2(task.get_trainable_module(), opt=opt, lr=0.1, **kwargs)
    for _ in range(steps):
        optimizer.zero_grad()
        task(*batch)['loss'].backward()
        optimizer.step()
    return optimizer


# --- what it returns

def test_the_loss_is_the_sum_of_its_parts(batch, matching):
    for method in (create_method('kd'), create_method('bkd', prior=PRIOR), matching):
        result = make_task(method)(*batch)
        parts = {key: value for key, value in result.items() if key not in ('loss', 'output')}
        assert list(result)[:3] == ['loss', 'output', 'task_loss'] and len(parts) > 1
        assert torch.allclose(result['loss'], sum(parts.values()), rtol=1e-6)
        assert result['output'].shape == (6, CLASSES) and result['loss'].requires_grad
        assert torch.allclose(result['task_loss'], F.cross_entropy(result['output'], batch[1]))


@pytest.mark.parametrize('temperature', [1., 4.])
def test_kd_is_timms_own_logit_distillation(batch, temperature):
    student, teacher = Tiny().eval(), Tiny(width=7, seed=1)  # without dropout
    ours = make_task(create_method('kd', temperature=temperature), student, teacher)
    theirs = LogitDistillationTask(
        student, teacher, nn.CrossEntropyLoss(), distill_loss_weight=1., task_loss_weight=1., temperature=temperature,
        verbose=False)
    for task in (ours, theirs):
        task.train()
        student.eval()
    theirs.teacher.eval()  # earlier versions of timm leave it in train mode
    ours, theirs = ours(*batch), theirs(*batch)
    for key in ('loss', 'output', 'task_loss', 'kd_loss'):
        assert torch.allclose(ours[key], theirs[key], rtol=0, atol=1e-6), key
    assert theirs['kd_loss'] > 1e-3


def test_the_criterion_is_used(batch):
    result = make_task(criterion=nn.CrossEntropyLoss(label_smoothing=0.3))(*batch)
    assert torch.allclose(result['task_loss'], F.cross_entropy(result['output'], batch[1], label_smoothing=0.3))


def test_heads_that_do_not_match_are_refused():
    with pytest.raises(UserError, match="teacher's head has 7 classes and the student's 5"):
        make_task(teacher=Tiny(num_classes=7))


def test_the_input_of_the_method_is_the_students_and_the_teachers(batch, matching):
    student, teacher = Tiny().eval(), Tiny(width=7, seed=1).eval()
    task = make_task(matching, student, teacher)
    result = task(*batch)
    features = [net.forward_head(net.forward_features(batch[0]), pre_logits=True) for net in (student, teacher)]
    assert torch.allclose(result['match'], F.mse_loss(matching.project(features[0]), features[1]))
    assert torch.allclose(result['agree'], F.mse_loss(student(batch[0]), teacher(batch[0])))


# --- what it trains, and what not

@pytest.mark.parametrize('separate', [False, True])
def test_what_the_teacher_says_may_be_known(batch, matching, monkeypatch, separate):
    """The same losses without asking it; each of several may be asked for features that no method needs."""
    methods = {'one': create_method('matching'), 'two': create_method('kd')}
    teachers = TeacherEnsemble([Tiny(7, seed=1), Tiny(5, seed=2)]) if separate else Tiny(7, seed=1)
    task = DistillTask(Tiny().eval(), teachers, SeveralMethods(methods, separate=separate))
    taught = task.ask_teacher(batch[0])
    outputs = taught if separate else [taught]
    assert [output.features is not None for output in outputs] == [True, False][:len(outputs)]
    online = task(*batch)
    monkeypatch.setattr(Teacher, 'forward', None)
    known = task(*batch, taught)
    assert known.keys() == online.keys() and all(torch.equal(value, known[key]) for key, value in online.items())
    monkeypatch.undo()
    asked = task.ask_teacher(batch[0], [False, True][:len(outputs)])
    assert [out.features is not None for out in (asked if separate else [asked])] == [False, True][:len(outputs)]


def test_tasks_that_share_a_teacher_each_have_their_own_pixels(batch):
    """Also where several teachers are one."""
    input, network = batch[0], Tiny(width=7, seed=1).eval()
    for teacher in (Teacher(Tiny(width=7, seed=1)), TeacherEnsemble([Tiny(width=7, seed=1)])):
        first = make_task(teacher=teacher)
        other = make_task(teacher=teacher, student=Tiny(mean=(0., 0., 0.), std=(1., 1., 1.)))
        for _ in range(2):
            assert torch.equal(first.ask_teacher(input).logits, network(input))
            torch.testing.assert_close(other.ask_teacher(input / 2 + 0.5).logits, network(input))


def test_the_teacher_never_changes(batch, matching):
    task = make_task(matching)
    before = copy.deepcopy(task.teacher.state_dict())
    start = copy.deepcopy(task.get_eval_model().state_dict())
    for mode in (True, False, True):
        task.train(mode)
        assert not any(module.training for module in task.teacher.modules())
        assert task.get_trainable_module().training is mode
    optimise(task, batch, steps=3, weight_decay=0.1)
    assert all(torch.equal(value, before[key]) for key, value in task.teacher.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in task.teacher.parameters())
    trained = {id(parameter) for parameter in task.get_trainable_module().parameters()}
    assert not trained & {id(parameter) for parameter in task.teacher.parameters()}
    changed = {key for key, value in task.get_eval_model().state_dict().items() if not torch.equal(value, start[key])}
    assert changed == set(start)


def test_the_methods_parameters_are_trained_with_the_student(batch, matching):
    before = matching.project.weight.clone()
    task = make_task(matching)
    optimise(task, batch)
    assert not torch.equal(matching.project.weight, before)
    names = {name for name, _ in task.get_trainable_module().named_parameters()}
    assert {'student.fc.weight', 'method.project.weight'} <= names
    clipped = {id(p) for p in task.get_clip_parameters(exclude_head=True)}
    assert id(matching.project.weight) in clipped and id(task.get_eval_model().fc.weight) not in clipped


def test_set_epoch_reaches_method_and_criterion(matching):
    class Criterion(nn.CrossEntropyLoss):
        def set_epoch(self, epoch):
            self.epoch = epoch

    task = make_task(matching, criterion=Criterion())
    task.set_epoch(3)
    assert matching.epochs == [3] and task.criterion.epoch == 3


# --- what it refuses

class Says(DistillMethod):
    """Returns what it is made with."""

    def __init__(self, terms, needs_hard_labels=False):
        super().__init__()
        self.terms, self.needs_hard_labels = terms, needs_hard_labels

    def forward(self, student, teacher, target):
        return self.terms


@pytest.mark.parametrize('terms, message', [
    *(({name: torch.ones(())}, f"Says calls a term '{name}'") for name in ('loss', 'output', 'task_loss')),
    (torch.ones(()), 'Says returns a Tensor: give a dict'),
    (None, 'Says returns a NoneType'),
    ({'a': torch.ones(6)}, r"Says: the term 'a' is a tensor \[6\]: return a scalar, its mean over the images"),
    ({'a': 1.}, "Says: the term 'a' is a float"),
])
def test_terms_that_are_none_or_called_as_what_is_there(batch, terms, message):
    with pytest.raises(UserError, match=message):
        make_task(Says(terms))(*batch)


def test_a_criterion_without_a_mean(batch):
    with pytest.raises(UserError, match=r'CrossEntropyLoss: the loss is a tensor \[6\]'):
        make_task(Says({}), criterion=torch.nn.CrossEntropyLoss(reduction='none'))(*batch)


@pytest.mark.parametrize('target', [F.one_hot(torch.arange(6) % CLASSES, CLASSES).float(), torch.zeros(6, 1).long()])
def test_a_method_that_needs_hard_labels_gets_no_others(batch, target):
    terms = {'term': torch.ones(())}
    says = Says(terms, True)
    for method in (says, StandardizedLogits(says), SeveralMethods({'a': Says(terms), 'b': says}, separate=False)):
        with pytest.raises(UserError, match='Says needs one class index an image'):
            make_task(method)(batch[0], target)
        assert make_task(method)(batch[0], batch[1].int())['loss'] > 0


@pytest.mark.parametrize('wrong, message', [
    (dict(method='bkd'), r"method cannot be a str: give what create_method\('kd'\) returns"),
    (dict(method=None), 'method cannot be a NoneType'),
    (dict(teacher=[Tiny()]), 'teacher cannot be a list: give a network, a Teacher, or a TeacherEnsemble'),
    (dict(criterion='ce'), r"criterion cannot be a str: give what create_loss\('ce'\) returns"),
    (dict(student='resnet20'), 'student cannot be a str: give a network'),
])
def test_arguments_of_another_kind_are_refused(wrong, message):
    with pytest.raises(UserError, match=f'DistillTask: {message}') as error:
        DistillTask(**dict(student=Tiny(), teacher=Tiny(seed=1), method=create_method('kd')) | wrong)
    assert '\n' not in str(error.value)


def test_a_student_that_is_its_own_teacher_is_refused():
    student = Tiny()
    for teacher in (student, nn.Sequential(student)):
        with pytest.raises(UserError, match='share parameters'):
            make_task(student=student, teacher=teacher)
    make_task(student=student, teacher=copy.deepcopy(student))
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_ldam_wants_a_student_that_it_has_prepared(batch):
    student, loss = timm.create_model('resnet20', num_classes=CLASSES), timm_ltkd.create_loss('ldam', prior=PRIOR)
    with pytest.raises(UserError, match=r"that of CifarNet is a linear one still: call the loss's prepare\(student\)"):
        make_task(student=student, criterion=loss)
    loss.prepare(student)
    assert make_task(student=student, criterion=loss)(*batch)['loss'].isfinite()


def test_the_state_of_another_task_is_refused(matching):
    with pytest.raises(UserError, match="holds foo and not 'method'"):
        make_task(matching).load_task_state({'foo': 1})


def test_a_pair_of_views_is_a_tuple_or_a_list(batch):
    task = make_task(student=Tiny().eval())
    task.get_eval_model().eval()
    pair, target = (batch[0], batch[0].flip(3)), batch[1]
    result = task(list(pair), target)
    assert torch.equal(result['loss'], task(pair, target)['loss'])
    assert not torch.equal(result['loss'], task(*batch)['loss'])


# --- moving average, checkpoints, compile

def test_the_moving_average(batch, matching):
    task = make_task(matching)
    assert not task.has_ema() and task.get_eval_model(ema=True) is None
    start = copy.deepcopy(task.get_trainable_module().state_dict())
    task.setup_ema(decay=0.75)
    optimise(task, batch, steps=1)
    task.update_ema()
    trained, average = task.get_trainable_module().state_dict(), task.get_trainable_module(ema=True).module.state_dict()
    for key, value in average.items():
        if value.is_floating_point():
            assert torch.allclose(value, 0.75 * start[key] + 0.25 * trained[key], atol=1e-6), key
    averaged = task.get_eval_model(ema=True)
    assert isinstance(averaged, Tiny) and averaged is not task.get_eval_model() and not averaged.training


def test_a_checkpoint_goes_round(batch, matching):
    task = make_task(matching)
    task.setup_ema(decay=0.5)
    optimise(task, batch)
    task.update_ema()
    state, average = copy.deepcopy((task.get_checkpoint_state(), task.get_checkpoint_state(ema=True)))
    assert set(state) == {'state_dict', 'task_state'} and set(average) == {'state_dict_ema', 'task_state_ema'}
    assert set(state['state_dict']) == set(Tiny().state_dict())  # the student alone
    assert set(state['task_state']['method']) == {'project.weight', 'project.bias'}

    fresh = make_task(copy.deepcopy(matching).requires_grad_(), Tiny(seed=5))
    nn.init.zeros_(fresh.method.project.weight)
    fresh.setup_ema()
    fresh.load_checkpoint_state(state['state_dict'], state['task_state'])
    fresh.load_checkpoint_state(average['state_dict_ema'], average['task_state_ema'], ema=True)
    for ema in (False, True):
        wanted, got = (t.get_trainable_module(ema=ema).state_dict() for t in (task, fresh))
        assert wanted.keys() == got.keys() and all(torch.equal(wanted[key], got[key]) for key in wanted)


def test_a_method_without_parameters_adds_nothing_to_a_checkpoint():
    assert set(make_task().get_checkpoint_state()) == {'state_dict'}


def test_compiled_is_the_same_and_leaves_no_wrapper(batch, matching):
    for method in (create_method('kd'), matching):
        plain = make_task(method, Tiny().eval())
        compiled = copy.deepcopy(plain)
        assert isinstance(compiled.compile(backend='eager'), Tiny)
        for task in (plain, compiled):
            task.get_eval_model().eval()
        assert torch.allclose(compiled(*batch)['loss'], plain(*batch)['loss'], rtol=1e-6)
        assert compiled.state_dict().keys() == plain.state_dict().keys()
        assert compiled.get_checkpoint_state()['state_dict'].keys() == Tiny().state_dict().keys()
        assert compiled.get_eval_model()._compiled_call_impl is not None


def test_a_compiled_moving_average_leaves_no_wrapper(batch, matching):
    task = make_task(matching)
    assert task.compile_ema(backend='eager') is None
    task.setup_ema(decay=0.5)
    keys = task.state_dict().keys()
    average = task.compile_ema(backend='eager')
    assert average is task.get_eval_model(ema=True) and average._compiled_call_impl is not None
    assert task.state_dict().keys() == keys and task.get_eval_model()._compiled_call_impl is None


def test_devices_and_dtypes_go_through(batch):
    task = make_task(dtype=torch.float64)
    assert task.get_eval_model().fc.weight.dtype == torch.float64 == task.dtype
    result = task(batch[0].double(), batch[1])
    assert result['loss'].dtype == torch.float64


def test_bf16_autocast_leaves_the_losses_in_float32(batch):
    task = make_task(criterion=timm_ltkd.create_loss('ce'))
    with torch.autocast('cpu', torch.bfloat16):
        result = task(*batch)
    assert result['output'].dtype == torch.bfloat16
    assert {result[key].dtype for key in ('loss', 'task_loss', 'bkd_loss')} == {torch.float32}


def test_a_whole_task_in_bf16_leaves_the_losses_in_float32(batch):
    result = make_task(dtype=torch.bfloat16)(batch[0].bfloat16(), batch[1])
    assert result['output'].dtype == torch.bfloat16
    assert {result[key].dtype for key in ('loss', 'task_loss', 'bkd_loss')} == {torch.float32}


# --- optimizer groups

def small_vit(**kwargs):
    return timm.create_model(
        'vit_tiny_patch16_224', img_size=32, num_classes=CLASSES, embed_dim=24, num_heads=2, depth=3, **kwargs)


def settings(optimizer, names):
    """(weight decay, learning rate scale) by parameter name."""
    return {names[id(parameter)]: (group['weight_decay'], group.get('lr_scale', 1.))
            for group in optimizer.param_groups for parameter in group['params']}


@pytest.mark.parametrize('make', [small_vit, lambda: timm.create_model('resnet20', num_classes=CLASSES)],
                         ids=['vit', 'resnet20'])
@pytest.mark.parametrize('layer_decay', [None, 0.5])
def test_layer_decay_and_weight_decay_are_the_students_own(matching, make, layer_decay):
    student = make()
    module = make_task(matching, student).get_trainable_module()
    options = dict(opt='adamw', lr=0.1, weight_decay=0.05, **{'layer_decay': layer_decay} if layer_decay else {})
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    alone = settings(create_optimizer_v2(student, **options), names)
    joint = settings(create_optimizer_v2(module, **options), names)
    method = {name: joint.pop(name) for name in list(joint) if name.startswith('method.')}
    assert joint == alone
    assert method == {'method.project.weight': (0.05, 1.), 'method.project.bias': (0., 1.)}
    if layer_decay:
        assert len({scale for _, scale in joint.values()}) > 2
    if 'student.pos_embed' in joint:
        assert joint['student.pos_embed'][0] == joint['student.cls_token'][0] == 0.


def test_layer_decay_of_a_student_that_does_not_say_its_layers(matching):
    """timm takes so many parameters for a layer then, in order."""
    def make():
        student = Plain()
        student.pretrained_cfg = {'classifier': 'fc'}
        return student
    student = make()
    module = make_task(matching, student).get_trainable_module()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    alone = settings(create_optimizer_v2(student, opt='adamw', lr=0.1, layer_decay=0.5), names)
    joint = settings(create_optimizer_v2(module, opt='adamw', lr=0.1, layer_decay=0.5), names)
    assert alone == {name: value for name, value in joint.items() if name.startswith('student.')}
    assert len({scale for _, scale in alone.values()}) == 3


class Plain(nn.Module):
    """No network of timm's."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*[nn.Linear(4, 4) for _ in range(9)])
        self.fc = nn.Linear(4, CLASSES)
        self.num_features = 4

    def forward(self, input):
        return self.fc(self.body(input.mean((2, 3)).repeat(1, 2)[:, :4]))

    def get_classifier(self):
        return self.fc


# --- a loop of one's own

def test_the_loop_of_the_readme():
    student, teacher = (timm.create_model(name, num_classes=10) for name in ('resnet20', 'resnet32'))
    pixels = timm.data.resolve_data_config(model=student)
    dataset = timm_ltkd.create_dataset('lt/digits', split='train')
    dataset.transform = timm.data.create_transform(**pixels, is_training=True, hflip=0., scale=(0.7, 1.))
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True)
    start = copy.deepcopy(student.state_dict())
    prior = timm_ltkd.ClassPrior(dataset.class_counts)
    task = timm_ltkd.DistillTask(student, teacher, timm_ltkd.create_method('bkd', prior=prior))
    optimizer = timm.optim.create_optimizer_v2(task.get_trainable_module(), opt='momentum', lr=0.05)
    for step, (input, target) in enumerate(loader):
        task(input, target)['loss'].backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 1:
            break
    assert all(value.isfinite().all() for value in student.state_dict().values())
    assert not any(torch.equal(value, start[key]) for key, value in student.state_dict().items() if 'weight' in key)
    assert Teacher(teacher).num_classes == 10
