// The server for trying out: types, headers, and nothing from outside its folder.
import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, readlink, rm, symlink, utimes, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { brotliDecompressSync } from "node:zlib";

import { pack, server } from "../serve.js";

let folder, site, isolated;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "serve-"));
  await mkdir(join(folder, "root", "sub"), { recursive: true });
  for (const name of ["secret.txt", "model.onnx"]) await writeFile(join(folder, name), name);
  for (const name of ["index.html", "a.js", "a.mjs", "a.css", "a.wasm", "a.json", "sub/index.html", "ümläut.txt"]) {
    await writeFile(join(folder, "root", name), name);
  }
  await symlink(join(folder, "secret.txt"), join(folder, "root", "link.txt"));
  const extra = { "/unet.onnx": join(folder, "model.onnx") };
  [site, isolated] = [false, true].map((isolate) => server(join(folder, "root"), { extra, isolate }));
  await Promise.all([site, isolated].map((each) => new Promise((resolve) => each.listen(0, "127.0.0.1", resolve))));
});

after(async () => {
  for (const each of [site, isolated]) each.close();
  await rm(folder, { recursive: true });
});

/** Ask for a path as it is written: fetch would tidy up its dots. */
const get = (path, { from = site, method = "GET", headers = {} } = {}) =>
  new Promise((resolve, reject) => {
    request({ host: "127.0.0.1", port: from.address().port, path, method, headers, agent: false }, (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("end", () => {
        const bytes = Buffer.concat(chunks);
        resolve({ status: response.statusCode, headers: response.headers, bytes, body: bytes.toString() });
      });
    })
      .on("error", reject)
      .end();
  });

for (const [path, type, body] of [
  ["/", "text/html; charset=utf-8", "index.html"],
  ["/index.html?x=1", "text/html; charset=utf-8", "index.html"],
  ["/sub/", "text/html; charset=utf-8", "sub/index.html"],
  ["/a.js", "text/javascript; charset=utf-8", "a.js"],
  ["/a.mjs", "text/javascript; charset=utf-8", "a.mjs"],
  ["/a.css", "text/css; charset=utf-8", "a.css"],
  ["/a.wasm", "application/wasm", "a.wasm"],
  ["/a.json", "application/json", "a.json"],
  ["/unet.onnx", "application/octet-stream", "model.onnx"],
  ["/%C3%BCml%C3%A4ut.txt", "application/octet-stream", "ümläut.txt"],
]) {
  test(`${path} is ${type}`, async () => {
    const { status, headers, body: got } = await get(path);
    assert.deepEqual([status, headers["content-type"], got], [200, type, body]);
    assert.equal(headers["content-length"], String(Buffer.byteLength(body)));
    assert.equal(headers["cross-origin-opener-policy"], undefined);
    assert.equal((await get(path, { method: "HEAD" })).body, "");
  });
}

for (const path of [
  "/../secret.txt",
  "/sub/../../secret.txt",
  "/%2e%2e/secret.txt",
  "/..%2fsecret.txt",
  "/..%5csecret.txt",
  "/sub/..%2f..%2fsecret.txt",
  "//secret.txt",
  "/link.txt",
  "/sub",
  "/nothing",
  "/%00",
  "/%ff",
  "/%",
  "/constructor",
]) {
  test(`${path} is not found`, async () => {
    const { status, body } = await get(path);
    assert.deepEqual([status, body], [404, "not found"]);
  });
}

test("only GET and HEAD", async () => {
  for (const method of ["POST", "PUT", "DELETE"]) assert.equal((await get("/a.js", { method })).status, 405);
});

test("isolated, every answer has both headers", async () => {
  for (const path of ["/", "/a.js", "/unet.onnx"]) {
    const { headers } = await get(path, { from: isolated });
    assert.equal(headers["cross-origin-opener-policy"], "same-origin");
    assert.equal(headers["cross-origin-embedder-policy"], "require-corp");
  }
});

test("what a browser has is not sent again, until the file is another", async () => {
  const file = join(folder, "root", "kept.js");
  await writeFile(file, "one");
  const { etag, vary } = (await get("/kept.js")).headers;
  assert.equal(vary, "Accept-Encoding");
  const again = await get("/kept.js", { headers: { "if-none-match": etag } });
  assert.deepEqual([again.status, again.body, again.headers.etag], [304, "", etag]);
  await writeFile(file, "two");
  await utimes(file, 1, 1); // as long as before
  const changed = await get("/kept.js", { headers: { "if-none-match": etag } });
  assert.deepEqual([changed.status, changed.body], [200, "two"]);
});

test("what is packed goes compressed to who takes it, and plain once the file is another", async () => {
  const text = "again and ".repeat(1000);
  const file = join(folder, "root", "packed.js");
  await writeFile(file, text);
  const packing = server(join(folder, "root"), { packed: await pack([file, join(folder, "nothing.js")]) });
  await new Promise((resolve) => packing.listen(0, "127.0.0.1", resolve));
  const ask = (encoding, method = "GET") =>
    get("/packed.js", { from: packing, method, headers: { "accept-encoding": encoding } });
  try {
    const small = await ask("gzip, br");
    assert.equal(small.headers["content-encoding"], "br");
    assert.equal(small.headers["content-type"], "text/javascript; charset=utf-8");
    assert.equal(brotliDecompressSync(small.bytes).toString(), text);
    assert.ok(small.bytes.length < 100);
    assert.equal(small.headers["content-length"], String(small.bytes.length));
    assert.equal((await ask("br", "HEAD")).headers["content-length"], small.headers["content-length"]);
    const plain = await ask("gzip");
    assert.deepEqual([plain.headers["content-encoding"], plain.body], [undefined, text]);
    await writeFile(file, "another");
    assert.equal((await ask("br")).body, "another");
  } finally {
    packing.close();
  }
});

test("a download that is broken off leaves no file open", { skip: process.platform !== "linux" }, async () => {
  await writeFile(join(folder, "root", "large"), new Uint8Array(2 ** 25));
  const open = async () => {
    const files = await readdir("/proc/self/fd");
    const paths = await Promise.all(files.map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => "")));
    return paths.filter((path) => path.endsWith("/large")).length;
  };
  await Promise.all(
    Array.from(
      { length: 5 },
      () =>
        new Promise((resolve) => {
          const asked = request({ host: "127.0.0.1", port: site.address().port, path: "/large", agent: false });
          asked.on("response", (response) => response.once("data", () => asked.destroy()).on("close", resolve));
          asked.on("error", () => {}).end();
        }),
    ),
  );
  for (let tries = 0; tries < 100 && (await open()) > 0; tries++) await new Promise((go) => setTimeout(go, 20));
  assert.equal(await open(), 0);
});
