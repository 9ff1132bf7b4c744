"""Files that are written whole or not at all."""
import contextlib
import errno
import os
import pathlib
import time

from utils import RunError

FULL = {errno.ENOSPC, errno.EDQUOT}
ABANDONED = 600     # seconds after which an unfinished file that is not written to is nobody's


def write_whole(path, data, temporary=None):
    """Write bytes whole or not at all, in a folder that is made if need be. RunError, if that
    fails; the file is then as it was. `temporary`: where the bytes are written first, on the same
    disk; what a killed process has left there is overwritten."""
    path = pathlib.Path(path)
    temporary = temporary or path.with_name(path.name + '.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunError(f'cannot write {path}: {e.strerror}' + (
            '. What was there before is unchanged; make room and repeat the command'
            if e.errno in FULL else '')) from None


def remove_abandoned(paths):
    """Remove the unfinished files among `paths` that killed processes have left. One that was
    written to a short time ago is perhaps another process's at work, and stays."""
    for path in paths:
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
