"""Storage in a folder of a mounted file system: objects are files, written under a temporary name and renamed (`mtc.files`)."""

import contextlib
import errno
import os
import pathlib
import shutil

from mtc import files
from mtc.errors import UserError
from mtc.storage import Storage, TransientError, check_key, is_temporary

_MENDED_BY_PEOPLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)


class LocalStorage(Storage):
    """Objects as files below `root`, which is made when the first object is written."""

    def __init__(self, root):
        self.root = os.path.abspath(os.path.expanduser(root))

    def put(self, path, key):
        target = self._path(key)
        with open(path, "rb") as source, self._errors(key), files.atomic_file(target) as f:
            shutil.copyfileobj(source, f, files.BLOCK)

    def get(self, key, path):
        with self._errors(key), open(self._path(key), "rb") as source, files.atomic_file(path) as f:
            shutil.copyfileobj(source, f, files.BLOCK)

    def read(self, key):
        path = self._path(key)
        with self._errors(key):
            try:
                with open(path, "rb") as f:
                    return f.read()
            except FileNotFoundError:
                return None

    def write(self, key, data):
        path = self._path(key)
        with self._errors(key):
            files.write_bytes(path, data)

    def stream(self, key, start=0):
        with self._errors(key):
            f = open(self._path(key), "rb")  # noqa: SIM115 - closed by the generator
            total = os.fstat(f.fileno()).st_size
            f.seek(start)
        return self._blocks(f, key), total

    def sizes(self, prefix=""):
        top = self._path(prefix) if prefix else self.root
        found = {}
        with self._errors(prefix):
            for folder, _, names in os.walk(top, onerror=_unless_missing):
                for name in names:
                    path = os.path.join(folder, name)
                    if not is_temporary(name):
                        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile: not there
                            found[os.path.relpath(path, self.root).replace(os.sep, "/")] = os.stat(path).st_size
        return found

    def delete(self, key):
        path = self._path(key)
        with self._errors(key), contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            files.fsync_dir(os.path.dirname(path))

    def url(self, key):
        return pathlib.Path(self.root, *check_key(key).split("/")).as_uri() if key else pathlib.Path(self.root).as_uri()

    def _path(self, key):
        return os.path.join(self.root, *check_key(key).split("/"))

    def _blocks(self, f, key):
        with f, self._errors(key):
            yield from iter(lambda: f.read(files.BLOCK), b"")

    @contextlib.contextmanager
    def _errors(self, key):
        """Sort the system's errors: what a person must mend, and what may pass."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = "{}: {}".format(error.filename or self.url(key), error.strerror or error)
            if error.errno in _MENDED_BY_PEOPLE:
                raise UserError("folder {} cannot be used ({}): make it accessible or choose another one".format(self.root, reason)) from None
            raise TransientError(reason) from error


def _unless_missing(error):
    """os.walk hides errors; a folder that is not there is an empty one, all other errors count."""
    if not isinstance(error, FileNotFoundError):
        raise error
