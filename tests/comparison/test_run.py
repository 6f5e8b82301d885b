"""Whole comparisons on a small world: their files, resumption after a kill, refused changes."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from pathlib import Path

import pytest
from comparisons import asked, words
from runs import command, metrics

from recrl.commands.main import main
from recrl.comparison.figures import Comparison
from recrl.comparison.plan import make_plan
from recrl.comparison.summarize import SplitLists
from recrl.data import dataset as datasets
from recrl.evaluation.results import load_per_user, load_result, load_results, save_result

RUNS = ("recast-seed0", "dr_grpo-seed0", "recast-seed1", "dr_grpo-seed1")


@pytest.fixture(scope="module")
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that nobody killed."""
    out = tmp_path_factory.mktemp("whole") / "methods"
    main_alone(words(config, out))
    return out


def main_alone(arguments: list[str]) -> None:
    """The command line, whose good end is no exception here."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert not end.value.code


def results(out: Path) -> Comparison:
    return Comparison.model_validate_json((out / "results.json").read_bytes())


def trained(out: Path) -> dict[str, tuple[dict[str, bytes], list[dict[str, float]]]]:
    """Weights, optimiser and metrics of every run."""
    return {
        name: (
            {
                str(file.relative_to(out)): file.read_bytes()
                for file in sorted((out / name / "rl/checkpoints").rglob("*.safetensors"))
            },
            metrics(out / name / "rl"),
        )
        for name in RUNS
    }


def test_every_run_spends_the_budget_from_the_same_start(whole: Path):
    found = results(whole)
    assert found.complete
    assert [f"{run.recipe}-seed{run.seed}" for run in found.runs] == list(RUNS)
    assert {run.responses for run in found.runs} == {128}
    assert {run.start for run in found.runs} == {found.runs[0].start}  # the same model on the same examples
    assert {recipe: one.seeds for recipe, one in found.training.items()} == {"recast": 2, "dr_grpo": 2}
    assert found.training["recast"].optimizer_steps > found.training["dr_grpo"].optimizer_steps
    assert found.training["dr_grpo"].by_responses.x == [0, 64, 128]
    lines = {name: metrics(whole / name / "rl") for name in RUNS}
    assert lines["recast-seed0"] != lines["recast-seed1"]


def test_scores_are_means_over_seeds_of_what_the_evaluations_hold(whole: Path):
    (split,) = results(whole).splits
    assert split.split == "test"
    assert list(split.references) == ["popularity", "item_knn", "hybrid_knn", "start", "optimum"]
    for recipe, score in split.recipes.items():
        files = [whole / f"evaluation/{recipe}-seed{seed}-test.json" for seed in (0, 1)]
        mean = sum(load_result(file).metrics["ndcg@10"].value for file in files) / 2
        start = load_result(whole / "evaluation/start-test.json").metrics["ndcg@10"].value
        assert score.metrics["ndcg@10"].value == pytest.approx(mean, abs=1e-6)
        difference = score.against_start["ndcg@10"]
        assert difference.value == pytest.approx(mean - start, abs=1e-6)
        assert difference.low <= difference.value <= difference.high
        assert difference.p_value <= difference.p_holm
        users = {tuple(load_per_user(file)["examples"]) for file in files}
        assert users == {tuple(range(split.num_examples))}


def test_every_recipe_stands_beside_the_best_baseline(whole: Path):
    (split,) = results(whole).splits
    assert not split.history_left_out
    baselines = {name: split.references[name]["ndcg@10"].value for name in ("popularity", "item_knn", "hybrid_knn")}
    assert split.best_baseline == max(baselines, key=lambda name: baselines[name])
    for score in split.recipes.values():
        expected = score.metrics["ndcg@10"].value - baselines[split.best_baseline]
        assert score.against_baseline["ndcg@10"].value == pytest.approx(expected, abs=1e-6)
        assert score.alone == {}


def test_where_the_history_is_left_out_those_lists_are_compared(whole: Path, tmp_path: Path):
    """The same lists under the names of those without the history give the same references; none is named twice."""
    for result in load_results(whole / "evaluation"):
        save_result(result, tmp_path)
        if result.kind != "optimum":
            save_result(result.model_copy(update={"name": result.name + "-new"}), tmp_path)
    all_items = SplitLists(whole / "evaluation", "test", "").references()
    assert SplitLists(tmp_path, "test", "-new").references() == all_items
    assert SplitLists(tmp_path, "test", "").references() == all_items


def test_called_again_it_changes_nothing_but_may_add_runs(whole: Path, config: Path):
    before = {file: file.read_bytes() for file in whole.rglob("*") if file.is_file()}
    main_alone(words(config, whole))
    assert {file: file.read_bytes() for file in whole.rglob("*") if file.is_file()} == before
    main_alone(words(config, whole, "--dry-run", seeds="3"))
    assert {file: file.read_bytes() for file in whole.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "more", "key"),
    [
        ({"responses": "96"}, (), "responses was 128 and is 96"),
        ({"seeds": "1"}, (), "recast-seed1 is not planned"),
        ({"recipes": "recast"}, (), "dr_grpo-seed0 is not planned"),
        ({}, ("--set", "rl.clip_grad=0.5"), "in recast-seed0, rl.clip_grad was 1.0 and is 0.5"),
        ({}, ("--split", "valid"), "split was 'test' and is 'valid'"),
    ],
    ids=["budget", "fewer-seeds", "fewer-recipes", "config", "split"],
)
def test_a_changed_plan_is_refused(
    whole: Path, config: Path, changes: dict[str, str], more: tuple[str, ...], key: str, capsys: pytest.CaptureFixture
):
    before = (whole / "plan.json").read_bytes()
    for way in ((), ("--dry-run",)):
        with pytest.raises(SystemExit) as end:
            main(words(config, whole, *more, *way, **changes))
        assert end.value.code == 2
        assert key in capsys.readouterr().err
    assert (whole / "plan.json").read_bytes() == before


def test_a_folder_with_something_else_is_refused(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(words(config, tmp_path))
    assert end.value.code == 2
    assert "holds something else" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_killed_in_its_second_run_and_called_again_it_ends_the_same(whole: Path, config: Path, tmp_path: Path):
    out = tmp_path / "methods"
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["recrl.training.rl", "recrl.comparison.run"])

    def launch() -> multiprocessing.process.BaseProcess:
        process = server.Process(target=command, args=(words(config, out),))
        process.start()
        return process

    log = out / RUNS[1] / "rl/metrics.jsonl"
    process = launch()
    while process.is_alive() and not (log.exists() and log.read_bytes().count(b"\n") >= 3):
        time.sleep(0.001)
    process.kill()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    partial = results(out)
    assert [run.recipe for run in partial.runs] == ["recast"]
    assert not partial.complete
    assert "1 of 4 runs are finished" in (out / "RESULTS.md").read_text()
    kept = {file: file.stat().st_mtime_ns for file in (out / RUNS[0]).rglob("*")}
    again = launch()
    again.join(120)
    assert again.exitcode == 0
    assert {file: file.stat().st_mtime_ns for file in (out / RUNS[0]).rglob("*")} == kept
    ended, wanted = trained(out), trained(whole)
    for name in RUNS:
        assert ended[name] == wanted[name], name
    first, second = results(out), results(whole)
    assert first.splits == second.splits
    assert first.ratios == second.ratios


def test_dynamic_sampling_spends_its_rollouts_and_no_more(config: Path, tmp_path: Path):
    out = tmp_path / "methods"
    main_alone(words(config, out, recipes="dapo", seeds="1", responses="288"))
    (run,) = results(out).runs
    assert run.responses == 288
    assert run.optimizer_steps < 9 * 4  # some steps took several rollouts
    lines = metrics(out / "dapo-seed0/rl")
    assert lines[-1]["valid/ndcg@10"] == run.last


def test_the_validation_examples_do_not_depend_on_the_seed_of_rl(config: Path):
    from recrl.run_data import load_run_data
    from recrl.training.validation import Validation

    plan = make_plan(asked(config, overrides=(*asked(config).overrides, "eval.valid_examples=20")))
    world, _ = load_run_data(plan.base, plan.start)
    drawn = [Validation.make(run.config, world).targets.values.tolist() for run in plan.runs]
    assert len(datasets.load(plan.base.data.path).valid) > 20
    assert all(one == drawn[0] for one in drawn)


def test_dry_run_prints_what_each_run_does_and_writes_nothing(config: Path, tmp_path: Path, capsys):
    out = tmp_path / "methods"
    main_alone(words(config, out, "--dry-run", "--json"))
    plan = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in plan["runs"]] == list(RUNS)
    assert [row["responses"] for row in plan["runs"]] == [128] * 4
    assert [row["optimiser steps"] for row in plan["runs"]] == [16, 4, 16, 4]
    assert not out.exists()
