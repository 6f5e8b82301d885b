"""Phrases that have a better word in the field, or that a reader has to read twice: they must not come back."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
PLACES = (*PAGES, "docs", "recrl", "commands", "kernels", "examples", "benchmarks")
SUFFIXES = {".py", ".md", ".toml", ".c", ".j2"}
PHRASES = {
    "is the meaning": "is the specification",
    "take leave of": "destroy the process group",
    "a farewell": "shut down",
    "can't be told": "is undefined",
    "begin alike": "share a prefix",
    "nothing waits for the device": "no host-device sync",
    "fed tokens": "response-prefix tokens",
    "of some rows of whole prompts": "slice for a range of whole prompts",
    "what of a training sequence is asked for": "which item is the RL target",
    "comes to be": "is generated",
    "go on from what the rollout has read": "reuse the rollout's prompt forward pass",
    "counts for nothing": "with loss weight 0",
    "leave word": "record status",
    "of worth": "before any result",
    "what this rank steps": "this rank's parameter groups",
    "how lists come of": "how lists are built from",
    "asking_nothing": "without_targets",
    "can be had": "is feasible, is available",
    "to be had": "is available",
    "and beside whom": "independent of batch and rank",
    "one behind the other": "concatenated",
    "behind the end": "after the end",
    "METHODS A": "papers.md A",
    "METHODS B": "papers.md B",
    "METHODS C": "papers.md C",
    "METHODS D": "papers.md D",
}


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Every file of ours, its lines joined: a phrase may run over the end of one."""
    found = {}
    for place in PLACES:
        root = ROOT / place
        for path in [root] if root.is_file() else root.rglob("*"):
            if path.suffix in SUFFIXES and path.is_file():
                found[str(path.relative_to(ROOT))] = " ".join(path.read_text(encoding="utf-8").split())
    return found


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_phrase_stays_away(phrase: str, texts: dict[str, str]) -> None:
    assert len(texts) > 200
    where = [path for path, text in texts.items() if phrase in text]
    assert not where, f"write {PHRASES[phrase]!r}"
