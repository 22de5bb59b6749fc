"""An HTML page read strictly: what is opened is closed, and what is in it can be asked for."""

import dataclasses
import html.parser
import pathlib
import re

_VOID = {"meta", "img", "link", "br", "hr", "input"}


@dataclasses.dataclass
class Element:
    tag: str
    attributes: dict
    text: str = ""


class Page(html.parser.HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.text = text
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {[element.tag for element in self._open]}"

    @classmethod
    def of(cls, path: pathlib.Path) -> "Page":
        return cls(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        element = Element(tag, dict(attrs))
        self.elements.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1].tag == tag, f"</{tag}> inside <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def rows(self, caption_or_head: str) -> list[list[str]]:
        """Cells of the table that holds a text in its caption or head."""
        for table in re.findall(r"<table.*?</table>", self.text, flags=re.DOTALL):
            if caption_or_head in table:
                rows = re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL)
                return [
                    [re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, flags=re.DOTALL)]
                    for row in rows
                ]
        raise AssertionError(f"no table with {caption_or_head!r}")

    def check(self) -> None:
        """What holds for every page: nothing is fetched, everything has a name, every place in it exists."""
        ids = [element.attributes["id"] for element in self.elements if "id" in element.attributes]
        places = set(ids)
        assert len(ids) == len(places), "an id twice"
        for element in self.elements:
            for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                value = element.attributes.get(name)
                if value is not None:
                    assert value.startswith(("data:image/", "#")), f"{element.tag} {name} {value[:80]}"
                    if value.startswith("#"):
                        assert value[1:] in places, f"{value} leads nowhere"
        for name in re.findall(r"url\(([^)]*)\)", self.text):
            assert name.startswith("#"), f"url({name})"
            assert name[1:] in places
        assert not self.all("script")
        assert not self.all("link")
        assert not re.search(r"@import|<iframe|http-equiv=.refresh", self.text)
        (policy,) = [e for e in self.all("meta") if e.attributes.get("http-equiv") == "Content-Security-Policy"]
        assert policy.attributes["content"].startswith("default-src 'none'")
        for element in self.all("img"):
            assert element.attributes["alt"].strip()
        for element in self.all("svg"):
            assert element.attributes["role"] == "img"
            assert len(element.attributes["aria-label"]) > 20
        assert self.all("html")[0].attributes["lang"] == "en"
        assert len(self.all("h1")) == len(self.all("main")) == 1
