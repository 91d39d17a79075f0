"""
What reading a file may do, watched by Python's audit events.

Any event that is not listed here is a failure while the watch is on, so whatever a future version of Python
reports is noticed, too.
"""

import os
import sys

ALLOWED = {
    # Attribute access that the interpreter reports (`__code__`, `__closure__` and the like of its own
    # objects): nothing runs, nothing leaves the process.
    *("object.__getattr__", "object.__setattr__", "object.__delattr__"),
    # warnings.warn looks for the line of the user's program that it concerns.
    *("sys._getframe", "sys._getframemodulename"),
    # id(), which copy and pickle readers use as a key.
    "builtins.id",
}
# NumPy's `array.ctypes` and ctypes' casts; the addresses go to this package's own Rust.
MEMORY = {"ctypes.addressof", "ctypes.cdata", "ctypes.cdata/buffer", "array.__new__"}
# psutil reads it when a replay buffer is made, as in SB3: the user is warned if there is too little memory.
MEMORY_SIZES = "/proc/meminfo"


class Watch:
    """
    An audit hook; it cannot be removed, but switched off.

    :param path: the file that may be read while it is on, or None
    """

    def __init__(self, path=None):
        self.path, self.on, self.seen = path, False, []
        self.events = 0
        sys.addaudithook(self._hook)

    def _hook(self, event, arguments):
        if not self.on:
            return
        self.events += 1
        if event in ALLOWED or event in MEMORY or (event == "open" and self._is_named_file(arguments)):
            return
        self.seen.append(f"{event} {arguments!r:.200}")

    def _is_named_file(self, arguments):
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        return not writes and mode in ("r", "rb") and str(path) in (str(self.path), MEMORY_SIZES)
