"""A hook of mkdocs: README.md, CONTRIBUTING.md and CHANGELOG.md are pages of docs/ through links of the file system.

Their links are written as seen from the root, and other pages link to them there; on the site all lie in one folder.
"""

from __future__ import annotations

import re
from typing import Any

ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
TARGET = re.compile(r"\]\((?:\.\./|docs/)?(?P<page>[\w.-]+\.md)(?P<anchor>#[\w-]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links between pages to where the site has them."""

    def moved(link: re.Match[str]) -> str:
        return f"]({ROOT_PAGES.get(link['page'], link['page'])}{link['anchor'] or ''})"

    return TARGET.sub(moved, markdown)
