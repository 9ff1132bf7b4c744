"""The figure of attention maps, and how much of a map lies on an object."""
import pathlib
import types

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import cifar
import imagenet
import tables
import utils
import visualize
from data import arrays, shapes
from engine import runs
from weights import folding, store


def normalised(images):
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    return ((x - torch.tensor([125.3, 123., 113.9]).view(3, 1, 1))
            / torch.tensor([63., 62.1, 66.7]).view(3, 1, 1))


@pytest.fixture
def net_and_images():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    return *cifar.resnet(10, 1, 10), images


def test_maps_are_those_of_the_groups(net_and_images):
    f, params, images = net_and_images
    maps = visualize.attention_maps(f, params, images)
    assert [m.shape for m in maps] == [(2, 32, 32), (2, 16, 16), (2, 8, 8)]
    g = f(normalised(images), params, False)[1][1].detach()
    np.testing.assert_allclose(maps[1], g.square().mean(1), rtol=1e-4)
    largest = visualize.attention_maps(f, params, images, 'max')
    np.testing.assert_allclose(largest[1], g.abs().amax(1), rtol=1e-4)
    for mapping in utils.MAPPINGS:
        assert len(visualize.attention_maps(f, params, images, mapping)) == 3
    plain = visualize.attention_maps(f, params, images, stats=((0, 0, 0), (1, 1, 1)))
    g = f(torch.from_numpy(images).permute(0, 3, 1, 2).float(), params, False)[1][1].detach()
    np.testing.assert_allclose(plain[1], g.square().mean(1), rtol=1e-3)


def test_gradient_map_of_each_image_alone(net_and_images):
    """For a given class, and for the predicted one; whatever else is in the batch."""
    f, params, images = net_and_images
    x = normalised(images).requires_grad_()
    logits = f(x, params, False)[0]
    predicted = logits.argmax(1).numpy()
    other = (predicted + 1) % 10
    for labels, expected in ((None, predicted), (predicted, predicted), (other, other)):
        [maps] = visualize.attention_maps(f, params, images, 'gradient', labels)
        assert maps.shape == (2, 32, 32)
        for i in range(2):
            loss = F.cross_entropy(logits[i:i + 1], torch.tensor(expected[i:i + 1]))
            j = torch.autograd.grad(loss, x, retain_graph=True)[0][i]
            np.testing.assert_allclose(maps[i], j.square().sum(0).sqrt(), rtol=1e-3, atol=1e-6)
    assert all(v.grad is None for v in params.values())


