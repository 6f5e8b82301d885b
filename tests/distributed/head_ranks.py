"""Run under torchrun: the output matrix in parts gives what the whole one gives, at sizes where ops work in chunks."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from recrl.backends.megatron.parallel import start

V, H, S, T, C = 5000, 16, 300, 700, 40
WHERE = {"everywhere": (0, V), "one rank": (0, V // 5), "the last rank": (V - V // 5, V)}
"""Tokens that the trie knows."""


def main() -> None:
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    start(ranks)
    from recrl.backends.megatron.head import ShardedHead
    from recrl.backends.torch_backend import WholeHead
    from recrl.kernels.ops import Ops

    generator = torch.Generator().manual_seed(0)
    ops = Ops.pick("cpu")
    share = -(-V // ranks)
    weight = torch.randn(V, H, generator=generator)
    for place, (low, high) in WHERE.items():
        columns = torch.randperm(high - low, generator=generator)[: min(high - low, 800)].sort().values + low
        column_of = torch.zeros(V, dtype=torch.long)
        column_of[columns] = torch.arange(len(columns))
        results = []
        for whole in (True, False):
            own = weight.clone() if whole else weight[rank * share : (rank + 1) * share].clone()
            own.requires_grad_(True)
            head = (
                WholeHead(lambda own=own: own, ops, columns, column_of)
                if whole
                else ShardedHead(lambda own=own: own, rank * share, ops, columns, V)
            )
            found = computed(head, own, columns)
            if whole:
                found["weight"] = found["weight"][rank * share : (rank + 1) * share]
            results.append(found)
        for name, wanted in results[0].items():
            apart = float((results[1][name] - wanted).abs().max() / wanted.abs().max())
            assert apart < 1e-5, f"{place}, {name}: {apart}"
    print("equal", rank)
    distributed.destroy_process_group()


def computed(head: object, weight: Tensor, columns: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def some(count: int) -> Tensor:
        return columns[torch.randint(len(columns), (count,), generator=generator)]

    hidden = torch.randn(S, H, generator=generator).mul_(2).requires_grad_(True)
    source, token = torch.randint(S, (T,), generator=generator), torch.randint(V, (T,), generator=generator)
    logp, entropy = head.logp(hidden, token, source)
    legal = torch.stack([columns[torch.randperm(len(columns), generator=generator)[:C]] for _ in range(S)])
    exists = torch.rand(S, C, generator=generator) < 0.3
    exists[:, 3] = True
    exists[:20] = torch.arange(C) == 3  # a single continuation: its log-probability is 0 and has no gradient
    legal_logp, legal_entropy = head.legal_logp(hidden, legal[:, 3], legal, exists)
    bias = torch.randn(S, C, generator=generator)
    biased, biased_entropy = head.legal_logp(hidden, legal[:, 3], legal, exists, bias)
    factor = torch.randn(T + 2 * S, generator=generator)
    (torch.cat([logp, legal_logp, biased]) * factor).sum().backward()
    found = {"logp": logp, "entropy": entropy, "legal": legal_logp, "legal entropy": legal_entropy}
    found |= {"biased": biased, "biased entropy": biased_entropy, "hidden": hidden.grad, "weight": weight.grad}
    with torch.no_grad():
        for space in ("raw", "legal"):
            scores, normaliser = head.scores(hidden, legal, space)
            found |= {f"{space} scores": scores} | ({} if normaliser is None else {"normaliser": normaliser})
        found["logits"] = head.logits(hidden.view(S // 2, 2, H), legal.view(S // 2, 2, C))
    assert found["legal"][:20].abs().max() < 1e-5, "of a single continuation"
    return {name: tensor.detach() for name, tensor in found.items()}


main()
