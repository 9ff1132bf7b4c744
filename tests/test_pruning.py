"""finetune.py --prune: phases, what the log says, cut nets, resuming, what is refused."""
import pathlib
import re

import pytest
import torch
from helpers import call, student, write_net

import finetune
import imagenet
import nets
import utils
from engine import runs
from methods import channels, fine_tuned_net, gates
from weights import facts, store
from weights.architecture import architecture_of

# three epochs of two steps, a phase each; the small nets have large stems
PART = .85
PHASES = ['--iterations', 6, '--epoch_step', '[3]', '--dtype', 'float', '--macs_target', PART]
AFDS = [*PHASES, '--prune', 'afs', '--method', 'afd', '--alpha', 1e-4]


def on_off(params):
    """1 for each channel that is left, 0 for each masked one, of all sets."""
    keep, found = channels.unmasked(params), []
    for conv in architecture_of(params).channels:
        n = len(params[channels.weight_of(params, conv)])
        found.append(torch.zeros(n).index_fill_(0, keep.get(conv, torch.arange(n)), 1))
    return torch.cat(found)


@pytest.mark.parametrize('arch, kind', [
    ('mobilenet_v2', 'afs'), ('resnet50', 'afs'), ('resnet18', 'magnitude'),
    ('wrn-10-1', 'random'), ('wrn-10-1', 'afs')])
def test_a_cut_net_is_what_was_tested(arch, kind, capsys):
    write_net(arch=arch)
    _, *epochs = call('logs/a', *PHASES, '--prune', kind, '--export', 'cut.pth')
    last, said = epochs[-1], capsys.readouterr().out
    whole = store.read_params('source.pth')
    f, _, params, _ = nets.load_net('logs/a')
    g, classes, cut, _ = nets.load_net('cut.pth')
    with_head = fine_tuned_net.with_new_head(whole, architecture_of(whole).head, classes)
    before = facts.multiply_adds(f, with_head, 40)
    after = facts.multiply_adds(g, cut, 40)
    assert last['multiply_adds_before'] == before and last['multiply_adds'] == after
    assert after / before == pytest.approx(PART, abs=.02)
    assert 'multiply_adds' not in epochs[0]
    for when, net, count in (('before', with_head, before), ('after', cut, after)):
        n = sum(v.numel() for k, v in net.items() if not utils.is_statistic(k))
        assert f'{when} pruning: {n:,} parameters, {count:,} multiply-adds, ' in said
    assert last['n_parameters_cut'] == n
    x = torch.randn(2, 3, 40, 40)
    torch.testing.assert_close(g(x, cut, False)[0], f(x, params, False)[0], rtol=1e-4, atol=1e-4)
    # and what a test of the file says
    call('logs/e', '--dtype', 'float', '--evaluate', 'cut.pth', '--pixels', last['input_pixels'])
    assert runs.read_log('logs/e/log.txt')[-1]['test_acc'] == pytest.approx(last['test_acc'])


def test_phases(capsys):
    """What is left in three phases; gates are dynamic and ever sparser."""
    write_net()
    first, *epochs = call('logs/a', *AFDS, '--density', .25, '--lr', .1)
    said = capsys.readouterr().out
    parts = [float(s.split()[0]) for s in said.splitlines() if 'multiply-adds are left' in s]
    assert parts == pytest.approx([PART ** .5, PART], abs=.02)
    assert [f'density is {d:.2f}' in said for d in (1, .5, .25)] == [False, True, True]
    params = student('logs/a')
    assert {float(v) for k, v in params.items() if k.endswith('.density')} == {.25}
    assert all(len(z['at_losses']) == 1 and len(z['attention_entropy']) == 4 for z in epochs)
    last = epochs[-1]
    assert last['multiply_adds_dynamic'] < .9 * last['multiply_adds']
    finetune.main(['--dataset', 'shapes', '--size', '40', '--nthread', '0', '--dtype', 'float',
                   '--evaluate', 'logs/a'])
    assert 'its gates leave' in capsys.readouterr().out


