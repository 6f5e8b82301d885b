"""Devices without one: what is chosen, what is said, and how a broken torch-npu shows."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from fake_npu.process import COMMAND, Done, start

from recrl.device.loading import explain_broken_npu
from recrl.device.runtime import (
    choose_device,
    distributed_backend,
    explained_memory,
    local_device,
    prepare_megatron,
)
from recrl.errors import RunError, UserError

ROOT = Path(__file__).resolve().parents[2]
NO_ACCELERATOR = pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
NAMES_A_DEVICE = re.compile(r"""\.(cuda|npu)\(|["'](cuda|npu)(:\d+)?["']""")
MAY_NAME_DEVICES = (
    "recrl/device/runtime.py",
    "recrl/hardware",  # what machines are
    "kernels/registry.py",
    "kernels/aot",  # compile for a device that is not there
)
BREAKS = "raise ImportError('libhccl.so: cannot open shared object file: No such file or directory')"
NO_DEVICE = """
    import sys, types, torch
    torch.utils.rename_privateuse1_backend("npu")
    module = types.ModuleType("torch.npu")
    module.is_available = lambda: False
    module.device_count = lambda: 0
    module.current_device = lambda: 0
    torch._register_device_module("npu", module)
    """


def stand_in(folder: Path, code: str) -> Path:
    """A folder with a package torch_npu, installed as the real one is: torch loads it by itself."""
    for path, text in {
        "torch_npu/__init__.py": dedent(code) + "\ndef _autoload(): pass\n",
        "torch_npu-2.13.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: torch-npu\nVersion: 2.13.0\n",
        "torch_npu-2.13.0.dist-info/entry_points.txt": "[torch.backends]\ntorch_npu = torch_npu:_autoload\n",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def choosing(wanted: str, site: Path, autoload: str = "1") -> Done:
    """``choose_device`` in a process that has the stand-in; prints the device, or the error and its exit code."""
    code = f"""
        import logging
        from recrl.device.loading import explain_broken_npu
        from recrl.errors import UserError
        logging.basicConfig(level=logging.INFO)
        try:
            with explain_broken_npu():
                from recrl.device.runtime import choose_device
                print(choose_device({wanted!r}))
        except UserError as error:
            print(error)
    """
    done = start(dedent(code), folder=site, paths=[site], TORCH_DEVICE_BACKEND_AUTOLOAD=autoload)
    assert done.returncode == 0, done.stderr
    return done


@NO_ACCELERATOR
def test_auto_takes_the_cpu_where_nothing_else_is_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_device("auto") == torch.device("cpu")
    assert caplog.messages == ["device: cpu"]


@pytest.mark.parametrize("name", ["tpu9", "meta", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_device(name)
    assert caught.value.found == f"backend.device = {name!r}"
    assert caught.value.why
    assert "\n" not in caught.value.why


def test_processes_on_cpu_share_it() -> None:
    assert [local_device("cpu", rank) for rank in range(3)] == [torch.device("cpu")] * 3


def test_collectives_of_every_device() -> None:
    assert distributed_backend(torch.device("cpu")) == "gloo"
    assert distributed_backend(torch.device("cuda", 3)) == "nccl"


@pytest.mark.parametrize(("wanted", "autoload"), [("npu", "1"), ("npu:1", "0")])
def test_a_torch_npu_that_does_not_load_is_told_in_one_sentence(tmp_path: Path, wanted: str, autoload: str) -> None:
    said = choosing(wanted, stand_in(tmp_path, BREAKS), autoload).stdout.splitlines()
    assert said[0] == "torch-npu is installed and does not load"
    assert said[1] == "  Why: libhccl.so: cannot open shared object file: No such file or directory"
    assert "set_env.sh" in said[2]
    assert len(said) == 3


def test_auto_goes_on_without_a_torch_npu_that_does_not_load_and_warns(tmp_path: Path) -> None:
    done = choosing("auto", stand_in(tmp_path, BREAKS), autoload="0")
    assert done.stdout == "cpu\n"
    assert "WARNING" in done.stderr
    assert "libhccl.so" in done.stderr


@pytest.mark.parametrize("autoload", ["1", "0"])
def test_a_torch_npu_without_a_device_is_told(tmp_path: Path, autoload: str) -> None:
    site = stand_in(tmp_path, NO_DEVICE)
    assert choosing("npu", site, autoload).stdout.splitlines()[:2] == [
        "backend.device = 'npu'",
        "  Why: torch-npu is installed and finds no NPU",
    ]
    done = choosing("auto", site, autoload)
    assert done.stdout == "cpu\n"
    assert "finds no NPU" in done.stderr


@pytest.mark.parametrize("autoload", ["1", "0"])
def test_the_command_line_survives_a_torch_npu_that_does_not_load(tmp_path: Path, autoload: str) -> None:
    site = stand_in(tmp_path, BREAKS)
    done = start(
        COMMAND, "recommend", "--user", "1", "--run", "x", folder=site, paths=[site],
        TORCH_DEVICE_BACKEND_AUTOLOAD=autoload,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("Error: torch-npu is installed and does not load\n  Why: libhccl.so")
    assert "Traceback" not in done.stderr


def test_an_error_from_elsewhere_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="not to blame"), explain_broken_npu():
        raise RuntimeError("torch_npu is not to blame")


class OnNpu:
    """Stands for a device of the type, which torch names only where torch-npu is."""

    type = "npu"


def package(folder: Path, module: str, text: str) -> None:
    """An importable folder with one module."""
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / f"{module}.py").write_text(text)


def test_megatron_on_npu_needs_mindspeed() -> None:
    with pytest.raises(UserError) as caught:
        prepare_megatron(OnNpu())  # type: ignore[arg-type]
    assert caught.value.why == "MindSpeed is not installed"


def test_mindspeed_comes_before_megatron_and_sees_no_arguments(tmp_path: Path) -> None:
    package(tmp_path / "megatron", "core", "import sys\nsys.order.append('megatron.core')\n")
    adaptor = "import sys\nsys.order.append('mindspeed')\nsys.seen = list(sys.argv)\n"
    package(tmp_path / "mindspeed", "megatron_adaptor", adaptor)
    code = """
        import sys
        sys.order = []
        from recrl.device.runtime import prepare_megatron
        class Device: type = sys.argv[1]
        given = list(sys.argv)
        prepare_megatron(Device())
        import megatron.core
        assert sys.argv == given
        print(sys.order, getattr(sys, "seen", None))
    """
    said = [start(dedent(code), kind, "--tp", "2", folder=tmp_path, paths=[tmp_path]) for kind in ("npu", "cpu")]
    assert said[0].stdout == "['mindspeed', 'megatron.core'] ['-c']\n", said[0].stderr
    assert said[1].stdout == "['megatron.core'] None\n", said[1].stderr


def test_a_mindspeed_that_does_not_load_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path / "mindspeed", "megatron_adaptor", "raise RuntimeError('no Ascend here\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", given := ["recrl", "rl"])
    with pytest.raises(UserError) as caught:
        prepare_megatron(OnNpu())  # type: ignore[arg-type]
    assert caught.value.why == "MindSpeed does not load: no Ascend here"
    assert sys.argv is given


def sources() -> list[str]:
    """The product's own Python files, from the root."""
    paths = [path for top in ("recrl", "commands", "kernels") for path in (ROOT / top).rglob("*.py")]
    names = {path.relative_to(ROOT).as_posix() for path in paths}
    return sorted(name for name in names if not name.startswith(("recrl/commands", "recrl/kernels")))


def test_no_other_file_names_a_device() -> None:
    found = [
        f"{name}:{number}: {line.strip()}"
        for name in sources()
        if not name.startswith(MAY_NAME_DEVICES)
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1)
        if NAMES_A_DEVICE.search(line)
    ]
    assert not found, "ask recrl.device.runtime instead:\n" + "\n".join(found)


@pytest.mark.parametrize("line", ["x.cuda()", 'device="cuda"', "torch.device('npu:0')", 'kind == "npu"', "model.npu()"])
def test_such_a_name_is_found(line: str) -> None:
    assert NAMES_A_DEVICE.search(line)


def test_memory_that_is_used_up_is_told_in_words() -> None:
    with pytest.raises(RunError, match="memory is used up") as caught, explained_memory():
        raise torch.OutOfMemoryError("NPU out of memory. Tried to allocate 12.00 GiB\nmore")
    assert caught.value.why == "NPU out of memory. Tried to allocate 12.00 GiB"
    assert "token_budget" in caught.value.fix
