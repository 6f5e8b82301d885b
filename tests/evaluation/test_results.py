from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console

from recrl.errors import DataError
from recrl.evaluation.results import (
    EvaluationResult,
    Metric,
    compare_pairs,
    comparison_rows,
    comparison_tables,
    load_per_user,
    load_result,
    load_results,
    measured,
    metric_label,
    metric_names,
    percent_of_optimum,
    save_result,
)


def result(name: str, kind: str = "model", split: str = "test", **metrics: float) -> EvaluationResult:
    values = {name.replace("_at_", "@"): Metric(value=value) for name, value in metrics.items()}
    return EvaluationResult(name=name, kind=kind, split=split, num_examples=4, seconds=1.5, metrics=values)


def test_a_result_is_the_same_after_writing_and_reading(tmp_path):
    one = result("sft", hr_at_10=0.25).model_copy(update={"beam_width": 20, "checkpoint": "runs/x/sft"})
    path = save_result(one, tmp_path / "evaluation")
    assert load_result(path) == one
    assert json.loads(path.read_text()) == {
        "schema": 1,
        "name": "sft",
        "kind": "model",
        "checkpoint": "runs/x/sft",
        "split": "test",
        "num_examples": 4,
        "memory": None,
        "beam_width": 20,
        "slate_size": None,
        "slate_beams": None,
        "seconds": 1.5,
        "metrics": {"hr@10": {"value": 0.25, "low": None, "high": None}},
    }


def test_per_user_numbers_give_a_paired_comparison(tmp_path):
    first = save_result(result("sft"), tmp_path, per_user={"hr@10": np.array([0.0, 0, 1, 1]), "ild@10": np.ones(4)})
    second = save_result(result("rl"), tmp_path, per_user={"hr@10": np.array([1.0, 0, 1, 1])})
    found = compare_pairs(first, second)
    assert list(found) == ["hr@10"]
    assert found["hr@10"].value == 0.25
    assert found["hr@10"].low >= 0


def test_other_users_another_split_or_no_numbers_are_never_paired(tmp_path):
    hits = {"hr@10": np.array([0.0, 1.0])}
    first = save_result(result("a"), tmp_path, per_user=hits, examples=np.array([0, 1]))
    others = save_result(result("b"), tmp_path, per_user=hits, examples=np.array([0, 2]))
    valid = save_result(result("c", split="valid"), tmp_path, per_user=hits)
    without = save_result(result("d"), tmp_path)
    assert [compare_pairs(first, other) for other in (others, valid, without)] == [{}, {}, {}]


def test_a_new_result_without_per_user_numbers_removes_the_old_ones(tmp_path):
    path = save_result(result("a"), tmp_path, per_user={"hr@10": np.ones(2)})
    assert load_per_user(path) is not None
    save_result(result("a"), tmp_path)
    assert load_per_user(path) is None


def test_measured_leaves_out_a_metric_that_nobody_is_part_of():
    found = measured({"hr@10": np.array([0.0, 1.0]), "cold_recall@10": np.full(2, np.nan)}, seed=0)
    assert list(found) == ["hr@10"]
    assert found["hr@10"].value == 0.5
    assert measured({}, seed=0) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not an evaluation result"),
        ('{"schema": 2}', "not an evaluation result"),
        ("[]", "not an evaluation result"),
        (None, "can't read"),
    ],
    ids=["broken", "other-schema", "list", "missing"],
)
def test_a_file_that_is_no_result_is_refused_with_its_name(tmp_path, text, words):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=words) as error:
        load_result(path)
    assert "x.json" in error.value.found


def test_broken_per_user_numbers_are_refused(tmp_path):
    path = save_result(result("a"), tmp_path)
    path.with_suffix(".safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"a-test\.safetensors"):
        load_per_user(path)


def test_a_value_that_is_not_finite_or_a_name_that_is_no_file_is_refused():
    with pytest.raises(ValidationError):
        Metric(value=float("nan"))
    with pytest.raises(ValidationError):
        result("../x")


def test_results_come_as_baselines_models_optimum_and_sft_before_rl(tmp_path):
    for one in (result("sft"), result("best", "optimum"), result("popularity", "baseline"), result("rl")):
        save_result(one, tmp_path)
    assert [one.name for one in load_results(tmp_path)] == ["popularity", "sft", "rl", "best"]
    assert load_results(tmp_path / "absent") == []


def test_a_share_of_the_optimum_needs_one_of_the_same_split_and_metric():
    sft, best = result("sft", hr_at_10=0.2, auc=0.7), result("best", "optimum", hr_at_10=0.4)
    assert percent_of_optimum(sft, [sft, best], "hr@10") == 50.0
    assert percent_of_optimum(sft, [sft, best], "auc") is None
    assert percent_of_optimum(best, [sft, best], "hr@10") is None
    assert percent_of_optimum(sft, [sft], "hr@10") is None
    assert percent_of_optimum(sft, [sft, result("best", "optimum", "valid", hr_at_10=0.4)], "hr@10") is None


def test_a_table_says_value_interval_and_share_and_marks_what_is_absent():
    sft = result("sft").model_copy(update={"metrics": {"hr@10": Metric(value=0.2, low=0.1, high=0.3)}})
    best = result("best", "optimum", hr_at_10=0.4, ndcg_at_10=0.3)
    assert metric_names([best, sft]) == ["hr@10", "ndcg@10"]
    assert comparison_rows([sft, best], ["hr@10", "ndcg@10"]) == [
        ["HR@10", "0.2000\n±0.1000\n50 %", "0.4000"],
        ["NDCG@10", "–", "0.3000"],
    ]
    (table,) = comparison_tables([sft, best])
    assert [column.header for column in table.columns] == ["", "sft", "best"]


@pytest.mark.parametrize("ways", [("",), ("", "-alone", "-new", "-alone-new")])
def test_every_split_has_tables_of_80_columns_that_break_no_word(ways: tuple[str, ...]):
    names = ["popularity", "item_knn", "hybrid_knn", *(stage + way for stage in ("sft", "rl") for way in ways)]
    every = [result(name, split=split, hr_at_10=0.5, entropy_bits_at_10=1.0) for split in "ab" for name in names]
    console = Console(width=80, file=io.StringIO())
    for table in comparison_tables(every):
        console.print(table)
    text = console.file.getvalue()
    assert "…" not in text
    for word in (*names, "Entropy@10", "(bits)"):
        assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text), word
    assert text.count("0.5000") == len(every)


def test_labels_are_readable_and_an_unknown_name_stays():
    assert [metric_label(name) for name in ("ndcg@10", "auc", "entropy_bits@5", "mine@3")] == [
        "NDCG@10",
        "AUC",
        "Entropy@5 (bits)",
        "mine@3",
    ]
