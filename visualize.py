"""Attention maps of trained nets over images.

    python visualize.py --model logs/resnet_16_2_teacher logs/at_16_1_16_2 --save attention.png

A row for each net, a column for each image and group: the map F²_sum (attention transfer paper,
section 3.1) over the image, which is a file or, when none is named, a test image of `shapes`.
"""
import io
import pathlib

import cv2
import numpy as np
import torch

import cifar
import data
import datasets
import runs
import training
import utils
from utils import InputError


def read_images(paths, size):
    """Image files -> uint8 (N, size, size, 3) in RGB order."""
    images = []
    for path in paths:
        image = cv2.imread(str(path))
        if image is None:
            raise InputError(f'cannot read the image {path}')
        images.append(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)[..., ::-1])
    return np.stack(images)


def attention_maps(f, params, images):
    """The maps of every group, (N, h, w) each, of a net over uint8 images (N, H, W, 3)."""
    inputs = data.normalise(torch.from_numpy(images),
                            torch.tensor([datasets.MEAN, datasets.STD]))
    with torch.no_grad():
        _, groups = f(inputs, params, False)
    return [utils.attention_map(g).numpy() for g in groups]


def draw(images, maps, path):
    """Write the figure: a column for each image and group; a row for the images themselves and for
    each of `maps` ({label: maps of the groups}), drawn over them and stretched to their maximum."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    groups = len(next(iter(maps.values())))
    columns = [(i, g) for i in range(len(images)) for g in range(groups)]
    figure, axes = plt.subplots(1 + len(maps), len(columns), squeeze=False, layout='constrained',
                                figsize=(1.1 * len(columns), 1.1 * (1 + len(maps))))
    extent = (0, images.shape[2], images.shape[1], 0)
    for label, row in zip(['', *maps], axes, strict=True):
        row[0].set_ylabel(label)
        for (i, g), axis in zip(columns, row, strict=True):
            axis.imshow(images[i], extent=extent)
            axis.set(xticks=[], yticks=[])
            if label:
                q = maps[label][g][i]
                axis.imshow(q / q.max(), extent=extent, cmap='jet', alpha=.55, vmin=0, vmax=1,
                            interpolation='bilinear')
            else:
                axis.set_title(f'group {g}', fontsize='medium')
    picture = io.BytesIO()
    figure.savefig(picture, dpi=80)
    plt.close(figure)
    runs.write(pathlib.Path(path), picture.getvalue())


def label_of(path):
    """The name of a run's folder, without its seed."""
    path = pathlib.Path(path)
    return path.parent.name if path.name.startswith('seed') else path.stem


def main(argv=None):
    parser = training.make_parser(__doc__)
    parser.add_argument('images', nargs='*', help='image files; none: test images of shapes')
    parser.add_argument('--model', nargs='+', required=True,
                        help='runs under logs/, or paths of runs or of files of parameters')
    parser.add_argument('--size', default=32, type=int,
                        help='pixels to which images are resized, both ways')
    parser.add_argument('--save', default='attention.png', help='the figure, .png')
    opt = parser.parse_args(argv)
    training.check_numbers(opt, above_zero=['size'])
    if not opt.save.endswith('.png'):
        raise InputError(f'--save {opt.save}: the figure is a .png')
    labels = [label_of(m) for m in opt.model]
    if len(set(labels)) < len(labels):
        labels = opt.model
    nets = {label: cifar.load_net(m) for label, m in zip(labels, opt.model, strict=True)}
    if opt.images:
        images = read_images(opt.images, opt.size)
    else:
        images = datasets.shapes(10, seed=1, size=opt.size)[0][::3]
    draw(images, {label: attention_maps(f, params, images)
                  for label, (f, _, params) in nets.items()}, opt.save)
    print(f'attention maps: {opt.save}')


if __name__ == '__main__':
    training.run(main)
