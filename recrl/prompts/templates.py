"""How prompts read: one template for SFT, RL and evaluation (papers.md C-2 and A-7)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """How prompts read.

    Attributes:
        texts: task -> text around ``{history}`` (SIDs or titles, by action space), ``{titles}``, ``{topics}``,
            ``{count}``, ``{sid}``, ``{title}`` or ``{description}``.
        separator: between the items of a history.
        end: whether a response closes with the tokenizer's end token. A SID needs none: no SID is a prefix of another.
        candidates: a line around ``{candidates}``; "" where a template has no words for them.
    """

    texts: dict[str, str]
    separator: str
    end: bool
    candidates: str = ""

    def text(self, task: str, *, pooled: bool) -> str:
        """The text of a task; ``pooled`` puts the candidates before its last line, which heads the response."""
        text = self.texts[task]
        if not pooled:
            return text
        *asked, heading = text.splitlines(keepends=True)
        return "".join([*asked, self.candidates, heading])


TEMPLATES = {
    "plain": Template(
        texts={
            "next": "{history}",
            "slate": "{history}",
            "sid_to_title": "{sid} title:",
            "title_to_sid": "item: {title} sid:",
            "titles_to_sid": "history: {titles} next:",
            "sids_to_title": "{history} next title:",
            "description_to_sid": "description: {description} sid:",
        },
        separator="",
        end=False,
    ),
    "instruct": Template(
        texts={
            "next": "### Input:\nThe user took these items, oldest first: {history}\n### Next item:\n",
            "slate": "### Input:\n{topics}\nList the {count} items that the user takes next, best first.\n### List:\n",
            "sid_to_title": "### Input:\nWhat is the title of item {sid}?\n### Title:\n",
            "title_to_sid": "### Input:\nWhich item has the title {title}?\n### Item:\n",
            "titles_to_sid": "### Input:\nThe user took these items, oldest first: {titles}\n### Next item:\n",
            "sids_to_title": "### Input:\nThe user took these items, oldest first: {history}\n### Title of the next:\n",
            "description_to_sid": "### Input:\nWhich item is described so: {description}\n### Item:\n",
        },
        separator=", ",
        end=True,
        candidates="The candidates are: {candidates}\n",
    ),
}
