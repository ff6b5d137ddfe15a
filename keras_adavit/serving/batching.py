"""Requests that come within a few milliseconds share a batch: packing pays in batches."""

import asyncio

import numpy as np

from keras_adavit.serving.refusals import Refusal

MOST_WAITING = 512  # images; more are refused at once, since they would wait too long


class Batcher:
    """Collects images of one budget and runs them together.

    Args:
        run: Function from images (B, S, S, C) to a dict of arrays (B, ...).
        executor: The `Executor` that it is called in.
        max_batch: Most images in a batch.
        wait: Seconds that the first image of a batch waits for others.
        observe: Function that is given the size of each batch.
    """

    def __init__(self, run, executor, max_batch, wait, observe=lambda size: None):
        self.run = run
        self.executor = executor
        self.max_batch = max_batch
        self.wait = wait
        self.observe = observe
        self.queue = asyncio.Queue(MOST_WAITING)

    async def submit(self, image):
        """The outputs for an image (S, S, C), a dict of arrays, once its batch is computed; may raise `Refusal`."""
        answer = asyncio.get_running_loop().create_future()
        try:
            self.queue.put_nowait((image, answer))
        except asyncio.QueueFull:
            raise Refusal(
                503, "busy", f"At most {MOST_WAITING} photos can wait. Received: one more; try again later"
            ) from None
        return await answer

    async def work(self):
        """Runs batches until it is cancelled."""
        while True:
            batch = [await self.queue.get()]
            if self.queue.qsize() < self.max_batch - 1:
                await asyncio.sleep(self.wait)
            while len(batch) < self.max_batch and not self.queue.empty():
                batch.append(self.queue.get_nowait())
            await self.answer([(image, answer) for image, answer in batch if not answer.done()])

    async def answer(self, batch):
        """Computes a batch of pairs of an image and a future, and sets each future."""
        if not batch:  # all who asked have gone
            return
        images, answers = zip(*batch, strict=True)
        self.observe(len(images))
        try:
            loop = asyncio.get_running_loop()
            outputs = await loop.run_in_executor(self.executor, self.run, np.stack(images))
        except Exception as error:
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
            return
        for row, answer in enumerate(answers):
            if not answer.done():
                answer.set_result({key: values[row] for key, values in outputs.items()})
