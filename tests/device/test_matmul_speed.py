"""What ``auto`` takes and what a peak is, from measurements that are given and from real ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
import torch

from recrl.device import matmul_speed
from recrl.device.matmul_speed import bfloat16_time, choose_dtype, comparison, faster_dtype, peak_flops, product_flops

CPU = torch.device("cpu")
Speed = Callable[[int], list[float]]


@pytest.fixture(autouse=True)
def _measured_anew() -> Iterator[None]:
    bfloat16_time.cache_clear()
    yield
    bfloat16_time.cache_clear()


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, int]]]:
    """Sets the seconds of the three products by size, and returns what will be measured."""

    def set_speeds(**speeds: Speed) -> list[tuple[str, int]]:
        asked: list[tuple[str, int]] = []

        def seconds(_: torch.device, dtype: str, size: int) -> list[float]:
            asked.append((dtype, size))
            return speeds[dtype](size)

        monkeypatch.setattr(matmul_speed, "_seconds", seconds)
        return asked

    return set_speeds


def rate(flops: float, launch_s: float = 0.0) -> Speed:
    """Three equal products at so many FLOP/s, each after a delay that no size changes."""
    return lambda size: [launch_s + 2 * size**3 / flops] * 3


FACTORS = [(0.3, "bfloat16"), (0.79, "bfloat16"), (0.85, "float32"), (9, "float32")]


@pytest.mark.parametrize(("factor", "chosen"), FACTORS)
def test_auto_takes_bfloat16_only_where_it_is_faster_by_the_margin(
    given: Callable[..., object], caplog: pytest.LogCaptureFixture, factor: float, chosen: str
) -> None:
    given(float32=rate(1e11), bfloat16=rate(1e11 / factor))
    with caplog.at_level(logging.INFO):
        assert choose_dtype("auto", CPU) == chosen
    said = f"backend.dtype: {chosen}, since bfloat16 products take {factor:.2g} times as long as float32's here"
    assert caplog.messages == [said]


def test_bfloat16_as_set_is_taken_with_a_warning_where_it_is_slower(
    given: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    given(float32=rate(1e11), bfloat16=rate(2e9))
    assert choose_dtype("bfloat16", CPU) == "bfloat16"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "bfloat16 products take 50 times as long" in record.message


def test_bfloat16_as_set_is_taken_without_a_word_where_it_is_faster(
    given: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    given(float32=rate(1e11), bfloat16=rate(1e12))
    assert choose_dtype("bfloat16", CPU) == "bfloat16"
    assert not caplog.records


def test_float32_as_set_needs_no_measurement(given: Callable[..., list[tuple[str, int]]]) -> None:
    asked = given()
    assert choose_dtype("float32", CPU) == "float32"
    assert not asked


def test_a_comparison_stops_at_the_first_size_that_takes_long_enough(
    given: Callable[..., list[tuple[str, int]]],
) -> None:
    asked = given(float32=rate(1e11), bfloat16=rate(2e9))  # 3 products of 64 take 0.8 ms
    bfloat16_time(CPU)
    assert {size for _, size in asked} == {64}


def test_launches_that_take_longer_than_small_products_do_not_decide(
    given: Callable[..., list[tuple[str, int]]],
) -> None:
    """An accelerator: 20 us a launch, float32 at 50 and bfloat16 at 700 TFLOP/s."""
    asked = given(float32=rate(50e12, 2e-5), bfloat16=rate(700e12, 3e-5))
    assert faster_dtype(CPU) == "bfloat16"
    assert max(size for _, size in asked) == 2048


def test_a_busy_moment_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(1000))

    def seconds(_: torch.device, dtype: str, size: int) -> list[float]:
        busy = next(moments) == 2  # float32's second round
        return [{"float32": 2e-4, "bfloat16": 4e-4}[dtype] * (size if busy else 1)] * 3

    monkeypatch.setattr(matmul_speed, "_seconds", seconds)
    assert bfloat16_time(CPU) == pytest.approx(2)


def test_it_is_measured_once_a_process(given: Callable[..., list[tuple[str, int]]]) -> None:
    asked = given(float32=rate(1e11), bfloat16=rate(2e9))
    first = comparison(CPU), faster_dtype(CPU)
    measured = len(asked)
    given(float32=rate(2e9), bfloat16=rate(1e11))
    assert (comparison(CPU), faster_dtype(CPU)) == first
    assert len(asked) == measured


def test_the_peak_is_the_best_layout_at_the_best_size(given: Callable[..., object]) -> None:
    def seconds(size: int) -> list[float]:
        flops = 2 * size**3
        return [flops / 1e10, flops / {64: 2e10, 128: 4e10, 256: 3e10}[size], flops / 1e9]

    given(float32=seconds)
    assert product_flops(CPU, "float32", (64, 128, 256)) == pytest.approx(4e10)


def test_a_peak_stops_at_the_first_size_that_takes_long_enough(given: Callable[..., list[tuple[str, int]]]) -> None:
    asked = given(float32=rate(1e10))  # 3 products of 256 take 10 ms
    assert product_flops(CPU, "float32") == pytest.approx(1e10)
    assert max(size for _, size in asked) == 256


def test_the_peak_of_a_bfloat16_run_is_float32s_where_that_is_higher(given: Callable[..., object]) -> None:
    given(float32=rate(1e11), bfloat16=rate(2e9))
    assert peak_flops(CPU, "bfloat16") == pytest.approx(1e11)
    given(float32=rate(1e11), bfloat16=rate(1e12))
    assert peak_flops(CPU, "bfloat16") == pytest.approx(1e12)
    assert peak_flops(CPU, "float32") == pytest.approx(1e11)


def test_products_are_a_linear_layer_and_its_gradients() -> None:
    """In the memory layouts in which autograd multiplies them."""
    states, weight = torch.randn(5, 5, requires_grad=True), torch.randn(5, 5, requires_grad=True)
    given = torch.randn(5, 5)
    layer, of_states, of_weight = matmul_speed.PRODUCTS
    torch.nn.functional.linear(states, weight).backward(given)
    torch.testing.assert_close(layer(states, weight), torch.nn.functional.linear(states, weight))
    torch.testing.assert_close(of_states(given, weight), states.grad)
    torch.testing.assert_close(of_weight(given, states), weight.grad)
