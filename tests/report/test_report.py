from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from recrl.commands.report import report as report_command
from recrl.errors import DataError, UserError
from recrl.evaluation.results import EvaluationResult, Metric, save_result
from recrl.report.collect import Series, collect, flat, read_metrics
from recrl.report.page import PANELS, _about, build_report, duration, verdict
from recrl.report.plots import Line, line_plot, smoothed

NAUGHTY = '<script>alert("x")</script>'


def evaluated(
    folder: Path, name: str, value: float, *, kind: str = "model", per_user: list[float] | None = None
) -> None:
    result = EvaluationResult(
        name=name,
        kind=kind,
        split="test",
        num_examples=4,
        seconds=1.0,
        metrics={"ndcg@10": Metric(value=value, low=value / 2, high=value * 2), "coverage@10": Metric(value=0.5)},
    )
    save_result(result, folder, per_user=None if per_user is None else {"ndcg@10": np.array(per_user)})


def write_stage(folder: Path, rows: list[dict], *, status: dict | None = None) -> None:
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f'name = "{NAUGHTY}"\n')
    (folder / "environment.json").write_text(json.dumps({"packages": {"torch": "2.13.0"}, "note": NAUGHTY}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if status is not None:
        (folder / "status.json").write_text(json.dumps(status))


def rl_row(step: int) -> dict:
    names = [metric for panel in PANELS["rl"] for metric, _ in panel.metrics]
    return {"step": step, "time_s": 4.0 * step} | dict.fromkeys(names, 0.1 + step / 1000)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    root = tmp_path / "a-run"
    sft = [{"step": step, "sft/loss": 5.0 / step, "timing_s/step": 3.0} for step in range(1, 5)]
    sft.append({"step": 4, "valid/ndcg@10": 0.04, "timing_s/eval": 4.0})
    finished = {"state": "finished", "reason": "all epochs done", "best_step": 4, "best_value": 0.04, "seconds": 20.0}
    write_stage(root / "sft", sft, status=finished)
    stopped = {"state": "stopped_early", "reason": f"validation fell {NAUGHTY}", "seconds": 9.0}
    write_stage(root / "rl", [rl_row(step) for step in range(1, 80)], status=stopped)
    evaluated(root / "evaluation", "sft", 0.25, per_user=[0, 0, 0, 1])
    evaluated(root / "evaluation", "rl", 0.75, per_user=[1, 0, 1, 1])
    evaluated(root / "evaluation", "popularity", 0.1, kind="baseline")
    evaluated(root / "evaluation", "best", 1.0, kind="optimum")
    return root


class Page(HTMLParser):
    """Tags, ids and text of a page; void and SVG tags included."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_beside_it(run_dir):
    path = build_report(run_dir)
    assert path == run_dir / "report.html"
    text = path.read_text()
    page = Page(text)
    assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"} == set()
    assert not re.search(r"url\((?!#)", text)
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(str(link).startswith("#") for link in links)


def test_text_of_the_run_is_escaped(run_dir):
    text = build_report(run_dir).read_text()
    assert NAUGHTY not in text
    assert text.count("&lt;script&gt;") >= 5  # two configs, two environments, one reason


def test_ids_are_unique_and_every_plot_has_words_for_those_who_do_not_see_it(run_dir):
    page = Page(build_report(run_dir).read_text())
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = [attributes["aria-label"] for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(labels) == 2 + len(PANELS["rl"])  # SFT: loss and validation NDCG
    assert "Training loss against optimiser step: loss from 5 at step 1 to 1.25 at 4" in labels[0]
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")


def test_the_figures_on_the_page_are_the_runs(run_dir):
    text = Page(build_report(run_dir).read_text()).text
    # SFT: 4 steps of 3 s, one validation of 4 s, 20 s in all.
    for name, time, share in (("training step", "12.0 s", "60.0 %"), ("validation", "4.0 s", "20.0 %")):
        assert f"{name}{time}{share}" in text
    assert "start, saving, logging4.0 s20.0 %" in text
    assert "stopped early after 9.0 s" in text
    assert "25 % of optimum" in text
    assert "0.1250–0.5000" in text
    assert "Not logged by this run: validation hr@10, gradient norm, learning rate." in text


def test_the_verdict_pairs_users_where_their_numbers_were_kept(run_dir):
    lead, rest = verdict(collect(run_dir))
    assert lead == "No difference shown: the interval holds 0."
    assert "NDCG@10 on test: RL 0.7500 [0.3750–1.5000], SFT 0.2500" in rest
    assert "Difference +0.5000 [+0.0000 to +1.0000]" in rest


@pytest.mark.parametrize(
    ("rl", "words"), [([1, 1, 1, 1], "RL is above SFT."), ([-1, -1, -1, -1], "RL is below SFT.")], ids=["up", "down"]
)
def test_the_verdict_names_a_direction_only_where_the_interval_excludes_zero(tmp_path, rl, words):
    evaluated(tmp_path / "evaluation", "sft", 0.5, per_user=[0, 0, 0, 0])
    evaluated(tmp_path / "evaluation", "rl", 0.5, per_user=rl)
    assert verdict(collect(tmp_path))[0] == words


def test_without_per_user_numbers_both_values_stand_and_no_difference_is_claimed(tmp_path):
    evaluated(tmp_path / "evaluation", "sft", 0.25)
    evaluated(tmp_path / "evaluation", "rl", 0.75)
    lead, rest = verdict(collect(tmp_path))
    assert lead == "NDCG@10 on test: RL 0.7500 [0.3750–1.5000], SFT 0.2500 [0.1250–0.5000]."
    assert rest.startswith("No per-user numbers")


def test_a_missing_part_is_said_and_not_made_up(tmp_path):
    (tmp_path / "sft").mkdir()
    text = Page(build_report(tmp_path).read_text()).text
    for words in (
        "Nothing has been evaluated yet.",
        "evaluation/ holds no results",
        "Not run: there is no rl/ folder.",
        "metrics.jsonl is missing or empty",
        "No times were logged.",
        "config.toml is missing.",
        "environment.json is missing.",
        "how it ended is not known",
    ):
        assert words in text


def test_an_evaluated_sft_alone_says_what_is_missing(tmp_path):
    evaluated(tmp_path / "evaluation", "sft", 0.25)
    assert verdict(collect(tmp_path))[0] == "No comparison of RL with SFT: RL not evaluated yet."


def test_the_same_run_gives_the_same_page(run_dir, tmp_path):
    assert (
        build_report(run_dir, tmp_path / "a.html").read_bytes()
        == build_report(run_dir, tmp_path / "b.html").read_bytes()
    )


def test_rows_of_one_step_are_merged_and_the_later_of_two_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 2, "a": 1.0}, {"step": 1, "a": 5}, {"step": 2, "b": 3.0}, {"step": 2, "a": 2.0, "word": "x"}]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    series, notes = read_metrics(path)
    assert (series["a"].steps.tolist(), series["a"].values.tolist()) == ([1, 2], [5, 2])
    assert (set(series), notes) == ({"a", "b"}, [])


def test_a_cut_last_line_and_values_that_are_not_finite_are_noted(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": NaN, "b": 1}\n{"step": 2, "b": Infinity}\n{"step": 3, "b"')
    series, notes = read_metrics(path)
    assert series["b"].values.tolist() == [1]
    assert "a" not in series
    assert [note.split(";")[0] for note in notes] == [
        "The last line of metrics.jsonl was cut off while it was written",
        "2 values in metrics.jsonl are not finite (NaN or infinite)",
    ]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("sft/metrics.jsonl", '{"a": 1}\n{"step": 1}\n', r"line 1: '\{\"a\": 1\}'"),
        ("sft/status.json", '{"state": "lost"}', "state = 'lost'"),
        ("sft/status.json", "{", "status.json is broken"),
        ("sft/environment.json", "[]", "holds a list"),
        ("evaluation/sft-test.json", "{}", "not an evaluation result"),
    ],
    ids=["metrics", "state", "status", "environment", "result"],
)
def test_a_broken_file_is_named_and_no_page_is_written(run_dir, file, text, words):
    (run_dir / file).write_text(text)
    with pytest.raises(DataError, match=words):
        build_report(run_dir)
    assert not (run_dir / "report.html").exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        build_report(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no run"):
        build_report(tmp_path)


def test_a_page_that_cannot_be_written_is_the_users_error(run_dir):
    with pytest.raises(UserError, match="can't write"):
        build_report(run_dir, run_dir / "no" / "such" / "folder.html")


def test_the_command_writes_where_it_is_told(run_dir, tmp_path):
    out = tmp_path / "page.html"
    found = CliRunner().invoke(report_command, [str(run_dir), "--out", str(out), "--json"], catch_exceptions=False)
    assert json.loads(found.output) == {"report": str(out)}
    assert out.read_text().startswith("<!doctype html>")
    with pytest.raises(UserError):
        CliRunner().invoke(report_command, [str(tmp_path / "absent")], catch_exceptions=False)


def test_colours_of_a_plot_follow_the_page_and_its_ids_its_name():
    line = Line("loss", Series(np.arange(3.0), np.arange(3.0)))
    svg = line_plot([line, line], y_label="loss", plot_id="mine", marked_step=1)
    colors = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg))
    assert {"var(--series-1)", "var(--series-2)", "var(--muted)", "var(--ink)"} <= colors
    assert not any(color.startswith("#") for color in colors)
    assert all(one.startswith("mine-") for one in re.findall(r'\bid="([^"]+)"', svg))


def test_smoothing_keeps_a_straight_line_and_never_reaches_past_the_ends():
    assert smoothed(np.arange(9.0), 5) == pytest.approx(np.arange(9.0))
    assert smoothed(np.array([0.0, 3.0, 0.0, 0.0]), 3) == pytest.approx([0, 1, 1, 0])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.26, "0.3 s"), (59.96, "1 min 00 s"), (61, "1 min 01 s"), (3599.6, "1 h 00 min"), (7384, "2 h 03 min")],
)
def test_durations_read_well(seconds, words):
    assert duration(seconds) == words


def test_a_nested_environment_becomes_dotted_rows():
    assert flat({"a": {"b": 1, "c": {"d": None}}, "e": "x"}) == [("a.b", "1"), ("a.c.d", "null"), ("e", "x")]


def test_a_row_says_how_its_lists_were_made() -> None:
    plain = EvaluationResult(
        name="a", kind="model", split="test", num_examples=4, seconds=1.0, metrics={}, beam_width=50
    )
    slates = plain.model_copy(update={"beam_width": None, "slate_size": 6, "slate_beams": 4})
    assert "beam 50" in _about(plain)
    assert "4 slates of 6" in _about(slates)
