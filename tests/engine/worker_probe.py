"""What each of several processes saw and held while the scripts ran; started under Accelerate by the fixture `probe`.

Usage: accelerate launch … worker_probe.py JOBS OUT, where JOBS is a JSON file of {name: [script, arguments]} and OUT a
folder that gets one file of records per process. A job whose name ends in `-interrupted` is stopped after its first
epoch's checkpoint, on every process.
"""
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from timm.utils import unwrap_model
from torch.nn.parallel import DistributedDataParallel

from timm_ltkd.cli import run
from timm_ltkd.data import epoch_plan, loader, seeded
from timm_ltkd.engine import fit, training
from timm_ltkd.engine.epoch.watch import LossWatch
from timm_ltkd.errors import UserError
from timm_ltkd.report import write


class Probe:
    """Wraps the engine's functions so that they also tell what they did; `records` is filled job by job."""

    def __init__(self):
        self.records = {}
        self.stop = False
        self._watch_samples()
        self._watch_batch_norm()
        self._watch_training()

    def begin(self, name):
        self.now = self.records[name] = {'trained': [], 'evaluated': [], 'bn': [], 'group_ended_after': []}
        self.stop = name.endswith('-interrupted')

    def note_end(self):
        self.now['group_ended_after'].append(len(self.now['evaluated']))

    def _watch_samples(self):
        train, evaluate = seeded.SeededDataset.__getitem__, loader._IndexedDataset.__getitem__

        def get_train(dataset, key):
            self.now['trained'].append(key)
            return train(dataset, key)

        def get_eval(dataset, index):
            self.now['evaluated'].append(index)
            return evaluate(dataset, index)
        seeded.SeededDataset.__getitem__, loader._IndexedDataset.__getitem__ = get_train, get_eval

    def _watch_batch_norm(self):
        share = training.distribute_bn

        def distribute_bn(model, *args):
            before = statistics(model)
            share(model, *args)
            self.now['bn'].append((before, statistics(model)))
        training.distribute_bn = distribute_bn

    def _watch_training(self):
        make, save = fit.Training.__init__, fit.save_checkpoint

        def init(run, *args, **kwargs):
            make(run, *args, **kwargs)
            self.training = run
            teacher = getattr(run.task, 'teacher', None)
            self.now['teacher'] = teacher and {key: value.clone() for key, value in teacher.state_dict().items()}

        def save_checkpoint(*args):
            save(*args)
            if self.stop:
                raise KeyboardInterrupt
        fit.Training.__init__, fit.save_checkpoint = init, save_checkpoint

    def end(self):
        task = self.training.task
        module = task.trainable_module
        self.now |= {
            'repeats': epoch_plan(self.training.train_loader).repeats,
            'wrapped': type(module.module).__name__ if isinstance(module, DistributedDataParallel) else None,
            'wrappers': sum(isinstance(part, DistributedDataParallel) for part in task.modules()),
            'weights': {key: value.clone() for key, value in unwrap_model(module).state_dict().items()},
        }
        if self.now['teacher']:
            self.now['teacher_after'] = task.teacher.state_dict()
            self.now['teacher_grads'] = [parameter.grad for parameter in task.teacher.parameters()]


def statistics(model):
    buffers = dict(unwrap_model(model).named_buffers())
    return {name: buffer.clone() for name, buffer in buffers.items() if 'running_' in name}


def bad_loss_on_the_last_process(accelerator):
    """The message on this process when only the last one's third loss is not a number."""
    watch = LossWatch(accelerator)
    try:
        for step in (1, 2, 3):
            bad = step == 3 and accelerator.is_last_process
            watch.add({'loss': torch.tensor(float('nan') if bad else 1.)}, 4)
            if accelerator.num_processes > 1:
                watch.check(1)  # says nothing yet: the other process would wait for this one
        watch.read(1)
    except UserError as e:
        return str(e)


def main(jobs, out):
    torch.set_num_threads(1)
    probe = Probe()
    destroy_group = PartialState.destroy_process_group
    PartialState.destroy_process_group = lambda *args: probe.note_end()  # not yet: the jobs share one
    write.plot_pictures = fit.plot_class_profile = lambda *args: None  # seconds, and not looked at here
    for name, (script, argv) in json.loads(Path(jobs).read_text()).items():
        probe.begin(name)
        try:
            getattr(run, script)(argv)
        except SystemExit as e:
            probe.now['exit'] = e.code
        probe.now['world'] = PartialState().num_processes
        if script != 'validate':
            probe.end()
    accelerator = Accelerator()
    probe.records['bad loss'] = bad_loss_on_the_last_process(accelerator)
    torch.save(probe.records, Path(out) / f'rank{accelerator.process_index}.pt')
    PartialState.destroy_process_group = destroy_group
    accelerator.end_training()


if __name__ == '__main__':
    main(*sys.argv[1:])
