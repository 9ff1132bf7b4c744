"""Several processes: that they compute what one does, print once, count once, and come back."""
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import QUICK, ROOT, SMALL_IMAGENET

import cifar
import imagenet
import utils
from data import arrays
from engine import loop, runs, script, step
from methods import teaching
from system import processes
from weights import folding, store

STEPS, BATCH = 5, 12
# five steps of AT, of a student whose BN is trained or folded away, in double precision
FIVE_STEPS = f'''
import sys, torch
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]
from engine import script
from test_parallel import five_steps
if __name__ == '__main__':
    script.run(lambda: five_steps(sys.argv[1], sys.argv[2]))
'''


def options(save):
    return imagenet.parse(['--imagenetpath', 'x', '--dtype', 'double', '--batch_size', str(BATCH),
                           '--beta', '100', '--alpha', '.5', '--teacher_params', 'x', '--epochs',
                           '1', '--epoch_step', '[]', '--save', save, '--lr', '.01'])


def nets(bn):
    """Student and teacher -> their functions, and one dict in double precision."""
    torch.manual_seed(0)
    f_s, student = imagenet.define_student(18, .125, 10)
    f_t, teacher = imagenet.define_student(18, .25, 10)
    student = {k: v if bn == 'trained' else v.detach() for k, v in student.items()}
    if bn == 'folded':
        student = {k: v.requires_grad_() for k, v in folding.fold(student).items()}
    params = {**utils.with_prefix(student, 'student.'),
              **{f'teacher.{k}': v.detach() for k, v in teacher.items()}}
    return f_s, f_t, params


def images():
    rng = torch.Generator().manual_seed(1)
    n = STEPS * BATCH
    return (torch.randint(256, (n, 40, 40, 3), generator=rng).byte(),
            torch.randint(10, (n,), generator=rng))


def sets():
    x, y = images()
    stats = (128.,) * 3, (64.,) * 3
    return [arrays.held_images(x, y, BATCH, *stats, torch.float64, train=train)
            for train in (True, False)]


def five_steps(bn, save):
    opt = options(save)
    opt.command = ''
    device = script.set_up(opt)
    loop.fit([loop.Training(opt, state_of(opt, bn, device), *sets(), 10,
                            torch.Generator().manual_seed(5), weight=lambda epoch: opt.beta)],
             device)
    processes.disconnect()


def state_of(opt, bn, device):
    f_s, f_t, params = nets(bn)
    return step.new_state(teaching.student_objective(opt, f_s, f_t),
                          step.on_device(params, opt.dtype, device), opt.dtype, opt.weight_decay)


def run_five_steps(bn, save, n):
    pathlib.Path('five.py').write_text(FIVE_STEPS)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone',
               f'--nproc_per_node={n}'] if n > 1 else [sys.executable]
    subprocess.run([*command, 'five.py', bn, save], check=True, timeout=300,
                   env={**os.environ, 'OMP_NUM_THREADS': '1'})
    return torch.load(f'{save}/model.pt7', weights_only=True)['params'], runs.read_log(
        f'{save}/log.txt')[-1]


def test_two_processes_equal_one_with_fixed_bn():
    one, a = run_five_steps('folded', 'one', 1)
    two, b = run_five_steps('folded', 'two', 2)
    start = utils.without_prefix(nets('folded')[2], 'student.')
    for k, v in one.items():
        torch.testing.assert_close(two[k], v, rtol=0, atol=1e-5)
    assert max((one[k] - v).abs().max() for k, v in start.items()) > 1e-3
    for k in ('train_loss', 'train_acc', 'test_loss', 'test_acc', 'at_losses'):
        assert b[k] == pytest.approx(a[k], rel=1e-6), k
    assert runs.read_log('two/log.txt')[0]['processes'] == 2


def test_two_processes_with_bn_equal_averaged_gradients_of_two_shards():
    """Each shard normalised by itself; the running statistics are the first shard's."""
    two, _ = run_five_steps('trained', 'two', 2)
    opt = options('one')
    script.set_up(opt)
    state = state_of(opt, 'trained', torch.device('cpu'))
    state.rate.fill_(opt.lr)
    state.weight.fill_(opt.beta)
    params, (train, _) = state.params, sets()
    for inputs, targets in train.batches(torch.Generator().manual_seed(5)):
        total = dict.fromkeys(state.momenta, 0)
        for shard in (1, 0):        # the first one last: its statistics stay
            statistics = {k: v.clone() for k, v in params.items() if utils.is_statistic(k)}
            loss, _, _ = state.objective(params, inputs[shard::2], targets[shard::2], True,
                                         state.weight)
            found = torch.autograd.grad(loss, [params[k] for k in total])
            total = {k: v + g / 2 for (k, v), g in zip(total.items(), found, strict=True)}
            if shard:
                params.update(statistics)
        step.update(state, total)
    for k, v in runs.student_of(params).items():
        torch.testing.assert_close(two[k], v.detach(), rtol=0, atol=1e-5)


