/**
 * Drive the page in a headless Chromium: `node test/page.js SCENARIO ['{"n": 4}']` prints what was seen as JSON.
 * tests/examples/test_web.py compares it with what Python gives. CHROMIUM names the browser, SCREENSHOTS a folder for
 * pictures of what it showed.
 */

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { decode } from "fast-png";
import { chromium } from "playwright-core";

import { packFirstVisit, server } from "../serve.js";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const MODEL = join(ROOT, "..", "..", "exported", "unet.onnx");
const TIMEOUT_MS = 240_000;

/** Open a site and a page on it, hand them to `use`, and close all. */
async function visit({ isolate = false, extra = {}, packed, gpu = false, path = "#wait", ...context }, use) {
  extra = { "/unet.onnx": MODEL, ...extra };
  const site = server(ROOT, { extra, isolate, packed });
  await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  const sockets = [];
  site.on("connection", (socket) => sockets.push(socket));
  const sent = () => sockets.reduce((sum, { bytesWritten }) => sum + bytesWritten, 0);
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", ...(gpu ? ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"] : [])],
  });
  try {
    const page = await browser.newPage({ viewport: { width: 1200, height: 900 }, ...context });
    page.setDefaultTimeout(TIMEOUT_MS);
    const origin = `http://localhost:${site.address().port}/`;
    const trouble = [];
    const requests = [];
    page.on("pageerror", (error) => trouble.push(String(error)));
    page.on("console", (message) => message.type() === "error" && trouble.push(message.text()));
    page.context().on("request", (request) => requests.push(request.url()));
    const seen = await use({ page, origin, sent, go: () => page.goto(origin + path), shut: () => close(site) });
    const foreign = requests.filter((url) => !url.startsWith(origin) && !/^(data|blob):/.test(url));
    return { ...seen, trouble, foreign, requests: requests.length };
  } finally {
    await browser.close();
    await close(site);
  }
}

function close(site) {
  site.closeAllConnections();
  return new Promise((resolve) => site.close(resolve));
}

const until = (page, what, argument) => page.waitForFunction(what, argument, { timeout: TIMEOUT_MS });
const settled = (page) =>
  until(page, () => {
    const [status, problem] = ["status", "problem"].map((id) => document.getElementById(id).textContent);
    return problem !== "" || /^(Done|Stopped|Ready)/.test(status);
  });
