"""How much of a history prompts show: what the data set was prepared with, unless the run says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import ITEMS, MARKET, run_config

from recrl.config import RunConfig
from recrl.data import dataset as datasets
from recrl.data.prepare import prepare
from recrl.errors import UserError
from recrl.run_data import history_limit, load_data, start_run_data
from recrl.sids import codes
from recrl.sids.codes import with_suffixes


def prepared(folder: Path, asked: int | None, **how: Any) -> RunConfig:
    """A config on data that were prepared as ``how`` says."""
    prepare("synthetic", None, folder / "data", options=MARKET, **how)
    meta = datasets.load(folder / "data").meta
    random = np.random.default_rng(0).integers(0, 4, (ITEMS, 3)).astype(np.int32)
    (folder / "sids").mkdir()
    codes.save(with_suffixes(random, (4, 4, 4), {"dataset": meta["fingerprint"]}), folder / "sids")
    return run_config(folder, folder / "runs", data={"path": str(folder / "data"), "history_limit": asked})


@pytest.mark.parametrize(("asked", "shown"), [(None, 4), (2, 2), (7, 7)])
def test_prompts_show_what_the_data_was_prepared_for_or_what_the_run_asks(
    tmp_path: Path, asked: int | None, shown: int
) -> None:
    config = prepared(tmp_path, asked, history_limit=4)
    run_data, _ = start_run_data(config, *load_data(config))
    test = run_data.dataset.test
    row = int(np.argmax(test.history.lengths))
    assert test.history.lengths[row] >= shown
    assert run_data.writer.history_limit == shown


def test_a_chronological_split_shows_training_no_more_than_its_tests_hold(tmp_path: Path) -> None:
    config = prepared(tmp_path, None, split="chronological", history_limit=3)
    dataset = datasets.load(config.data.path)
    assert dataset.test.history.lengths.max() == 3 == history_limit(config, dataset)
    more = config.model_copy(update={"data": config.data.model_copy(update={"history_limit": 5})})
    with pytest.raises(UserError, match=r"data\.history_limit = 5(.|\n)*--history-limit 5"):
        history_limit(more, dataset)
