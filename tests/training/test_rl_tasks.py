"""What RL asks for, where its responses may go, and what dynamic sampling replaces."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import metrics, run_config, silent, write_world

from recrl.errors import UserError
from recrl.groups.rollout import RolloutGroups
from recrl.models.checkpoint import save_folder
from recrl.run_data import load_data, new_model
from recrl.store import checkpoint
from recrl.store.run_folder import StageFolder
from recrl.training.group_health import unequal
from recrl.training.rl import Rl, train_rl

TEXT = {"preset": "tiny", "text_vocab_size": 400, "sid_init": "random"}


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world and an untrained model that knows words; titles 1 and 3 of its catalogue are equal."""
    folder = write_world(tmp_path_factory.mktemp("wordy"))
    config = run_config(folder, folder, model=TEXT)
    save_folder(*new_model(config, *load_data(config)), folder / "model")
    return folder


def rl_of(world: Path, runs: Path, init: Path, **options: Any) -> Rl:
    config = run_config(world, runs, rl={"init": str(init), **options})
    return Rl(config, StageFolder(config.folder / "rl"))


def test_a_pass_holds_every_task_as_often_as_its_weight_says(wordy: Path, tmp_path: Path) -> None:
    tasks = {"next": 1.0, "title_to_sid": 0.5, "sid_to_title": 2.0, "titles_to_sid": 0.0}
    rl = rl_of(wordy, tmp_path, wordy / "model", tasks=tasks)
    items = len(rl.world.dataset.catalog)
    users = int((rl.world.dataset.train.items.lengths > 1).sum())  # a single item has nothing before it
    assert rl.environment.source.per_pass == users + items // 2 + 2 * items
    roots = rl.environment.source.table(0).root
    assert (roots == 1).sum() == 2 * items


def test_prompts_that_ask_for_titles_get_titles_and_the_others_sids(wordy: Path, tmp_path: Path) -> None:
    rl = rl_of(wordy, tmp_path, wordy / "model", tasks={"next": 1.0, "sid_to_title": 1.0}, prompts_per_step=24)
    prompts = rl.environment.prompts(0)
    groups = rl.rollout(prompts, seed=0)
    assert set(prompts.start.tolist()) == {0, 1}
    tokenizer, catalog = rl.policy.tokenizer, rl.world.dataset.catalog
    for prompt in range(len(prompts)):
        for response in range(groups.exists.shape[1]):
            assert groups.exists[prompt, response]
            tokens = groups.tokens[prompt, response][groups.mask[prompt, response]].tolist()
            item = int(groups.items[prompt, response, 0])
            if prompts.start[prompt] == 1:
                assert tokenizer.decode(tokens[:-1]) == catalog.titles[item]
                assert tokens[-1] == tokenizer.eos_token_id
            else:
                assert tokenizer.decode(tokens).replace(" ", "") == "".join(rl.world.index.tokens(item))


def test_any_item_of_the_asked_title_is_a_hit(wordy: Path, tmp_path: Path) -> None:
    rl = rl_of(wordy, tmp_path, wordy / "model", tasks={"title_to_sid": 1.0, "description_to_sid": 1.0})
    titles = rl.world.dataset.catalog.titles
    titles[3] = titles[1]
    items = len(titles)
    asked = [set(row[row >= 0].tolist()) for row in rl.environment.source.table(1).targets.items]
    by_description, by_title = asked[:items], asked[items:]
    assert by_description == [{item} for item in range(items)]
    assert by_title == [{other for other in range(items) if titles[other] == titles[item]} for item in range(items)]
    assert {1, 3} <= by_title[3] == by_title[1]


def test_dynamic_sampling_trains_on_groups_with_unequal_rewards_alone(
    world: Path, trained: Path, tmp_path: Path
) -> None:
    rl = rl_of(world, tmp_path, trained, max_gen_batches=4, prompts_per_step=12)
    groups, rewards, kept = rl.gather(seed=0)
    assert kept is not None
    assert len(groups.prompts) > 12
    assert len(groups.prompts) % 12 == 0
    assert rl.drawn == len(groups.prompts) // 12
    assert len(kept) <= 12
    assert unequal(groups.select(kept), rewards[kept]).all()
    first = unequal(groups, rewards).nonzero().squeeze(1)
    assert torch.equal(kept, first[:12])
    values = rl.step()
    assert values["signal/trainable_ratio"] == pytest.approx(values["signal/kept_ratio"])


