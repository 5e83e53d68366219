/**
 * From the bytes of a model file to a function. The one module here that knows ONNX Runtime, and it is given it: `ort`
 * is the namespace of onnxruntime-web or of onnxruntime-node.
 */

import { BadFileError, ModelRefusedError, outputNames, specFromOnnx } from "./ddpm.js";

/**
 * Return { model, spec, release }: what `denoiser` and `sample` of ddpm.js take, and a function that frees the memory.
 * Throws BadFileError for what is no model of this project or has a graph that its spec does not fit, ModelRefusedError
 * for a one-call file. options are ONNX Runtime's session options, as { executionProviders: ["wasm"] }.
 */
export async function openModel(ort, bytes, options = {}) {
  const spec = specFromOnnx(bytes);
  if (spec.graph) {
    throw new ModelRefusedError(
      `The model is a one-call ${spec.graph}, not a denoiser. Choose the .onnx that it was made from.`,
    );
  }
  let session;
  try {
    session = await ort.InferenceSession.create(bytes, options);
  } catch (error) {
    throw new BadFileError(`ONNX Runtime cannot open the model: ${oneLine(error)}. Download it or export it again.`);
  }
  const inputs = ["x_t", "t", ...spec.inputs.map(({ name }) => name)];
  const isFed = [...session.inputNames].sort().join() === [...inputs].sort().join();
  if (!isFed || !outputNames(spec).every((name) => session.outputNames.includes(name))) {
    const { inputNames, outputNames: given } = session;
    await session.release();
    throw new BadFileError(
      `The model's graph leads from ${inputNames.join(", ")} to ${given.join(", ")}, but its spec says from ` +
        `${inputs.join(", ")} to ${outputNames(spec).join(", ")}. Export it again.`,
    );
  }

  async function model(x_t, t, values) {
    const tensor = (data, shape) => {
      const type = data instanceof BigInt64Array ? "int64" : "float32"; // as int64, an Int32Array is refused
      return new ort.Tensor(type, data, [t.length, ...shape]);
    };
    const told = spec.inputs.map(({ name, shape }) => [name, tensor(values[name], shape)]);
    const feeds = { x_t: tensor(x_t, spec.state_shape), t: tensor(t, []), ...Object.fromEntries(told) };
    const outputs = await session.run(feeds).catch((error) => {
      throw new BadFileError(`ONNX Runtime cannot run the model: ${oneLine(error)}. Export it again.`);
    });
    return Object.fromEntries(Object.entries(outputs).map(([name, { data }]) => [name, data]));
  }

  return { model, spec, release: () => session.release() };
}

/** Return what a runtime's error says, without its line breaks. */
export const oneLine = (error) =>
  String(error?.message ?? error)
    .replace(/\s+/g, " ")
    .slice(0, 200);
