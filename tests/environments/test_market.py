"""The marketplace as an environment: its visitors, what is counted, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import metrics, run_config, silent, write_world
from torch import Tensor

from recrl.config import load
from recrl.environments.base import Feedback
from recrl.environments.behaviour import Answers, answers
from recrl.environments.market import MarketEnvironment
from recrl.errors import ConfigError, UserError
from recrl.method import Method
from recrl.store import checkpoint
from recrl.store.run_folder import StageFolder
from recrl.training.rl import Rl, train_rl
from recrl.training.sft import train_sft

ROOT = Path(__file__).parents[2]
CLICK = [{"kind": "click"}]
PER_STEP = 16 * 6


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("market"))


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = run_config(world, tmp_path_factory.mktemp("trained"), sft={"epochs": 2, "lr": 0.01})
    train_sft(config, silent)
    return checkpoint.best(config.folder / "sft").model


def config_of(world: Path, trained: Path, runs: Path, *, options: dict[str, Any] | None = None, **rl: Any) -> Any:
    environment = {"kind": "market", **(options or {})}
    values = {"init": str(trained), "lr": 1e-3, "rewards": CLICK, "environment": environment, **rl}
    return run_config(world, runs, rl=values)


def rl_of(world: Path, trained: Path, runs: Path, **rl: Any) -> Rl:
    config = config_of(world, trained, runs, **rl)
    return Rl(config, StageFolder(config.folder / "rl"))


def answered(rl: Rl, number: int = 0) -> tuple[Tensor, Feedback]:
    groups = rl.rollout(rl.environment.prompts(number), seed=number)
    feedback = rl.environment.respond(number, groups)
    assert feedback is not None
    return groups.items, feedback


def test_visitors_follow_from_the_seed_and_the_number_alone(world: Path, trained: Path, tmp_path: Path) -> None:
    first, again = (rl_of(world, trained, tmp_path).environment for _ in range(2))
    again.prompts(7)
    assert torch.equal(first.prompts(3).ids, again.prompts(3).ids)
    assert first.prompts(3).history.tolist() != first.prompts(4).history.tolist()
    (items, one), (_, other) = answered(rl_of(world, trained, tmp_path)), answered(rl_of(world, trained, tmp_path))
    assert items.shape == one.clicked.shape == (16, 6, 1)
    assert torch.equal(one.clicked, other.clicked)
    assert torch.equal(one.watch_s, other.watch_s)


def test_an_item_shown_twice_is_answered_and_counted_once(world: Path, trained: Path, tmp_path: Path) -> None:
    rl = rl_of(world, trained, tmp_path)
    groups = rl.rollout(rl.environment.prompts(0), seed=0)
    twice = replace(groups, items=groups.items[:, [0, 0, 1, 1, 2, 2]])
    feedback = rl.environment.respond(0, twice)
    assert feedback is not None
    for values in (feedback.clicked, feedback.watch_s, feedback.commented):
        assert torch.equal(values[:, ::2], values[:, 1::2])
    assert rl.environment.take_metrics()["environment/impressions"] == 16 * 3


def test_a_response_that_does_not_exist_is_not_shown(world: Path, trained: Path, tmp_path: Path) -> None:
    rl = rl_of(world, trained, tmp_path, options={"appeal": 1000.0})
    groups = rl.rollout(rl.environment.prompts(0), seed=0)
    exists = groups.exists.clone()
    exists[:, -1] = False
    feedback = rl.environment.respond(0, replace(groups, exists=exists))
    assert feedback is not None
    assert feedback.clicked[:, :-1].any()
    assert not feedback.clicked[:, -1].any()
    assert rl.environment.take_metrics()["environment/impressions"] == 16 * 5


def test_the_target_is_known_only_where_it_is_revealed_and_counts(world: Path, trained: Path, tmp_path: Path) -> None:
    hidden, shown = (rl_of(world, trained, tmp_path, options={"reveal_next": value}) for value in (False, True))
    assert (hidden.environment.prompts(0).targets.items == -1).all()
    assert (shown.environment.prompts(0).targets.items >= 0).all()
    answered(shown)
    assert shown.environment.take_metrics()["environment/impressions"] == PER_STEP + 16


def test_a_run_ends_before_it_passes_its_budget_and_validates_there(world: Path, trained: Path, tmp_path: Path) -> None:
    budget = 3 * PER_STEP + 5
    config = config_of(world, trained, tmp_path, options={"budget": budget}, steps=50, eval_every=40)
    status = train_rl(config, silent)
    assert status["state"] == "finished"
    assert status["reason"] == "288 impressions were made, and the next step might pass the budget of 293"
    lines = metrics(config.folder / "rl")
    assert [line.get("environment/impressions") for line in lines] == [None, 96, 192, 288]
    assert "valid/ndcg@10" in lines[-1]


def test_a_step_that_just_fits_the_budget_is_made(world: Path, trained: Path, tmp_path: Path) -> None:
    environment = rl_of(world, trained, tmp_path, options={"budget": 3 * PER_STEP}).environment
    environment.restore({"impressions": 2 * PER_STEP})
    assert not environment.stop_reason()
    environment.restore({"impressions": 2 * PER_STEP + 1})
    assert environment.stop_reason()


def test_a_step_may_show_all_that_dynamic_sampling_may_draw(world: Path, trained: Path, tmp_path: Path) -> None:
    options = {"budget": 3 * PER_STEP}
    environment = rl_of(world, trained, tmp_path, options=options, max_gen_batches=3).environment
    assert not environment.stop_reason()
    environment.restore({"impressions": 1})
    assert environment.stop_reason()


def test_every_batch_of_visitors_has_random_numbers_of_its_own(
    world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rl, seen = rl_of(world, trained, tmp_path), []

    def watched(*given: Any) -> Answers:
        seen.append(given[-1].bit_generator.state["state"]["state"])
        return answers(*given)

    monkeypatch.setattr("recrl.environments.market.answers", watched)
    for number in (0, 1, 0):
        answered(rl, number)
    assert seen[0] == seen[2] != seen[1]


def test_a_resumed_run_goes_on_counting_and_ends_the_same(world: Path, trained: Path, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def killed(step: int, steps: int, values: dict[str, float]) -> None:  # noqa: ARG001
        if step == 3:
            raise KilledError

    runs = []
    for name, report in (("whole", silent), ("cut", killed)):
        config = config_of(world, trained, tmp_path / name, rollout={"kind": "sample", "group_size": 6})
        try:
            train_rl(config, report)
        except KilledError:
            train_rl(config, silent, resume=True)
        runs.append(metrics(config.folder / "rl"))
    assert runs[0] == runs[1]
    assert runs[0][-1]["environment/impressions"] > 0


@pytest.mark.parametrize(
    ("rl", "words"),
    [
        ({"environment": {"kind": "log"}}, "'click' does not go with rl.environment.kind = 'log'"),
        ({"rewards": [{"kind": "hit"}]}, "'hit' does not go with rl.environment.kind = 'market'"),
        ({"signal": {"kind": "recast"}}, "'recast' does not go with(.|\\n)*set rl.environment.reveal_next = true"),
        ({"rollout": {"kind": "catalogue"}}, "'catalogue' does not go with"),
        ({"tasks": {"next": 1.0, "title_to_sid": 1.0}}, "rl.tasks"),
        ({"targets": "frontier"}, "rl.targets = 'frontier' does not go with"),
        ({"environment": {"kind": "market", "budget": PER_STEP - 1}}, "one step may show"),
    ],
)
def test_what_the_environment_does_not_give_is_refused_before_anything_is_written(
    world: Path, trained: Path, tmp_path: Path, rl: dict[str, Any], words: str
) -> None:
    config = config_of(world, trained, tmp_path, **rl)
    with pytest.raises(ConfigError, match=words):
        train_rl(config, silent)
    assert not config.folder.exists()


@pytest.mark.parametrize("method", ["clicks", "grpo", "recast", "sage"])
def test_the_methods_of_the_example_compose(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    reveal = ("rl.environment.reveal_next=true",)
    config = load(Path("examples/market/market.toml"), reveal, recipe=f"examples/market/{method}.toml")
    assert [part.needs for part, _ in Method.make(config.rl).rewards] == ["feedback"]


def test_the_demo_trains_as_the_example_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    demo, example = (load(Path(name)) for name in ("recrl/demo.toml", "examples/market/market.toml"))
    assert demo.rl.model_copy(update={"recipe": None}) == example.rl.model_copy(update={"recipe": None})
    for section in ("sft", "model", "memory", "eval"):
        assert getattr(demo, section) == getattr(example, section), section


def test_revealed_targets_serve_what_needs_them(world: Path, trained: Path, tmp_path: Path) -> None:
    rl = rl_of(world, trained, tmp_path, options={"reveal_next": True, "appeal": 0.01}, signal={"kind": "recast"})
    assert rl.step()["signal/repaired_ratio"] > 0.5


def test_data_that_the_marketplace_did_not_make_are_refused(world: Path, trained: Path, tmp_path: Path) -> None:
    rl = rl_of(world, trained, tmp_path)
    meta = json.loads(json.dumps(rl.world.dataset.meta)) | {"format": "amazon"}
    other = replace(rl.world, dataset=replace(rl.world.dataset, meta=meta))
    with pytest.raises(UserError, match="'amazon'"):
        MarketEnvironment(rl.config, other, rl.policy.config, rl.method.environment_options)  # type: ignore[arg-type]
