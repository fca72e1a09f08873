"""Answers of several pages: the address of the next one is the vendor's word, so it is checked, and their number is bounded."""

import re
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from maang_cli.sources.polygon.parse import MAX_ROWS, Page, Reader


class Pages:
    """Follows the addresses of next pages."""

    def __init__(self, base: SplitResult, get: Callable[[str], bytes], reader: Reader) -> None:
        """`base`: the configured address; `get`: makes a call with the key, and returns the body of its answer."""
        self._base = base
        self._get = get
        self._reader = reader

    def read(self, read: Callable[[bytes], Page], body: bytes, what: str, most: int) -> Page:
        """All pages of an answer as one; `body` is the first, and `most` are as many as the request can need.

        Raises:
            Contradiction: a page contradicts itself, brings nothing new, or is one too many.
        """
        page = read(body)
        if page.next_url is None:
            return page
        pages = [page]
        seen: set[object] = set()
        while True:
            before = len(seen)
            seen.update(pc.unique(page.keys).to_pylist())
            if len(seen) == before:
                raise self._reader.contradiction(what, "a page that brings nothing new")
            if page.next_url is None:
                break
            if len(pages) == most or sum(each.total for each in pages) > MAX_ROWS:
                raise self._reader.contradiction(what, f"more than {most} pages or {MAX_ROWS} results")
            following = self.checked(page.next_url, what)
            page = read(self._get(following))
            pages.append(page)
        return Page(
            pa.concat_tables(each.rows for each in pages),
            sum(each.total for each in pages),
            wrong={key: text for each in pages for key, text in each.wrong.items()},
        )

    def checked(self, url: str, what: str) -> str:
        """The address of the next page. The key is sent there, so it must be the same host."""
        try:
            parts = urlsplit(url)
            host = parts.hostname
        except ValueError:
            host = None
        if host is None or not re.fullmatch(r"[!-~]+", url):
            raise self._reader.contradiction(what, "a next page without a web address")
        if host != self._base.hostname:
            raise self._reader.contradiction(what, "a next page on another host")
        return parts._replace(scheme=self._base.scheme, netloc=self._base.netloc).geturl()
