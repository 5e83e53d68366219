"""Serve a model of `ddpm-export --format triton` by the v2 protocol (KServe, Triton) over HTTP and gRPC, with MLServer.

python examples/serving/v2.py models/NAME [--http PORT] [--grpc PORT], and Ctrl-C to end it.
"""

import argparse
import asyncio

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings, types
from mlserver.batching.adaptive import AdaptiveBatcher
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError, MLServerError
from rows import MOST_ROWS, Rows

BATCH_S = 0.005  # that a request waits for others
MOST_WAITING = 1000  # requests; more are told to come again


def _arrays(payload):
    """Return the inputs of a request by name; MLServer would take the last of two, and cut 1.5 to 1.

    What it cannot send back as a header, it would answer with nothing.
    """
    if not f"{payload.id}".isascii() or not f"{payload.id}".isprintable():
        raise ValueError("id must be printable ASCII.")
    names = [entry.name for entry in payload.inputs]
    if len(set(names)) < len(names):
        raise ValueError(f"each input may be given once, got {', '.join(names)}.")
    for entry in payload.inputs:
        if "INT" in entry.datatype and np.asarray(entry.data.root).dtype.kind not in "iuS":  # S: bytes of a client
            raise ValueError(f"{entry.name} must be integers.")
    return {entry.name: NumpyCodec.decode_input(entry) for entry in payload.inputs}


class Batched(MLModel):
    """Make the pictures of several requests that are put together: all of them have been checked."""

    def __init__(self, settings, rows):
        super().__init__(settings)
        self.rows = rows

    async def predict(self, payload):
        """Return the pictures of all rows of a request, in a thread: others go on being read."""
        images = await asyncio.to_thread(self.rows.pictures, _arrays(payload))
        outputs = [NumpyCodec.encode_output("images", images)]
        return types.InferenceResponse(model_name=self.name, outputs=outputs)


class Checked(MLModel):
    """Refuse a bad request by itself; hand good ones to a batcher."""

    async def load(self):
        """Open the model."""
        self.waiting, self.rows = 0, Rows(self.settings.parameters.uri)
        together = {"max_batch_size": MOST_ROWS, "max_batch_time": BATCH_S}
        inner = ModelSettings(name=self.name, implementation=Batched, parameters=self.settings.parameters, **together)
        self.batcher = AdaptiveBatcher(Batched(inner, self.rows))
        return True

    async def predict(self, payload):
        """Return the pictures of one request."""
        try:
            self.rows.check(_arrays(payload))
        except (ValueError, TypeError, OverflowError) as exc:
            raise InferenceError(str(exc)) from exc
        if self.waiting >= MOST_WAITING:
            raise MLServerError("busy, come again.", 503)
        self.waiting += 1
        try:
            return await self.batcher.predict(payload)
        finally:
            self.waiting -= 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the folder that has config.pbtxt")
    parser.add_argument("--http", type=int, default=8080)
    parser.add_argument("--grpc", type=int, default=8081)
    options = parser.parse_args()
    here = {"host": "127.0.0.1", "http_port": options.http, "grpc_port": options.grpc, "metrics_endpoint": None}
    settings = Settings(**here, parallel_workers=0, debug=False)
    model = ModelSettings(
        name=Rows(options.model).name, implementation=Checked, parameters={"uri": options.model, "version": "1"}
    )
    asyncio.run(MLServer(settings).start([model]))
