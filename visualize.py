"""Attention maps of trained nets over images.

    python visualize.py --model logs/resnet_16_2_teacher logs/at_16_1_16_2 --save attention.png

Each row is one group's map Q = F²_sum (attention transfer paper, section 3.1) over one image: an
image file, or a test image of `shapes` when none is named.
"""
import pathlib

import cv2
import numpy as np
import torch

import cifar
import data
import datasets
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
    inputs = data.normalise(torch.from_numpy(images), datasets.MEAN, datasets.STD)
    with torch.no_grad():
        _, groups = f(inputs, params, False)
    return [utils.attention_map(g).numpy() for g in groups]


def draw(images, maps, path):
    """Write the figure: a row for each image and group; a column for the image and each of `maps`
    ({label: maps of the groups}), which lie over the image, each stretched to its own maximum."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    groups = len(next(iter(maps.values())))
    rows = [(i, g) for i in range(len(images)) for g in range(groups)]
    figure, axes = plt.subplots(len(rows), 1 + len(maps), squeeze=False, layout='constrained',
                                figsize=(1.5 * (1 + len(maps)), 1.4 * len(rows)))
    extent = (0, images.shape[2], images.shape[1], 0)
    for (i, g), line in zip(rows, axes, strict=True):
        for axis, label in zip(line, ['', *maps], strict=True):
            axis.imshow(images[i], extent=extent)
            if label:
                q = maps[label][g][i]
                axis.imshow(q / q.max(), extent=extent, cmap='jet', alpha=.55, vmin=0, vmax=1,
                            interpolation='bilinear')
            axis.set(xticks=[], yticks=[], title=label if (i, g) == rows[0] else '')
        line[0].set_ylabel(f'group {g}')
    figure.savefig(path, dpi=80)
    plt.close(figure)


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
    parser.add_argument('--save', default='attention.png', help='the figure')
    opt = parser.parse_args(argv)
    nets = {label_of(m): cifar.load_net(m) for m in opt.model}
    if opt.images:
        images = read_images(opt.images, opt.size)
    else:
        images = datasets.shapes(4, seed=1, size=opt.size)[0]
    draw(images, {label: attention_maps(f, params, images)
                  for label, (f, _, params) in nets.items()}, opt.save)
    print(f'attention maps: {opt.save}')


if __name__ == '__main__':
    training.run(main)
