// The server for trying out: types, headers, and nothing from outside its folder.
import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { server } from "../serve.js";

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
const get = (path, { from = site, method = "GET" } = {}) =>
  new Promise((resolve, reject) => {
    request({ host: "127.0.0.1", port: from.address().port, path, method, agent: false }, (response) => {
      let body = "";
      response.on("data", (chunk) => (body += chunk));
      response.on("end", () => resolve({ status: response.statusCode, headers: response.headers, body }));
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
