"""Links between the documents: what they name is there, with GitHub's rules for the anchors of headings."""

import collections
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "mpafer_jax").rglob("*.md"))]


def prose(document) -> str:
    """Its text without code."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^( {4}|\t).*\[.*\]\(.*$", "", text, flags=re.MULTILINE)


def anchors(text) -> set[str]:
    """Lower case, hyphens for spaces, no punctuation; a number behind all but the first of equal ones."""
    found, seen = set(), collections.Counter()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, flags=re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


def test_anchors_are_github_s():
    text = "# What it brings: a,b\n## `code_name` and [a link](x.md)\n## Twice\n## Twice\n"
    assert anchors(text) == {"what-it-brings-ab", "code_name-and-a-link", "twice", "twice-1"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document):
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", link):  # the web
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        known = target.suffix != ".md" or not anchor or (target.exists() and anchor in anchors(prose(target)))
        if not (target.exists() and known):
            missing.append(link)
    assert missing == []
