"""imagenet.py: its command line, evaluation, image files, cache, and what is refused."""
import json
import os
import pathlib
import shutil

import cv2
import numpy as np
import pytest
import torch
from helpers import SMALL_IMAGENET
from PIL import Image

import imagenet
import nets
from data import decoded, folder_sets, image_files, shapes
from engine import flags, runs
from methods import published
from system import downloads
from utils import InputError, RunError
from weights import folding, store

CPU = torch.device('cpu')


# ---- training -----------------------------------------------------------------------------------

@pytest.mark.parametrize('flags, losses', [
    ([], 0), (['--beta', '1e3'], 2), (['--beta', '1e3', '--at_groups', '[0,1,2,3]'], 4),
    (['--alpha', '.9'], 0), (['--alpha', '.9', '--beta', '1e3'], 2)])
def test_students(imagenet_run, flags, losses):
    """From a teacher, pre-trained, folded, in a file: the paper's losses."""
    if flags:
        teacher = folding.fold(imagenet.define_student(34, .125, 10)[1])
        store.write_params(teacher, 'teacher.hkl')
        flags = ['--teacher_params', 'teacher.hkl', *flags]
    z = imagenet_run('logs/a', '--depth', 18, *flags)[-1]
    assert z['epoch'] == 1 and z['n_parameters'] == 190266 and z['num_classes'] == 10
    assert 0 <= z['test_acc'] <= z['test_acc5'] <= 100
    assert len(z['at_losses']) == losses
    assert z['beta_decay'] == ('linear' if '--alpha' in flags and losses else 'constant')


@pytest.mark.parametrize('arch', ['resnet50', 'mobilenet_v2', 'alexnet'])
def test_architectures(imagenet_run, arch):
    width = ['--width', 1, '--size', 64, '--lr', 1e-4] if arch == 'alexnet' else []
    assert imagenet_run('logs/a', '--arch', arch, *width)[-1]['arch'] == arch
    assert nets.load_net('logs/a')[1] == 10


def test_continued_run_equals_an_uninterrupted_one(imagenet_run):
    whole = imagenet_run('logs/whole', '--epochs', 3, '--epoch_step', '[2]')
    imagenet_run('logs/parts', '--epochs', 2, '--epoch_step', '[2]')
    parts = imagenet_run('logs/parts', '--epochs', 3, '--epoch_step', '[2]', '--nthread', 2)
    for a, b in zip(whole[1:], parts[1:], strict=True):
        assert [a[k] for k in ('train_loss', 'test_loss')] == [b[k] for k in
                                                               ('train_loss', 'test_loss')]


def test_name_of_a_run_without_save():
    opt = imagenet.parse(['--imagenetpath', 'x', '--teacher_params', 'a/b.hkl', '--beta', '1000'])
    assert opt.save == 'logs/imagenet_resnet18_1_at1000_from_a_b.hkl_seed0'


# ---- evaluation ---------------------------------------------------------------------------------

def test_evaluation(imagenet_run, shapes_folder, capsys):
    z = imagenet_run('logs/a', '--dtype', 'float')[-1]
    capsys.readouterr()
    imagenet.main([*SMALL_IMAGENET, '--imagenetpath', str(shapes_folder), '--evaluate', 'logs/a',
                   '--dtype', 'float', '--save', 'logs/e', '--batch_size', '8'])
    said = capsys.readouterr().out
    assert (f'top-1 error {100 - z["test_acc"]:.2f} %, top-5 error {100 - z["test_acc5"]:.2f} % of '
            f'21 images') in said
    assert '190,266 parameters' in said and 'multiply-adds; 40x40' in said
    first, last = runs.read_log('logs/e/log.txt')
    assert first['sha256'] == downloads.sha256_of('logs/a/model.pt7')
    assert [last[k] for k in ('test_acc', 'test_acc5')] == pytest.approx(
        [z[k] for k in ('test_acc', 'test_acc5')])


