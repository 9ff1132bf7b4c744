"""The figure of attention maps."""
import cv2
import numpy as np
import torch

import cifar
import utils
import visualize
import weights


def test_maps_are_those_of_the_groups():
    f, params = cifar.resnet(10, 1, 10)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    maps = visualize.attention_maps(f, params, images)
    assert [m.shape for m in maps] == [(2, 32, 32), (2, 16, 16), (2, 8, 8)]
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) - torch.tensor(
        [125.3, 123., 113.9]).view(3, 1, 1)) / torch.tensor([63., 62.1, 66.7]).view(3, 1, 1)
    g = f(x, params, False)[1][1]
    np.testing.assert_allclose(maps[1], g.square().mean(1).detach().numpy(), rtol=1e-4)
    assert utils.attention_map(g).shape == (2, 16, 16)


def test_command_line(tmp_path, capsys):
    for name in ('a.pth', 'b.hkl'):
        weights.write(cifar.resnet(10, 1, 10)[1], name)
    image = np.zeros((50, 70, 3), np.uint8)
    image[10:20, 30:40] = (0, 0, 255)
    cv2.imwrite('red.png', image)
    visualize.main(['--model', 'a.pth', 'b.hkl', '--save', 'shapes.png'])
    visualize.main(['red.png', '--model', 'a.pth', '--save', 'red_map.png'])
    for name in ('shapes.png', 'red_map.png'):
        assert cv2.imread(name).shape[2] == 3
    read = visualize.read_images(['red.png'], 32)
    assert read.shape == (1, 32, 32, 3) and read[0, 10, 16, 0] > 200 > read[0, 10, 16, 2]


def test_labels():
    assert visualize.label_of('logs/demo/at_kd/seed0') == 'at_kd'
    assert visualize.label_of('logs/resnet_16_2_teacher') == 'resnet_16_2_teacher'
    assert visualize.label_of('net.pth') == 'net'


def test_bad_input(fails):
    weights.write(cifar.resnet(10, 1, 10)[1], 'a.pth')
    with open('text.jpg', 'w') as f:
        f.write('no image')
    status, said = fails(visualize.main, 'text.jpg', '--model', 'a.pth')
    assert status == 2 and 'text.jpg' in said
    for flags in (['--model', 'none'], ['--model', 'a.pth', '--size', 0],
                  ['--model', 'a.pth', '--save', 'x.foo']):
        status, said = fails(visualize.main, *flags)
        assert status == 2 and str(flags[-1]) in said


def test_two_models_of_one_name():
    for name in ('x/a.pth', 'y/a.pth'):
        weights.write(cifar.resnet(10, 1, 10)[1], name)
    visualize.main(['--model', 'x/a.pth', '--save', 'new/one.png'])
    visualize.main(['--model', 'x/a.pth', 'y/a.pth', '--save', 'new/two.png'])
    one, two = (cv2.imread(f'new/{k}.png').shape[0] for k in ('one', 'two'))
    assert two > 1.3 * one
