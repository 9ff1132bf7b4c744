"""Small data, runs in process and in a process of their own."""
import functools
import http.server
import pathlib
import subprocess
import sys
import threading

import pytest
import torch

import cifar
import imagenet
from data import shapes
from engine import runs, script

torch.set_num_threads(1)    # the nets are so small that a second one costs more than it gives
ROOT = pathlib.Path(__file__).parent.parent
SMALL = {'train': 256, 'test': 64}
# a run of seconds; what a test passes after it wins
QUICK = ['--dataset', 'shapes', '--depth', '10', '--batch_size', '64', '--epochs', '1',
         '--lr', '0.05']
SMALL_IMAGENET = ['--size', '40', '--width', '0.125', '--batch_size', '20', '--epochs', '1', '--lr',
                  '0.01', '--nthread', '0']


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    """Every test runs in a folder of its own, on few images of shapes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shapes, 'SHAPES_COUNTS', SMALL)


@pytest.fixture
def cifar_run():
    """Call cifar.main in process with QUICK and more flags -> the lines of the log, if any."""
    def call(save, *flags):
        cifar.main([*QUICK, '--save', str(save), *map(str, flags)])
        log = pathlib.Path(save, 'log.txt')
        return runs.read_log(log) if log.exists() else []
    return call


@pytest.fixture(scope='session')
def shapes_folder(tmp_path_factory):
    """`shapes` as JPEG files in ImageNet's layout: 60 and 21 images."""
    root = tmp_path_factory.mktemp('shapes')
    shapes.write_shapes(root, {'train': 60, 'test': 21}, 48)
    return root


@pytest.fixture
def imagenet_run(shapes_folder):
    """Call imagenet.main in process on few small images, and more flags -> the lines of the log, if
    any."""
    def call(save, *flags):
        imagenet.main([*SMALL_IMAGENET, '--imagenetpath', str(shapes_folder), '--save', str(save),
                       *map(str, flags)])
        log = pathlib.Path(save, 'log.txt')
        return runs.read_log(log) if log.exists() else []
    return call


@pytest.fixture
def http_server():
    """Serve a folder on this machine -> its address."""
    running = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    def serve(folder):
        httpd = http.server.ThreadingHTTPServer(('127.0.0.1', 0),
                                                functools.partial(Quiet, directory=folder))
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        running.append(httpd)
        return f'http://127.0.0.1:{httpd.server_port}'

    yield serve
    for httpd in running:
        httpd.shutdown()
        httpd.server_close()


@pytest.fixture
def fails(capsys):
    """Call a script's main as its command line does -> (exit status, what it says)."""
    def call(main, *flags):
        with pytest.raises(SystemExit) as e:
            script.run(lambda: main([str(f) for f in flags]))
        return e.value.code, capsys.readouterr().err
    return call


def process(*flags, before=''):
    """Start cifar.py on few images of shapes in a process of its own; `before` is code to run
    first."""
    code = (f'import sys; sys.path.insert(0, {str(ROOT)!r})\n'
            f'import cifar, torch\nfrom data import shapes\n'
            f'from engine import loop, runs, script\n'
            f'torch.set_num_threads(1)\nshapes.SHAPES_COUNTS = {SMALL}\n{before}\n'
            f'script.run(lambda: cifar.main({[*QUICK, *map(str, flags)]!r}))')
    return subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