def test_evaluation_among_some_classes(shapes_folder, capsys, fails):
    """A net of 13 classes, of which 10 are those of the folders, in another order."""
    f, params = imagenet.define_student(18, .125, 13)
    outputs = [12, 3, 1, 0, 11, 7, 8, 9, 10, 2]
    store.write_params(params, 'wide.pth')
    some = {k: v[outputs] if k.startswith('fc.') else v for k, v in params.items()}
    store.write_params(some, 'some.pth')
    flags = [*SMALL_IMAGENET, '--imagenetpath', str(shapes_folder), '--dtype', 'float']
    imagenet.main([*flags, '--evaluate', 'some.pth'])
    expected = capsys.readouterr().out.split('top-1')[1].split(';')[0]
    imagenet.main([*flags, '--evaluate', 'wide.pth', '--classes', json.dumps(outputs)])
    assert capsys.readouterr().out.split('top-1')[1].split(';')[0] == expected
    for classes in ('[0,1]', '[0,1,2,3,4,5,6,7,8,13]', '0'):
        status, said = fails(imagenet.main, *flags, '--evaluate', 'wide.pth', '--classes', classes)
        assert status == 2 and '--classes' in said
    status, said = fails(imagenet.main, *flags, '--evaluate', 'wide.pth')
    assert status == 2 and 'val/ has 10 classes, wide.pth 13' in said


def test_batch_normalisation_is_given_back_and_the_net_exported(shapes_folder, capsys):
    f, params = imagenet.define_student(18, .125, 10)
    params = {k: v + .1 if k.endswith('running_mean') else v for k, v in params.items()}
    store.write_params(folding.fold(params), 'folded.pth')
    flags = [*SMALL_IMAGENET, '--imagenetpath', str(shapes_folder), '--dtype', 'double',
             '--evaluate', 'folded.pth']
    imagenet.main(flags)
    imagenet.main([*flags, '--restore_bn', '25', '--export', 'restored.pth'])
    before, after, _ = capsys.readouterr().out.splitlines()
    assert before.split(';')[0] == after.split(';')[0]
    restored = store.read_params('restored.pth')
    assert set(restored) == set(params) and not folding.folded(f, restored)


def test_known_weights_say_what_they_should_give(shapes_folder, capsys, monkeypatch):
    file = 'resnet34-b627a593.pth'
    torch.save(imagenet.define_student(18, .125, 10)[1], file)
    imagenet.main([*SMALL_IMAGENET, '--imagenetpath', str(shapes_folder), '--evaluate', file])
    assert 'errors should be 26.69 % and 8.58 %' in capsys.readouterr().out


def test_a_runs_own_size_and_pixels_are_taken(imagenet_run, shapes_folder, capsys):
    """By its evaluation, and by its students."""
    z = imagenet_run('logs/t', '--pixels', 'tensorflow', '--dtype', 'float')[-1]
    flags = ['--imagenetpath', str(shapes_folder), '--nthread', '0', '--dtype', 'float']
    capsys.readouterr()
    imagenet.main([*flags, '--evaluate', 'logs/t'])
    said = capsys.readouterr().out
    assert f'top-1 error {100 - z["test_acc"]:.2f} %' in said
    assert '40x40, tensorflow pixels' in said
    imagenet.main([*flags, '--width', '.125', '--batch_size', '20', '--epochs', '1', '--beta', '1',
                   '--teacher_params', 'logs/t', '--save', 'logs/a'])
    z = runs.read_log('logs/a/log.txt')[-1]
    assert (z['input_size'], z['input_pixels']) == (40, 'tensorflow')


def test_an_evaluation_does_not_overwrite_a_run(imagenet_run, shapes_folder, fails):
    before = imagenet_run('logs/a')
    status, said = fails(imagenet.main, '--imagenetpath', shapes_folder, '--evaluate', 'logs/a',
                         '--save', 'logs/a')
    assert status == 2 and 'another --save' in said
    assert runs.read_log('logs/a/log.txt') == before


# ---- image files --------------------------------------------------------------------------------

@pytest.fixture
def photo():
    """A JPEG file with edges, texture and a camera's note that it lies on its side."""
    image = shapes.shapes(1, size=300)[0][0][:200]
    Image.fromarray(image).save('photo.jpg', quality=95, exif=b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01'
                                b'\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0')
    return 'photo.jpg'


