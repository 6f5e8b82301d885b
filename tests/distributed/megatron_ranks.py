"""Run under torchrun: measure a Megatron policy, save it, and leave the results in a folder.

    megatron_ranks.py FOLDER TENSOR_PARALLEL [--checkpointed]

FOLDER/model is a Hugging Face folder over the tiny SID space. FOLDER/saved appears, and a file of results for every one
of RUNS; the files with a rank in their name hold what that rank saw.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import megatron.core
import torch
from safetensors.torch import save_file
from torch import Tensor, distributed
from transformers import AutoTokenizer

from recrl.backends.megatron.parallel import start

RUNS = {
    "raw": {"space": "raw"},
    "legal": {"space": "legal"},
    "bfloat16": {"space": "raw", "dtype": "bfloat16"},
}
SEEN = ("beam.items", "beam.logp", "sample.items", "logp", "norms")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("tensor_parallel", type=int)
    parser.add_argument("--checkpointed", action="store_true")
    wanted = parser.parse_args()
    distributed.init_process_group("gloo")
    start(wanted.tensor_parallel)
    for run, options in RUNS.items():
        results = measured(wanted.folder, options, checkpointed=wanted.checkpointed)
        save_file({name: results[name] for name in SEEN}, wanted.folder / f"{run}-{distributed.get_rank()}.safetensors")
        if distributed.get_rank() == 0:
            save_file(results, wanted.folder / f"{run}.safetensors", metadata={"megatron": megatron.core.__version__})
    distributed.destroy_process_group()


def measured(folder: Path, options: dict[str, str], *, checkpointed: bool) -> dict[str, Tensor]:
    """All measures, the weights of a frozen copy among them; what was loaded is saved again first."""
    from distributed.measures import measure, tiny_trie
    from megatron.core import parallel_state

    from recrl.backends.megatron_backend import MegatronPolicy

    trie = tiny_trie(AutoTokenizer.from_pretrained(folder / "model"))
    policy = MegatronPolicy.load(folder / "model", trie, torch.device("cpu"), **options)
    policy.save_pretrained(folder / "saved")
    if checkpointed:
        policy.checkpoint_gradients()
    copy, copies = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
    group = parallel_state.get_data_parallel_group()
    frozen = policy.frozen_copy()
    found = measure(policy, copy, copies, lambda tensor: distributed.all_reduce(tensor, group=group))
    found |= {f"frozen.{name}": tensor for name, tensor in frozen.whole(dict(frozen.named_parameters()))}
    return {name: tensor.detach().contiguous() for name, tensor in found.items()}


main()