@pytest.mark.parametrize('size', [4, 5, 12, 13, 20])
def test_attention_on_object_is_that_of_a_loop(size):
    """Also where a map's pixels cut those of the mask, or are smaller."""
    rng = np.random.default_rng(size)
    maps, masks = rng.random((3, size, 8)), rng.random((3, 12, 12)) > .6
    fine = 12 * size    # a grid that both divide
    for i, found in enumerate(visualize.attention_on_object(maps, masks)):
        on = 0
        for y in range(fine):
            for x in range(24):
                on += (maps[i, y * size // fine, x * 8 // 24] * masks[i, y * 12 // fine, x // 2]
                       * size * 8 / fine / 24)
        assert found == pytest.approx(on / maps[i].sum())


def test_attention_on_object_of_known_maps():
    masks = shapes.shapes(10)[2]
    area = masks.mean((1, 2))
    for h in (32, 8, 7):
        same = visualize.attention_on_object(np.ones((10, h, h), np.float32), masks)
        np.testing.assert_allclose(same, area, rtol=1e-6)
    np.testing.assert_allclose(visualize.attention_on_object(1. * masks, masks), 1)
    np.testing.assert_allclose(visualize.attention_on_object(1. - masks, masks), 0)


def test_each_image_is_drawn_once_above_its_maps():
    """With the outline of its shape, which the maps have, too; all in the colours of one scale."""
    images, _, masks = shapes.shapes(2)
    maps = {name: [np.full((2, n, n), n) for n in (16, 4)] for name in ('net', 'other')}
    figure = visualize.draw_maps(images, maps, masks, ['fine', 'coarse'])
    *panels, scale = figure.axes
    shown = [axis.images[0].get_array() for axis in panels]
    above = [axis for axis, q in zip(panels, shown, strict=True) if q.ndim == 3]
    np.testing.assert_array_equal([axis.images[0].get_array() for axis in above], images)
    below = [axis for axis in panels if axis not in above]
    assert [axis.images[0].get_array().shape for axis in below] == [(16, 16), (4, 4)] * 4
    assert {axis.images[0].get_clim() for axis in below} == {scale.get_ylim()} == {(0, 1)}
    assert all(axis.images[0].get_array().max() == 1 for axis in below)
    assert [axis.get_title() for axis in below] == ['fine', 'coarse', '', ''] * 2
    assert [axis.get_ylabel() for axis in below] == ['net', '', 'other', '', *[''] * 4]
    assert all(len(axis.collections) == 1 and axis.get_xlim() == (0, 16) for axis in panels)
    outline = above[0].collections[0].get_paths()[0].vertices.astype(int).clip(0, 15)
    edge = cv2.dilate(masks[0].astype(np.uint8), np.ones((3, 3))) - cv2.erode(
        masks[0].astype(np.uint8), np.ones((3, 3)), borderValue=0)
    assert edge[outline[:, 1], outline[:, 0]].all()


def test_a_map_of_zeros_can_be_drawn():
    images = np.zeros((1, 8, 8, 3), np.uint8)
    drawn = visualize.draw_maps(images, {'net': [np.zeros((1, 4, 4))]})
    for form in ('png', 'jpeg'):
        picture = cv2.imdecode(np.frombuffer(visualize.encode(drawn, form), np.uint8), 1)
        assert picture.shape == (176, 152, 3)


def test_command_line(tmp_path, capsys):
    for name in ('a.pth', 'b.hkl'):
        store.write_params(cifar.resnet(10, 1, 10)[1], name)
    image = np.zeros((50, 70, 3), np.uint8)
    image[10:20, 30:40] = (0, 0, 255)
    cv2.imwrite('red.png', image)
    visualize.main(['--model', 'a.pth', 'b.hkl', '--save', 'shapes.png'])
    for mapping in visualize.MAPS:
        visualize.main(['red.png', '--model', 'a.pth', '--map', mapping,
                        '--save', f'{mapping}.png'])
    for name in ('shapes.png', *(f'{m}.png' for m in visualize.MAPS)):
        assert cv2.imread(name).shape[2] == 3
    assert cv2.imread('gradient.png').shape[1] < cv2.imread('sum2.png').shape[1]
    visualize.main(['--model', 'a.pth', 'red.png', '--save', 'the_same.png'])
    assert pathlib.Path('the_same.png').read_bytes() == pathlib.Path('sum2.png').read_bytes()
    read = visualize.read_images(['red.png'], 32)
    assert read.shape == (1, 32, 32, 3) and read[0, 10, 16, 0] > 200 > read[0, 10, 16, 2]


@pytest.fixture
def processes(monkeypatch):
    """Call visualize.py's process here, on few images -> the commands, as they come."""
    commands = []

    def run(words):
        commands.append([pathlib.Path(words[1]).name, *words[2:]])
        cifar.main(words[2:])
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setitem(tables.TABLES['demo'], 'common',
                        '--depth 10 --dataset shapes --epochs 1')
    monkeypatch.setitem(tables.TABLES['demo']['rows']['teacher'], 'options', '--width 2')
    monkeypatch.setattr(visualize, 'subprocess', types.SimpleNamespace(run=run))
    return commands


def test_without_arguments(processes, capsys):
    """The demo's teacher is trained by the demo's command, once."""
    visualize.main([])
    said = capsys.readouterr().out
    assert 'logs/demo/teacher/seed0' in said and 'minute' in said
    assert processes == [next(tables.commands('demo', 'logs'))]
    log = runs.read_log('logs/demo/teacher/seed0/log.txt')
    assert (log[-1]['depth'], log[-1]['width'], log[-1]['epochs']) == (10, 2, 1)
    first = cv2.imread('attention.png')
    visualize.main([])
    assert 'minute' not in capsys.readouterr().out and len(processes) == 1
    np.testing.assert_array_equal(cv2.imread('attention.png'), first)


def test_without_arguments_goes_on_and_fails_with_the_training(processes, fails, monkeypatch):
    folder = pathlib.Path('logs/demo/teacher/seed0')
    visualize.main([])
    lines = runs.read_log(folder / 'log.txt')
    runs.write_log(folder / 'log.txt', lines[:1])       # cut off in its first epoch
    (folder / 'model.pt7').unlink()
    visualize.main([])
    assert len(processes) == 2 and len(runs.read_log(folder / 'log.txt')) == 2
    runs.write_log(folder / 'log.txt', lines[:1])
    monkeypatch.setattr(visualize.subprocess, 'run',
                        lambda words: types.SimpleNamespace(returncode=2))
    assert fails(visualize.main)[0] == 2


def test_error_of_a_run():
    store.write_params(cifar.resnet(10, 1, 10)[1], 'logs/at/net.pth')
    pathlib.Path('logs/at/net.pth').rename('logs/at/model.pt7')
    assert visualize.last_error('at') == ''
    runs.write_log(pathlib.Path('logs/at/log.txt'), [{'epochs': 2}])
    assert visualize.last_error('at') == ''
    runs.write_log(pathlib.Path('logs/at/log.txt'), [
        {}, *(dict.fromkeys(runs.EVERY_EPOCH, 1) | {'test_acc': right} for right in (10., 87.65))])
    assert visualize.last_error('at') == visualize.last_error('logs/at') == '12.3 %'
    store.write_params(cifar.resnet(10, 1, 10)[1], 'logs/at/net.pth')
    assert visualize.last_error('logs/at/net.pth') == ''


def test_labels():
    assert visualize.label_of('logs/demo/at_kd/seed0') == 'at_kd'
    assert visualize.label_of('logs/resnet_16_2_teacher') == 'resnet_16_2_teacher'
    assert visualize.label_of('net.pth') == 'net'


def test_bad_input(fails):
    store.write_params(cifar.resnet(10, 1, 10)[1], 'a.pth')
    with open('text.jpg', 'w') as f:
        f.write('no image')
    status, said = fails(visualize.main, 'text.jpg', '--model', 'a.pth')
    assert status == 2 and 'text.jpg' in said
    for flags in (['--model', 'none'], ['--model', 'a.pth', '--size', -1],
                  ['--model', 'a.pth', '--save', 'x.foo'], ['--map', 'sum3'],
                  ['--size', 'large']):
        status, said = fails(visualize.main, *flags)
        assert status == 2 and str(flags[-1]) in said


def test_two_models_of_one_name():
    for name in ('x/a.pth', 'y/a.pth'):
        store.write_params(cifar.resnet(10, 1, 10)[1], name)
    visualize.main(['--model', 'x/a.pth', '--save', 'new/one.png'])
    visualize.main(['--model', 'x/a.pth', 'y/a.pth', '--save', 'new/two.png'])
    one, two = (cv2.imread(f'new/{k}.png').shape[0] for k in ('one', 'two'))
    assert two > 1.3 * one


@pytest.mark.parametrize('mapping', ['sum2', 'gradient'])
def test_nets_of_imagenet(mapping, capsys):
    """Their own size, pixels and number of groups; folded exports and others side by side."""
    f, params = imagenet.define_student(18, .125, 10)
    store.write_params(params, 'whole.pth')
    store.write_params(folding.fold(params), 'folded.hkl')
    cv2.imwrite('image.jpg', np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8))
    visualize.main(['image.jpg', '--model', 'whole.pth', 'folded.hkl', '--map', mapping,
                    '--pixels', 'tensorflow'])
    assert cv2.imread('attention.png') is not None
    images = visualize.read_images(['image.jpg'], 224)
    stats = arrays.PIXELS['tensorflow']
    maps = visualize.attention_maps(f, params, images, mapping, stats=stats)
    sizes = [56, 28, 14, 7] if mapping == 'sum2' else [224]
    assert [q.shape for q in maps] == [(1, n, n) for n in sizes]


def test_nets_of_cifar_and_imagenet_are_not_mixed(fails):
    store.write_params(imagenet.define_student(18, .125, 10)[1], 'large.pth')
    store.write_params(cifar.resnet(10, 1, 10)[1], 'small.pth')
    status, said = fails(visualize.main, '--model', 'large.pth', 'small.pth')
    assert status == 2 and 'in separate figures' in said
