"""Links of the documents to files outside of them, which the site does not have, become plain text there (mkdocs.yml)."""

import re

OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+(?:src|configs|examples|README|CONTRIBUTING)[^)]*\)")


def on_page_markdown(markdown: str, **given: object) -> str:
    """Called by mkdocs for each page."""
    return OUTSIDE.sub(r"\1", markdown)
