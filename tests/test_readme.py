"""Every command of README.md and docs/ runs, shortened, on shapes; their links lead somewhere."""
import copy
import itertools
import pathlib
import re
import shlex

import cv2
import numpy as np
import pytest
from helpers import ROOT, SMALL_IMAGENET
from torch.distributed import run

import bench
import cifar
import finetune
import imagenet
import tables
import visualize
from data import cifar_sets
from engine import plots, runs
from methods import losses
from papers import catalogue
from utils import InputError
from weights import folding, store

README = ROOT / 'README.md'
DOCS = [ROOT / 'docs' / f'{name}.md' for name in (
    'experiments', 'fine-tuning', 'weights', 'runs', 'data', 'speed', 'extending', 'deviations',
    'glossary')]
FILES = [README, *DOCS]     # in this order, in which a teacher comes before its students
QUICK = ['--dataset', 'shapes', '--epochs', '1', '--batch_size', '64']


def text_of_files():
    """All text, commands over several lines joined."""
    return re.sub(r'\\\n\s*', '', '\n'.join(path.read_text() for path in FILES))


def readme_commands(script):
    """The options of each command line of a script in the indented and fenced blocks, once each."""
    pattern = rf'\s*python {re.escape(script)}(?: (.*))?'
    matches = (re.fullmatch(pattern, line) for line in text_of_files().splitlines())
    found = dict.fromkeys(m[1] or '' for m in matches if m)
    return [shlex.split(options, comments=True) for options in found]


def test_what_extending_says(monkeypatch, tmp_path):
    """Its blocks together are a script, whose loss, net, data set and row of a table are there."""
    blocks = re.findall(r'(?s)```python\n(.*?)```', (ROOT / 'docs/extending.md').read_text())
    for module, name in ((losses, 'METHODS'), (cifar, 'NETS'), (cifar_sets, 'SETS'),
                         (catalogue, 'TABLES')):
        monkeypatch.setattr(module, name, copy.deepcopy(getattr(module, name)))
    mine = {'__name__': 'mine'}
    exec('\n'.join(blocks), mine)
    quick = ['--dataset', 'gray_shapes', '--batch_size', '64', '--epochs', '1']
    mine['cifar'].main([*quick, '--depth', '10', '--save', 'logs/t'])
    mine['cifar'].main([*quick, '--model', 'tiny', '--teacher_id', 't', '--method', 'cosine',
                        '--beta', '1', '--save', 'logs/a'])
    last = runs.read_log('logs/a/log.txt')[-1]
    assert 0 < last['at_losses'][0] < 2 and last['model'] == 'tiny'
    words = shlex.join(next(w for w in tables.commands('demo', 'logs') if '--method' in w))
    assert '--method cosine' in words and 'demo/teacher' in words


def test_files_are_all_there_and_the_readme_is_short():
    assert sorted(DOCS) == sorted((ROOT / 'docs').iterdir())
    assert len(README.read_text().splitlines()) <= 150


def anchor(heading):
    """What GitHub makes of a heading."""
    return re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


def anchors(path):
    text = re.sub(r'(?ms)^```.*?^```', '', path.read_text())
    return {anchor(heading) for heading in re.findall(r'(?m)^#+ (.+)$', text)}


