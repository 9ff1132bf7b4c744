"""What several test files use: small nets and data, runs in process and in one of their own."""
import json
import pathlib
import subprocess
import sys

import torch

import cifar
import finetune
import imagenet
import nets
import papers.rows
import tables
import utils
from engine import runs
from methods import fine_tuned_net
from weights import store
from weights.architecture import architecture_of

FLAGS = ['--dataset', 'shapes', '--size', '40', '--batch_size', '16', '--iterations', '4',
         '--steps_per_epoch', '2', '--nthread', '0', '--fraction', '0.4', '--lr', '0.01']


NETS = {
    'resnet18': lambda n: imagenet.define_student(18, .125, n),
    'resnet50': lambda n: imagenet.define_student(50, .0625, n),
    'mobilenet_v2': lambda n: imagenet.mobilenet_v2(.25, n),
    'wrn-10-1': lambda n: cifar.resnet(10, 1, n),
}


def write_net(name='source.pth', arch='resnet18', classes=13):
    """A net of random parameters in a file."""
    torch.manual_seed(1)
    params = NETS[arch](classes)[1]
    store.write_params({k: v + .1 * torch.rand(v.shape) if utils.is_statistic(k) else v
                        for k, v in params.items()}, name)
    return name


def call(save, *flags, source='source.pth'):
    """finetune.main in process on few images of shapes -> the lines of the log."""
    given = ['--source', source] if source else []
    finetune.main([*FLAGS, *given, '--save', save, *map(str, flags)])
    return runs.read_log(pathlib.Path(save, 'log.txt'))


def student(save):
    return torch.load(pathlib.Path(save, 'model.pt7'), weights_only=True)['params']


METHODS = {
    'l2': [], 'l2_sp': [], 'feature_map': [], 'delta': ['--channel_weights', 'compute'],
    'at': ['--teacher', 'teacher.pth'], 'kd': ['--teacher', 'teacher.pth'],
    'ddc': ['--shift', .5], 'dan': ['--shift', .5], 'afd': [], 'ast': [], 'act': [],
    'ast_act': [],
}


def objective_of(method, *flags, arch='resnet18', shift=()):
    """An objective in double precision, its parameters, and a batch."""
    write_net('a.pth', arch)
    given = {'at': ['--teacher', 'x'], 'kd': ['--teacher', 'x'], 'ddc': ['--shift', '.5'],
             'dan': ['--shift', '.5'], 'delta': ['--channel_weights', 'x']}.get(method, [])
    opt = finetune.parse([*FLAGS, '--source', 'a.pth', '--method', method, *given, *flags])
    f, _, start, _ = nets.load_net('a.pth')
    start = {k: v.double() for k, v in start.items()}
    head = architecture_of(start).head
    start = fine_tuned_net.with_new_head(start, head, 5, fine_tuned_net.bottleneck_of(opt, start))
    start = {k: v.double() for k, v in start.items()}
    rng = torch.Generator().manual_seed(0)
    moved = {k: v + .01 * torch.randn(v.shape, generator=rng) if not utils.is_statistic(k) else v
             for k, v in start.items()}
    params = {**utils.with_prefix(moved, 'student.'), **utils.with_prefix(start, 'teacher.')}
    layers = fine_tuned_net.tapped(opt, start)
    x = torch.randn(6, 3, 40, 40, generator=rng, dtype=torch.double)
    y = torch.arange(3 if shift else 6) % 5
    return opt, f, params, layers, x, y


def same_run(a, b):
    """Whether two runs' checkpoints hold the same bits and their logs the same numbers."""
    x, y = (torch.load(f'{p}/model.pt7', weights_only=True) for p in (a, b))
    timed = {'train_time', 'test_time', 'save', 'continued', 'epochs', 'resume', 'command',
             'given', 'save_every', 'no_graph'}
    logs = [[{k: v for k, v in z.items() if k not in timed} for z in
             runs.read_log(f'{p}/log.txt')[1:]] for p in (a, b)]
    return (logs[0] == logs[1] and torch.equal(x['random']['cpu'], y['random']['cpu'])
            and all(torch.equal(v, y['params'][k]) for k, v in x['params'].items())
            and all(torch.equal(v, y['momenta'][k]) for k, v in x['momenta'].items()))


def at_export(width=8):
    """Entries as of functional-zoo's resnet-18-at-export, of fewer channels."""
    params, ni = {'conv0': utils.conv_params(3, width, 7)}, width

    def affine(name, n):
        params.update({f'{name}.a': torch.rand(n) + .5, f'{name}.b': torch.randn(n)})

    affine('affine0', width)
    for j in range(4):
        for i in range(2):
            base, no = f'group{j}.block{i}', width * 2 ** j
            if (i, j) != (0, 0):
                affine(base + '.affine0', ni)
            affine(base + '.affine1', no)
            params[base + '.conv0'] = utils.conv_params(ni, no, 3)
            params[base + '.conv1'] = utils.conv_params(no, no, 3)
            if i == 0 and j > 0:
                params[base + '.conv_dim'] = utils.conv_params(ni, no)
            ni = no
    affine('affine_last', ni)
    return params | utils.flatten({'fc': utils.linear_params(ni, 7)})


ROOT = pathlib.Path(__file__).parent.parent


SMALL = {'train': 256, 'test': 64}


# a run of seconds; what a test passes after it wins
QUICK = ['--dataset', 'shapes', '--depth', '10', '--batch_size', '64', '--epochs', '1',
         '--lr', '0.05']


SMALL_IMAGENET = ['--size', '40', '--width', '0.125', '--batch_size', '20', '--epochs', '1', '--lr',
                  '0.01', '--nthread', '0']


def process(*flags, before=''):
    """Start cifar.py on few images of shapes in a process of its own; `before` is code to run
    first."""
    code = (f'import sys; sys.path.insert(0, {str(ROOT)!r})\n'
            f'import cifar, torch\nfrom data import shapes\n'
            f'from engine import loop, runs, script\n'
            f'torch.set_num_threads(1)\nshapes.SHAPES_COUNTS = {SMALL}\n{before}\n'
            f'script.run(lambda: cifar.main({[*QUICK, *map(str, flags)]!r}))')
    return subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


# ---- tables and their runs ----------------------------------------------------------------------

ROW_OPTIONS = '--dataset shapes --depth 10 --epochs 1 --batch_size 64'


def small_table(rows, common=ROW_OPTIONS, **more):
    """A table of quick runs."""
    return papers.rows.table('A table', rows, **{'epochs': 1, 'common': common} | more)


def write_run(folder, errors, epochs=None, seconds=2., torch='2', options=None, **more):
    """Write a log with the given test errors, one per epoch; `more` stands in each of its lines."""
    options = dict(epochs=epochs or len(errors), epoch_step=[3], dtype='float') | (options or {})
    lines = [options | dict(device='a processor', threads=2, torch=torch)]
    lines += [options | dict(epoch=k + 1, test_acc=100 - e, train_acc=50., train_time=seconds,
                             test_time=1., threads=2, **more) for k, e in enumerate(errors)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'log.txt').write_text(''.join(f'json_stats: {json.dumps(z)}\n' for z in lines))


def finish(words):
    """Write the log that a command would leave -> the exit status."""
    write_run(pathlib.Path(words[2]), [1.], options=vars(tables.options_of(words)))
    return 0


def run_of(folder, *options):
    """A command line, as a list of words."""
    return ['cifar.py', '--save', folder, *options]


def saves(commands):
    """The folders of command lines."""
    return [words[2] for words in commands]
