from __future__ import annotations

from pathlib import Path

import pytest

from recrl.errors import ConfigError
from recrl.hardware.profiles import known_profiles, load_profile


@pytest.mark.parametrize("name", known_profiles())
def test_every_profile_loads_and_is_named_as_its_file(name: str):
    assert load_profile(name).name == name


def test_a_cpu_is_measured_where_it_stands():
    profile = load_profile("cpu")
    assert (profile.device, profile.measured, profile.peak_tflops) == ("cpu", True, None)


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'cpu'"):
        load_profile("cpus")


def test_a_file_of_ones_own_is_read(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\ndevice = "cuda"\nmemory_gib = 80\npeak_tflops = 312\n')
    assert load_profile(str(path)).memory_gib == 80


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "x"\ndevice = "gpu"\nmeasured = true\n', "device = 'gpu'"),
        ('name = "x"\ndevice = "cpu"\n', "or measured = true"),
        ('name = "x"\ndevice = "cpu"\nmeasured = true\nmemory_gib = 1\npeak_tflops = 1\n', "or measured = true"),
        ('name = "x"\ndevice = "cuda"\nmemory_gib = 1\npeak_tflops = 0\n', "peak_tflops = 0"),
        ('name = "x"\ndevice = "cpu"\nmeasured = true\nmemory_gb = 1\n', "did you mean 'memory_gib'"),
        ('name = "x\n', "is not TOML"),
    ],
    ids=["device", "nothing", "both", "zero", "key", "toml"],
)
def test_a_wrong_profile_is_told(tmp_path: Path, text: str, words: str):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_profile(str(path))
    assert words in str(caught.value)
