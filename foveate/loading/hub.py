"""Pretrained weights from timm's hub or its cache, and one clear line where neither has them."""

import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from foveate.errors import InputError, NotAvailable
from foveate.loading.create import create
from foveate.loading.weights import first_line


def from_hub(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    arch, _, tag = name.partition(".")
    import timm

    known = timm.list_pretrained(f"{arch}*")
    known = [k for k in known if k.partition(".")[0] == arch]
    ways = "give --weights FILE, or --random-weights for latency work"
    if not known or (tag and name not in known):
        has = f"timm has weights for {', '.join(known)}" if known else "timm has no weights for it"
        raise InputError(f"no pretrained weights {name!r}: {has}; {ways}")
    with no_waiting():
        try:
            return create(name, kwargs, pretrained=True)
        except InputError:
            raise
        except Exception as e:  # timm passes on whatever its hub, its HTTP client or the file system raise
            raise NotAvailable(
                f"cannot get the pretrained weights of {name}: no network, and not in the cache; {ways} "
                f"({first_line(e)[:80]})"
            ) from None


@contextmanager
def no_waiting() -> Iterator[None]:
    """Without a network the hub's clients retry for most of a minute; here they look into their caches at once."""
    from huggingface_hub import constants

    clients: list[Any] = [constants, *([sys.modules["datasets.config"]] if "datasets.config" in sys.modules else [])]
    before = [client.HF_HUB_OFFLINE for client in clients]
    offline = not _reachable(constants.ENDPOINT)
    for client in clients:
        client.HF_HUB_OFFLINE = client.HF_HUB_OFFLINE or offline
    try:
        yield
    finally:
        for client, was in zip(clients, before, strict=True):
            client.HF_HUB_OFFLINE = was


def _reachable(address: str) -> bool:
    """Is there a way to `address`: a proxy, or a name that resolves?"""
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(address).hostname, 443)
    except OSError:
        return False
    return True
