"""Weights of SFT's targets by how often training shows them.

In 5-core data under leave-one-out the rarer an item is in training, the more often it is a test target in proportion;
likelihood weighs items by the first, a ranking is measured by the second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recrl.data.dataset import Dataset
from recrl.data.frequency import dataset_counts


def target_weights(dataset: Dataset, power: float) -> NDArray[np.float32]:
    """[items + 1]: ``(n + 1) ** -power`` of an item with ``n`` training interactions, 1 on average over targets.

    The entry after the last item, which index -1 finds, is 1: the weight of what names no item.
    """
    weight = (dataset_counts(dataset) + 1.0) ** -power
    train = dataset.train
    place = np.arange(len(train.items.values)) - np.repeat(train.items.offsets[:-1], train.items.lengths)
    asked = train.items.values[place >= np.repeat(train.first_target, train.items.lengths)]
    targets = np.concatenate([asked, dataset.train_examples.targets.values])
    mean = weight[targets].mean() if len(targets) else 1.0
    return np.append(weight / mean, 1.0).astype(np.float32)
