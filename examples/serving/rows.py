"""The glue between a server and a graph of rows: what a row may be, and pictures of rows. NumPy and onnxruntime alone.

A server puts rows of several requests into one batch, and the graph refuses a batch that has one bad value. So each
request is checked by itself, before it meets others.
"""

import json
import os
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
import onnxruntime

MOST_ROWS = 16  # of one request


class Rows:
    """A model that `ddpm-export --format triton` wrote, opened once; `pictures` may be called from many threads."""

    def __init__(self, folder, threads=0):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # 0: one a core
        path = str(Path(folder, "1", "model.onnx"))
        self.name = Path(folder).name
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = json.loads(self.session.get_modelmeta().custom_metadata_map["ddpm_export_rows"])

    def check(self, given):
        """Raise ValueError for inputs by name that the graph would refuse; numbers are (n, 1), as to Triton."""
        if set(given) != set(self.inputs):
            raise ValueError(f"inputs must be {', '.join(self.inputs)}, got {', '.join(given) or 'none'}.")
        for name, entry in self.inputs.items():
            values, shape = given[name], entry["shape"] or [1]
            if values.dtype != entry["dtype"] or values.ndim != 1 + len(shape) or list(values.shape[1:]) != shape:
                raise ValueError(
                    f"{name} must be {entry['dtype']} (n, {str(shape)[1:-1]}), got {values.dtype} {values.shape}."
                )
            if not np.isfinite(values).all():
                raise ValueError(f"{name} must be finite.")
            if "min" in entry and not ((values >= entry["min"]) & (values <= entry["max"])).all():
                raise ValueError(f"{name} must be {entry['min']} to {entry['max']}.")
        counts = {len(values) for values in given.values()}
        if len(counts) > 1 or not 1 <= max(counts) <= MOST_ROWS:
            raise ValueError(f"inputs must have the same 1 to {MOST_ROWS} rows, got {sorted(counts)}.")

    def pictures(self, given):
        """Return uint8 (n, H, W, C) of inputs that were checked, of one request or of several together."""
        feeds = {name: values if self.inputs[name]["shape"] else values[:, 0] for name, values in given.items()}
        return self.session.run(["images"], feeds)[0]
