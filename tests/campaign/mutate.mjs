// Mutants for the readers of JavaScript: specs as text and whole ONNX files; only errors of ours may be thrown.
// node mutate.mjs SEEDS.json RUNS SEED prints how many were tried.
import { readFileSync } from "node:fs";
import { DdpmError, specFromJson, specFromOnnx } from "../../examples/web/ddpm.js";

const [place, runs, seed] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const { texts, files } = JSON.parse(readFileSync(place, "utf8"));
const contents = files.map((hex) => Uint8Array.from(Buffer.from(hex, "hex")));
let state = (seed + 1) >>> 0;

/** Return an integer from 0 to n - 1 (mulberry32). */
function draw(n) {
  state = (state + 0x6d2b79f5) >>> 0;
  let t = state;
  t = Math.imul(t ^ (t >>> 15), t | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) % n;
}

function mutantOf(bytes, other) {
  let data = Array.from(bytes);
  for (let k = draw(4); k >= 0; k--) {
    const at = draw(data.length + 1);
    const change = draw(4);
    if (change === 0 && at < data.length) data[at] ^= 1 << draw(8);
    else if (change === 1) data.splice(at, draw(9), ...Array.from({ length: draw(9) }, () => draw(256)));
    else if (change === 2) data.splice(at, 0, ...Array.from(other.slice(draw(other.length), 64)));
    else if (change === 3 && draw(4) === 0) data = data.slice(0, at);
  }
  return Uint8Array.from(data);
}

const encoded = texts.map((text) => Uint8Array.from(Buffer.from(text, "latin1"))).filter((bytes) => bytes.length < 20000);
for (let count = 0; count < runs; count++) {
  const isText = count % 2 === 0;
  const pool = isText ? encoded : contents;
  const data = mutantOf(pool[draw(pool.length)], pool[draw(pool.length)]);
  const since = process.cpuUsage();
  try {
    if (isText) specFromJson(new TextDecoder().decode(data));
    else specFromOnnx(data);
  } catch (error) {
    if (!(error instanceof DdpmError)) {
      console.log(`mutant ${count}: ${error.stack}\n${Buffer.from(data).toString("hex")}`);
      process.exit(1);
    }
  }
  if (process.cpuUsage(since).user > 10e6) {
    console.log(`mutant ${count} takes more than 10 s of processor time`);
    process.exit(1);
  }
}
console.log(runs);