@pytest.fixture
def torchrun(shapes_folder):
    """Run imagenet.py in two processes under torchrun, after the code `before` -> the finished
    process."""
    def call(*flags, before='', options=()):
        pathlib.Path('worker.py').write_text(
            f'import sys; sys.path.insert(0, {str(ROOT)!r})\n'
            f'import imagenet, os, signal\nfrom engine import loop, runs, script\n{before}\n'
            f'script.run(imagenet.main)')
        return subprocess.run(
            [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
             *options, 'worker.py', *SMALL_IMAGENET, '--imagenetpath', str(shapes_folder),
             *map(str, flags)], capture_output=True, text=True, timeout=300,
            env={**os.environ, 'OMP_NUM_THREADS': '1'})
    return call


def test_evaluation_counts_every_image_once(torchrun, imagenet_run, shapes_folder, capsys):
    """21 images over two processes, and as many as in one; rank 0 alone prints."""
    store.write_params(imagenet.define_student(18, .125, 10)[1], 'a.pth')
    flags = ['--evaluate', 'a.pth', '--dtype', 'float', '--batch_size', 4]
    done = torchrun(*flags)
    assert done.returncode == 0 and done.stdout.count('top-1') == 1, done.stderr
    capsys.readouterr()
    imagenet.main([*SMALL_IMAGENET, '--imagenetpath', str(shapes_folder), *map(str, flags)])
    one = capsys.readouterr().out
    assert done.stdout.split(';')[0] == one.split(';')[0] and 'of 21 images' in one


# each process says at its end which of the group's threads are left; /proc is slow to forget
LEFT = '''
import atexit, glob, subprocess, time
def say():
    for _ in range(50):
        names = subprocess.run(['cat', *glob.glob(f'/proc/{os.getpid()}/task/*/comm')],
                               capture_output=True, text=True).stdout.split()
        left = [s for s in names if 'gloo' in s]
        if not left:
            break
        time.sleep(.1)
    sys.stderr.write(f'left: {left}\\n')
atexit.register(say)
'''


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('flags, status', [([], 0), (['--lr', '1e9'], 1)])
def test_no_thread_of_the_group_outlives_it(torchrun, flags, status):
    """One that tidied up while the interpreter ends would abort the process."""
    done = torchrun('--save', 'logs/a', *flags, before=LEFT)
    assert done.returncode == status and ('not finite' in done.stderr) == bool(status), done.stderr
    said = [s for s in done.stderr.splitlines() if s.startswith('left: ')]
    assert said and set(said) == {'left: []'}, said


# the second process kills itself in the second epoch, once
KILL = '''
import torch.distributed as dist
real = loop.averages
def averages(sums, where):
    if where == 'epoch 2' and dist.get_rank() == 1 and not os.path.exists('killed'):
        open('killed', 'w').close()
        os.kill(os.getpid(), signal.SIGKILL)
    return real(sums, where)
loop.averages = averages
'''


@pytest.mark.slow
def test_killed_worker_is_replaced_and_the_run_goes_on(torchrun):
    flags = ['--epochs', 3, '--epoch_step', '[2]', '--dtype', 'float', '--save_every', 0]
    done = torchrun(*flags, '--save', 'logs/killed', before=KILL, options=['--max-restarts=1'])
    assert done.returncode == 0 and os.path.exists('killed'), done.stderr
    whole = torchrun(*flags, '--save', 'logs/whole')
    assert whole.returncode == 0, whole.stderr
    a, b = (runs.read_log(f'logs/{name}/log.txt')[1:] for name in ('killed', 'whole'))
    assert [z['epoch'] for z in a] == [1, 2, 3] and 'continued' in a[1] and 'continued' not in a[0]
    for x, y in zip(a, b, strict=True):
        assert x['train_loss'] == pytest.approx(y['train_loss'], rel=1e-4)


def test_ngpu_starts_processes(shapes_folder, capfd):
    """Through the same script and its command line; a second time there is nothing to do."""
    flags = [*SMALL_IMAGENET, '--imagenetpath', str(shapes_folder), '--ngpu', '2', '--save',
             'logs/a']
    before = dict(os.environ)
    for _ in range(2):
        imagenet.main(flags)
    assert os.environ == before
    out, err = capfd.readouterr()
    assert out.count('no GPU: 2 processes on the CPU') == 2 or torch.cuda.is_available()
    assert out.count('epoch 1/1') == 1 and out.count('is finished') == 2
    first, last = runs.read_log('logs/a/log.txt')
    assert first['processes'] == 2 and first['command'].startswith('imagenet.py --size')
    assert 'Traceback' not in err and 'Error' not in err


