/**
 * Run a one-call file on ONNX Runtime in node: `node test/one_call.js web|node FILE '{"seed": "7", ...}'` prints its
 * images, or the error, as JSON. A *.slice.onnx is run two steps at a time.
 */

import { readFile } from "node:fs/promises";

const [runtime, path, text] = process.argv.slice(2);
const ort = await import(`onnxruntime-${runtime}`);
if (runtime === "web") ort.env.wasm.numThreads = 1;
ort.env.logLevel = "fatal"; // the errors are looked at below
const { seed, first, n, steps, eta, y, plan, guidance, guidance_interval } = JSON.parse(text);
const int64 = (value) => new ort.Tensor("int64", [BigInt(value)], []);
const common = {
  seed: int64(seed),
  first: int64(first),
  steps: int64(steps),
  eta: new ort.Tensor("float32", [eta], []),
  times: new ort.Tensor("int64", [], [0]), // evenly spaced
};
if (y !== undefined) common.y = new ort.Tensor("int64", y.map(BigInt), [n]);
if (plan !== undefined) common.plan = int64(plan);
if (guidance !== undefined) {
  common.guidance = new ort.Tensor("float32", [guidance], []);
  common.guidance_interval = new ort.Tensor("float32", guidance_interval, [2]);
}

async function run() {
  const session = await ort.InferenceSession.create(new Uint8Array(await readFile(path)));
  if (!session.inputNames.includes("begin")) return (await session.run({ ...common, n: int64(n) })).images;
  const nothing = (input) => {
    const shape = session.inputMetadata.find(({ name }) => name === input).shape.map((size) => (size > 0 ? size : n));
    return new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b)), shape);
  };
  let x = nothing("x");
  let past = session.inputNames.includes("history") ? { history: nothing("history") } : {};
  let images;
  for (let begin = 0; begin < steps; begin += 2) {
    const slice = { begin: int64(begin), end: int64(Math.min(begin + 2, steps)) };
    const out = await session.run({ ...common, ...past, ...slice, x });
    ({ x_after: x, images } = out);
    if (past.history) past = { history: out.history_after };
  }
  return images;
}

const result = await run().then(
  ({ dims, data }) => ({ shape: dims, pixels: [...data] }),
  (error) => ({ error: error.message }),
);
console.log(JSON.stringify(result));
process.exit(0);
