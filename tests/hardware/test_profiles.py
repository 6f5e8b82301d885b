from __future__ import annotations

from pathlib import Path

import pytest

from recrl.errors import ConfigError
from recrl.hardware.profiles import FIGURES, known_devices, known_profiles, load_profile

FIGURES_TEXT = "".join(f"{name} = 1\n" for name in FIGURES)
SOURCES_TEXT = "[sources]\n" + "".join(f'{name} = "measured"\n' for name in FIGURES)
MINE = f'name = "mine"\ndevice = "cuda"\n{FIGURES_TEXT}'


@pytest.mark.parametrize("name", known_profiles())
def test_every_profile_loads_and_is_named_as_its_file(name: str):
    assert load_profile(name).name == name


@pytest.mark.parametrize("name", [name for name in known_devices() if name != "cpu"])
def test_every_device_comes_alone_by_eight_and_by_sixty_four(name: str):
    layouts = (name, f"{name}-8", f"{name}-64")
    assert [load_profile(layout).devices for layout in layouts] == [1, 8, 64]
    assert set(layouts) <= set(known_profiles())


@pytest.mark.parametrize(("name", "nodes", "each"), [("h100-3", 1, 3), ("ascend-910c-16", 1, 16), ("h20-24", 3, 8)])
def test_any_number_that_fills_its_nodes_is_a_profile(name: str, nodes: int, each: int):
    found = load_profile(name)
    assert (found.name, found.nodes, found.devices_per_node) == (name, nodes, each)
    assert found.sources["devices_per_node"]


@pytest.mark.parametrize(("name", "words"), [("h100-12", "multiple of 8"), ("h100-0", "1 to 8"), ("cpu-8", "at hand")])
def test_devices_that_fill_no_node_are_refused(name: str, words: str):
    with pytest.raises(ConfigError, match=words):
        load_profile(name)


def test_a_layout_has_the_figures_of_its_base():
    device, layout = load_profile("ascend-910b3"), load_profile("ascend-910b3-64")
    assert (layout.device, layout.bf16_tflops, layout.memory_gib) == ("npu", 313, 64)
    assert (layout.devices_per_node, layout.nodes) == (8, 8)
    assert layout.sources.items() > device.sources.items()


def test_a_910c_is_two_devices_of_half_its_figures():
    assert load_profile("ascend-910c").bf16_tflops == 752 / 2
    assert load_profile("ascend-910c-64").devices_per_node == 16


def test_no_two_devices_report_the_same_name():
    devices = [load_profile(name) for name in known_profiles()]
    names = [reported for device in devices if not device.base for reported in device.reported_as]
    assert len(set(names)) == len(names) >= 13


def test_a_cpu_is_measured_where_it_stands():
    profile = load_profile("cpu")
    assert (profile.device, profile.measured, profile.bf16_tflops) == ("cpu", True, None)


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'cpu'"):
        load_profile("cpus")


def test_a_file_of_ones_own_is_read(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace("memory_gib = 1", "memory_gib = 80") + SOURCES_TEXT)
    assert load_profile(str(path)).memory_gib == 80


def test_a_file_of_ones_own_may_vary_a_known_device(tmp_path: Path):
    path = tmp_path / "ours.toml"
    path.write_text(
        'base = "h100"\nname = "ours"\nnodes = 3\ninter_node_gbps = 25\n[sources]\ninter_node_gbps = "ib_write_bw"\n'
    )
    profile = load_profile(str(path))
    assert (profile.devices, profile.inter_node_gbps, profile.bf16_tflops) == (3, 25, 989.4)
    assert profile.sources["inter_node_gbps"] == "ib_write_bw"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "x"\ndevice = "gpu"\nmeasured = true\n', "device = 'gpu'"),
        ('name = "x"\ndevice = "cpu"\n', "or measured = true"),
        ('name = "x"\ndevice = "cpu"\nmeasured = true\nmemory_gib = 1\n', "it can state no figure"),
        (MINE.replace("fp32_tflops = 1", "fp32_tflops = 0") + SOURCES_TEXT, "fp32_tflops = 0"),
        (MINE, "no source for memory_gib, bf16_tflops"),
        (MINE + SOURCES_TEXT.replace('fp32_tflops = "measured"', 'fp32_tflops = " "'), "no source for fp32_tflops"),
        (MINE + "devices_per_node = 8\n" + SOURCES_TEXT, "no source for devices_per_node"),
        (MINE + SOURCES_TEXT + 'nodes = "choice"\n', "does not state: nodes"),
        ('name = "x"\ndevice = "cpu"\nmeasured = true\nmemory_gb = 1\n', "did you mean 'memory_gib'"),
        ('name = "x"\nbase = "h10"\n', "did you mean 'h100'"),
        ('name = "x"\nbase = 1\n', "base = 1"),
        ('name = "x\n', "is not TOML"),
    ],
    ids=[
        "device", "nothing", "both", "zero", "unsourced", "blank source", "unsourced layout", "spare source", "key",
        "base", "base type", "toml",
    ],
)  # fmt: skip
def test_a_wrong_profile_is_told(tmp_path: Path, text: str, words: str):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_profile(str(path))
    assert words in str(caught.value)


def test_bases_in_a_circle_are_told(tmp_path: Path):
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text(f'base = "{two}"\nname = "one"\n')
    two.write_text(f'base = "{one}"\nname = "two"\n')
    with pytest.raises(ConfigError, match="circle"):
        load_profile(str(one))
