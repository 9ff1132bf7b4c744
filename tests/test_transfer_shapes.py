"""The table transfer-shapes, run whole: every method and kind of pruning from one domain to another
on a CPU, in minutes."""
import pathlib

import pytest

import tables
from papers import catalogue, results
from papers.pruning import REDUCTIONS
from papers.transfer import LABELS


@pytest.mark.slow
def test_transfer_in_the_small():
    tables.main(['run', 'transfer-shapes', '--seeds', '1', '--at_once', '2', '--root', 'logs'])
    last = {k: z[0][-1] for k, z in results.logs_of('transfer-shapes', pathlib.Path('logs')).items()
            if z}
    assert set(last) == set(catalogue.TABLES['transfer-shapes']['rows'])
    error = {k: 100 - z['test_acc'] for k, z in last.items()}
    # far more than the standard error of 2,000 images, some 1.1 points
    assert all(error[k] + 10 < error['scratch'] for k in ('l2', *LABELS)), error
    for x, part in REDUCTIONS.items():
        for kind in ('magnitude', 'random', 'afs', 'afds'):
            z = last[f'{kind}_{x}']
            assert z['multiply_adds'] / z['multiply_adds_before'] == pytest.approx(part, abs=.03)
