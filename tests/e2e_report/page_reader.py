"""A page as a browser takes it: every tag closed, nothing fetched, and what stands in it."""

from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "link", "input"}
Attributes = dict[str, str | None]


class Reader(HTMLParser):
    """Elements in order with their attributes, and all the text outside of <style>."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, Attributes]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, f"left open: {self._open}"
        self._is_self_contained()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self._open, f"<{tag}/> closes nothing in HTML"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1] == tag, f"</{tag}> within {self._open}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def _is_self_contained(self) -> None:
        for tag, attributes in self.elements:
            assert tag not in ("script", "link", "img", "iframe"), tag
            assert "src" not in attributes
            assert (attributes.get("href") or "#").startswith("#")

    def of(self, kind: str) -> list[Attributes]:
        """Attributes of the elements with this class, or else of this name."""
        return [a for tag, a in self.elements if a.get("class") == kind or tag == kind]
