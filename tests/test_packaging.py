"""What the layout promises; ``.ci/run`` checks the wheel itself."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import recrl

ROOT = Path(__file__).resolve().parents[1]
LINKED = ("commands", "kernels", "hw_profiles")


@pytest.mark.parametrize("name", LINKED)
def test_the_folders_at_the_root_come_in_through_links(name: str):
    link = ROOT / "recrl" / name
    assert link.is_symlink(), "a checkout without symbolic links can't be built"
    assert str(link.readlink()) == f"../{name}", "a link to an absolute place breaks elsewhere"
    assert any((ROOT / name).iterdir())


@pytest.mark.parametrize("name", LINKED)
def test_no_linked_folder_is_a_package_of_its_own(name: str):
    assert not (ROOT / name / "__init__.py").exists(), "at the root it would hide Hugging Face's package `kernels`"


def test_our_kernels_are_not_importable_without_our_name(tmp_path: Path):
    program = (
        "import recrl.kernels, importlib.util as u; spec = u.find_spec('kernels');"
        "places = list(spec.submodule_search_locations or []) if spec else [];"
        "assert not set(places) & set(recrl.kernels.__path__), places; print('apart')"
    )
    # PYTHONPATH stands for an installation: the package can be found and the root of the checkout is not searched.
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "recrl").symlink_to(ROOT / "recrl")
    shown = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
    )
    assert shown.stdout.strip() == "apart", shown.stderr


def modules() -> list[str]:
    """Every module below recrl, also below folders that are no packages."""
    names = []
    for folder in [ROOT / "recrl", *(path for path in (ROOT / "recrl").rglob("*") if path.is_dir())]:
        inside = ".".join(("recrl", *folder.relative_to(ROOT / "recrl").parts))
        names += [f"{inside}.{found.name}" for found in pkgutil.iter_modules([str(folder)])]
    for name in LINKED:  # rglob does not follow links
        for path in sorted((ROOT / name).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            names.append(".".join(("recrl", *(part for part in parts if part != "__init__"))))
    return sorted(set(names))


OPTIONAL = {"megatron", "torch_npu", "triton", "liger_kernel"}


def test_every_module_loads():
    found = modules()
    assert "recrl.training.rl" in found
    assert "recrl.commands.main" in found
    assert "recrl.kernels.prefix_attention.reference" in found
    missing = {}
    for name in found:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing[name] = (error.name or "").split(".")[0]
    assert set(missing.values()) <= OPTIONAL, missing


def test_every_module_says_what_it_is_for():
    silent = [name for name in modules() if not (importlib.import_module(name).__doc__ or "").strip()]
    assert silent == []


def test_the_library_never_imports_click():
    users = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "recrl").rglob("*.py")
        if not path.is_relative_to(ROOT / "recrl" / "commands")
        and re.search(r"^\s*(import|from)\s+(rich_)?click\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert users == []


def test_the_versions_agree():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == recrl.__version__