def test_ngpu_of_cifar(capfd):
    """The demo's data set, all of it, since the processes draw it themselves; F-ActT, whose
    regressors have gradients too."""
    store.write_params(cifar.resnet(10, 2, 10)[1], 'teacher.pth')
    cifar.main([*QUICK, '--batch_size', '500', '--ngpu', '2', '--save', 'logs/a', '--teacher_id',
                'teacher.pth', '--method', 'f_actt', '--beta', '1', '--at_groups', '[2]'])
    z = runs.read_log('logs/a/log.txt')[-1]
    assert z['epoch'] == 1 and z['ngpu'] == 2 and pathlib.Path('logs/a/model.pt7').exists()


def test_logged_test_error_is_the_saved_nets(torchrun, capsys, shapes_folder):
    """Whose running statistics are the first process's."""
    done = torchrun('--save', 'logs/a', '--dtype', 'float', '--lr', '.05')
    assert done.returncode == 0, done.stderr
    z = runs.read_log('logs/a/log.txt')[-1]
    imagenet.main(['--imagenetpath', str(shapes_folder), '--nthread', '0', '--dtype', 'float',
                   '--evaluate', 'logs/a', '--save', 'logs/e'])
    again = runs.read_log('logs/e/log.txt')[-1]
    assert [again[k] for k in ('test_acc', 'test_acc5')] == pytest.approx(
        [z[k] for k in ('test_acc', 'test_acc5')])


def test_a_fault_of_one_process_is_said_in_a_line(torchrun, shapes_folder, tmp_path):
    shutil.copytree(shapes_folder, 'root')
    pathlib.Path('root/train/star/00005.jpg').write_bytes(b'no image')
    done = torchrun('--save', 'logs/a', '--imagenetpath', 'root')
    said = [s for s in done.stderr.splitlines() if 'error:' in s or 'RuntimeError' in s]
    assert done.returncode and [s for s in said if 'star/00005.jpg' in s] == said[:1], done.stderr
    assert 'Connection' not in done.stderr


def test_bad_input_is_said_once(capfd):
    with pytest.raises(SystemExit) as e:
        script.run(lambda: imagenet.main([*SMALL_IMAGENET, '--ngpu', '2', '--save', 'logs/a',
                                          '--imagenetpath', 'nowhere']))
    said = capfd.readouterr().err
    assert e.value.code == 2 and said.count('there is no folder nowhere/train') == 1
    assert 'Traceback' not in said and len(said.strip().splitlines()) == 1


def test_launched_needs_all_that_torchrun_sets(monkeypatch):
    """RANK alone may be another program's."""
    monkeypatch.setenv('RANK', '1')
    assert not processes.launched() and processes.is_first()


def test_few_items_are_repeated_until_all_have_some(monkeypatch):
    monkeypatch.setattr(processes, 'world', lambda: 4)
    monkeypatch.setattr(processes.dist, 'get_rank', lambda: 3)
    assert processes.shard(torch.arange(1), even=True).tolist() == [0]


def test_shards(monkeypatch):
    """Together every item once; with `even`, as many for each, the first ones again."""
    items = torch.arange(7)
    monkeypatch.setattr(processes, 'world', lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(processes.dist, 'get_rank', lambda rank=rank: rank)
        parts.append((processes.shard(items).tolist(), processes.shard(items, even=True).tolist()))
    assert sorted(sum((a for a, _ in parts), [])) == list(range(7))
    assert [len(b) for _, b in parts] == [3, 3, 3]
    assert sorted(sum((b for _, b in parts), [])) == [0, 0, 1, 1, 2, 3, 4, 5, 6]


def test_batches_of_the_processes_make_up_the_batches_of_one(monkeypatch):
    x, y = images()

    def batches(shuffle):
        made = arrays.held_images(x, torch.arange(len(y)), 12, (0.,) * 3, (1.,) * 3, train=shuffle)
        return [sorted(targets.tolist())
                for _, targets in made.batches(torch.Generator().manual_seed(3))]

    whole = {shuffle: batches(shuffle) for shuffle in (True, False)}
    monkeypatch.setattr(processes, 'world', lambda: 2)
    parts = {True: [], False: []}
    for rank in range(2):
        monkeypatch.setattr(processes.dist, 'get_rank', lambda rank=rank: rank)
        for shuffle, found in parts.items():
            found.append(batches(shuffle))
    for shuffle in (True, False):
        assert [sorted(a + b) for a, b in zip(*parts[shuffle], strict=True)] == whole[shuffle]
    assert np.mean([a == b for a, b in zip(whole[True], whole[False], strict=True)]) == 0
