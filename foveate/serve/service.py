"""From a body to an answer: the model's queue, the decoders and the limits that all routes share."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from fastapi import Request
from starlette.requests import ClientDisconnect

from foveate.preprocess import DECODER_BYTES, decode_image, decoding_bytes
from foveate.serve.batcher import Answer, Batcher, Closed, Full
from foveate.serve.bodies import Bodies, Refused
from foveate.serve.gate import ServerState
from foveate.serve.memory import Memory
from foveate.serve.metrics import Metrics
from foveate.serve.protocol import VERSION, Spec
from foveate.serve.served import Served
from foveate.serve.settings import Settings

DECODERS = 2  # photographs decoded at once, where there is memory for both


class Service:
    """Of one application."""

    def __init__(self, served: Served, settings: Settings, metrics: Metrics, state: ServerState) -> None:
        assert served.spec is not None
        self.served, self.settings, self.metrics, self.state = served, settings, metrics, state
        self.spec: Spec = served.spec
        # Room for eight of the largest bodies, or for an ordinary one of everybody under way.
        self.bodies = Bodies(settings.max_body_bytes, settings.receive_s, 8 * settings.max_body_bytes)
        self.batcher = Batcher(
            served.call, served.choose, batch=served.batch, queue=settings.queue, batch_ms=settings.batch_ms,
            latencies=served.latencies, seen=metrics.called,
        )  # fmt: skip
        metrics.watch(self.batcher)
        # Of two large photographs, one waits for the other.
        self.memory = Memory(max(DECODER_BYTES.values()) * settings.max_pixels)
        self.pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")

    def check(self, name: str, version: str | None = None) -> None:
        """
        Raises:
            Refused: 404, where the model or its version is another.
        """
        if name != self.spec.name:
            raise Refused(404, f"unknown model {name[:128]!r}; known: {self.spec.name}")
        if version not in (None, VERSION):
            raise Refused(404, f"unknown version {version[:128]!r} of {name}; known: {VERSION}")

    async def in_pool(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *args)

    async def decoded(self, photos: tuple[bytes, ...]) -> list[np.ndarray]:
        """Encoded files -> preprocessed [channels h w] each."""
        if not self.batcher.room(len(photos)):  # before the work, not after it
            raise self.full(len(photos))

        limit, preprocess = self.settings.max_pixels, self.served.artefact.preprocess

        def work(data: bytes, name: str) -> np.ndarray:
            with self.memory.taking(decoding_bytes(data, name, max_pixels=limit)):
                # In one expression: a name would keep the photograph beyond the block.
                return preprocess(decode_image(data, name, max_pixels=limit, channels=preprocess.channels))

        return [await self.in_pool(work, data, f"{i}") for i, data in enumerate(photos)]

    def full(self, images: int) -> Refused:
        return Refused(503, f"{self.batcher.depth} images wait, {images} more find no room; come again", "queue")

    async def answer(self, request: Request, images: list[np.ndarray] | np.ndarray) -> Answer:
        """Queue the images, and leave the queue with the client."""
        context = request.scope["context"]
        try:
            job = self.batcher.submit(list(images), since=context.began)
        except Full:
            raise self.full(len(images)) from None
        except Closed:
            raise Refused(503, "shutting down; nothing new is taken", "draining") from None
        done = asyncio.wrap_future(job.future)
        gone = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                raise ClientDisconnect
            answer = done.result()
        finally:
            gone.cancel()
            if not done.done():
                self.batcher.drop(job)
                done.cancel()
        context.facts |= {
            "images": len(images), "operating_point": answer.point, "model_ms": round(answer.latency_ms, 3),
            "queue_ms": round(answer.queue_ms, 3),
        }  # fmt: skip
        return answer


async def _left(request: Request) -> None:
    """Returns when the client has gone; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
