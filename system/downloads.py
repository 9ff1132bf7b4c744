"""Downloading and unpacking files, checked by their sha256, whole or not at all."""
import contextlib
import hashlib
import http.client
import os
import pathlib
import sys
import tarfile
import tempfile
import zlib

import torch

from system import files
from utils import InputError


def sha256_of(path):
    """Return the sha256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download_file(url, root, sha256=''):
    """Download `url` into the folder `root`, with a progress bar, unless the file is there -> its
    path. The file appears under its name only if its checksum begins with `sha256`. InputError, if
    it does not, or if the download fails."""
    path = pathlib.Path(root) / url.rsplit('/', 1)[-1]
    if path.exists():
        if not sha256_of(path).startswith(sha256):
            raise InputError(f'{path} has another checksum than the file of {url}; delete it to '
                             f'have it downloaded again')
        return path
    print(f'downloading {url} to {path}')
    made = [p for p in path.parents if not p.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, path, hash_prefix=sha256 or None,
                                       progress=sys.stderr.isatty())
    except (OSError, RuntimeError, http.client.HTTPException) as e:
        raise InputError(f'cannot download {url}: {e}. Try again, or put the file, or what it is '
                         f'unpacked to, into {root} by hand') from None
    finally:
        files.remove_abandoned(path.parent.glob(f'{path.name}.*.partial'))
        with contextlib.suppress(OSError):      # they are not empty
            for p in made:
                p.rmdir()
    return path


def unpack(archive, root):
    """Unpack an archive into the folder `root`, each top-level entry whole or not at all.
    InputError, if it is damaged, or would write elsewhere."""
    print(f'unpacking {archive}')
    try:
        with tempfile.TemporaryDirectory(dir=root) as part, tarfile.open(archive) as tar:
            tar.extractall(part, filter='data')
            for name in sorted(os.listdir(part)):
                os.replace(os.path.join(part, name), os.path.join(root, name))
    except (OSError, EOFError, zlib.error, tarfile.TarError) as e:
        raise InputError(f'cannot unpack {archive} into {root}: {e}') from None
