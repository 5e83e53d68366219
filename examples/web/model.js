/**
 * From the bytes of a model file to a function. The one module here that knows ONNX Runtime, and it is given it: `ort`
 * is the namespace of onnxruntime-web or of onnxruntime-node.
 */

import { BadFileError, ModelRefusedError, outputNames, specFromOnnx } from "./ddpm.js";

/**
 * Return { model, spec, release }: what `denoiser` and `sample` of ddpm.js take, and a function that frees the memory.
 * Throws BadFileError for what is no model of this project, ModelRefusedError for one with other inputs.
 * options are ONNX Runtime's session options, as { executionProviders: ["wasm"] }.
 */
export async function openModel(ort, bytes, options = {}) {
  const spec = specFromOnnx(bytes);
  let session;
  try {
    session = await ort.InferenceSession.create(bytes, options);
  } catch (error) {
    throw new BadFileError(
      `model: ONNX Runtime cannot open it. got ${oneLine(error)}, expected a whole file that this version ` +
        "of it knows. Do download the file again, or take a newer onnxruntime.",
    );
  }
  const missing = outputNames(spec).filter((name) => !session.outputNames.includes(name));
  if ([...session.inputNames].sort().join() !== "t,x_t" || missing.length > 0) {
    const { inputNames, outputNames: given } = session;
    await session.release();
    throw new ModelRefusedError(
      `model: not a denoiser. got ${inputNames.join(", ")} -> ${given.join(", ")}, expected x_t, t -> ` +
        `${outputNames(spec).join(", ")}. Do choose a file written by ddpm-export --format onnx.`,
    );
  }

  async function model(x_t, t, dims) {
    const outputs = await session.run({
      x_t: new ort.Tensor("float32", x_t, dims),
      t: new ort.Tensor("int64", t, [t.length]), // int64 is a BigInt64Array: an Int32Array is refused
    });
    return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, tensor.data]));
  }

  return { model, spec, release: () => session.release() };
}

/** Return what a runtime's error says, without its line breaks. */
export const oneLine = (error) =>
  String(error?.message ?? error)
    .replace(/\s+/g, " ")
    .slice(0, 200);