const ready = (page) => until(page, () => document.getElementById("status").textContent === "Ready.");
const text = (page, id) => page.textContent(`#${id}`);
const captions = (page, id) => page.$$eval(`#${id} figcaption`, (all) => all.map((each) => each.textContent));
const focused = (page) => page.evaluate(() => document.activeElement.id || document.activeElement.tagName);
const wish = async (page, settings) => {
  const { seed = 7, n = 1, steps = 50, times = "", plan = "", first = 0, sampler = "ddim", eta = 0 } = settings;
  const { label, guidance, fast = false, inputs = {}, pictures = {} } = settings;
  await page.fill("#seed", String(seed));
  await page.selectOption("#n", String(n));
  await page.evaluate(() => (document.querySelector("details").open = true));
  await page.fill("#first", String(first));
  if (label !== undefined) await page.getByLabel(label, { exact: true }).check();
  for (const [name, text] of Object.entries(inputs)) await page.getByLabel(name, { exact: true }).fill(text);
  for (const [name, file] of Object.entries(pictures)) {
    const field = page.getByLabel(name, { exact: true });
    await field.setInputFiles(file);
    await until(page, (entry) => entry.checkValidity(), await field.elementHandle());
  }
  if (guidance !== undefined) await page.fill("#guidance", String(guidance));
  if (await page.isVisible("#plan")) await page.selectOption("#plan", plan);
  if (fast) await page.check("#fast");
  if (plan !== "" || fast) return;
  await page.fill("#times", times);
  if (times === "") await page.fill("#steps", String(steps));
  await page.check(`[value=${sampler}]`);
  if (sampler === "ddim") await page.fill("#eta", String(eta));
};
const make = async (page, settings) => {
  await wish(page, settings);
  await page.click("#start");
  await page.waitForSelector("#start", { state: "visible" });
};
const shoot = async (page, name) => {
  if (process.env.SCREENSHOTS)
    await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}.png`), fullPage: true });
};
/** What a canvas shows: RGBA, row by row. It runs in the page. */
function pixelsOf(canvas) {
  const { width, height } = canvas;
  return { width, height, rgba: [...canvas.getContext("2d").getImageData(0, 0, width, height).data] };
}

const scenarios = {
  /**
   * The first picture, which the page makes by itself, from an empty cache and then with what the browser has kept: seconds since the
   * navigation, and MB that the server sent until then, and until the page was kept for offline use.
   */
  first: async ({ model = MODEL, isolate, rounds = 1 }) => {
    const packed = await packFirstVisit(model);
    const visits = { cold: [], warm: [] };
    let seen;
    for (let round = 0; round < rounds; round++) {
      seen = await visit({ isolate, packed, path: "", extra: { "/unet.onnx": model } }, async ({ page, go, sent }) => {
        for (const cache of ["cold", "warm"]) {
          await page.goto("about:blank"); // the browser runs, and a warm visit is no reload
          const before = sent();
          await go();
          await page.waitForSelector("#problem:not([hidden]), [data-done]", { state: "attached" });
          const seconds = (await page.evaluate(() => Number(document.documentElement.dataset.done))) / 1000;
          const megabytes = (sent() - before) / 1e6;
          await until(page, () => document.documentElement.dataset.offline === "ready");
          const [status, facts, [made]] = [await text(page, "status"), await text(page, "facts"), await captions(page, "gallery")];
          visits[cache].push({ seconds, megabytes, megabytesOffline: (sent() - before) / 1e6, status, facts, made });
        }
        return {};
      });
    }
    const median = (all) => all.map(({ seconds }) => seconds).sort((a, b) => a - b)[Math.floor(all.length / 2)];
    return { ms: Math.round(1000 * median(visits.cold)), warmMs: Math.round(1000 * median(visits.warm)), ...visits, ...seen };
  },

  /** A batch, saved by the button, as the numbers in the PNG. */
  batch: (settings) =>
    visit({ isolate: settings.isolate }, async ({ page, go }) => {
      await go();
      await ready(page);
      if (settings.file) {
        const before = await text(page, "facts");
        await page.setInputFiles("#file", settings.file);
        // a small file is open before anybody has seen that it loads
        await until(
          page,
          (facts) =>
            document.getElementById("facts").textContent !== facts ||
            document.getElementById("problem").textContent !== "",
          before,
        );
        await settled(page);
      }
      const problem = await text(page, "problem");
      const facts = await text(page, "facts");
      const shown = await page.$$eval("#steps, #times, #plan", (all) => all.map(({ value }) => value));
      const classes = await page.$$eval("#classes label", (all) => all.map(({ textContent }) => textContent));
      const refused = [];
      for (const wrong of settings.inputs?.v ? ["1,2", "1,2,x", "1,,2"] : []) {
        await page.getByLabel("v", { exact: true }).fill(wrong);
        refused.push(await page.$eval("#input-v", (entry) => entry.validationMessage));
      }
      const isOffered = { labels: await page.isVisible("#labels"), guidance: await page.isVisible("#guiding") };
      await make(page, settings); // where the file is refused: with the model before it
      const [download] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
      const { width, height, channels, data } = decode(await readFile(await download.path()));
      const [name, gallery] = [download.suggestedFilename(), await captions(page, "gallery")];
      await shoot(page, "batch");
      const offered = { classes, ...isOffered };
      return { width, height, channels, data: [...data], name, facts, problem, shown, offered, refused, gallery };
    }),

  /** The gallery and the proof, and how the page looks in both sizes and both colour schemes. */
  gallery: (settings) =>
    visit({}, async ({ page, go }) => {
      await go();
      await ready(page);
      await page.setViewportSize({ width: 1200, height: 900 });
      const button = await page.$eval("#start", (found) => found.getBoundingClientRect().bottom + scrollY);
      await shoot(page, "before");
      await make(page, settings);
      await make(page, { ...settings, first: 1, n: 1 });
      await make(page, { ...settings, seed: 8, n: 1 });
      await page.click("#prove");
      await until(page, () => document.getElementById("verdict").textContent !== "");
      for (const [name, width, height] of [
        ["desktop", 1200, 900],
        ["phone", 390, 844],
      ]) {
        for (const colorScheme of ["light", "dark"]) {
          await page.setViewportSize({ width, height });
          await page.emulateMedia({ colorScheme });
          await shoot(page, `${name}-${colorScheme}`);
        }
      }
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      return {
        gallery: await captions(page, "gallery"),
        proof: await captions(page, "proof"),
        verdict: await text(page, "verdict"),
        wide,
        button,
      };
    }),

  /** Without a mouse: where Tab goes, Enter starts, Escape stops, and where the focus is then. */
  keyboard: () =>
    visit({}, async ({ page, go }) => {
      await go();
      await ready(page);
      const order = [];
      while (order.at(-1) !== "picture" && order.length < 20) {
        await page.keyboard.press("Tab");
        order.push(await focused(page));
      }
      await page.focus("#seed");
      await page.keyboard.press("Control+A");
      await page.keyboard.type("12");
      if (await page.isChecked("#fast")) {
        await page.focus("#fast");
        await page.keyboard.press("Space");
      }
      await page.focus("#steps");
      await page.keyboard.press("Control+A");
      await page.keyboard.type("1000");
      await page.focus("summary"); // More settings
      await page.keyboard.press("Enter");
      await page.keyboard.press("Tab");
      await page.keyboard.press("ArrowDown"); // DDPM
      const sampler = await page.$eval("[name=sampler]:checked", (radio) => radio.value);
      await page.focus("#start");
      await page.keyboard.press("Enter");
      await until(page, () => document.getElementById("progress").value > 0);
      const whileRunning = await focused(page);
      await page.keyboard.press("Escape");
      await settled(page);
      await page.waitForSelector("#start", { state: "visible" });
      const after = await focused(page);
      await page.focus("#steps");
      await page.keyboard.press("Control+A");
      await page.keyboard.type("3");
      await page.keyboard.press("Enter"); // in a field: the form is sent
      await until(page, () => document.getElementById("status").textContent.startsWith("Done"));
      return { order, sampler, whileRunning, after, gallery: await captions(page, "gallery") };
    }),

  /** Stop by the button in the middle; what follows is as if nothing had been. */
  cancel: (settings) =>
    visit({}, async ({ page, go }) => {
      await go();
      await ready(page);
      await wish(page, { ...settings, steps: 1000 });
      await page.click("#start");
      await until(page, () => document.getElementById("progress").value > 0);
      await page.click("#cancel");
      await page.waitForSelector("#start", { state: "visible" });
      const stopped = { status: await text(page, "status"), gallery: await captions(page, "gallery") };
      await make(page, settings);
      return { stopped, status: await text(page, "status"), shown: await page.$eval("#preview", pixelsOf) };
    }),

  /** Once it was open, the page opens and works without its server. */
  offline: (settings) =>
    visit({}, async ({ page, go, shut }) => {
      await go();
      await ready(page);
      await until(page, () => document.documentElement.dataset.offline === "ready");
      await shut();
      await page.reload();
      await ready(page);
      await make(page, settings);
      return { status: await text(page, "status"), shown: await page.$eval("#preview", pixelsOf) };
    }),

  /** How often the preview is drawn while `steps` steps run, and what a screen reader is told. */
  motion: ({ reducedMotion, ...settings }) =>
    visit({ reducedMotion }, async ({ page, go }) => {
      await go();
      await ready(page);
      await page.evaluate(() => {
        const put = CanvasRenderingContext2D.prototype.putImageData;
        window.draws = 0;
        CanvasRenderingContext2D.prototype.putImageData = function (...all) {
          if (this.canvas.id === "preview") window.draws++;
          return put.apply(this, all);
        };
        window.said = [];
        new MutationObserver(() => window.said.push(document.getElementById("status").textContent)).observe(
          document.getElementById("status"),
          { childList: true },
        );
      });
      await wish(page, settings);
      await page.evaluate(() => (window.draws = 0));
      await page.click("#start");
      await page.waitForSelector("#start", { state: "visible" });
      const said = await page.evaluate(() => window.said);
      return { draws: await page.evaluate(() => window.draws), said, workers: page.workers().length };
    }),

  /** Names of all controls, and the lowest contrast of a text with its ground, in both colour schemes. */
  access: () =>
    visit({}, async ({ page, go }) => {
      await go();
      await ready(page);
      await make(page, { steps: 1 });
      await page.evaluate(() => {
        for (const hidden of document.querySelectorAll("[hidden]")) hidden.hidden = false;
        document.getElementById("problem").textContent = "A problem";
      });
      const contrast = {};
      for (const colorScheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme });
        contrast[colorScheme] = await page.evaluate(lowestContrast);
      }
      const nameless = await page.$$eval("input, select, button, progress, canvas", (all) =>
        all
          .filter((each) => {
            const label = [...(each.labels ?? [])].map((one) => one.textContent).join("");
            return !(label || each.getAttribute("aria-label") || each.textContent).trim();
          })
          .map((each) => each.outerHTML),
      );
      return { contrast, nameless, lang: await page.getAttribute("html", "lang") };
    }),

  /** Paint over the picture just made, or a file, by mouse, finger and button, and have it filled. */
  fill: ({ file, ...settings }) =>
    visit({ hasTouch: true }, async ({ page, go }) => {
      await go();
      await ready(page);
      const painted = () => page.$eval("#paint", pixelsOf);
      const before = await Promise.all(["#take", "#right-half", "#fill"].map((each) => page.isEnabled(each)));
      await make(page, { ...settings, n: 1 });
      const made = await page.$eval("#preview", pixelsOf);
      await page.click("#take");
      const taken = await painted();
      if (file) {
        await page.setInputFiles("#picture", file);
        await until(
          page,
          (was) => String([...document.getElementById("paint").getContext("2d").getImageData(0, 0, 28, 28).data]) !== was,
          String(taken.rgba),
        );
      }
      const picture = await painted();
      await page.click("#lower-half");
      const half = await painted();
      await page.click("#clear");
      const wiped = await painted();
      await page.locator("#paint").scrollIntoViewIfNeeded();
      const { x, y, width, height } = await page.locator("#paint").boundingBox();
      const at = (across, down) => [x + across * width, y + down * height];
      await page.touchscreen.tap(...at(0.1, 0.9));
      const tapped = await painted();
      await page.mouse.move(...at(0.6, 0.2));
      await page.mouse.down();
      await page.mouse.move(...at(0.7, 0.5));
      await page.mouse.move(...at(0.7, 0.8));
      await page.mouse.up();
      await page.mouse.move(...at(0.2, 0.2)); // with no button down
      const stroked = await painted();
      await page.selectOption("#n", String(settings.n));
      await page.selectOption("#returns", String(settings.returns));
      await page.click("#fill");
      await settled(page);
      await page.waitForSelector("#start", { state: "visible" });
      await shoot(page, "fill");
      const filled = await page.$$eval("#filled canvas", (all) => all.length);
      const [status, shown] = [await text(page, "status"), await page.$eval("#preview", pixelsOf)];
      const problem = await text(page, "problem");
      return { before, made, taken, picture, half, wiped, tapped, stroked, filled, status, shown, problem };
    }),

  /** The graphics card is offered where there is one, and used only if it says what the processor says. */
  gpu: ({ fake, ...settings }) =>
    visit(
      { gpu: fake === undefined, ...(fake === undefined ? {} : { serviceWorkers: "block" }) },
      async ({ page, go }) => {
        if (fake !== undefined) {
          // a GPU of our own: the processor's kernels, whose numbers are then multiplied
          await page.addInitScript(() =>
            Object.defineProperty(navigator, "gpu", { value: { requestAdapter: async () => ({}) } }),
          );
          await page.route("**/ort.webgpu.bundle.min.mjs", (route) =>
            route.fulfill({ contentType: "text/javascript", body: fakeRuntime(fake) }),
          );
        }
        await go();
        await ready(page);
        await page.waitForSelector("#engine", { state: "attached" });
        await page.evaluate(() => (document.querySelector("details").open = true));
        await page.waitForSelector("#engine", { state: "visible" });
        await page.check("[value=webgpu]");
        await until(page, () => !document.getElementById("status").textContent.startsWith("Loading"));
        const warning = await text(page, "problem");
        const visible = await page.isVisible("#problem");
        await page.click("#prove", { trial: true });
        await wish(page, settings);
        await page.click("#start");
        await page.waitForSelector("#start", { state: "visible" });
        return {
          warning: visible ? warning : "",
          facts: await text(page, "facts"),
          shown: await page.$eval("#preview", pixelsOf),
          chosen: await page.$eval("[name=provider]:checked", (radio) => radio.value),
        };
      },
    ),

  /** What of it is to be seen: a graphics card, classes, guidance, plans, a fast choice. */
  plain: ({ model = MODEL }) =>
    visit({ extra: { "/unet.onnx": model } }, async ({ page, go }) => {
      await go();
      await ready(page);
      await page.evaluate(() => (document.querySelector("details").open = true));
      const all = ["#engine", "#labels", "#guiding", "#plans", "#fast"];
      return { offered: await Promise.all(all.map((each) => page.isVisible(each))) };
    }),

  /** Another model that the page offers, of latents, whose decoder lies beside it. */
  latents: ({ model, decoder, ...settings }) =>
    visit({ extra: { "/emoji/unet.onnx": model, "/emoji/net.after.onnx": decoder } }, async ({ page, go }) => {
      await go();
      await ready(page);
      await page.selectOption("#shipped", "emoji/unet.onnx");
      await until(page, (name) => document.getElementById("facts").textContent.includes(name), settings.name);
      await make(page, settings);
      await settled(page);
      await shoot(page, "latents");
      const painting = await Promise.all(["#take", "#fill"].map((each) => page.isDisabled(each)));
      return { problem: await text(page, "problem"), painting, shown: await page.$eval("#preview", pixelsOf) };
    }),

  /** The slider between two seeds, dragged for a while, then left in the middle. */
  turning: ({ model, seed, label }) =>
    visit({ extra: { "/unet.fast.onnx": model } }, async ({ page, go }) => {
      await go();
      await ready(page);
      await page.selectOption("#shipped", "unet.fast.onnx");
      await until(page, () => document.getElementById("plan").value.startsWith("fast-"));
      await page.fill("#seed", String(seed));
      await page.click(`#classes label:has(input[value="${label}"])`);
      const frames = await page.evaluate(async () => {
        const slider = document.getElementById("share");
        const rate = document.getElementById("rate");
        let seen = 0;
        new MutationObserver(() => seen++).observe(rate, { childList: true });
        const begin = performance.now();
        while (performance.now() < begin + 2000) {
          slider.value = (performance.now() - begin) / 2000;
          slider.dispatchEvent(new Event("input", { bubbles: true }));
          await new Promise(requestAnimationFrame);
        }
        return seen / 2;
      });
      await page.fill("#share", "0.25");
      await until(page, () => document.getElementById("rate").textContent.startsWith("25 %"));
      await shoot(page, "turning");
      return { frames, problem: await text(page, "problem"), shown: await page.$eval("#turned", pixelsOf) };
    }),

  /** The page of plans: the first ones, drags and keys, the dot's arrival, how often it plans, and once more without a server. */
  plans: ({ seconds = 2, ...context }) =>
    visit({ path: "policy.html", ...context }, async ({ page, go, shut }) => {
      const place = async (name) => {
        await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
        return page.$eval(`#${name}`, (each) => [each.getAttribute("cx"), each.getAttribute("cy")].map(Number));
      };
      const drag = async (name, x, y) => {
        const [box, from] = [await page.locator("#scene").boundingBox(), await page.locator(`#${name}`).boundingBox()];
        await page.mouse.move(from.x + from.width / 2, from.y + from.height / 2);
        await page.mouse.down();
        await page.mouse.move(box.x + x * box.width, box.y + y * box.height, { steps: 5 });
        await page.mouse.up();
        return place(name);
      };
      await go();
      await page.uncheck("#onward");
      await page.check("#slowly");
      await until(page, () => document.documentElement.dataset.made === "1");
      const plans = await page.evaluate(() => JSON.parse(document.documentElement.dataset.plans));
      await shoot(page, `plans-${page.viewportSize().width}`);
      await page.uncheck("#slowly");
      const dragged = [await drag("disc", 0.45, 0.88), await drag("goal", 0.8, 0.2)];
      await page.focus("#goal");
      await page.keyboard.press("ArrowRight");
      const goal = await place("goal");
      await until(page, () => {
        const [x, y, u, v] = ["dot", "goal"].flatMap((id) => ["cx", "cy"].map((key) => document.getElementById(id).getAttribute(key)));
        return Math.hypot(x - u, y - v) < 0.015;
      });
      await page.waitForTimeout(1000 * seconds);
      const status = await text(page, "status");
      const dot = await place("dot");
      const contrast = await page.evaluate(lowestContrast);
      await until(page, () => document.documentElement.dataset.offline === "ready");
      await shut();
      await page.reload();
      await until(page, () => document.documentElement.dataset.made > 3);
      await page.waitForTimeout(500);
      await shoot(page, `plans-offline-${page.viewportSize().width}`);
      return { plans, dragged, goal, dot, status, contrast, problem: await text(page, "problem") };
    }),

  /** README.md's page: as it stands there. */
  embed: ({ html }) =>
    // a page without an icon of its own asks for /favicon.ico: any answer will do
    visit({ extra: { "/embed.html": html, "/favicon.ico": html }, path: "embed.html" }, async ({ page, go }) => {
      await go();
      await until(page, () => document.title === "done");
      return { shown: await page.$eval("canvas", pixelsOf) };
    }),

  /** one_call.html: the sampler inside the file; stopped once, then left to finish. */
  oneCall: ({ slice, seed, label, guidance }) =>
    visit({ extra: { "/unet.slice.onnx": slice }, path: "one_call.html" }, async ({ page, go }) => {
      await go();
      await ready(page);
      await page.fill("#seed", String(seed));
      const offered = [await page.isVisible("#label"), await page.isVisible("#guidance")];
      if (label !== undefined) await page.fill("#label", String(label));
      if (guidance !== undefined) await page.fill("#guidance", String(guidance));
      await page.keyboard.press("Enter");
      await page.click("#stop");
      await until(page, () => document.getElementById("status").textContent === "Stopped.");
      await page.click("button.primary");
      await until(page, () => !/^(Making|Stopped)/.test(document.getElementById("status").textContent));
      await shoot(page, "one-call");
      return { status: await text(page, "status"), offered, shown: await page.$eval("#picture", pixelsOf) };
    }),
};

