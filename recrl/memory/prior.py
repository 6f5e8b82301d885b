"""The memory along the trie: at every node the mean weight of the items below it.

With the mean weight A(n) of the items below node n, a step to child c is offered with

    log p(c | n) + log A(c) - log A(n)

before the children are normalised. Along a path the added terms telescope to the item's own log-weight, less that of
the root: a response's score is the model's log-probability plus the memory's log-weight. Where all
weights are equal nothing is added. The sums are exact at every node: recalled items add what they have above the others
along their own paths, and the number of leaves does for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recrl.memory.recalled import Recalled
from recrl.sids.trie import Trie


@dataclass(frozen=True)
class NodePrior:
    """Log-weights of trie nodes for some prompts.

    Attributes:
        table: [B, nodes] float32: log A of every node, 0 where no recalled item lies below it.
        prompt: [D] whose weights are asked for, row by row.
    """

    table: Tensor
    prompt: Tensor

    def of(self, prompt: Tensor) -> NodePrior:
        """For rows of other prompts: [D] of those that this one's rows belong to."""
        return replace(self, prompt=self.prompt[prompt])

    def steps(self, node: Tensor, child: Tensor) -> Tensor:
        """[D, ...] nodes and [D, ..., C] nodes below them -> [D, ..., C]: what the memory adds to each step."""
        width = self.table.shape[1]
        row = self.prompt.view(-1, *(1,) * (node.dim() - 1)) * width
        flat = self.table.flatten()
        here = flat[row + node]
        return flat[row.unsqueeze(-1) + child] - here.unsqueeze(-1)


def node_prior(trie: Trie, root: Tensor, recalled: Recalled, above: Tensor) -> NodePrior:
    """Sum the weights along the trie.

    Args:
        root: [B] the root that each prompt's responses begin at.
        above: [B, M] log-weights of the recalled items above those of the others; may carry a gradient.
    """
    exists = recalled.items >= 0
    node = torch.where(exists, trie.leaf[root.unsqueeze(1), recalled.items.clamp(min=0)], root.unsqueeze(1))
    # Relative to the largest weight, so that no exponential overflows.
    peak = above.detach().amax(1, keepdim=True).clamp(min=0)
    base = (-peak).exp()
    extra = torch.where(exists, (above - peak).exp() - base, 0.0)
    sums = extra.new_zeros(len(extra), len(trie.count))
    for _ in range(trie.depth + 1):
        sums = sums.scatter_add(1, node, torch.where(node == root.unsqueeze(1), 0.0, extra))
        node = trie.parent[node]
    sums = sums.scatter_add(1, root.unsqueeze(1), extra.sum(1, keepdim=True))
    mean = sums / trie.leaves + base
    # Weights below the others' may cancel them by rounding; no step is ever impossible.
    table = torch.where(sums != 0, mean.clamp(min=torch.finfo(mean.dtype).tiny).log() + peak, 0.0)
    return NodePrior(table, torch.arange(len(table), device=table.device))
