/**
 * The program `sample` on node: a grid of pictures from a model file, the same as ddpm-run's.
 *     node sample.js unet.onnx --n 16 --steps 50 --sampler ddim --eta 0 --seed 7 --first 0 --out grid.png
 * Prints one line of JSON; errors are one line, with the exit codes of every command of this project.
 */

import { readFile, writeFile } from "node:fs/promises";
import * as os from "node:os";
import { performance } from "node:perf_hooks";
import { parseArgs } from "node:util";

import { BadFileError, DdpmError, sample, UsageError } from "./ddpm.js";
import { grid } from "./images.js";
import { oneLine, openModel } from "./model.js";

const BATCH = 16;

class EnvironmentProblem extends DdpmError {
  exitCode = 5;
}

function settingsFromArguments(args) {
  let parsed;
  try {
    const text = { type: "string" };
    parsed = parseArgs({
      args,
      allowPositionals: true,
      options: { n: text, steps: text, sampler: text, eta: text, seed: text, first: text, out: text },
    });
  } catch (error) {
    throw new UsageError(
      `arguments: not understood. got ${oneLine(error)}, expected those of sample.js. Do read its first lines.`,
    );
  }
  const { values, positionals } = parsed;
  if (positionals.length !== 1) {
    throw new UsageError(
      `arguments: one model. got ${positionals.length}, expected the path of an .onnx file. Do give one.`,
    );
  }
  const number = (name, usual) => {
    const text = values[name] ?? usual;
    if (text === undefined) return undefined;
    if (text.trim() === "" || Number.isNaN(Number(text))) {
      throw new UsageError(`${name}: not a number. got ${JSON.stringify(text)}, expected one. Do change --${name}.`);
    }
    return Number(text);
  };
  const seed = values.seed ?? "0";
  if (!/^-?\d+$/.test(seed)) {
    throw new UsageError(
      `seed: not an integer. got ${JSON.stringify(seed)}, expected 0 to 2^63 - 1. Do change --seed.`,
    );
  }
  return {
    path: positionals[0],
    out: values.out ?? "grid.png",
    n: number("n", "16"),
    numSteps: number("steps"),
    sampler: values.sampler,
    // --eta is there for every program and every sampler; it has no meaning for ddpm, and 0 asks for nothing
    eta: values.sampler === "ddpm" && number("eta") === 0 ? undefined : number("eta"),
    seed: BigInt(seed),
    first: number("first", "0"),
  };
}

async function load(name) {
  try {
    return await import(name);
  } catch (error) {
    throw new EnvironmentProblem(
      `${name}: cannot be loaded. got ${oneLine(error)}, expected the package. Do run npm install --ignore-scripts.`,
    );
  }
}

async function main(args) {
  const { path, out, n, first, ...settings } = settingsFromArguments(args);
  const [ort, { encode }] = await Promise.all([load("onnxruntime-node"), load("fast-png")]);
  const bytes = await readFile(path).catch((error) => {
    throw new BadFileError(`${path}: cannot be read. got ${error.code}, expected a model file. Do check the path.`);
  });
  const beforeLoad = performance.now();
  const intraOpNumThreads = os.availableParallelism?.() ?? os.cpus().length;
  const { model, spec } = await openModel(ort, new Uint8Array(bytes), { intraOpNumThreads });
  const seconds_load = (performance.now() - beforeLoad) / 1000;

  const batches = [];
  for (let start = 0; start === 0 || start < n; start += BATCH) {
    const batch = { ...settings, first: first + start, n: Math.min(BATCH, n - start) };
    batches.push((await sample(model, spec, batch)).images);
  }
  const seconds = performance.now() / 1000; // since the program started
  const page = grid(Buffer.concat(batches), spec.image_shape);
  await writeFile(out, encode(page)).catch((error) => {
    throw new EnvironmentProblem(
      `${out}: cannot be written. got ${error.code}, expected a writable place. Do change --out.`,
    );
  });
  console.log(JSON.stringify({ images: n, seconds_load, seconds }));
}

main(process.argv.slice(2)).catch((error) => {
  if (!(error instanceof DdpmError)) throw error;
  console.error(`error: ${error.message}`);
  process.exitCode = error.exitCode;
});
