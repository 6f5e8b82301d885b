"""The page and its figures: written after every measurement, kept where nothing new was measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recrl.bench import MEASUREMENTS
from recrl.bench.measurement import Figures, Measurement, PeerMissingError, Setting, UnequalWorkError, load_measurement
from recrl.bench.run import run_bench
from recrl.commands.main import main
from recrl.errors import DataError, UserError


class Number(Figures):
    value: int


def fake(run: Callable[[Setting], Number], title: str) -> Measurement:
    return Measurement(
        title,
        "About it.",
        Number,
        run,
        lambda figures: f"value {figures.value}",
        lambda _: {f"{title}.png": b"\x89PNG"},
    )


def refuses(_: Setting) -> Number:
    raise UnequalWorkError("they differ", why="by much")


def lacks(_: Setting) -> Number:
    raise PeerMissingError("trl is not installed", fix="pip install 'recrl[bench]'")


def breaks(_: Setting) -> Number:
    raise KeyboardInterrupt


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Measurements of no cost in place of three real ones; the others are gone."""
    made = SimpleNamespace(
        grpo=fake(lambda _: Number(value=1), "First"),
        beam=fake(lambda setting: Number(value=setting.repeats), "Second"),
        update=fake(lambda _: Number(value=torch.get_num_threads()), "Third"),
    )
    monkeypatch.setitem(sys.modules, "bench_fakes", made)  # type: ignore[arg-type]
    for name in list(MEASUREMENTS):
        if hasattr(made, name):
            monkeypatch.setitem(MEASUREMENTS, name, f"bench_fakes:{name}")
        else:
            monkeypatch.delitem(MEASUREMENTS, name)
    return made


def bench(page: Path, *only: str, **options: Any) -> dict[str, Any]:
    said: list[str] = options.pop("said", [])
    return run_bench(only, **({"quick": False, "threads": 1, "page": page, "say": said.append} | options))


def kept(page: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.with_name("results.json").read_text())["measurements"]
    return found


def test_every_row_of_the_table_is_a_measurement() -> None:
    for name in MEASUREMENTS:
        measurement = load_measurement(name)
        assert measurement.title
        assert all(len(line) <= 120 for line in measurement.about.splitlines())


@pytest.mark.usefixtures("measurements")
def test_the_page_holds_machine_command_and_figures(tmp_path: Path) -> None:
    page = tmp_path / "new" / "RESULTS.md"
    found = bench(page, quick=True)
    assert list(found) == list(kept(page)) == ["grpo", "beam", "update"]
    text = page.read_text()
    for expected in (
        f"torch {torch.__version__}",
        "transformers",
        "| cores |",
        "`recrl bench engine --threads 1 --quick`",
        "quick: small sizes",
        "## First",
        "value 1",
        "value 3",
    ):
        assert expected in text
    assert (page.parent / "plots" / "First.png").read_bytes() == b"\x89PNG"
    assert str(tmp_path) not in text


@pytest.mark.usefixtures("measurements")
def test_only_replaces_its_own_section(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    bench(page)
    before = kept(page)
    found = bench(page, "beam", quick=True)
    assert list(found) == ["beam"]
    after = kept(page)
    assert after["grpo"] == before["grpo"]
    assert after["update"] == before["update"]
    assert (before["beam"]["figures"], after["beam"]["figures"]) == ({"value": 5}, {"value": 3})
    assert page.read_text().count("## ") == 3
    assert "`recrl bench engine --threads 1 --quick --only beam`" in page.read_text()


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path, measurements: SimpleNamespace) -> None:
    page = tmp_path / "RESULTS.md"
    measurements.beam = fake(breaks, "Second")
    with pytest.raises(KeyboardInterrupt):
        bench(page)
    assert list(kept(page)) == ["grpo"]
    assert "value 1" in page.read_text()
    assert "## Second" not in page.read_text()


def test_a_missing_peer_is_told_and_the_rest_goes_on(tmp_path: Path, measurements: SimpleNamespace) -> None:
    page, said = tmp_path / "RESULTS.md", []
    measurements.grpo = fake(lacks, "First")
    found = bench(page, said=said)
    line = "not measured: trl is not installed; pip install 'recrl[bench]'"
    assert said == [f"grpo: {line}"]
    assert found["update"].state == "measured"
    assert "**not measured**: trl is not installed; pip install 'recrl[bench]'" in page.read_text()


def test_unequal_work_is_not_reported_and_fails_the_command(
    tmp_path: Path, measurements: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "RESULTS.md"
    bench(page)
    measurements.beam = fake(refuses, "Second")
    with pytest.raises(SystemExit) as left:
        main(["bench", "engine", "--only", "beam", "--threads", "1", "--out", str(page)])
    assert left.value.code == 1
    assert "beam: not reported" in capsys.readouterr().err
    assert kept(page)["beam"]["figures"] == {}
    assert "**refused**: they differ; by much" in page.read_text()


@pytest.mark.usefixtures("measurements")
def test_the_command_prints_json_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["bench", "engine", "--json", "--threads", "1", "--only", "grpo", "--out", str(tmp_path / "page.md")])
    assert left.value.code == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["grpo"]["state"] == "measured"
    assert shown["grpo"]["figures"] == {"value": 1}


@pytest.mark.usefixtures("measurements")
def test_threads_are_those_asked_for_and_then_as_before(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    found = bench(tmp_path / "RESULTS.md", "update", threads=before + 1)
    assert found["update"].figures == {"value": before + 1}
    assert torch.get_num_threads() == before


@pytest.mark.usefixtures("measurements")
def test_machines_are_told_apart_where_sections_come_from_several(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    bench(page)
    file = page.with_name("results.json")
    results = json.loads(file.read_text())
    results["measurements"]["beam"]["machine"]["cpu"] = "Another CPU"
    file.write_text(json.dumps(results))
    bench(page, "update")
    text = page.read_text()
    assert "| machine 1 |" in text
    assert "Another CPU" in text
    assert "on machine 2; threads: 1" in text


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"version": 1}', '{"version": 1, "measurements": {"beam": {}}}', '{"version": 99}']
)
def test_broken_results_are_not_written_over(tmp_path: Path, content: str) -> None:
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(DataError) as raised:
        bench(tmp_path / "RESULTS.md")
    assert "delete it and measure again" in raised.value.fix
    assert file.read_text() == content


def test_a_page_that_can_not_be_written_is_known_before_anything_is_measured(
    tmp_path: Path, measurements: SimpleNamespace
) -> None:
    measurements.grpo = fake(breaks, "First")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="can't write"):
        bench(tmp_path / "file" / "RESULTS.md")
