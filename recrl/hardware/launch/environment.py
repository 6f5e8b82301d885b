"""Environment variables of a distributed run, each with the reason for it.

Sources: NCCL's and PyTorch's pages of environment variables; Huawei's CANN reference of HCCL_* variables.
"""

from __future__ import annotations

from dataclasses import dataclass

LIBRARIES = {"cpu": "GLOO", "cuda": "NCCL", "npu": "HCCL"}
"""Device -> the library that its ranks talk through."""


@dataclass(frozen=True)
class Variable:
    """One line of a script; ``value`` is shell text, to stand between double quotes."""

    name: str
    value: str
    why: str


CUDA = (
    Variable("NCCL_DEBUG", "WARN", "NCCL tells why a connection failed, and is silent otherwise"),
    Variable(
        "TORCH_NCCL_ASYNC_ERROR_HANDLING",
        "3",
        "a rank whose peer is gone ends, so that torchrun can start all of them again (torch's default, held fast)",
    ),
    Variable("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True", "batches of many lengths would split memory up"),
)
NPU = (
    Variable(
        "HCCL_CONNECT_TIMEOUT",
        "1800",
        "seconds until all ranks have met; of HCCL's 120, reading data and model alone can take more",
    ),
    Variable(
        "HCCL_EXEC_TIMEOUT",
        "1836",
        "seconds that ranks wait for one that saves or validates; the default is 600 to 1836, by CANN's release",
    ),
    Variable("HCCL_WHITELIST_DISABLE", "1", "older CANN releases talk to no address outside a list of their own"),
    Variable("PYTORCH_NPU_ALLOC_CONF", "expandable_segments:True", "batches of many lengths would split memory up"),
)
DEVICE = {"cpu": (), "cuda": CUDA, "npu": NPU}


def variables(
    device: str, devices_per_node: int, tensor_parallel: int = 1, interface: str | None = None, cpus: int | None = None
) -> tuple[Variable, ...]:
    """The environment of every rank.

    Args:
        device: "cpu", "cuda" or "npu".
        tensor_parallel: devices that share one copy of the model.
        interface: the network interface between nodes.
        cpus: cores of a node; None: the script counts them where it runs.
    """
    shared = f"$(( $(nproc) > {devices_per_node} ? $(nproc) / {devices_per_node} : 1 ))"
    threads = shared if cpus is None else str(max(cpus // devices_per_node, 1))
    found = [
        Variable("PYTHONUNBUFFERED", "1", "what a rank says is in its log when it dies"),
        Variable(
            "OMP_NUM_THREADS",
            f"${{OMP_NUM_THREADS:-{threads}}}",
            "threads of a rank: the node's cores shared out, unless you say otherwise",
        ),
        Variable(
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE",
            "1",
            "else ranks that start again find addresses of the ranks before them, which refuse (pytorch issue 135712)",
        ),
        *DEVICE[device],
    ]
    if tensor_parallel > 1 and device != "cpu":
        found.append(
            Variable(
                "CUDA_DEVICE_MAX_CONNECTIONS", "1", "Megatron wants its kernels to start in the order of its calls"
            )
        )
    if interface is not None:
        why = "the network between nodes; the first one that answers need not be it"
        found.append(Variable(f"{LIBRARIES[device]}_SOCKET_IFNAME", interface, why))
        if device != "cpu":
            found.append(Variable("GLOO_SOCKET_IFNAME", interface, "the same for what ranks exchange from CPU memory"))
    return tuple(found)
