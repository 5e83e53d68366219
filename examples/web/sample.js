/**
 * The program `sample` on node: a grid of pictures from a model file, the same as ddpm-run's.
 *     node sample.js unet.onnx --n 16 --steps 50 --sampler ddim --eta 0 --seed 7 --first 0 --out grid.png
 * --times 980,500,0 takes the place of --steps; --plan NAME, a plan that the model carries, that of steps, sampler and
 * eta. --label NAME,... takes classes by name or index, or none, which pictures take in turn, and --guidance how
 * strongly they follow it, 0 to 100. --image x.png makes all pictures from that one: with --mask, a grey PNG, what is
 * white in it, with --returns how often to go back, --jump rows at a time; with --measure average:4, grey or mask, what
 * measures the same; with --strength 0.5 what is noised for half of the times and made again. Of a model
 * whose states are no pictures --out is an .npy of its numbers. Prints one line of JSON;
 * errors are one line, with the exit codes of every command of this project.
 */

import { readFile, writeFile } from "node:fs/promises";
import * as os from "node:os";
import { dirname, join } from "node:path";
import { performance } from "node:perf_hooks";
import { parseArgs } from "node:util";

import { BadFileError, DdpmError, labelOf, pictureShape, resultOf, sample, UsageError } from "./ddpm.js";
import { edit } from "./given.js";
import { flattened, grid, npy } from "./images.js";
import { oneLine, openModel } from "./model.js";

const BATCH = 16;
const OPTIONS = [
  ...["n", "steps", "times", "sampler", "eta", "plan", "seed", "first", "label", "guidance", "out"],
  ...["image", "mask", "measure", "strength", "returns", "jump"],
];

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
      options: Object.fromEntries(OPTIONS.map((name) => [name, text])),
    });
  } catch (error) {
    throw new UsageError(`The arguments were not understood: ${oneLine(error)}.`);
  }
  const { values, positionals } = parsed;
  if (positionals.length !== 1) {
    throw new UsageError(`The path of one .onnx file must be given, got ${positionals.length} paths.`);
  }
  const number = (name, usual) => {
    const text = values[name] ?? usual;
    if (text === undefined) return undefined;
    if (text.trim() === "" || Number.isNaN(Number(text))) {
      throw new UsageError(`--${name} must be a number, got ${JSON.stringify(text)}.`);
    }
    return Number(text);
  };
  const seed = values.seed ?? "0";
  if (!/^-?\d+$/.test(seed)) {
    throw new UsageError(`--seed must be an integer, got ${JSON.stringify(seed)}.`);
  }
  if (!/^\d+(,\d+)*$/.test(values.times ?? "0")) {
    throw new UsageError(
      `--times must be integers with commas between them, such as 980,500,0, got ${JSON.stringify(values.times)}.`,
    );
  }
  return {
    path: positionals[0],
    out: values.out ?? "grid.png",
    n: number("n", "16"),
    numSteps: number("steps"),
    times: values.times?.split(",").map(Number),
    sampler: values.sampler,
    // --eta is there for every program and every sampler; it has no meaning for ddpm, and 0 asks for nothing
    eta: values.sampler === "ddpm" && number("eta") === 0 ? undefined : number("eta"),
    seed: BigInt(seed),
    first: number("first", "0"),
    plan: values.plan,
    label: values.label,
    guidance: number("guidance"),
    image: values.image,
    given: {
      mask: values.mask,
      measure: values.measure,
      strength: number("strength"),
      returns: number("returns"),
      jump: number("jump"),
    },
  };
}

async function load(name) {
  try {
    return await import(name);
  } catch (error) {
    throw new EnvironmentProblem(`${name} cannot be loaded: ${oneLine(error)}. Run: npm install --ignore-scripts.`);
  }
}

async function read(path) {
  return new Uint8Array(
    await readFile(path).catch((error) => {
      throw new BadFileError(`${path}: cannot be read (${error.code}).`);
    }),
  );
}

/** Return the pixels of a PNG of 8 bits, uint8 [H, W, channels], which must have the model's size. */
async function pictureFrom(png, path, channels, [, height, width]) {
  let page;
  try {
    page = png.decode(await read(path));
  } catch (error) {
    if (error instanceof DdpmError) throw error;
    throw new BadFileError(`${path}: is not a PNG that can be read (${oneLine(error)}).`);
  }
  if (page.depth !== 8 || page.palette) {
    throw new BadFileError(`${path}: must be a PNG of 8 bits without a palette.`);
  }
  if (page.width !== width || page.height !== height) {
    throw new UsageError(`${path} must have ${width} x ${height} pixels, got ${page.width} x ${page.height}.`);
  }
  return flattened(page, channels);
}

async function main(args) {
  const { path, out, n, first, label, image, given, ...settings } = settingsFromArguments(args);
  const named = Object.keys(given).find((name) => given[name] !== undefined);
  if (image === undefined && named !== undefined) throw new UsageError(`--${named} needs an --image.`);
  process.env.ORT_DISABLE_TELEMETRY ??= "1"; // read when ONNX Runtime is loaded
  const [ort, png] = await Promise.all([load("onnxruntime-node"), load("fast-png")]);
  const bytes = await read(path);
  const beforeLoad = performance.now();
  const intraOpNumThreads = os.availableParallelism?.() ?? os.cpus().length;
  const readBeside = async (name) => readFile(join(dirname(path), name)).then((found) => new Uint8Array(found), () => null);
  const { model, spec, decode } = await openModel(ort, bytes, { intraOpNumThreads }, readBeside);
  const seconds_load = (performance.now() - beforeLoad) / 1000;

  // one class, whose name may have commas, or several with commas between them
  settings.label = labelOf(spec)?.classes.includes(label) ? label : label?.split(",").map((name) => name.trim());
  const { shape, isPicture } = resultOf(spec);
  const isStaged = spec.units || spec.stages?.after;
  if (image && isStaged) {
    throw new UsageError("A model with stages or units takes no --image here. Use ddpm-edit.");
  }
  if (!isPicture && !out.endsWith(".npy")) {
    throw new UsageError(`--out must be such as x.npy for numbers that are no pictures, got ${JSON.stringify(out)}.`);
  }
  if (image) pictureShape(shape);
  const picture = image && (await pictureFrom(png, image, shape[0], shape));
  if (given.mask) given.mask = await pictureFrom(png, given.mask, 1, shape);
  const batches = [];
  for (let start = 0; start === 0 || start < n; start += BATCH) {
    const batch = { ...settings, first: first + start, n: Math.min(BATCH, n - start) };
    const made = picture ? edit(model, spec, picture, { ...batch, ...given }) : sample(model, spec, batch);
    const { x } = await made;
    const { images, values } = await decode(x);
    batches.push(images ?? new Uint8Array(values.buffer));
  }
  const seconds = performance.now() / 1000; // since the program started
  const all = Buffer.concat(batches);
  await writeFile(out, isPicture ? png.encode(grid(all, shape)) : npy(all, [n, ...shape])).catch((error) => {
    throw new EnvironmentProblem(`${out}: cannot be written (${error.code}).`);
  });
  console.log(JSON.stringify({ images: n, seconds_load, seconds }));
}

main(process.argv.slice(2)).catch((error) => {
  if (!(error instanceof DdpmError)) throw error;
  console.error(`error: ${error.message}`);
  process.exitCode = error.exitCode;
});
