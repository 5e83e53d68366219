/**
 * From the bytes of a model file to a function. The one module here that knows ONNX Runtime, and it is given it: `ort`
 * is the namespace of onnxruntime-web or of onnxruntime-node.
 */

import {
  BadFileError,
  decoded,
  ModelRefusedError,
  outputNames,
  resultOf,
  specFromOnnx,
  toUint8,
} from "./ddpm.js";

/**
 * Return { model, spec, stages, decode, release }: what `denoiser` and `sample` of ddpm.js take, what runs the file's
 * stages, what turns states (n, ...shape) into { images, values }, of which one is null, and a function that frees the
 * memory. Throws BadFileError for what is no model of this project or has a graph that its spec does not fit,
 * ModelRefusedError for a one-call file. readBeside(name) returns the bytes of a file beside the model, which has its
 * stages there, or null. options are ONNX Runtime's session options, as { executionProviders: ["wasm"] }.
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
    const tensor = (data, shape) => tensorOf(ort, data, [t.length, ...shape]);
    const told = spec.inputs.map(({ name, shape }) => [name, tensor(values[name], shape)]);
    const feeds = { x_t: tensor(x_t, spec.state_shape), t: tensor(t, []), ...Object.fromEntries(told) };
    const outputs = await session.run(feeds).catch((error) => {
      throw new BadFileError(`ONNX Runtime cannot run the model: ${oneLine(error)}. Export it again.`);
    });
    return Object.fromEntries(Object.entries(outputs).map(([name, { data }]) => [name, data]));
  }

  const opened = {};
  const release = async () => {
    for (const one of [session, ...Object.values(opened)]) await one.release();
  };
  try {
    for (const name of ["before", "after"].filter((name) => spec.stages[name])) {
      opened[name] = await openStage(ort, name, spec, options, readBeside);
    }
  } catch (error) {
    await release();
    throw error;
  }

  async function stages(name, inputs) {
    const shapes = name === "after" ? { x: spec.state_shape } : shapesOf(spec.stages[name].inputs);
    const feeds = Object.entries(inputs).map(([key, data]) => [key, tensorOf(ort, data, [1, ...shapes[key]])]);
    const outputs = await opened[name].run(Object.fromEntries(feeds)).catch((error) => {
      throw new BadFileError(`ONNX Runtime cannot run the stage '${name}': ${oneLine(error)}. Export the model again.`);
    });
    return Object.fromEntries(Object.entries(outputs).map(([key, { data }]) => [key, data]));
  }

  async function decode(x) {
    const { shape, isPicture } = resultOf(spec);
    const values = await decoded(spec, stages, x);
    return isPicture ? { images: toUint8(values, shape), values: null } : { images: null, values };
  }

  return { model, spec, stages, decode, release };
}

const tensorOf = (ort, data, shape) => // as int64, an Int32Array is refused
  new ort.Tensor(data instanceof BigInt64Array ? "int64" : "float32", data, shape);

const shapesOf = (inputs) => Object.fromEntries(inputs.map(({ name, shape }) => [name, shape]));

/** Open the file of a stage, which must be there, have the digest that the model names, and lead from what to what it says. */
async function openStage(ort, name, spec, options, readBeside) {
  const { file, sha256, inputs, outputs } = spec.stages[name];
  const bytes = file && (await readBeside(file));
  const what = `the model's stage '${name}'`;
  if (!bytes) throw new BadFileError(`${file ?? what}: no such file, which is ${what}. Copy it beside the model.`);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== sha256) {
    throw new BadFileError(
      `${file}: it is not ${what}, whose SHA-256 begins with ${sha256.slice(0, 12)}. Copy that beside it.`,
    );
  }
  let session;
  try {
    session = await ort.InferenceSession.create(bytes, options);
  } catch (error) {
    throw new BadFileError(`${file}: ONNX Runtime cannot open it: ${oneLine(error)}. Export the model again.`);
  }
  const names = name === "after" ? ["x"] : inputs.map((one) => one.name);
  const isSame = (one, other) => [...one].sort().join() === [...other].sort().join();
  if (isSame(session.inputNames, names) && isSame(session.outputNames, Object.keys(outputs))) return session;
  await session.release();
  throw new BadFileError(`${file}: it has other inputs or outputs than the model says. Export the model again.`);
}

/** Return what a runtime's error says, without its line breaks. */
export const oneLine = (error) =>
  String(error?.message ?? error)
    .replace(/\s+/g, " ")
    .slice(0, 200);
