"""The notebook runs from top to bottom in a reduced setting, and is committed with its outputs."""
import os
import pathlib
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = ROOT / 'notebooks' / 'visualize-attention.ipynb'


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def pictures(notebook):
    return sum('image/jpeg' in out.get('data', ()) for cell in code_cells(notebook)
               for out in cell.outputs)


def text(notebook):
    return ''.join(out.get('text', '') for cell in code_cells(notebook) for out in cell.outputs)


def test_runs(notebook, tmp_path, monkeypatch):
    """In a folder of its own, which is not in the repository."""
    folders = {'IPYTHONDIR': tmp_path / 'ipython', 'JUPYTER_RUNTIME_DIR': tmp_path / 'runtime'}
    for name, value in {'NOTEBOOK_QUICK': 1, 'PYTHONPATH': ROOT, **folders}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv('DATAROOT', raising=False)
    for cell in code_cells(notebook):
        cell.outputs = []
    client = NotebookClient(notebook, timeout=120, kernel_name='python3',
                            resources={'metadata': {'path': str(tmp_path)}})
    client.execute()
    assert pictures(notebook) == 4
    runs = {p.parent.name for p in tmp_path.glob('logs/notebook/quick/*/model.pt7')}
    assert runs == {'teacher', 'student', 'at', 'kd', 'f_actt', 'grad_at'}
    assert text(notebook).count('not shown') == 2
    assert text(notebook).count(' ± ') == 4 * 6 + 1


def test_committed_outputs(notebook):
    """There, whole, in order, small, and without a trace of the machine."""
    cells = code_cells(notebook)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    kinds = {out.output_type for c in cells for out in c.outputs}
    assert kinds == {'stream', 'display_data'}
    assert {out.name for c in cells for out in c.outputs if 'name' in out} == {'stdout'}
    assert pictures(notebook) >= 4
    content = NOTEBOOK.read_text()
    assert len(content) < 500_000
    assert not re.search(r'(^|[\s\'"(=])/\w', text(notebook))      # absolute paths
    assert '"execution":' not in content      # times of the day


@pytest.mark.parametrize('folder', [ROOT, ROOT / 'notebooks'])
def test_finds_the_repository(notebook, folder):
    code = code_cells(notebook)[0].source + '''
import importlib.util
print(importlib.util.find_spec('visualize').origin, os.getcwd())'''
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    done = subprocess.run([sys.executable, '-c', code], cwd=folder, env=environment, text=True,
                          capture_output=True, check=True)
    assert done.stdout.split() == [str(ROOT / 'visualize.py'), str(ROOT)]
