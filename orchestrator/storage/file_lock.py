"""A lock on a file that dies with its process, and that can be looked at without being taken.

Linux' open file description locks do both, on local disks and over NFS. Where there are none,
`filelock` holds the file, and looking has to try it for a moment.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None

HAS_OFD = hasattr(fcntl, "F_OFD_SETLK") and hasattr(fcntl, "F_OFD_GETLK")
WHOLE_FILE = "hhqqi4x"
"""C's struct flock: type, whence, start, length (0: to the end), process."""


class Lock:
    """A lock that one open file holds. Whoever inherits the descriptor holds it too, until all have
    closed it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.descriptor: int | None = None
        self._other = None

    def acquire(self) -> bool:
        """Take the lock if it is free; says whether it was. Raises OSError when the file cannot be
        locked.
        """
        if not HAS_OFD:
            return self._acquire_other()
        assert fcntl is not None
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted(fcntl.F_WRLCK))
        except (BlockingIOError, PermissionError):  # systems differ in how they say it
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self.descriptor = descriptor
        return True

    def _acquire_other(self) -> bool:
        from filelock import FileLock, Timeout

        self._other = FileLock(self.file)
        try:
            self._other.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Let it go, unless someone has inherited it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        if self._other is not None:
            self._other.release()


def is_held(file: Path) -> bool:
    """Whether someone holds the lock of a file now. Never takes it, where the system can tell
    without.
    """
    if not HAS_OFD:
        lock = Lock(file)
        is_taken = file.exists() and not lock.acquire()
        lock.release()
        return is_taken
    assert fcntl is not None
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # none there, or not ours to read: nobody whom we could see holds it
        return False
    try:
        lock_info = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted(fcntl.F_WRLCK))
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return struct.unpack(WHOLE_FILE, lock_info)[0] != fcntl.F_UNLCK


def wanted(kind: int) -> bytes:
    """What to ask the system for."""
    return struct.pack(WHOLE_FILE, kind, os.SEEK_SET, 0, 0, 0)
