"""The two pages for people: they hold what is served, ask nothing from elsewhere, and escape what a name may hold."""

import re

import pytest
from support.served import CLASSES

from foveate.serve.pages import docs_page, start_page
from foveate.serve.protocol import Spec


def test_the_first_page_shows_what_is_served_and_where_the_rest_is(ask):
    page = ask("GET", "/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    for part in ("tiny", "classes", "3 x 32 x 32", "'docs'", "'openapi.json'", "'metrics'", "data-path='classify'"):
        assert part in page.text, part


def test_every_route_is_told_of(ask):
    page, document = ask("GET", "/docs").text, ask("GET", "/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in page
    assert "/docs" not in document["paths"] and "/" not in document["paths"]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_nothing_is_fetched_from_elsewhere(ask, path):
    assert not re.findall(r"(?:src|href|url\()\s*=?\s*['\"]?(?:https?:)?//", ask("GET", path).text)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_token_is_asked_here_too(ask, path):
    assert ask("GET", path, {"token": "secret"}).status_code == 401


def test_names_are_text_and_no_markup():
    spec = Spec("<script>alert(1)</script>", (32, 32), "classes", (5,), CLASSES, queue=8)
    assert "<script>alert" not in start_page(spec, "/classify")
    assert "<b>" not in docs_page({"paths": {"/<b>": {"get": {"description": "<b>"}}}}, "<b>")