def test_of_more_unequal_groups_than_a_step_has_prompts_the_first_go_on(
    world: Path, trained: Path, tmp_path: Path
) -> None:
    rl = rl_of(world, tmp_path, trained, max_gen_batches=4, prompts_per_step=8)
    part, options = rl.method.rewards[0]
    flat = iter((5, 2))  # groups of equal rewards in the first batch and in the second

    def paid(groups: RolloutGroups, *_: Any) -> torch.Tensor:
        reward = torch.zeros(groups.exists.shape)
        reward[next(flat) :, 0] = 1
        return reward

    rl.method = replace(rl.method, rewards=((replace(part, run=paid), options),))
    _, _, kept = rl.gather(seed=0)
    assert kept is not None
    assert kept.tolist() == [5, 6, 7, 10, 11, 12, 13, 14]


def test_a_step_that_finds_no_unequal_group_changes_nothing(world: Path, trained: Path, tmp_path: Path) -> None:
    rl = rl_of(world, tmp_path, trained, max_gen_batches=2)
    before = [parameter.detach().clone() for parameter in rl.policy.parameters()]
    part, options = rl.method.rewards[0]
    never = replace(part, run=lambda groups, *_: torch.zeros(groups.exists.shape))
    rl.method = replace(rl.method, rewards=((never, options),))
    values = rl.step()
    assert rl.drawn == 2
    assert values["signal/kept_ratio"] == values["signal/active_rows"] == 0
    assert all(math.isfinite(value) for value in values.values())
    assert all(map(torch.equal, before, rl.policy.parameters()))


def test_a_limit_of_rollouts_ends_the_run_and_times_its_learning_rate(
    world: Path, trained: Path, tmp_path: Path
) -> None:
    options = {"max_gen_batches": 3, "max_rollouts": 5, "steps": 5, "lr": 1e-3, "warmup_steps": 0, "eval_every": 2}
    config = run_config(world, tmp_path, rl={"init": str(trained), **options})
    status = train_rl(config, silent)
    start, first, second = metrics(config.folder / "rl")
    assert status["reason"] == "all rollouts done"
    # 16 prompts x 6 responses a rollout: three rollouts, then the two that are left.
    assert [first["rollout/responses"], second["rollout/responses"]] == [288, 192]
    assert first["actor/lr"] == pytest.approx(1e-3 * (1 + math.cos(math.pi * 2 / 5)) / 2)
    assert second["actor/lr"] == pytest.approx(1e-3 * (1 + math.cos(math.pi * 4 / 5)) / 2)
    assert all("valid/ndcg@10" in line for line in (start, first, second))  # every second rollout lies in each


def test_rl_has_a_seed_of_its_own_beside_the_runs(world: Path, trained: Path, tmp_path: Path) -> None:
    def prompts(run_seed: int, **options: Any) -> list[int]:
        config = run_config(world, tmp_path, run={"seed": run_seed}, rl={"init": str(trained), **options})
        return Rl(config, StageFolder(config.folder / "rl")).environment.prompts(0).ids.flatten().tolist()

    assert prompts(0) == prompts(0, seed=0) == prompts(7, seed=0)
    assert prompts(0, seed=7) == prompts(7)
    assert prompts(0) != prompts(7)


def test_rl_starts_from_the_base_model_without_any_sft(world: Path, tmp_path: Path) -> None:
    config = run_config(
        world, tmp_path, model={"preset": "tiny", "sid_init": "random"}, rl={"start": "base", "steps": 1}
    )
    status = train_rl(config, silent)
    assert status["state"] == "finished"
    assert checkpoint.best(config.folder / "rl").model.is_dir()
    without = run_config(world, tmp_path / "other", rl={"start": "sft"})
    with pytest.raises(UserError, match="no checkpoint below"):
        train_rl(without, silent)
