/**
 * From the bytes of a model file to a function. The one module here that knows ONNX Runtime, and it is given it: `ort`
 * is the namespace of onnxruntime-web or of onnxruntime-node.
 */

import {
  BadFileError,
  ModelRefusedError,
  NonFiniteError,
  outputNames,
  resultOf,
  sizeOf,
  specFromOnnx,
  toUint8,
  valuesOf,
} from "./ddpm.js";

/**
 * Return { model, spec, decode, release }: what `denoiser` and `sample` of ddpm.js take, what turns states (n, ...shape)
 * into { images, values }, of which one is null, and a function that frees the memory.
 * Throws BadFileError for what is no model of this project or has a graph that its spec does not fit, ModelRefusedError
 * for a one-call file. readBeside(name) returns the bytes of a file beside the model, which has its decoder there, or
 * null. options are ONNX Runtime's session options, as { executionProviders: ["wasm"] }.
 */
export async function openModel(ort, bytes, options = {}, readBeside = async () => null) {
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

  const after = spec.stages?.after;
  const decoder = after && (await openStage(ort, after, options, readBeside).catch(async (error) => {
    await session.release();
    throw error;
  }));

  async function decode(x) {
    const { shape, isPicture } = resultOf(spec);
    let values = valuesOf(spec, x);
    if (decoder) {
      const [from, to] = [sizeOf(spec.state_shape), sizeOf(shape)];
      const made = new Float32Array((x.length / from) * to);
      for (let image = 0; image < x.length / from; image++) {
        const state = new ort.Tensor("float32", values.slice(image * from, (image + 1) * from), [1, ...spec.state_shape]);
        const { data } = Object.values(await decoder.run({ x: state }))[0];
        const at = data.findIndex((value) => !Number.isFinite(value));
        if (at >= 0) throw new NonFiniteError("the decoder", image * from, `image ${image} of the batch`);
        made.set(data, image * to);
      }
      values = made;
    }
    return isPicture ? { images: toUint8(values, shape), values: null } : { images: null, values };
  }

  const release = async () => {
    await decoder?.release();
    await session.release();
  };
  return { model, spec, decode, release };
}

/** Open the file of a stage, which must be there and have the digest that the model names. */
async function openStage(ort, { file, sha256 }, options, readBeside) {
  const bytes = file && (await readBeside(file));
  if (!bytes) throw new BadFileError(`${file ?? "the decoder"}: no such file, which is the model's decoder. Copy it beside the model.`);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== sha256) {
    throw new BadFileError(
      `${file}: it is not the model's decoder, whose SHA-256 begins with ${sha256.slice(0, 12)}. Copy that beside it.`,
    );
  }
  try {
    return await ort.InferenceSession.create(bytes, options);
  } catch (error) {
    throw new BadFileError(`${file}: ONNX Runtime cannot open it: ${oneLine(error)}. Export the model again.`);
  }
}

/** Return what a runtime's error says, without its line breaks. */
export const oneLine = (error) =>
  String(error?.message ?? error)
    .replace(/\s+/g, " ")
    .slice(0, 200);
