"""Image files: names, formats, broken ones; how they reach training."""
import io
import os
import pathlib
import shutil
import tracemalloc

import cv2
import numpy as np
import pytest
from helpers import FLAGS, SMALL_IMAGENET, write_net
from PIL import Image

import finetune
import imagenet
import visualize
from data import decoded, image_files
from utils import InputError

RNG = np.random.default_rng(0)
SMOOTH = cv2.resize(RNG.integers(0, 256, (5, 6, 3), np.uint8), (60, 40),
                    interpolation=cv2.INTER_CUBIC)


def encoded(form, images, **how):
    file = io.BytesIO()
    images[0].save(file, form, **how)
    return file.getvalue()


@pytest.mark.parametrize('suffix', image_files.IMAGES)
def test_every_listed_suffix_can_be_read(suffix):
    form = Image.registered_extensions().get(suffix)
    if suffix in ('.ras', '.sr', '.apng'):
        _, data = cv2.imencode(suffix, SMOOTH)
        data = data.tobytes()
    else:
        data = encoded(form, [Image.fromarray(SMOOTH[..., ::-1].copy())])
    image = image_files.decode(data)
    assert image.shape == SMOOTH.shape and np.abs(image.astype(int) - SMOOTH).mean() < 12


@pytest.mark.parametrize('form, how', [
    ('GIF', dict(disposal=2)), ('WEBP', dict(lossless=True)), ('PNG', {}),
    ('PNG', dict(default_image=True))])
def test_first_frame_of_animations_is_that_of_pil(form, how):
    frames = [Image.fromarray(x).convert('RGBA') for x in (SMOOTH, 255 - SMOOTH, SMOOTH[::-1])]
    for frame in frames:
        frame.putalpha(Image.fromarray(255 * (SMOOTH[..., 0] > 128).astype(np.uint8)))
    data = encoded(form, frames, save_all=True, append_images=frames[1:], duration=50, **how)
    first = np.array(Image.open(io.BytesIO(data)).convert('RGB'))
    np.testing.assert_array_equal(image_files.decode(data)[..., ::-1], first)


