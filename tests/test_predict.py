"""A net of one's own images: how long it is trained by default, and what it says of new images."""
import csv
import io

import pytest
import torch
from helpers import write_net

import finetune
import utils
from data import shapes
from engine import runs
from methods import fine_tuning
from weights import store

FLAGS = ['--dataroot', 'images', '--nthread', '0']


@pytest.fixture
def trained(monkeypatch):
    """A run on class folders of four classes, none of them said on the command line."""
    monkeypatch.setattr(shapes, 'SHAPES', dict(list(shapes.SHAPES.items())[:4]))
    shapes.write_shapes('images', {'train': 8, 'val': 8}, 40)
    write_net()
    finetune.main([*FLAGS, '--source', 'source.pth', '--size', '32', '--freeze', 'body', '--epochs',
                   '1', '--resize', 'keep', '--save', 'logs/a', '--export', 'a.pth'])


def test_likeliest_classes_are_named(trained, capsys):
    names = sorted(shapes.SHAPES)
    assert runs.read_log('logs/a/log.txt')[0]['class_names'] == names
    assert store.options('logs/a/model.pt7')['class_names'] == names
    capsys.readouterr()
    finetune.main([*FLAGS, '--evaluate', 'logs/a', '--predict', 'images/val'])
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(table) == 8 and all(sorted(z[f'class {k}'] for k in range(1, 5)) == names
                                   for z in table)
    parts = [[float(z[f'probability {k}']) for k in range(1, 5)] for z in table]
    assert all(p == sorted(p, reverse=True) and abs(sum(p) - 1) < 3e-4 for p in parts)
    right = sum(z['class 1'] == z['image'].split('/')[2] for z in table)
    finetune.main([*FLAGS, '--evaluate', 'logs/a', '--predict', table[3]['image']])
    assert capsys.readouterr().out.startswith(
        f'{table[3]["image"]}: {table[3]["class 1"]} {100 * parts[3][0]:.2f} %'[:-4])
    finetune.main([*FLAGS, '--evaluate', 'logs/a'])
    said = capsys.readouterr().out      # of the same pixels; of four classes there are no five
    assert f'top-1 error {100 - 100 * right / 8:.2f} % of 8 images' in said and 'top-5' not in said
    finetune.main([*FLAGS, '--evaluate', 'a.pth', '--predict', table[3]['image']])
    assert ': class ' in capsys.readouterr().out


def test_other_classes_of_a_data_set_are_said(trained, capsys):
    state = torch.load('logs/a/model.pt7', weights_only=True)
    state['options']['class_names'] = state['options']['class_names'][::-1]
    torch.save(state, 'logs/a/model.pt7')
    finetune.main([*FLAGS, '--evaluate', 'logs/a'])
    assert 'class 0 is circle in the data set, ' in capsys.readouterr().out


@pytest.mark.parametrize('flags, message', [
    (['--predict', 'x.png'], '--predict needs --evaluate'),
    (['--evaluate', 'source.pth', '--predict', 'x.png'], 'no image or folder x.png'),
    (['--evaluate', 'source.pth', '--predict', '.'], 'holds no images')])
def test_what_cannot_be_predicted_is_refused(flags, message):
    write_net()
    with pytest.raises(utils.InputError, match=message):
        finetune.main([*FLAGS, *flags])


def test_default_length_follows_the_size_of_the_set(capsys):
    def epochs(n, *flags):
        opt = finetune.parse(['--source', 'x', *flags])
        fine_tuning.set_epochs(opt, n)
        return opt.epochs

    assert [epochs(n) for n in (42, 5360, 12000)] == [120, 107, 48]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and said[0].startswith(
        '120 passes over 42 training images are made (9,000 steps would be 13,714)')
    assert epochs(42, '--iterations', '9000') == 13714      # what is given is made
    assert epochs(42, '--steps_per_epoch', '500') == 18 and not capsys.readouterr().out
