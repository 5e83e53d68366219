"""Ask a server of the v2 protocol for pictures, by HTTP and gRPC: python examples/serving/ask.py NAME SEED IMAGE..."""

import argparse

import numpy as np
import tritonclient.grpc
import tritonclient.http


def asked(module, client, model, **given):
    """Return the pictures, uint8 (n, H, W, C), of inputs by name, by the module of a protocol and a client of it."""
    kinds = {"int64": "INT64", "float32": "FP32"}
    inputs = []
    for name, values in given.items():
        inputs.append(module.InferInput(name, list(values.shape), kinds[values.dtype.name]))
        how = {"binary_data": False} if module is tritonclient.http else {}  # which MLServer does not take
        inputs[-1].set_data_from_numpy(values, **how)
    how = {"binary_data": False} if module is tritonclient.http else {}
    outputs = [module.InferRequestedOutput("images", **how)]
    return client.infer(model, inputs, outputs=outputs).as_numpy("images")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("seed", type=int)
    parser.add_argument("image", type=int, nargs="+")
    parser.add_argument("--http", default="127.0.0.1:8080")
    parser.add_argument("--grpc", default="127.0.0.1:8081")
    parser.add_argument("--out", default="images.npy")
    options = parser.parse_args()
    image = np.array(options.image, np.int64)[:, None]
    given = {"seed": np.full_like(image, options.seed), "image": image}
    both = {
        "HTTP": asked(tritonclient.http, tritonclient.http.InferenceServerClient(options.http), options.model, **given),
        "gRPC": asked(tritonclient.grpc, tritonclient.grpc.InferenceServerClient(options.grpc), options.model, **given),
    }
    assert (both["HTTP"] == both["gRPC"]).all()
    np.save(options.out, both["gRPC"])
    print(f"{options.out}: {len(image)} images, the same over HTTP and gRPC")