def test_static_gates_are_plain_normalisation_in_the_end(capsys):
    write_net()
    call('logs/a', *PHASES, '--prune', 'afs', '--delta_s', 1e9, '--export', 'cut.hkl')
    said = capsys.readouterr().out
    assert 'gates 0 differ' in said and 'its gates leave' not in said
    assert gates.gates(student('logs/a')) and not gates.gates(store.read_params('cut.hkl'))
    last = runs.read_log('logs/a/log.txt')[-1]
    assert last['multiply_adds_dynamic'] == last['multiply_adds']


def test_gates_that_were_not_trained_do_not_become_static(capsys):
    write_net()
    call('logs/a', *PHASES, '--prune', 'afs', '--phases', 1, '--density', .5)
    on, dynamic = re.search(r'of (\d+) gates (\d+) differ', capsys.readouterr().out).groups()
    assert on == dynamic != '240'


def test_frozen_channels_stay():
    write_net()
    call('logs/a', *PHASES, '--prune', 'magnitude', '--freeze', 'first_group')
    whole, params = store.read_params('source.pth'), student('logs/a')
    assert all(torch.equal(params[k], whole[k]) for k in params if k.startswith('group0.')
               and not utils.is_statistic(k))
    assert channels.unmasked(params)


def test_the_folder_of_a_run_is_a_net_without_its_masked_channels():
    write_net()
    call('logs/a', *PHASES, '--prune', 'magnitude', '--export', 'cut.pth')
    for net in ('cut.pth', 'logs/a'):
        call(f'logs/from_{net[:3]}', *PHASES, '--dtype', 'double', '--prune', 'afs',
             source=net)
    a, b = student('logs/from_cut'), student('logs/from_log')
    assert a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def test_one_phase_removes_before_training():
    write_net()
    call('logs/a', *PHASES, '--prune', 'magnitude', '--phases', 1)
    f = nets.load_net('source.pth')[0]
    whole = fine_tuned_net.with_new_head(store.read_params('source.pth'), 'fc', 10)
    keep = channels.to_target(f, whole, channels.by_magnitude(whole), 40, PART)
    assert torch.equal(on_off(channels.masked(whole, keep)), on_off(student('logs/a')))


@pytest.mark.parametrize('flags', [
    ['--prune', 'magnitude'], ['--prune', 'random'], ['--prune', 'afs'],
    ['--prune', 'afs', '--method', 'l2_sp', '--sp', 'all', '--alpha', 1]])
def test_masks_only_shrink(flags, monkeypatch):
    """From phase to phase, and in the training between, whatever draws parameters elsewhere."""
    seen, old = [], runs.save_checkpoint

    def save(folder, opt, epoch, state, random):
        seen.append(on_off(utils.without_prefix(state.params, 'student.')))
        old(folder, opt, epoch, state, random)

    monkeypatch.setattr(runs, 'save_checkpoint', save)
    write_net()
    call('logs/a', *PHASES, '--epochs', 6, '--save_every', 0, *flags)
    one, same, two, still, three, end = (v.bool() for v in seen)
    assert one.all() and torch.equal(one, same) and torch.equal(two, still)
    assert torch.equal(three, end) and (three <= two).all() and three.sum() < two.sum() < len(one)


@pytest.mark.parametrize('epoch, flags', [
    (2, [*AFDS, '--density', .5]),
    (3, [*PHASES, '--prune', 'magnitude', '--method', 'l2_sp', '--sp', 'all', '--alpha', 1])])
def test_phases_go_on_after_a_kill(epoch, flags, monkeypatch):
    """Cut off before a phase begins, and within one: of four epochs the phases begin with 1, 2
    and 3."""
    write_net()
    flags = [*flags, '--epochs', 4, '--batch_size', 8]
    call('logs/whole', *flags)
    old = runs.save_checkpoint

    def save(folder, opt, line, *rest):
        old(folder, opt, line, *rest)
        if line['epoch'] == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(runs, 'save_checkpoint', save)
    with pytest.raises(KeyboardInterrupt):
        call('logs/cut', *flags, '--save_every', 0)
    monkeypatch.setattr(runs, 'save_checkpoint', old)
    call('logs/cut', *flags)
    whole, cut = student('logs/whole'), student('logs/cut')
    assert whole.keys() == cut.keys() and all(torch.equal(v, cut[k]) for k, v in whole.items())
    assert not on_off(whole).all()


