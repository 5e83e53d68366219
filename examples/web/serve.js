/**
 * Serve this folder on localhost: `node serve.js [--port 8000] [--model FILE] [--slice FILE] [--isolate]`.
 * The model is served as /unet.onnx, exported/unet.onnx if none is named; a slice file as /unet.slice.onnx, for
 * one_call.html; --isolate adds the headers that give WebAssembly its threads. For trying out: any static web server
 * can take its place.
 */

import { createReadStream } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { pipeline } from "node:stream/promises";
import { parseArgs } from "node:util";

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

/** Return an http.Server for `root`; extra maps a URL path to a file elsewhere. */
export function server(root, { extra = {}, isolate = false } = {}) {
  return createServer(async (request, response) => {
    const answer = (status, headers = {}) => response.writeHead(status, { "Cache-Control": "no-cache", ...headers });
    if (request.method !== "GET" && request.method !== "HEAD") return answer(405, { Allow: "GET, HEAD" }).end();
    try {
      const file = await resolve(root, extra, request.url);
      const { size } = await stat(file);
      const type = TYPES[extname(file)] ?? "application/octet-stream";
      answer(200, { "Content-Type": type, "Content-Length": size, ...(isolate ? ISOLATION : {}) });
      if (request.method === "HEAD") response.end();
      else await pipeline(createReadStream(file), response).catch(() => response.destroy()); // aborted: the file is closed
    } catch {
      answer(404).end("not found");
    }
  });
}

/** Return the path of the file that a URL names; throws where there is none, or where it is outside `root`. */
async function resolve(root, extra, url) {
  const path = decodeURIComponent(new URL(`http://localhost${url}`).pathname);
  if (Object.hasOwn(extra, path)) return extra[path];
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
  const extra = { "/unet.onnx": values.model, "/unet.slice.onnx": values.slice };
  const site = server(HERE, { extra, isolate: values.isolate });
  site.listen(Number(values.port), "127.0.0.1", () => console.log(`http://localhost:${site.address().port}/`));
}
