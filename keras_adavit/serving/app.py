"""The routes of the server."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from keras_adavit.serving.answers import answer
from keras_adavit.serving.batching import Batcher
from keras_adavit.serving.metrics import Metrics
from keras_adavit.serving.photos import check_photo, photo_decoder
from keras_adavit.serving.refusals import Refusal

MOST_FILES = 128  # in a request
DISCARDED = 8  # times the bytes allowed, which are read before a request that is too large is given up


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server takes, and how it batches.

    Attributes:
        max_batch: Most photos in a batch.
        wait: Seconds that the first photo of a batch waits for others.
        max_bytes: Of a request.
        max_pixels: Of a photo.
    """

    max_batch: int = 32
    wait: float = 0.005
    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000


def make_app(engine, limits):
    """The application, see `Server`."""
    server = Server(engine, limits)
    routes = [
        Route("/", server.page),
        Route("/predict", server.predict, methods=["POST"]),
        Route("/health", server.health),
        Route("/metrics", server.show_metrics),
    ]
    handlers = {HTTPException: say_http, Refusal: server.say_refusal, Exception: say_bug}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=server.lifespan)


class Server:
    """What the routes share.

    Args:
        engine: An engine, see `engines.py`.
        limits: The `Limits`.
    """

    def __init__(self, engine, limits):
        self.engine = engine
        self.limits = limits
        self.metrics = Metrics()
        self.html = resources.files("keras_adavit.serving").joinpath("page.html").read_text(encoding="utf-8")
        self.decode = photo_decoder(engine.image_size, engine.preprocessing)
        self.decoding = ThreadPoolExecutor(os.cpu_count())  # so many large photos are in memory at once, not more
        self.computing = ThreadPoolExecutor(1)

    @contextlib.asynccontextmanager
    async def lifespan(self, app):
        """Starts a batcher for each budget, and ends them."""
        self.batchers = {budget: self.make_batcher(budget) for budget in self.engine.budgets}
        tasks = [asyncio.create_task(batcher.work()) for batcher in self.batchers.values()]
        yield
        for task in tasks:
            task.cancel()
        self.decoding.shutdown(cancel_futures=True)
        self.computing.shutdown(cancel_futures=True)

    def make_batcher(self, budget):
        run = lambda images: self.engine.run(images, budget)  # noqa: E731
        observe = self.metrics.batches.observe
        return Batcher(run, self.computing, self.limits.max_batch, self.limits.wait, observe)

    async def page(self, request):
        return HTMLResponse(self.html)

    async def health(self, request):
        """That it runs, and which budgets may be asked for."""
        return JSONResponse({"status": "ok", "budgets": self.known_budgets()})

    async def show_metrics(self, request):
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def predict(self, request):
        """Answers photos, each for itself: a wrong one has an `error` in place of an answer."""
        started = time.perf_counter()
        batcher = self.batchers[self.find_budget(request.query_params.get("macs"))]
        policy = find_flag(request.query_params, "policy")
        request = Request(request.scope, limit_bytes(request.receive, self.limits.max_bytes))
        async with request.form(max_files=MOST_FILES, max_fields=MOST_FILES) as form:
            files = find_files(form)
            found = await asyncio.gather(*(self.answer(file, batcher, policy) for file in files))
        self.metrics.seconds.observe(time.perf_counter() - started)
        told = {"predictions": [entry for entry, _ in found]}
        statuses = [status for _, status in found]
        if 200 in statuses:
            return JSONResponse(told)
        return JSONResponse({"error": found[0][0]["error"], **told}, status_code=statuses[0])

    async def answer(self, file, batcher, policy):
        """What one file is answered, and the status of that."""
        try:
            outputs = await batcher.submit(await self.read(file))
        except Refusal as refusal:
            self.metrics.refusals.labels(refusal.kind).inc()
            return {"file": file.filename, "error": refusal.sentence}, refusal.status
        told = answer(self.engine, outputs, policy)
        self.metrics.photos.inc()
        self.metrics.macs.observe(told["macs_share"])
        return {"file": file.filename, **told}, 200

    async def read(self, file):
        """The image of a file, as the model takes it."""

        def decode(encoded):
            check_photo(encoded, self.limits.max_pixels)
            return self.decode(encoded)

        return await asyncio.get_running_loop().run_in_executor(self.decoding, decode, await file.read())

    def known_budgets(self):
        """The budgets that may be asked for, smallest first."""
        return sorted(budget for budget in self.engine.budgets if budget is not None)

    def find_budget(self, text):
        """The budget that `macs` speaks of; raises `Refusal`."""
        known = self.known_budgets()
        if text is None:
            return None
        with contextlib.suppress(ValueError):
            if float(text) in known:
                return float(text)
        wanted = f"one of {', '.join(map(str, known))}" if known else "left out: the server was started without budgets"
        raise Refusal(400, "budget", f"`macs` must be {wanted}. Received: macs={text}")

    async def say_refusal(self, request, refusal):
        self.metrics.refusals.labels(refusal.kind).inc()
        return JSONResponse({"error": refusal.sentence}, status_code=refusal.status)


def limit_bytes(receive, most):
    """What receives the parts of a request, and raises `Refusal` after `most` bytes.

    It reads on for a while before: a client that is still sending would not see the answer.
    """
    count = 0

    async def limited():
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        while count > most:
            if not message.get("more_body") or count > DISCARDED * most:
                raise Refusal(413, "bytes", f"The request must have at most {most:,} bytes. Received: more")
            message = await receive()
            count += len(message.get("body", b""))
        return message

    return limited


def find_flag(parameters, name):
    """Whether a parameter is 1; raises `Refusal` for what is neither 0 nor 1."""
    value = parameters.get(name, "0")
    if value not in ("0", "1"):
        raise Refusal(400, "parameter", f"`{name}` must be 0 or 1. Received: {name}={value}")
    return value == "1"


def find_files(form):
    """The files of a form; raises `Refusal` if there is none, or something else."""
    values = [value for _, value in form.multi_items()]
    if not values or not all(isinstance(value, UploadFile) for value in values):
        received = "a field that is no file" if values else "no file"
        raise Refusal(
            400, "form", f"The request must be a form (multipart/form-data) of JPEG or PNG files. Received: {received}"
        )
    return values


async def say_http(request, error):
    """What the framework refuses: an unknown page, a wrong method, a body that is too large or no form."""
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)


async def say_bug(request, error):
    """What nobody expected: the framework writes it to the log with its stack trace, the client gets a sentence."""
    logging.getLogger(__name__).error("%s of %s failed", request.method, request.url.path)
    return JSONResponse({"error": "The server failed on this request; its log says why."}, status_code=500)