def test_a_cut_net_is_a_teacher_a_source_and_a_net_of_imagenet_py(shapes_folder, capsys):
    write_net()
    call('logs/a', *AFDS, '--density', .5, '--export', 'cut.pth')
    assert gates.gates(store.read_params('cut.pth'))
    for method in ('kd', 'at'):
        z = call(f'logs/{method}', '--method', method, '--teacher', 'cut.pth', '--alpha', 1)[-1]
        assert z['at_losses'][0] > 0 if method == 'at' else z['train_loss'] > 0
    call('logs/b', '--method', 'feature_map', source='cut.pth')
    assert gates.gates(student('logs/b'))
    # once more, of what is left, which has gates already
    _, *epochs = call('logs/c', *PHASES, '--prune', 'afs', source='cut.pth')
    assert epochs[-1]['multiply_adds'] / epochs[-1]['multiply_adds_before'] == pytest.approx(
        PART, abs=.02)
    capsys.readouterr()
    classes = str(list(range(10))).replace(' ', '')
    imagenet.main(['--imagenetpath', str(shapes_folder), '--evaluate', 'cut.pth', '--size', '40',
                   '--nthread', '0', '--classes', classes])
    count = facts.size_of(*nets.load_net('cut.pth')[::2], 40)[0]
    assert f'{count:,} parameters' in capsys.readouterr().out


@pytest.mark.parametrize('flags, said', [
    (['--macs_target', .5], '--macs_target belongs to --prune'),
    (['--phases', 2], '--phases belongs to --prune'),
    (['--prune', 'random', '--density', .5, '--macs_target', .5], 'belongs to afs'),
    (['--prune', 'magnitude', '--delta_s', .5, '--macs_target', .5], 'belongs to afs'),
    (['--prune', 'magnitude'], 'prunes nothing'),
    (['--prune', 'afs', '--freeze', 'body'], 'leaves as they are'),
    (['--prune', 'random', '--macs_target', .7, '--phases', 2, '--round_channels', 64],
     'to multiples of 64'),
    (['--prune', 'random', '--macs_target', .85, '--phases', 2, '--freeze', 'body'], 'no channels'),
    (['--prune', 'random', '--macs_target', 0], '--macs_target is 0'),
    (['--prune', 'afs', '--density', 1.5], '--density is 1.5'),
    (['--prune', 'random', '--macs_target', .01, '--phases', 2], 'cannot be reached'),
    (['--prune', 'random', '--macs_target', .5, '--phases', 4], 'training has 2 epochs'),
    (['--prune', 'random', '--phases', 0], '--phases is 0'),
    (['--prune', 'random', '--round_channels', 0], '--round_channels is 0'),
    (['--prune', 'afs', '--delta_s', -1], '--delta_s is -1'),
    (['--prune', 'random', '--source', 'alexnet.pth', '--size', 64, '--phases', 2, '--macs_target',
      .5], 'no channels'),
])
def test_bad_input(flags, said, fails):
    write_net()
    if 'alexnet.pth' in flags:
        store.write_params(imagenet.alexnet(3)[1], 'alexnet.pth')
    status, error = fails(finetune.main, '--dataset', 'shapes', '--size', 40, '--iterations', 4,
                          '--steps_per_epoch', 2, '--source', 'source.pth', '--nthread', 0, *flags)
    assert status == 2 and said in error and error.count('\n') == 1
    assert not pathlib.Path('logs').exists()


def test_a_run_in_phases_is_not_prolonged(fails):
    write_net()
    flags = [*PHASES, '--prune', 'random', '--epochs']
    call('logs/a', *flags, 3)
    status, error = fails(lambda argv: call('logs/a', *argv), *flags, 6)
    assert status == 2 and '--phases are parts of the epochs' in error


@pytest.mark.slow
def test_two_processes_have_the_same_masks(capfd):
    write_net()
    call('logs/a', *AFDS, '--density', .5, '--ngpu', 2)
    last = runs.read_log('logs/a/log.txt')[-1]
    assert runs.read_log('logs/a/log.txt')[0]['processes'] == 2
    assert last['multiply_adds'] / last['multiply_adds_before'] == pytest.approx(PART, abs=.02)
