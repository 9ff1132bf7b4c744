"""What needs a GPU: `make gpu`. Captured steps equal those that are not, runs side by side those
alone; gradients are those of a CPU in double precision; nothing waits for the device."""
import pathlib

import pytest
import torch
import torch.nn.functional as F
from helpers import FLAGS, METHODS, SMALL_IMAGENET, same_run, write_net

import cifar
import finetune
import imagenet
from engine import loop, runs, step

pytestmark = [pytest.mark.gpu,
              pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')]
CIFAR = ['--dataset', 'shapes', '--depth', '10', '--batch_size', '60', '--epochs', '3',
         '--epoch_step', '[3]', '--lr', '.05']
TRANSFER = {'plain': [], 'at': ['--teacher_id', 't', '--beta', '100'],
            'at_kd': ['--teacher_id', 't', '--beta', '100', '--alpha', '.9'],
            'f_actt': ['--teacher_id', 't', '--beta', '1', '--method', 'f_actt'],
            'grad_at': ['--teacher_id', 't', '--beta', '.1', '--method', 'grad_at'],
            'min_l2': ['--beta', '.1', '--method', 'min_l2'],
            'symmetry': ['--beta', '.1', '--method', 'symmetry']}
NETS = {
    'wrn-10-1': (lambda: cifar.resnet(10, 1, 10), 32),
    'wrn-16-2': (lambda: cifar.resnet(16, 2, 10), 32),
    'nin': (lambda: cifar.nin(.25, 10), 32),
    'cifar_resnet': (lambda: cifar.cifar_resnet(8, 1, 10), 32),
    'resnet18': (lambda: imagenet.define_student(18, .25, 10), 64),
    'resnet50': (lambda: imagenet.define_student(50, .25, 10), 64),
    'mobilenet_v2': (lambda: imagenet.mobilenet_v2(.5, 10), 64),
    'alexnet': (lambda: imagenet.alexnet(10), 96),
}


@pytest.fixture(autouse=True)
def deterministic_again():
    yield
    torch.use_deterministic_algorithms(False)


def log(folder):
    return runs.read_log(pathlib.Path(folder, 'log.txt'))


def both_ways(main, flags):
    """Captured and not, each with the same bits wherever it runs."""
    for name, more in (('captured', []), ('plain', ['--no_graph'])):
        main([*map(str, flags), '--deterministic', '--save', f'logs/{name}', *more])
    assert same_run('logs/captured', 'logs/plain')


@pytest.mark.parametrize('name', TRANSFER)
def test_captured_steps_of_cifar(name):
    cifar.main([*CIFAR, '--save', 'logs/t', '--width', '2', '--epochs', '1'])
    both_ways(cifar.main, [*CIFAR, *TRANSFER[name]])


@pytest.mark.parametrize('method', METHODS)
def test_captured_steps_of_fine_tuning(method):
    write_net()
    write_net('teacher.pth', classes=10)
    alpha = [] if method == 'l2' else ['--alpha', '.001']
    both_ways(finetune.main, [*FLAGS, '--source', 'source.pth', '--method', method, *alpha,
                              *METHODS[method]])


def test_captured_steps_of_afs():
    write_net()
    both_ways(finetune.main, [*FLAGS, '--source', 'source.pth', '--prune', 'afs', '--method', 'afd',
                              '--alpha', '1e-4', '--macs_target', '.85', '--iterations', '6',
                              '--epoch_step', '[3]', '--density', '.5'])


@pytest.mark.parametrize('more', [[], ['--prune', 'afs', '--macs_target', '.5']])
def test_captured_steps_of_images_in_memory(more):
    write_net(arch='wrn-10-1')
    both_ways(finetune.main, [
        '--dataset', 'shapes', '--domain', 'shifted', '--shift', '.5', '--per_class', '7',
        '--batch_size', '16', '--iterations', '9', '--steps_per_epoch', '3',
        '--source', 'source.pth', '--method', 'afd', '--alpha', '1e-3', *more])


def test_captured_steps_of_files(shapes_folder):
    flags = [*SMALL_IMAGENET, '--imagenetpath', str(shapes_folder), '--epochs', '2', '--nthread', 2]
    imagenet.main([*map(str, flags), '--save', 'logs/t'])
    both_ways(imagenet.main, [*flags, '--teacher_params', 'logs/t', '--beta', '100'])


def test_runs_side_by_side_end_with_the_bits_they_have_alone():
    """Of other nets, methods, seeds and rates."""
    cifar.main([*CIFAR, '--save', 'logs/t', '--width', '2'])
    commands = {'a': [], 'b': ['--width', '2', '--seed', '1'], 'c': TRANSFER['at'],
                'd': [*TRANSFER['at_kd'], '--lr', '.02'], 'e': ['--depth', '16', '--seed', '2']}
    words = [[*CIFAR, *more, '--deterministic'] for more in commands.values()]
    together = [[*w, '--save', f'logs/{k}'] for k, w in zip(commands, words, strict=True)]
    cifar.main([word for w in together for word in ('+', *w)][1:])
    for k, w in zip(commands, words, strict=True):
        cifar.main([*w, '--save', f'logs/{k}_alone'])
        assert same_run(f'logs/{k}', f'logs/{k}_alone'), k


def test_a_continued_run_of_graphs_equals_an_undisturbed_one():
    """With dropout, whose random numbers are the device's."""
    write_net(arch='mobilenet_v2')
    flags = [*FLAGS, '--source', 'source.pth', '--deterministic', '--epoch_step', '[2]']
    finetune.main([*flags, '--save', 'logs/whole'])
    finetune.main([*flags, '--save', 'logs/parts', '--iterations', '2'])
    finetune.main([*flags, '--save', 'logs/parts'])
    assert same_run('logs/whole', 'logs/parts')


@pytest.mark.parametrize('name', NETS)
def test_gradients_are_those_of_a_cpu_in_double_precision(name):
    """cuDNN was seen to give wrong ones (pytorch/pytorch#150700). In float the sign of what ReLU
    gets may turn by rounding: on a CPU norms then differ by 1 % at most from those in double."""
    make, size = NETS[name]
    torch.manual_seed(0)
    f, params = make()
    x, y = torch.randn(16, 3, size, size), torch.arange(16) % 10

    def gradients(dtype, device):
        torch.backends.cudnn.allow_tf32 = False     # as script.set_up has it
        its = step.on_device(params, dtype, torch.device(device))
        learnt = {k: v for k, v in its.items() if v.requires_grad}
        inputs = x.to(device, step.parameter_dtype(dtype), memory_format=torch.channels_last)
        torch.manual_seed(1)
        mode = not name.startswith(('mobilenet', 'alexnet'))        # without dropout
        loss = F.cross_entropy(f(inputs, its, mode)[0], y.to(device))
        return [g.cpu().double() for g in torch.autograd.grad(loss, list(learnt.values()))]

    exact = gradients('double', 'cpu')
    for ours, its in zip(gradients('double', 'cuda'), exact, strict=True):
        assert (ours - its).norm() <= 1e-7 * its.norm() + 1e-10
    for ours, its in zip(gradients('float', 'cuda'), exact, strict=True):
        assert abs(ours.norm() - its.norm()) <= .05 * its.norm() + 1e-6


@pytest.mark.parametrize('name', ['plain', 'at'])
def test_bfloat16_follows_float(name):
    cifar.main([*CIFAR, '--save', 'logs/t', '--width', '2'])
    last = {}
    for dtype in ('float', 'bfloat16'):
        cifar.main([*CIFAR, *TRANSFER[name], '--dtype', dtype, '--save', f'logs/{dtype}'])
        last[dtype] = log(f'logs/{dtype}')[-1]['train_loss']
    assert last['bfloat16'] == pytest.approx(last['float'], rel=.03)


@pytest.mark.parametrize('name', ['plain', 'at_kd'])
def test_nothing_waits_for_the_device_within_an_epoch(name, monkeypatch):
    """Once graphs are made, in the first epoch."""
    real, epochs = loop.together, []

    def together(trainings, which):
        epochs.append(which)
        watched = which == 'train' and epochs.count('train') > 1
        for sample in real(trainings, which):
            torch.cuda.set_sync_debug_mode('error' if watched else 'default')
            yield sample
            torch.cuda.set_sync_debug_mode('default')

    cifar.main([*CIFAR, '--save', 'logs/t', '--width', '2', '--epochs', '1'])
    monkeypatch.setattr(loop, 'together', together)
    cifar.main([*CIFAR, *TRANSFER[name], '--save', 'logs/a'])
    assert epochs.count('train') == 3


def test_a_compiled_objective_is_captured():
    cifar.main([*CIFAR, '--save', 'logs/t', '--width', '2', '--epochs', '1'])
    found = {}
    for way in ([], ['--compile']):
        save = f'logs/{len(way)}'
        cifar.main([*CIFAR, *TRANSFER['at_kd'], '--dtype', 'float', '--save', save, *way])
        found[len(way)] = log(save)[-1]['train_loss']
    assert found[1] == pytest.approx(found[0], rel=.02)


def test_the_memory_of_graphs_does_not_grow_with_the_epochs():
    cifar.main([*CIFAR, '--save', 'logs/a', '--epochs', '2'])
    torch.cuda.reset_peak_memory_stats()
    cifar.main([*CIFAR, '--save', 'logs/b', '--epochs', '2'])
    short = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    cifar.main([*CIFAR, '--save', 'logs/c', '--epochs', '8'])
    assert torch.cuda.max_memory_allocated() < 1.2 * short
