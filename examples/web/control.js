/**
 * A robot's control loop on node: node control.js policy.onnx [SEED [DEADLINE_S]] < observations > actions
 *
 * A line of observations is what one step saw: the numbers of all inputs of the policy, in the file's order, with blanks
 * between. A line of actions is what to do. A late plan, NaN or an observation far from what training saw ends it with one
 * line and the exit codes of sample.js: a robot then stops.
 */

import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";

import * as ort from "onnxruntime-node";

import { BadFileError, DdpmError, sizeOf, UsageError } from "./ddpm.js";
import { openModel } from "./model.js";
import { Policy } from "./policy.js";

/** Return what a line says of each input; too few numbers leave an input short, which the policy refuses. */
function observed(line, inputs) {
  const numbers = line.trim().split(/\s+/).map(Number);
  let at = 0;
  const entries = inputs.map(({ name, shape }) => [name, numbers.slice(at, (at += sizeOf(shape.slice(1))))]);
  if (numbers.length > at) throw new UsageError(`An observation has ${at} numbers, got ${numbers.length}.`);
  return Object.fromEntries(entries);
}

async function main([path, seed = "0", deadline = "Infinity", ...rest]) {
  if (path === undefined || rest.length > 0 || !/^\d+$/.test(seed) || Number.isNaN(Number(deadline))) {
    throw new UsageError("usage: node control.js policy.onnx [SEED [DEADLINE_S]] < observations > actions");
  }
  const bytes = await readFile(path).catch((error) => {
    throw new BadFileError(`${path}: cannot be read (${error.code}).`);
  });
  const readBeside = (name) => readFile(join(dirname(path), name)).catch(() => null);
  const policy = new Policy(await openModel(ort, bytes, {}, readBeside), { deadlineS: Number(deadline) });
  policy.reset(BigInt(seed));
  for await (const line of createInterface({ input: process.stdin })) {
    const action = await policy.act(observed(line, policy.inputs));
    process.stdout.write(`${action.join(" ")}\n`);
  }
}

main(process.argv.slice(2)).catch((error) => {
  if (!(error instanceof DdpmError)) throw error;
  console.error(`error: ${error.message}`);
  process.exitCode = error.exitCode;
});
