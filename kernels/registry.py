"""Which implementation of an op runs where.

An op is a folder; an implementation is a file in it that defines the same functions as ``reference.py``, which is the
specification. A row of the table names a file, the devices that it runs on and the packages that it needs; fastest
first, the reference last: it runs everywhere.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from dataclasses import dataclass
from types import ModuleType

from recrl.errors import UserError, nearest

logger = logging.getLogger(__name__)
ANYWHERE = ("cuda", "npu", "cpu")


@dataclass(frozen=True)
class Kernel:
    """One implementation: ``kernels/<op>/<name>.py``."""

    name: str
    devices: tuple[str, ...] = ANYWHERE
    needs: tuple[str, ...] = ()
    compiled: bool = False
    """Made from C at first use (``native.py``)."""

    def missing(self) -> list[str]:
        """Packages that it needs and that are not installed."""
        return [package for package in self.needs if not _is_installed(package)]

    def obstacle(self, device: str) -> str | None:
        """Why it can't run on a device type; None where it can."""
        if device not in self.devices:
            return f"{self.name} runs on {', '.join(self.devices)}, not on {device}"
        missing = self.missing()
        if missing:
            return f"{self.name} needs {', '.join(missing)}, which is not installed"
        return importlib.import_module("recrl.kernels.native").obstacle() if self.compiled else None


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package that it would lie in
        return False


REFERENCE = Kernel("reference")
NATIVE = Kernel("native", ("cpu",), compiled=True)
TRITON = Kernel("triton_gpu", ("cuda",), needs=("triton",))
# triton-ascend is a package of the name triton; the one for CUDA has no such backend and compiles nothing for an NPU.
ASCEND = Kernel("ascend", ("npu",), needs=("triton.backends.ascend", "torch_npu"))
CHUNKED = Kernel("chunked")
EXPLICIT = Kernel("explicit")
PADDED = Kernel("padded")

KERNELS: dict[str, tuple[Kernel, ...]] = {
    "linear_logp": (TRITON, ASCEND, NATIVE, CHUNKED, REFERENCE),
    "gmean_ratio": (TRITON, ASCEND, REFERENCE),
    "boundary_select": (TRITON, ASCEND, REFERENCE),
    "pack_active": (TRITON, ASCEND, REFERENCE),
    "rms_norm": (NATIVE, REFERENCE),
    "swiglu": (NATIVE, REFERENCE),
    "norm_rotary": (NATIVE, REFERENCE),
    "prefix_attention": (TRITON, ASCEND, NATIVE, EXPLICIT, REFERENCE),
    "shared_prefix_attention": (NATIVE, PADDED, REFERENCE),
}


@functools.cache
def pick(op: str, device: str, wanted: str = "auto") -> ModuleType:
    """The module of an op on a device type; ``auto`` takes the first of the table that can run, and logs which.

    Raises:
        UserError: there is no such implementation, or the wanted one can't run here. It is never swapped for another.
    """
    rows = KERNELS[op]
    usable = [row.name for row in rows if row.obstacle(device) is None]
    if wanted == "auto":
        logger.info("kernel %s on %s: %s", op, device, usable[0])
        return load(op, usable[0])
    found = next((row for row in rows if row.name == wanted), None)
    if found is None:
        raise UserError(
            f"kernel {op} = {wanted!r}", why="there is no such implementation", fix=nearest(wanted, [*usable, "auto"])
        )
    obstacle = found.obstacle(device)
    if obstacle:
        raise UserError(f"kernel {op} = {wanted!r}", why=obstacle, fix=f"usable here: {', '.join(usable)}")
    return load(op, wanted)


def load(op: str, name: str) -> ModuleType:
    """Import one implementation."""
    return importlib.import_module(f"recrl.kernels.{op}.{name}")