def test_crops_are_those_of_pil(photo):
    """Decoding, central and random crops: at most some tenths of a grey level apart."""
    pil, ours = Image.open(photo), image_files.read_image(photo)[..., ::-1]
    assert np.abs(ours.astype(int) - np.asarray(pil)).mean() < .05
    expected = pil.resize((192, 128), Image.BILINEAR).crop((40, 8, 152, 120))
    (crop,) = decoded.views(image_files.read_image(photo), -1, 112)
    crop = crop[..., ::-1]
    assert crop.shape == (112, 112, 3)
    assert np.abs(crop.astype(int) - np.asarray(expected)).mean() < .2
    plan = torch.tensor([[0, seed] for seed in range(1, 20)])
    crops, labels = decoded.read_batch(np.array([b'photo.jpg']), np.array([3]), None, 224, {}, plan)
    assert labels.tolist() == [3] * 19
    for (_, seed), (crop,) in zip(plan.tolist(), crops, strict=True):
        expected = published.pil_crop(photo, 224, seed).astype(int)
        assert np.abs(crop.numpy() - expected).mean() < .2


def test_random_boxes_are_torchvisions():
    """8 to 100 % of the area, aspect ratio 3/4 to 4/3 and its inverse as likely; inside."""
    rng = np.random.default_rng(0)
    boxes = np.array([decoded.random_box(rng, 400, 400) for _ in range(2000)])
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + h <= 400).all() and (left + w <= 400).all()
    area, ratio = h * w / 400 / 400, w / h
    assert .075 < area.min() < .1 and .95 < area.max() <= 1.01
    assert .73 < ratio.min() < .77 and 1.3 < ratio.max() < 1.37
    assert np.log(ratio).mean() == pytest.approx(0, abs=.02)
    assert decoded.random_box(rng, 10, 1000) == (0, 493, 10, 13)       # nothing fits: the middle


def test_batches_of_files(shapes_folder):
    files, labels, names = folder_sets.class_folders(shapes_folder, 'train')
    assert names == sorted(shapes.SHAPES) and np.bincount(labels).tolist() == [6] * 10
    mean, std = (1., 2., 3.), (4., 5., 6.)
    made = decoded.decoded_images(files, labels, 16, 32, mean, std, CPU)
    inputs, targets = (torch.cat(v) for v in zip(*made.batches(), strict=True))
    assert made.n == 60 and targets.tolist() == labels.tolist()
    (crop,) = decoded.views(image_files.read_image(files[7]), -1, 32)
    crop = torch.from_numpy(crop).flip(-1).double()
    torch.testing.assert_close(inputs[7].double().permute(1, 2, 0),
                               (crop - torch.tensor(mean)) / torch.tensor(std), rtol=1e-5, atol=0)
    # in training: every image once, other crops each time, the same with workers and without
    drawn = {}
    for nthread in (0, 2):
        rng = torch.Generator().manual_seed(1)
        made = decoded.decoded_images(files, labels, 16, 32, mean, std, CPU, nthread, train=True)
        drawn[nthread] = [[torch.cat(v) for v in zip(*made.batches(rng), strict=True)]
                          for _ in range(2)]
    for a, b in zip(drawn[0], drawn[2], strict=True):
        assert all(map(torch.equal, a, b)) and np.bincount(a[1]).tolist() == [6] * 10
    assert not torch.equal(drawn[0][0][0], drawn[0][1][0])


