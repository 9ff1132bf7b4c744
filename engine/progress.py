"""The progress bar of training."""
import torch
from tqdm import tqdm

from system import processes


def make_bar(trainings, device):
    """Make a progress bar for all epochs of all runs, quiet when stderr is no terminal -> functions
    to call at the start of an epoch and after a step, and the bar.

    What it shows was copied off the device some steps ago, so that nothing waits for the device.
    """
    host = torch.zeros(3, dtype=torch.float64, pin_memory=device.type == 'cuda')
    bar = tqdm(total=sum(t.train.n * (t.opt.epochs - t.epoch) for t in trainings), unit=' images',
               leave=False, dynamic_ncols=True, smoothing=.05,
               disable=None if processes.is_first() else True)

    def start(active):
        host.zero_()
        t, several = active[0], f'{len(active)} runs, ' if len(active) > 1 else ''
        bar.set_description(f'{several}epoch {t.epoch + 1}/{t.opt.epochs}', refresh=False)

    def advance(sample):
        bar.update(sum(batch[0] for _, batch in sample) * processes.world())
        t = sample[0][0]
        if not bar.disable and t.steps % 10 == 0:
            n, loss, right = host.tolist()
            if n:
                bar.set_postfix(loss=f'{loss / n:.3f}', error=f'{100 - 100 * right / n:.1f}%')
            host.copy_(t.state.sums[:3], non_blocking=True)

    return start, advance, bar