def damaged_png():
    _, data = cv2.imencode('.png', SMOOTH)
    data = data.copy()
    data[len(data) // 2] ^= 255
    return data.tobytes()


def test_what_is_no_image_is_said_in_a_line(capfd):
    """Whatever its name and kind; and libraries are silent."""
    profile = Image.fromarray(SMOOTH)
    good = encoded('PNG', [profile], icc_profile=b'nonsense' * 20)     # libpng warns of that
    pathlib.Path('profile.png').write_bytes(good)
    assert image_files.read_image('profile.png').shape == SMOOTH.shape
    tiff = encoded('TIFF', [profile])
    for name, data in (('empty.jpg', b''), ('text\n.jpg', b'text'), (b'\xff.png', damaged_png()),
                       ('cut.tif', tiff[:len(tiff) // 2])):
        pathlib.Path(os.fsdecode(name)).write_bytes(data)
        with pytest.raises(InputError, match='cannot read the image') as e:
            image_files.read_image(name)
        assert str(e.value).isprintable()
    os.mkfifo('pipe.jpg')
    os.mkdir('folder.jpg')
    for name in ('pipe.jpg', 'folder.jpg', 'none.jpg', '/dev/zero', 'a\0.jpg'):
        with pytest.raises(InputError, match='there is no such file'):
            image_files.read_image(name)
    assert capfd.readouterr() == ('', '')


def test_names_that_are_not_utf8(fails, capsys):
    """visualize.py reads as the scripts do."""
    name = os.fsdecode(b'\xff.jpg')
    write_net('a.pth', 'wrn-10-1')
    status, said = fails(visualize.main, name, '--model', 'a.pth')
    assert status == 2 and '\\udcff.jpg' in said and len(said.splitlines()) == 1
    cv2.imwrite('red.jpg', SMOOTH)
    os.rename('red.jpg', name)
    os.rename('a.pth', os.fsdecode(b'\xfe$x^$.pth'))
    visualize.main([name, '--model', os.fsdecode(b'\xfe$x^$.pth')])
    expected = decoded.resize(image_files.read_image(name), 32, 32)[..., ::-1]
    np.testing.assert_array_equal(visualize.read_images([name], 32), expected[None])


@pytest.mark.parametrize('shape', [(3, 400), (400, 3), (1, 1000)])
def test_crops_of_long_images_are_those_of_the_whole(shape, monkeypatch):
    image = RNG.integers(0, 256, (*shape, 3), np.uint8)
    for how in (dict(ten=True), dict(crop='place'), dict(crop='centre')):
        views = {}
        for large in (10 ** 9, 1):
            monkeypatch.setattr(decoded, 'WHOLE', large)
            views[large] = np.stack([v for seed in (-1, 0, 5, 8)
                                     for v in decoded.views(image, seed, 28, **how)])
        a, b = (v.astype(int) for v in views.values())
        # `resize` rounds twice, once along each axis
        assert np.abs(a - b).max() <= 1 and (a != b).mean() < .2


def test_a_line_of_pixels_takes_little_memory():
    image = RNG.integers(0, 256, (1, 20000, 3), np.uint8)
    tracemalloc.start()
    assert np.stack(decoded.views(image, -1, 224, ten=True)).shape == (10, 224, 224, 3)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.fixture
def root(shapes_folder, tmp_path):
    shutil.copytree(shapes_folder, tmp_path / 'root')
    for name in ('train/star/00005.jpg', 'val/star/00005.jpg'):
        path = tmp_path / 'root' / name
        path.write_bytes(path.read_bytes()[:300])
    return tmp_path / 'root'


@pytest.mark.parametrize('script', ['imagenet', 'finetune'])
def test_broken_images_of_a_run(script, root, fails, capsys):
    """Those of testing are found before the first epoch, all of them by --check_data; training goes
    without them with --skip_broken."""
    write_net()
    run, flags = {
        'imagenet': (imagenet.main, [*SMALL_IMAGENET, '--imagenetpath', root]),
        'finetune': (finetune.main, [*FLAGS, '--dataset', 'folder', '--dataroot', root, '--source',
                                     'source.pth', '--fraction', '0']),
    }[script]
    flags = [*flags, '--save', 'logs/a']
    status, said = fails(run, *flags)
    assert status == 2 and '1 of 21 images' in said and 'val/star/00005.jpg' in said
    assert not pathlib.Path('logs').exists()
    with pytest.raises(InputError, match='2 of 81 images are missing or cannot be read'):
        run([*map(str, flags), '--check_data'])
    said = capsys.readouterr().out
    assert '60 training images, 21 test images, 10 classes' in said
    assert said.count('cannot be read: ') == 2 and 'train/star/00005.jpg' in said
    run([*map(str, flags), '--skip_broken'])
    said = capsys.readouterr().out
    assert '1 of 60 images are left out' in said and '1 of 21 images are left out' in said
    assert pathlib.Path('logs/a/model.pt7').exists()
    status, said = fails(run, *flags[:-1], 'logs/b', '--evaluate', 'logs/a')
    assert status == 2 and 'val/star/00005.jpg; --check_data lists all' in said
    run([*map(str, flags[:-2]), '--skip_broken', '--evaluate', 'logs/a'])
    assert 'of 20 images' in capsys.readouterr().out


def test_too_small_images_and_batches(fails, shapes_folder):
    """One line before a run begins."""
    base = [*SMALL_IMAGENET, '--imagenetpath', shapes_folder, '--save', 'logs/a']
    status, said = fails(imagenet.main, *base, '--arch', 'alexnet', '--width', '1')
    assert status == 2 and '40x40 pixels are too few for the net' in said
    status, said = fails(imagenet.main, *base, '--batch_size', '1', '--size', '32')
    assert status == 2 and 'batch normalisation needs two values' in said
    write_net()
    status, said = fails(finetune.main, *FLAGS, '--source', 'source.pth', '--size', '32',
                         '--batch_size', '1', '--save', 'logs/a')
    assert status == 2 and 'batch normalisation needs two values' in said
    assert not pathlib.Path('logs').exists()


@pytest.mark.parametrize('flags', [
    ['--at_groups', '[2,2]'], ['--evaluate', 'a.pth', '--classes', str([0] * 10)]])
def test_repeated_groups_and_classes(flags, fails, shapes_folder):
    write_net('a.pth')
    status, said = fails(imagenet.main, *SMALL_IMAGENET, '--imagenetpath', shapes_folder, *flags)
    assert status == 2 and 'each once' in said
