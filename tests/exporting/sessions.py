"""Graphs of one-call files in sessions of ONNX Runtime, called with whatever of some values they take."""

import numpy as np
import onnx
import onnxruntime

USUAL = {
    **{"seed": 1, "first": 0, "eta": 0.0, "times": (), "plan": 0, "begin": 0, "strength": 0.0},
    **{"guidance": 1.0, "guidance_interval": (0, 39)},
}


def session_of(model):
    """Return a session of a model, its bytes or its path, which logs nothing."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def called(session, **values):
    """Return the outputs by name; by default noise is drawn from seed 1, `times` is empty and nothing is guided."""
    values, feeds = {**USUAL, **values}, {}
    for entry in session.get_inputs():
        feeds[entry.name] = np.asarray(values[entry.name], np.float32 if entry.type == "tensor(float)" else np.int64)
    return dict(zip((entry.name for entry in session.get_outputs()), session.run(None, feeds), strict=True))
