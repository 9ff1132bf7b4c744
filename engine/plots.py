"""Pictures of runs: learning curves, error against cost."""
import contextlib
import io
import textwrap

import matplotlib

from engine import runs
from system import files
from utils import printable


@contextlib.contextmanager
def figure(path, **labels):
    """Give axes to draw on, with a legend beside them, which are then saved as the picture
    `path`."""
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    figure, axes = plt.subplots(figsize=(6, 4))
    yield axes
    axes.set(**labels)
    axes.grid(alpha=.3)
    legend = axes.legend(loc='upper left', bbox_to_anchor=(1.01, 1), borderaxespad=0,
                         fontsize=min(10, 200 / max(1, len(axes.get_legend_handles_labels()[1]))))
    for text in legend.get_texts():
        text.set_text(textwrap.fill(printable(text.get_text()), 40))
        text.set_parse_math(False)
    data = io.BytesIO()
    figure.savefig(data, dpi=120, bbox_inches='tight')      # as wide as the legend needs it
    plt.close(figure)
    files.write_whole(path, data.getvalue())


def plot_curves(logs, path):
    """Draw training (dashed) and test error over the epochs of `logs` ({label: log.txt})."""
    maps = matplotlib.colormaps
    palettes = maps['tab10'], maps['tab20'], maps['turbo'].resampled(len(logs))
    colours = next(p.colors for p in palettes if len(p.colors) >= len(logs))
    with figure(path, xlabel='epoch', ylabel='error, % (dashed: on the training images)',
                ylim=(0, None)) as axes:
        axes.locator_params('x', integer=True)
        for (label, log), colour in zip(logs.items(), colours, strict=False):
            lines = runs.read_log(log)[1:]
            epochs = [z['epoch'] for z in lines]
            axes.plot(epochs, [100 - z['train_acc'] for z in lines], '--', color=colour, lw=1,
                      alpha=.6)
            axes.plot(epochs, [100 - z['test_acc'] for z in lines], color=colour, label=label)


def plot_points(series, path, **labels):
    """Draw {label: [(x, y, spread of y)]}, each joined by lines, x on a logarithmic scale."""
    with figure(path, **labels) as axes:
        axes.set_xscale('log')
        for label, points in series.items():
            axes.errorbar(*zip(*sorted(points), strict=True), marker='o', capsize=3, label=label)
        ticks = sorted({round(x) for points in series.values() for x, *_ in points})
        axes.set_xticks(ticks, map(str, ticks))
        axes.set_xticks([], minor=True)
