"""Locks on open files: whoever dies lets go of his, so that none is ever left behind."""

from __future__ import annotations

import errno
import sys
from typing import Literal

Answer = Literal["taken", "held", "unknown"]

UNKNOWN_THERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What disks answer that know no locks, some network disks say."""

if sys.platform == "win32":
    import msvcrt
    import os

    FAR_BEYOND = 1 << 30
    """A byte that no index reaches: a locked one cannot be read by others."""

    def try_lock(file: int) -> Answer:
        """Take the lock of a file open for writing, without waiting: "held" by another, or "unknown" to this disk."""
        os.lseek(file, FAR_BEYOND, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            return "unknown" if error.errno in UNKNOWN_THERE else "held"
        return "taken"

    def unlock(file: int) -> None:
        """Let go of a lock that was taken."""
        os.lseek(file, FAR_BEYOND, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def try_lock(file: int) -> Answer:
        """Take the lock of a file open for writing, without waiting: "held" by another, or "unknown" to this disk."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "held"
        except OSError as error:
            if error.errno in UNKNOWN_THERE:
                return "unknown"
            raise
        return "taken"

    def unlock(file: int) -> None:
        """Let go of a lock that was taken, for processes forked since too."""
        fcntl.flock(file, fcntl.LOCK_UN)