function fakeRuntime(factor) {
  return `
    import * as ort from "./ort.wasm.bundle.min.mjs";
    export * from "./ort.wasm.bundle.min.mjs";
    export const InferenceSession = {
      async create(bytes, options) {
        const isGpu = options.executionProviders[0] === "webgpu";
        const session = await ort.InferenceSession.create(bytes, { ...options, executionProviders: ["wasm"] });
        return {
          inputNames: session.inputNames,
          outputNames: session.outputNames,
          release: () => session.release(),
          async run(feeds) {
            const outputs = await session.run(feeds);
            const factor = isGpu ? ${factor} : 1;
            return Object.fromEntries(
            Object.entries(outputs).map(([name, { dims, data }]) => {
                return [name, { dims, data: data.map((x) => x * factor) }];
              }),
            );
          },
        };
      },
    };`;
}

function lowestContrast() {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (color) =>
    // WCAG 2, relative luminance
    color
      .slice(0, 3)
      .map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
      .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const groundOf = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
    throw new Error("no ground");
  };
  let lowest = { ratio: Infinity };
  for (const element of document.querySelectorAll("body *:not(option)")) {
    const hasText =
      [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) ||
      element.matches("input:not([type=radio], [type=range], [type=file])");
    if (!hasText) continue;
    const [light, dark] = [luminance(rgb(getComputedStyle(element).color)), luminance(groundOf(element))].sort(
      (a, b) => b - a,
    );
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < lowest.ratio) lowest = { ratio, text: element.textContent.trim().slice(0, 40) };
  }
  return lowest;
}

const [name, settings = "{}"] = process.argv.slice(2);
if (!Object.hasOwn(scenarios, name)) {
  console.error(`error: The scenario must be one of ${Object.keys(scenarios).join(", ")}, got ${name}.`);
  process.exit(2);
}
console.log(JSON.stringify(await scenarios[name](JSON.parse(settings))));
