"""Freed memory stays with the process, so that taking it again faults no page."""

import subprocess
import sys

import pytest

ALLOCATE = """
import ctypes, resource, sys
from recrl.device.host_memory import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "keep" and not keep_freed_memory():
    print("none")
    sys.exit()

def touch():
    for size in (4 << 20, 8 << 20):
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        libc.free(block)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

touch()
before = faults()
for _ in range(20):
    touch()
print(faults() - before)
"""


def faulted(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", ALLOCATE, mode], capture_output=True, text=True, check=True)
    if done.stdout.strip() == "none":
        pytest.skip("this C library has no mallopt")
    return int(done.stdout)


def test_memory_that_was_freed_is_not_faulted_again():
    kept, default = faulted("keep"), faulted("default")
    assert kept * 10 < default
