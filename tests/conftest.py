"""Small data, runs in process and in a process of their own."""
import functools
import http.server
import pathlib
import threading

import pytest
import torch
from helpers import QUICK, SMALL, SMALL_IMAGENET, small_table

import cifar
import imagenet
from data import shapes
from engine import runs, script
from papers import catalogue
from papers.rows import row

torch.set_num_threads(1)    # the nets are so small that a second one costs more than it gives


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


@pytest.fixture
def two_tables(monkeypatch):
    """`t` of three rows, `u` with two of those and one of its own."""
    t = {'teacher': row('WRN-10-1', seeds=2), 'student': row('alone', seeds=2),
         'at': row('WRN-10-1, AT', '5.00', 'a book', '--teacher_id @teacher --beta 10',
                   'student', 2)}
    u = {'t/student': row('none', '9.00', seeds=2),
         'own': row('own', '', '', '--teacher_id @t/teacher --beta 1', 't/student', 4)}
    monkeypatch.setattr(catalogue, 'TABLES',
                        {'t': small_table(t), 'u': small_table(u, medians=True)})
