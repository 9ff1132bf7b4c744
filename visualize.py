"""Attention maps of trained nets over images.

    python visualize.py
    python visualize.py --model logs/resnet_16_2_teacher logs/at_16_1_16_2 --save attention.png
    python visualize.py image.jpg --model logs/resnet_16_2_teacher --map gradient
    python visualize.py image.jpg --model resnet34

The figure has a row for each net, with the test error that its run ended with, and a column for
each image and group: the map F²_sum (attention transfer paper, section 3.1). The images, at the
top, are those named or, if none is, test images of `shapes`, with the outlines of their shapes.
Without --model the net is the teacher of `make demo`, which is trained first if need be.
"""
import io
import pathlib
import subprocess
import sys

import numpy as np
import torch

import cifar
import nets
import utils
from data import arrays, decoded, image_files, shapes
from engine import flags, runs, script
from methods import from_teacher
from papers.commands import commands, save_of
from papers.results import is_finished
from system import files
from utils import InputError
from weights import facts, store
from weights.architecture import architecture_of, input_of

MAPS = [*utils.MAPPINGS, 'gradient']


# ---- maps ---------------------------------------------------------------------------------------

def attention_maps(f, params, images, mapping='sum2', labels=None,
                   stats=arrays.PIXELS['cifar']):
    """Compute a net's attention maps of images, uint8 (N, H, W, 3) -> list of arrays: (N, h, w) for
    each group or, for the mapping 'gradient', a single (N, H, W): the norm over channels of dL/dx
    (Eq. 3) of each image's cross-entropy for its class in `labels` (N,), by default the class that
    the net predicts. Images are normalised by `stats`, means and standard deviations."""
    dtype = next(iter(params.values())).dtype
    inputs = arrays.normalise(torch.from_numpy(images), torch.tensor(stats, dtype=dtype))
    if mapping == 'gradient':
        logits, _ = f(inputs.requires_grad_(), params, False)
        targets = logits.argmax(1) if labels is None else torch.as_tensor(labels)
        j = from_teacher.gradient(logits, inputs, targets, create_graph=False)
        return [torch.linalg.vector_norm(j, dim=1).numpy()]
    with torch.no_grad():
        _, groups = f(inputs, params, False)
    return [utils.attention_map(g, mapping).numpy() for g in groups]


def attention_on_object(maps, masks):
    """Compute the fraction of each map's mass that lies on the object, (N,). Maps are (N, h, w),
    masks bool (N, H, W); the mask is averaged over the area of each of the map's pixels."""
    n, h, w = maps.shape
    # rows of the mask are repeated h times, so that map rows cover whole ones; likewise columns
    on = masks.repeat(h, axis=1).reshape(n, h, *masks.shape[1:]).mean(2)
    on = on.repeat(w, axis=2).reshape(n, h, w, -1).mean(3)
    return (maps * on).sum((1, 2)) / maps.sum((1, 2))


# ---- the figure ---------------------------------------------------------------------------------

def panel(axis, picture, size, mask=None, **how):
    """Draw an image or a map on an axis, over the image's `size` (height, width), and the outline
    of its mask -> what was drawn."""
    h, w = size
    drawn = axis.imshow(picture, extent=(0, w, h, 0), **how)
    if mask is not None:        # padded, so that a shape that is cut off has an outline too
        axis.contour(np.arange(w + 2) - .5, np.arange(h + 2) - .5, np.pad(mask, 1), [.5],
                     colors='white', linewidths=.8)
    axis.set(xticks=[], yticks=[], xlim=(0, w), ylim=(h, 0))
    return drawn


def draw_maps(images, maps, masks=None, titles=None):
    """Draw images, each once, and below them a row for each label of `maps`, {label: list of maps
    (N, h, w)}, with a column for each map -> matplotlib's Figure. `titles` are those of the columns
    (None: the groups). Colours are relative to a map's maximum; the outlines of `masks`, if any,
    are drawn over images and maps."""
    # no pyplot: no window, no state, any backend
    from matplotlib.figure import Figure
    titles = titles or [f'group {g}' for g in range(len(next(iter(maps.values()))))]
    wide, size = len(titles), images[0].shape[:2]
    drawn = Figure(figsize=(1.1 * len(images) * wide + .8, 1.1 * (1 + len(maps))),
                   layout='constrained')
    grid = drawn.add_gridspec(1 + len(maps), len(images) * wide)
    for i, image in enumerate(images):
        mask = None if masks is None else masks[i]
        panel(drawn.add_subplot(grid[0, i * wide:(i + 1) * wide]), image, size, mask)
        for row, (label, of_groups) in enumerate(maps.items(), 1):
            for g, title in enumerate(titles):
                axis, q = drawn.add_subplot(grid[row, i * wide + g]), of_groups[g][i]
                scale = panel(axis, q / (q.max() or 1), size, mask, vmin=0, vmax=1,
                              interpolation='bilinear')
                axis.set_title(title if row == 1 else '', fontsize='medium')
                axis.set_ylabel('' if i or g else label, parse_math=False)
    drawn.colorbar(scale, ax=drawn.axes, label='attention', aspect=30, panchor=False)
    return drawn