@pytest.mark.parametrize('path', [*FILES, *sorted((ROOT / 'results').glob('*/README.md'))],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    links = re.findall(r'\]\((?!https?:)([^)\s]*)\)', path.read_text())
    for file, _, part in (link.partition('#') for link in links):
        target = path.parent / file if file else path
        assert target.exists(), file
        assert not part or part in anchors(target), f'{file}#{part}'
    assert links or path.stem in ('data', 'deviations')     # the only pages without any


def test_published_command_lines_are_there():
    commands = [' '.join(c) for c in readme_commands('cifar.py')]
    for line in ('--save logs/resnet_40_1_teacher --depth 40 --width 1',
                 '--save logs/resnet_16_2_teacher --depth 16 --width 2',
                 '--save logs/resnet_40_2_teacher --depth 40 --width 2',
                 '--save logs/at_16_1_16_2 --teacher_id resnet_16_2_teacher --beta 1e+3',
                 '--save logs/kd_16_1_16_2 --teacher_id resnet_16_2_teacher --alpha 0.9'):
        assert line in commands


def test_cifar_commands(capsys):
    """In the order of the files: a teacher comes before its students."""
    saved = set()
    for options in readme_commands('cifar.py'):
        if '--help' in options:
            continue
        quick = [*QUICK, *(['--validate', '32'] if '--validate' in options else [])]
        words = [word for w in options for word in ((*quick, '+') if w == '+' else (w,))]
        cifar.main([*words, *quick])
        for flag, save in itertools.pairwise(options):
            if flag == '--save':
                assert runs.read_log(f'{save}/log.txt')[-1]['epoch'] == 1
                saved.add(save)
    assert len(saved) >= 5


def test_visualize_commands(monkeypatch):
    cv2.imwrite('image.jpg', np.zeros((40, 50, 3), np.uint8))
    monkeypatch.setattr(visualize, 'demo_net', lambda: 'logs/resnet_16_2_teacher')
    models = {m for c in readme_commands('visualize.py') for m in c if m.startswith('logs/')}
    for model in models:
        cifar.main([*QUICK, '--depth', '10', '--save', model])
    store.write_params(imagenet.define_student(18, .125, 10)[1], 'small.pth')
    pathlib.Path('small.pth').rename('resnet34')
    for options in readme_commands('visualize.py'):
        visualize.main(options)
        save = options[options.index('--save') + 1] if options else 'attention.png'
        assert pathlib.Path(save).exists()


@pytest.mark.parametrize('options', readme_commands('tables.py'), ids=' '.join)
def test_tables_commands(options, monkeypatch, capsys, tmp_path):
    """`run` is handed on, `report` writes into a copy, of no runs."""
    ran, copy = [], tmp_path / 'README.md'
    copy.write_text(README.read_text())
    (tmp_path / 'results').mkdir()
    monkeypatch.setattr(tables, 'HOME', tmp_path)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(tables, 'run_tables', lambda *a: ran.append(a))
    monkeypatch.setattr(plots, 'plot_curves', lambda *a: None)
    tables.main(options)
    if options[0] == 'report':
        assert '<!-- end of status -->' in copy.read_text() != README.read_text()
    elif options[0] == 'run':
        assert {re.sub(r'-[0-9]+epochs$', '', name) for name in ran[0][0]} <= set(options)
    else:
        assert capsys.readouterr().out


def test_published_imagenet_command_line_is_there():
    assert ('--imagenetpath ~/ILSVRC2012 --depth 18 --width 1 --teacher_params '
            'resnet-34-export.hkl --gpu_id 0,1 --ngpu 2 --beta 1e+3') in [
                ' '.join(c) for c in readme_commands('imagenet.py')]


@pytest.mark.parametrize('options', readme_commands('imagenet.py'), ids=' '.join)
def test_imagenet_commands(options, shapes_folder, capfd):
    """On small nets, with files of weights of that name."""
    params = folding.fold(imagenet.define_student(34, .125, 10)[1])
    for flag, name in zip(options, options[1:], strict=False):
        if flag in ('--teacher_params', '--evaluate'):
            store.write_params(params, file := f'new{pathlib.Path(name).suffix or ".pth"}')
            pathlib.Path(name).parent.mkdir(exist_ok=True)
            pathlib.Path(file).rename(name)
    extra = ['--imagenetpath', str(shapes_folder)]
    extra += ['--cache', 'cache'] if '--cache' in options else []
    imagenet.main([*options, *SMALL_IMAGENET, *extra])
    said = capfd.readouterr().out
    if '--export' in options:
        assert pathlib.Path(options[options.index('--export') + 1]).exists()
    expected = ('top-1' if '--evaluate' in options else
                '21 test images' if '--check_data' in options else 'is finished: 1 epoch,')
    assert expected in said


def on_shapes(options):
    """The options of a command of finetune.py with shapes in place of its data set."""
    dropped = ('--dataset', '--dataroot', '--domain', '--target', '--epochs', '--iterations',
               '--per_class', '--validate', '--lr', '--macs_target')
    kept, skip = [], False
    for word in options:
        skip = word in dropped or skip and not word.startswith('--')
        kept += [] if skip or word in ('--download', '--check_data', '--box') else [word]
    more = ['--shift', '.5'] if '--target' in options else []
    more += ['--macs_target', '.85', '--phases', '1'] if '--prune' in options else []
    return [*kept, '--dataset', 'shapes', *more, '--size', '40', '--batch_size', '16',
            '--iterations', '2', '--steps_per_epoch', '2', '--nthread', '0', '--lr', '1e-3']


@pytest.mark.parametrize('options', readme_commands('finetune.py'), ids=' '.join)
def test_finetune_commands(options, capfd):
    for flag, name in zip(options, options[1:], strict=False):
        if flag in ('--source', '--teacher', '--evaluate'):
            params = imagenet.define_student(18, .125, 10)[1]
            pathlib.Path(name).parent.mkdir(exist_ok=True)
            store.write_params(params, 'new.pth')
            pathlib.Path('new.pth').rename(name)
    if '--predict' in options:      # tests/test_predict.py
        finetune.parse(options)
        return
    if '--check_data' in options:
        with pytest.raises(InputError, match='train_list.mat|pictures'):
            finetune.main([o for o in options if o != '--download'])
        return
    finetune.main(on_shapes(options))
    said = capfd.readouterr().out
    expected = ('top-1' if '--evaluate' in options else
                '21 test images' if '--check_data' in options else 'is finished: 1 epoch,')
    assert expected in said


def test_commands_that_are_not_run_are_understood():
    """Those of bench.py, those in sentences and tables, and that of torchrun."""
    for options in readme_commands('bench.py'):
        bench.parse(options)
    found = re.findall(r'`python (finetune|tables)\.py([^`]*)`', text_of_files())
    for script, options in found:
        opt = {'finetune': finetune, 'tables': tables}[script].parse(shlex.split(options))
        if script == 'tables':
            assert set(opt.table) <= set(catalogue.TABLES)
        else:   # the counterpart of another repository's command
            assert opt.dataset != 'folder' and (opt.source or opt.evaluate)
    assert len(found) > 20
    line, = re.findall(r'torchrun (--.*)', text_of_files())
    words = run.get_args_parser().parse_args(shlex.split(line))
    assert words.training_script == 'imagenet.py' and words.max_restarts
    imagenet.parse(words.training_script_args)
