"""Which ranks hold one model together. Imports no Megatron before it is asked for."""

from __future__ import annotations

import importlib.util

from torch import distributed

from recrl.errors import UserError


def start(tensor_parallel: int) -> None:
    """Let every ``tensor_parallel`` neighbouring ranks hold one model; as many models as fit train side by side.

    ``torch.distributed`` is initialised. Call it before ``recrl.backends.megatron_backend`` is imported.

    Raises:
        UserError: Megatron-core is not installed, or the ranks do not divide.
    """
    if importlib.util.find_spec("megatron") is None or importlib.util.find_spec("megatron.core") is None:
        raise UserError(
            "backend.engine = 'megatron'", why="megatron-core is not installed", fix="pip install 'recrl[megatron]'"
        )
    ranks = distributed.get_world_size()
    if ranks % tensor_parallel:
        raise UserError(
            f"backend.tensor_parallel = {tensor_parallel}",
            why=f"{ranks} ranks do not divide by it",
            fix="start a multiple of it",
        )
    from megatron.core import parallel_state

    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel(tensor_model_parallel_size=tensor_parallel)
    assert parallel_state.get_tensor_model_parallel_world_size() == tensor_parallel, "started with another size"