def encode(drawn, form='png', dpi=80):
    """Encode a figure as the bytes of a file of the form 'png' or 'jpeg'."""
    picture = io.BytesIO()
    drawn.savefig(picture, format=form, dpi=dpi)
    return picture.getvalue()


# ---- the command line ---------------------------------------------------------------------------

def demo_net():
    """Train the teacher of the table `demo` by the table's command, unless that is done -> its
    folder. If training fails, exit as it did."""
    words = next(commands('demo', 'logs'))
    folder = save_of(words)
    log = pathlib.Path(folder, 'log.txt')
    if not log.exists() or not is_finished(runs.read_log(log)):
        print(f'no --model: training a net on shapes into {folder}, once; this takes '
              f'about a minute on a CPU', flush=True)
        # in a process of its own, as the table does it: the log names the process's command
        path = pathlib.Path(__file__).with_name(words[0])
        status = subprocess.run([sys.executable, path, *words[1:]]).returncode
        if status:      # it has said why
            sys.exit(status)
    return folder


def split_images(opt):
    """Tell models from images -> both. Of `--model X image.jpg` argparse takes both for models."""
    images = [m for m in opt.model if pathlib.Path(m).suffix.lower() in image_files.IMAGES]
    return [m for m in opt.model if m not in images], [*opt.images, *images]


def read_images(paths, size):
    """Read image files -> uint8 (N, size, size, 3) in RGB order. InputError for anything else."""
    images = [decoded.resize(image_files.read_image(path), size, size) for path in paths]
    return np.stack(images)[..., ::-1].copy()


def load_nets(models):
    """Load nets of cifar.py or imagenet.py -> {label: (f, number of classes, params)}."""
    labels = [label_of(m) for m in models]
    if len(set(labels)) < len(labels):
        labels = models
    return {label: nets.load_net(m)[:3] for label, m in zip(labels, models, strict=True)}


def last_error(model):
    """Return the last test error in the log of a net's run, as text; '' for a net without one."""
    path = store.locate(model)
    log = path.with_name('log.txt')
    last = runs.read_log(log)[-1] if path.name == 'model.pt7' and log.exists() else {}
    return f'{100 - last["test_acc"]:.1f} %' if 'test_acc' in last else ''


def label_of(path):
    """Return the name of a run, the folder above that of its seed, or of a file of parameters."""
    path = pathlib.Path(path)
    return utils.shown(path.parent.name if path.name.startswith('seed') else path.stem)


def parse(argv):
    """Parse the command line `argv` -> the options. InputError for invalid ones."""
    parser = flags.make_parser(__doc__)
    m = parser.add_argument_group('nets and images')
    m.add_argument('images', nargs='*', help='image files; none: test images of shapes')
    m.add_argument('--model', nargs='+', default=[], metavar='NET', help='runs under logs/, or '
                   'paths of runs or of files of parameters; none: the teacher of the table demo')
    arrays.add_pixel_flags(parser, '224 for nets of ImageNet; for others 32, or '
                           f'{shapes.SHAPES_SIZE} for images of shapes')
    f = parser.add_argument_group('figure')
    f.add_argument('--map', default='sum2', choices=MAPS, help='F_sum, F²_sum, F⁴_sum or F¹_max of '
                   "the activations of each group, or the norm of the loss's gradient with respect "
                   'to the image, for the class that the net predicts')
    f.add_argument('--save', default='attention.png', metavar='FILE', help='the figure, .png')
    opt = parser.parse_args(argv)
    flags.check_numbers(opt, zero_or_more=['size'])
    if not opt.save.endswith('.png'):
        raise InputError(f'--save {opt.save}: the figure is a .png')
    return opt


def main(argv=None):
    """Draw the figure that the command line `argv` (default: the process's own) asks for.
    InputError for nets that do not fit into one figure."""
    opt = parse(argv)
    models, pictures = split_images(opt)
    models = models or [demo_net()]
    trained = load_nets(models)
    small = {architecture_of(params).kind in cifar.FUNCTIONS for _, _, params in trained.values()}
    if len(small) > 1:
        raise InputError('nets of CIFAR and of ImageNet have different numbers of groups: draw '
                         'them in separate figures')
    size = opt.size or (224 if True not in small else 32 if pictures else shapes.SHAPES_SIZE)
    if pictures:
        images, masks = read_images(pictures, size), None
    else:
        images, _, masks = (a[::3] for a in shapes.shapes(10, seed=1, size=size))
    maps = {}
    for model, (label, (f, _, params)) in zip(models, trained.items(), strict=True):
        facts.count_groups(f, params, size, label)
        stats = arrays.PIXELS[input_of(opt, params)[1]]
        title = f'{utils.printable(label)}\n{last_error(model)}'.strip()
        maps[title] = attention_maps(f, params, images, opt.map, stats=stats)
    titles = ['|dL/dx|'] if opt.map == 'gradient' else None
    files.write_whole(opt.save, encode(draw_maps(images, maps, masks, titles)))
    print(f'attention maps: {opt.save}')


if __name__ == '__main__':
    script.run(main)
