/**
 * Serve this folder on localhost: `node serve.js [--port 8000] [--model FILE] [--slice FILE] [--isolate]`.
 * The model is served as /unet.onnx, that of exported/ if none is named; a slice file as /unet.slice.onnx, for
 * one_call.html; --isolate adds the headers that give WebAssembly its threads. What a first visit needs is compressed
 * once, at the start. For trying out: any static web server can take its place.
 */

import { createReadStream } from "node:fs";
import { readFile, realpath, stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { pipeline } from "node:stream/promises";
import { parseArgs, promisify } from "node:util";
import { brotliCompress, constants } from "node:zlib";

const TYPES = {
  ".css": "text/css; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".mjs": "text/javascript; charset=utf-8",
  ".onnx": "application/octet-stream",
  ".wasm": "application/wasm",
};
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};
const HERE = fileURLToPath(new URL(".", import.meta.url));

// By quality, the WebAssembly takes 0.7 s and 2.86 MB (5), 3.6 s and 2.67 MB (9), 54 s and 2.30 MB (11).
const QUALITY = 5;
const LARGEST_WINDOW = 24; // 16 MB: all of the WebAssembly
const LARGEST = 2 ** 26; // bytes of a file that is compressed, some 4 s
const RUNTIME = "node_modules/onnxruntime-web/dist/";
const FIRST_VISIT = [
  ...["index.html", "style.css", "start.js", "page.js", "images.js", "paint.js", "worker.js", "model.js", "ddpm.js"],
  ...["given.js", "normal_table.js", "sw.js", `${RUNTIME}ort.wasm.bundle.min.mjs`, `${RUNTIME}ort-wasm-simd-threaded.wasm`],
];

/** Compress files, for `server`: return a Map from a path to { etag, body }. Leaves out what is not there, or larger. */
export async function pack(files) {
  const packing = files.map(async (name) => {
    const file = await realpath(name);
    const information = await stat(file);
    if (information.size > LARGEST) throw new Error("too large");
    const [etag, bytes] = [etagOf(information), await readFile(file)];
    const params = {
      [constants.BROTLI_PARAM_QUALITY]: QUALITY,
      [constants.BROTLI_PARAM_LGWIN]: LARGEST_WINDOW,
      [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length,
    };
    return [file, { etag, body: await promisify(brotliCompress)(bytes, { params }) }];
  });
  const results = await Promise.allSettled(packing);
  return new Map(results.filter(({ status }) => status === "fulfilled").map(({ value }) => value));
}

/** Compress what a first visit to the page needs, with its model. */
export const packFirstVisit = (model) => pack([...FIRST_VISIT.map((name) => join(HERE, name)), model]);

const etagOf = ({ size, mtimeMs }) => `"${size}-${mtimeMs}"`;

/**
 * Return an http.Server for `root`; extra maps a URL path to a file elsewhere, and what is in `packed` is sent
 * compressed to who takes brotli. A browser that has a file asks whether it is still the same, and is told 304.
 */
export function server(root, { extra = {}, isolate = false, packed = new Map() } = {}) {
  return createServer(async (request, response) => {
    const always = { "Cache-Control": "no-cache", ...(isolate ? ISOLATION : {}) };
    const answer = (status, headers = {}) => response.writeHead(status, { ...always, ...headers });
    if (request.method !== "GET" && request.method !== "HEAD") return answer(405, { Allow: "GET, HEAD" }).end();
    try {
      const file = await resolve(root, extra, request.url);
      const information = await stat(file);
      const etag = etagOf(information);
      const kept = packed.get(file);
      const takesBrotli = /\bbr\b/.test(request.headers["accept-encoding"] ?? "");
      const body = takesBrotli && kept?.etag === etag ? kept.body : null;
      const headers = { ETag: etag, Vary: "Accept-Encoding" };
      if (request.headers["if-none-match"] === etag) return answer(304, headers).end();
      headers["Content-Type"] = TYPES[extname(file)] ?? "application/octet-stream";
      headers["Content-Length"] = body?.length ?? information.size;
      if (body) headers["Content-Encoding"] = "br";
      answer(200, headers);
      if (request.method === "HEAD") response.end();
      else if (body) response.end(body);
      else await pipeline(createReadStream(file), response).catch(() => response.destroy()); // aborted: the file is closed
    } catch {
      answer(404).end("not found");
    }
  });
}

/** Return the path of the file that a URL names; throws where there is none, or where it is outside `root`. */
async function resolve(root, extra, url) {
  const path = decodeURIComponent(new URL(`http://localhost${url}`).pathname);
  if (Object.hasOwn(extra, path)) return realpath(extra[path]);
  const top = (await realpath(root)) + sep;
  const file = await realpath(join(top, path.endsWith("/") ? `${path}index.html` : path));
  if (!file.startsWith(top) || !(await stat(file)).isFile()) throw new Error("outside");
  return file;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: {
      port: { type: "string", default: "8000" },
      model: { type: "string", default: join(HERE, "..", "..", "exported", "unet.onnx") },
      slice: { type: "string", default: join(HERE, "unet.slice.onnx") },
      isolate: { type: "boolean", default: false },
    },
  });
  const shipped = (...path) => join(HERE, "..", "..", ...path);
  const extra = {
    "/unet.onnx": values.model,
    "/unet.fast.onnx": shipped("exported", "unet.fast.onnx"),
    "/unet.slice.onnx": values.slice,
    "/emoji/unet.onnx": shipped("emoji", "unet.onnx"),
    "/emoji/unet.after.onnx": shipped("emoji", "unet.after.onnx"),
  };
  const packed = await packFirstVisit(values.model);
  const site = server(HERE, { extra, isolate: values.isolate, packed });
  site.listen(Number(values.port), "127.0.0.1", () => console.log(`http://localhost:${site.address().port}/`));
}
