"""A small folder, and an application that serves it in this process."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from support.served import make_folder

from foveate.serve import Settings
from foveate.serve.app import create_app
from foveate.serve.served import Served


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("served"))


@pytest.fixture
def run(folder):
    """`run(work, **settings)`: what `work(client, app)` returns, with an application that lives meanwhile."""

    def run(work: Callable[[httpx.AsyncClient, Any], Awaitable[Any]], model=Served, **options: object) -> Any:
        async def main() -> Any:
            settings = Settings(folder=folder, **options)
            app = create_app(model(settings), settings)
            transport = httpx.ASGITransport(app)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://here", timeout=30) as client,
            ):
                return await work(client, app)

        return asyncio.run(main())

    return run


@pytest.fixture
def ask(run):
    """`ask(method, path, settings={}, **request)`: one answer."""

    def ask(method: str, path: str, settings: dict[str, Any] | None = None, **request: Any) -> httpx.Response:
        return run(lambda client, _: client.request(method, path, **request), **(settings or {}))

    return ask
