"""Becomes another program, which the kernel kills when the parent of this process ends, however it ends.

python -S ends_with_parent.py PARENT_PID PROGRAM ARGUMENT...
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_SET_DEATH_SIGNAL = 1


def main() -> None:
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != int(parent):
        # It has ended in between.
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