def test_images_are_mirrored_half_of_the_time():
    """Of one image whose left half is bright."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32] = 255
    cv2.imwrite('half.png', image)
    made = decoded.decoded_images(np.array([b'half.png'] * 200), np.zeros(200, np.int64), 50, 8,
                                  (0.,) * 3, (1.,) * 3, CPU, train=True)
    x = torch.cat([x for x, _ in made.batches()])
    brighter = (x[..., :4].mean((1, 2, 3)) - x[..., 4:].mean((1, 2, 3))).sign()
    assert .35 < (brighter > 0).double().mean() < .65 and (brighter < 0).double().mean() > .25


def test_cache(imagenet_run, shapes_folder, tmp_path):
    """Written once, with the short side that testing wants, and trained from."""
    cv2.imwrite(str(tmp_path / 'wide.png'), np.full((100, 300, 3), 7, np.uint8))
    shutil.copytree(shapes_folder, 'root')
    for name in ('wide.png', 'wider.png'):
        shutil.copy('wide.png', f'root/train/arrow/{name}')
    flags = ['--imagenetpath', 'root', '--cache', 'cache']
    imagenet_run('logs/a', *flags)
    assert cv2.imread('cache/short46/train/arrow/wide.png').shape == (46, 138, 3)
    written = sorted(pathlib.Path('cache').rglob('*.*'))
    assert len(written) == 60 + 2 + 1       # and source.txt
    written.remove(pathlib.Path('cache/short46/source.txt'))
    os.remove(written[0])
    shutil.rmtree('root')       # what is there is not made anew, or even looked for
    shutil.copytree(shapes_folder, 'root')
    times = {p: p.stat().st_mtime_ns for p in written[1:]}
    imagenet_run('logs/b', *flags)
    assert written[0].exists() and {p: p.stat().st_mtime_ns for p in written[1:]} == times
    assert not list(pathlib.Path('cache').rglob('*.tmp'))


def test_cache_of_other_images_is_refused(imagenet_run, shapes_folder):
    imagenet_run('logs/a', '--cache', 'cache')
    shutil.copytree(shapes_folder, 'root')
    with pytest.raises(InputError, match='give another'):
        imagenet_run('logs/b', '--imagenetpath', 'root', '--cache', 'cache')


def test_cache_of_a_process_that_was_killed(shapes_folder):
    """What it left unfinished goes, in time."""
    home, (files, labels, _) = pathlib.Path('cache/short37'), folder_sets.class_folders(
        shapes_folder, 'val')
    home.mkdir(parents=True)
    for name in ('host.1.tmp', 'host.2.tmp'):
        (home / name).touch()
    os.utime(home / 'host.1.tmp', (0, 0))
    decoded.write_cache(files, labels, 'cache', 32, 0)
    assert (home / 'source.txt').read_text() == f'{shapes_folder.resolve()}\n'
    assert [p.name for p in home.rglob('*.tmp')] == ['host.2.tmp']      # another may be at work


def test_full_disk_leaves_no_broken_image_in_a_cache(shapes_folder, monkeypatch):
    files, labels, _ = folder_sets.class_folders(shapes_folder, 'val')

    def full(*args):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as m:
        m.setattr(pathlib.Path, 'write_bytes', full)
        with pytest.raises(RunError, match='No space left on device'):
            decoded.write_cache(files, labels, 'cache', 32, 2)
    assert not list(pathlib.Path('cache').rglob('*.jpg'))
    new, _ = decoded.write_cache(files, labels, 'cache', 32, 2)
    assert all(image_files.read_image(f) is not None for f in new)


def test_hidden_files_are_no_images(shapes_folder):
    shutil.copytree(shapes_folder, 'root')
    os.mkdir('root/val/.ipynb_checkpoints')
    shutil.copy('root/val/star/00005.jpg', 'root/val/star/._00005.jpg')
    files, _, names = folder_sets.class_folders('root', 'val')
    assert len(files) == 21 and len(names) == 10


def test_small_images_are_copied_into_the_cache(shapes_folder):
    files, labels, _ = folder_sets.class_folders(shapes_folder, 'val')
    new, same = decoded.write_cache(files, labels, 'cache', 224, 2)
    assert (same == labels).all()
    for a, b in zip(files, new, strict=True):
        assert pathlib.Path(os.fsdecode(a)).read_bytes() == pathlib.Path(
            os.fsdecode(b)).read_bytes()


# ---- what is refused ----------------------------------------------------------------------------

@pytest.fixture
def root(shapes_folder, tmp_path):
    return shutil.copytree(shapes_folder, tmp_path / 'root')


def flat(root):
    for folder in list((root / 'val').iterdir()):
        for file in folder.iterdir():
            file.rename(root / 'val' / f'{folder.name}{file.name}')
        folder.rmdir()


def no_classes(root):
    shutil.rmtree(root / 'train')
    (root / 'train').mkdir()


def another_class(root):
    (root / 'val/ring').rename(root / 'val/rhombus')


def empty_class(root):
    for file in (root / 'train/star').iterdir():
        file.unlink()


def unreadable(root):
    (root / 'train/star/00005.jpg').write_bytes(b'no image')


def truncated(root):
    path = root / 'train/star/00005.jpg'
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize('damage, said, nthread', [
    (lambda root: shutil.rmtree(root), 'there is no folder', 0),
    (lambda root: shutil.rmtree(root / 'val'), 'there is no folder', 0),
    (flat, 'valprep.sh', 0), (no_classes, 'no class folders', 0),
    (another_class, 'must have the same ones, but rhombus is in', 0),
    (empty_class, 'classes without an image, such as star', 0),
    (unreadable, 'star/00005.jpg', 0), (unreadable, 'star/00005.jpg', 2),
    (truncated, 'star/00005.jpg', 2)])
def test_bad_folders(root, fails, damage, said, nthread):
    damage(root)
    status, message = fails(imagenet.main, *SMALL_IMAGENET, '--imagenetpath', root, '--save',
                            'logs/a', '--nthread', nthread)
    assert status == 2 and said in message and len(message.splitlines()) == 1


def test_unreadable_image_while_a_cache_is_written(root, fails):
    unreadable(root)
    status, said = fails(imagenet.main, *SMALL_IMAGENET, '--imagenetpath', root, '--cache', 'c')
    assert status == 2 and 'star/00005.jpg' in said


@pytest.mark.parametrize('flags, message', [
    (['--depth', '20'], 'depth'), (['--arch', 'vgg'], 'arch'), (['--width', '0'], 'width'),
    (['--width', '0.001'], 'no channels'), (['--size', '-1'], 'size'),
    (['--arch', 'alexnet', '--width', '2'], 'width'), (['--beta', '1'], 'teacher_params'),
    (['--at_groups', '[4]'], 'at_groups'), (['--pixels', 'x'], 'pixels'),
    (['--classes', '[1]'], '--evaluate'), (['--restore_bn', '5'], '--evaluate'),
    (['--validate', '60'], 'validate'), (['--evaluate', 'x', '--cache', 'c'], '--cache'),
    (['--imagenetpath', ''], 'imagenetpath')])
def test_bad_flags(fails, shapes_folder, flags, message):
    status, said = fails(imagenet.main, '--imagenetpath', shapes_folder, '--save', 'logs/a',
                         '--nthread', 0, *flags)
    assert status == 2 and message in said and len(said.splitlines()) == 1
    assert not pathlib.Path('logs').exists()


def test_weights_of_another_net(fails, shapes_folder):
    import cifar
    store.write_params(cifar.resnet(10, 1, 10)[1], 'cifar.pth')
    store.write_params(imagenet.define_student(18, .125, 7)[1], 'seven.pth')
    for file, message in (('cifar.pth', 'not a net of this script'), ('seven.pth', '7 classes'),
                          ('missing.pth', 'no net missing.pth')):
        status, said = fails(imagenet.main, *SMALL_IMAGENET, '--imagenetpath', shapes_folder,
                             '--teacher_params', file, '--beta', 1, '--save', 'logs/a')
        assert status == 2 and message in said and len(said.splitlines()) == 1
    assert 'resnet34' in said and 'cifar10' not in said


def test_held_out_images_come_from_the_training_set(shapes_folder):
    (train, labels), (test, _), classes = folder_sets.image_folders(shapes_folder, validate=20)
    assert len(train) == len(labels) == 40 and len(test) == 20 and classes == 10
    assert not set(train) & set(test) and all(b'/train/' in f for f in test)
    with pytest.raises(InputError, match='validate'):
        folder_sets.image_folders(shapes_folder, validate=60)


def test_every_flag_has_help(monkeypatch):
    parsers, real = [], flags.make_parser
    monkeypatch.setattr(flags, 'make_parser', lambda doc: parsers.append(real(doc))
                        or parsers[0])
    imagenet.parse(['--imagenetpath', 'x'])
    actions = parsers[0]._actions
    assert len(actions) > 35 and all(a.help for a in actions)
    assert 'restore_bn' in parsers[0].format_help()     # no stray % in a help text
