/** The page: reads the form, asks the worker, shows what comes. All computing is in worker.js. */

import { fromUint8, isTold, labelOf, noiseStream, stateIsPicture, takesGuidance, toUint8 } from "./ddpm.js";
import { flattened, grid, rgba } from "./images.js";
import { painting, pictureFromFile } from "./paint.js";
import { keepForOffline, worker } from "./start.js";

const MODEL_URL = "unet.onnx";
const MAX_GALLERY = 48;
const MAX_SEED = 2n ** 63n - 1n;
const FILL_STEPS = 20;
const PROOF = { image: 2, among: 4, numSteps: 20 };
const $ = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");

// --- the worker: one promise a question ---

const questions = new Map();
worker.onmessage = ({ data: { id, result, error, ...news } }) => {
  const { resolve, reject, onNews } = questions.get(id);
  if ("step" in news) return onNews(news);
  questions.delete(id);
  if (error === undefined) resolve(result);
  else reject(new Error(error));
};
worker.onerror = (event) => tellProblem(new Error(`The worker stopped: ${event.message}. Load the page again.`));

function ask(task, details, onNews = () => {}, transfer = []) {
  const id = crypto.getRandomValues(new Uint32Array(2)).join();
  return new Promise((resolve, reject) => {
    questions.set(id, { resolve, reject, onNews });
    worker.postMessage({ id, task, ...details }, transfer);
  });
}

// --- the model ---

let spec = null;
let shape = null; // of a picture that it makes, [C, H, W]
let ready = null; // a promise that rejects where there is no model

/** Open a model and say whether it is open; if not, the one before it, if any, stays. */
function open(source, provider = "wasm") {
  tell("Loading the network …");
  const opening = ask("open", { ...source, provider }).then((opened) => {
    ({ spec, shape } = opened);
    $("steps").max = spec.alphas_cumprod.length;
    $("steps").defaultValue = spec.defaults.num_steps; // shows as long as nobody has typed another
    $("times").defaultValue = spec.defaults.times?.join(", ") ?? "";
    offerPlans();
    offerLabels();
    offerInputs();
    useFields();
    usePaint();
    const [channels, height, width] = shape;
    const by =
      opened.provider === "webgpu"
        ? "the graphics card"
        : `the processor, ${opened.threads === 1 ? "one thread" : `${opened.threads} threads`}`;
    const { storage = "float32" } = spec.source ?? {};
    const stored = storage === "float32" ? "" : ` (weights stored as ${storage})`;
    $("facts").textContent =
      `Model: ${spec.name}, ${width} × ${height} pixels${channels === 3 ? " in colour" : ""}, ` +
      `${(opened.bytes / 1e6).toFixed(1)} MB${stored}, loaded in ${opened.seconds.toFixed(1)} s. Computed by ${by}.`;
    if (opened.warning) {
      document.querySelector("[name=provider][value=wasm]").checked = true;
      tellProblem(new Error(`The graphics card is not used: ${opened.warning}. The processor computes instead.`));
    }
    shown = null;
    showNoise();
    tell("Ready.");
  });
  const before = spec === null ? null : ready;
  ready = opening.catch((error) => {
    tellProblem(error);
    return before ?? Promise.reject(error);
  });
  ready.catch(() => {}); // told above; told again when pictures are wanted
  return opening.then(
    () => true,
    () => false,
  );
}

function offerPlans() {
  const names = Object.keys(spec.plans);
  const offered = Array.from($("plan").options, ({ text }) => text).slice(1);
  if (names.join() === offered.join()) return; // as when only the provider changes: what was chosen stays
  $("plans").hidden = names.length === 0;
  $("plan").replaceChildren(new Option("none", ""), ...names.map((name) => new Option(name)));
  $("plan").value = spec.defaults.plan ?? "";
  const fast = fastPlan();
  $("fast-choice").hidden = fast === undefined;
  $("fast-steps").textContent =
    fast === undefined ? "Fast" : `Fast: ${spec.plans[fast].rows.length} steps that were tuned for this model (${fast})`;
}

/** Return the names of the plans that were tuned for the model, or it for them, the longest first: all are short. */
function shortPlans() {
  const short = Object.keys(spec.plans).filter((name) => /^(tuned|fast)-/.test(name));
  return short.sort((a, b) => spec.plans[b].rows.length - spec.plans[a].rows.length);
}

const fastPlan = () => shortPlans()[0];

/** A button for every class, where the network is told one, and how closely to follow it. */
function offerLabels() {
  const label = labelOf(spec);
  const names = label === null ? [] : ["each in turn", ...label.classes];
  if (label !== null && label.none === label.classes.length) names.push("none"); // its index follows the classes'
  const offered = Array.from($("classes").children, ({ textContent }) => textContent);
  const own = spec.defaults.guidance ?? { scale: 1 };
  $("labels").hidden = label === null;
  $("guiding").hidden = !takesGuidance(spec);
  if (names.join() === offered.join() && $("guidance").dataset.own === wordsOf(own)) return; // what was chosen stays
  $("classes").replaceChildren(...names.map((name, k) => chip(name, k === 0 ? "" : k - 1)));
  $("guidance").dataset.own = wordsOf(own);
  $("guidance").max = Math.max(8, own.scale);
  $("guidance").value = own.scale;
  $("guidance").dataset.initial = $("guidance").value; // as near to the file's as the slider gets
}

function chip(name, value) {
  const [label, text] = [document.createElement("label"), document.createElement("span")];
  const radio = Object.assign(document.createElement("input"), { type: "radio", name: "label", value });
  label.className = "chip";
  text.textContent = name;
  radio.defaultChecked = value === "";
  label.append(radio, text);
  return label;
}

const said = new Map(); // the numbers of what else the network is told, by name; left out where nothing is said

/** A field for everything else that the network is told: for numbers, or for a picture. */
function offerInputs() {
  const inputs = spec.inputs.filter((one) => isTold(one) && one.kind !== "label");
  const own = JSON.stringify(inputs);
  if ($("inputs").dataset.own === own) return; // what was said stays
  $("inputs").dataset.own = own;
  said.clear();
  $("inputs").replaceChildren(...inputs.map((one) => (one.kind === "image" ? pictureField : numbersField)(one)));
}

function numbersField({ name, shape: [count], none }) {
  const hint = `${countOf(count, "number")}${count > 1 ? ", with commas between them" : ""}`;
  const entry = inputField(name, hint, none, { type: "text", inputMode: "decimal" });
  entry.addEventListener("input", () => {
    const numbers = entry.value.split(",").map((item) => (item.trim() === "" ? NaN : Number(item)));
    const isEmpty = entry.value.trim() === "";
    const isFine = isEmpty || (numbers.length === count && numbers.every(Number.isFinite));
    entry.setCustomValidity(isFine ? "" : `${name} must be ${hint}.`);
    if (isEmpty || !isFine) said.delete(name);
    else said.set(name, numbers);
  });
  return entry.parentElement;
}

function pictureField({ name, shape: [channels, height, width], none }) {
  const hint = `A picture; its middle is taken and made ${width} × ${height}`;
  const entry = inputField(name, hint, none, { type: "file", accept: "image/*" });
  entry.disabled = channels !== 1 && channels !== 3;
  entry.addEventListener("change", async () => {
    said.delete(name);
    entry.setCustomValidity("");
    const [file] = entry.files;
    if (!file) return;
    entry.setCustomValidity(`${file.name} is being read.`);
    const [pixels, problem] = await pixelsFromFile(file, [channels, height, width]).then(
      (read) => [read, ""],
      ({ message }) => [null, message],
    );
    if (file !== entry.files[0]) return; // another was chosen meanwhile
    entry.setCustomValidity(problem);
    if (pixels !== null) said.set(name, Array.from(fromUint8(pixels, [channels, height, width])));
  });
  return entry.parentElement;
}

/** Return the pixels [H, W, C] of an image file's largest part in the middle, made as small as the shape [C, H, W]. */
async function pixelsFromFile(file, [channels, height, width]) {
  const page = await pictureFromFile(file, width, height).catch(() => {
    throw new Error(`${file.name} is not a picture that this browser can read.`);
  });
  return flattened(page, channels);
}

/** Return an entry in a field of its own, with its label and a hint. */
function inputField(name, hint, none, properties) {
  const [field, label, text] = ["div", "label", "p"].map((tag) => document.createElement(tag));
  const entry = Object.assign(document.createElement("input"), { id: `input-${name}`, required: none === null });
  Object.assign(entry, properties);
  field.className = "field";
  text.className = "hint";
  text.id = `${entry.id}-hint`;
  text.textContent = `${hint}.${none === null ? "" : " Left empty: as if nothing were said."}`;
  Object.assign(label, { htmlFor: entry.id, textContent: name });
  entry.setAttribute("aria-describedby", text.id);
  field.append(label, entry, text);
  return entry;
}

let source = () => ({ url: new URL(MODEL_URL, location.href).href });

/** Open another model; what is open stays where that one cannot be. */
async function change(next) {
  const before = source;
  source = next;
  if (await reopen()) return true;
  source = before;
  return false;
}

$("file").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  if (file && !(await change(async () => ({ bytes: await file.arrayBuffer() })))) target.value = "";
});
$("shipped").addEventListener("change", async ({ target }) => {
  if (!(await change(() => ({ url: new URL(target.value, location.href).href })))) target.value = MODEL_URL;
});

async function reopen() {
  $("problem").hidden = true;
  return open(await source(), new FormData($("form")).get("provider") ?? "wasm");
}

for (const choice of document.getElementsByName("provider")) choice.addEventListener("change", reopen);

// --- making pictures ---

let isFirst = location.hash !== "#wait"; // a visit begins with a picture that nobody had to ask for
let shown = null; // { page, name }: the finished pictures in sight, which Save as PNG saves

function settingsFromForm() {
  const form = new FormData($("form"));
  const common = {
    seed: BigInt(form.get("seed").match(/^\d+$/)?.[0] ?? 0), // what is no number is caught by the form's own check
    first: Number(form.get("first")),
    n: Number(form.get("n")),
  };
  if (said.size > 0) common.inputs = Object.fromEntries(said);
  if (form.get("label")) common.label = Number(form.get("label"));
  const { value, dataset } = $("guidance");
  if (value !== (dataset.initial ?? value)) {
    common.guidance = { ...spec?.defaults.guidance, scale: Number(value) }; // at the file's times; else the file's own
  }
  if (form.get("plan")) return { ...common, plan: form.get("plan") };
  const [times, sampler] = [$("times").value.trim(), form.get("sampler")];
  return {
    ...common,
    ...(times === "" ? { numSteps: Number($("steps").value) } : { times: times.split(",").map(Number) }),
    sampler,
    ...(sampler === "ddim" ? { eta: Number(form.get("eta")) } : {}),
  };
}

/** Return guidance in words, as "2" or "4 at t 200 to 700". */
const wordsOf = ({ scale, interval = null }) =>
  interval === null ? `${scale}` : `${scale} at t ${interval.join(" to ")}`;

/** Return how pictures are made, as "50 steps" or "plan dpmpp, guidance 2". */
const wayOf = ({ plan, times, numSteps, guidance, inputs = {} }) =>
  [
    plan === undefined ? `${times?.length ?? numSteps} steps` : `plan ${plan}`,
    ...(guidance === undefined ? [] : [`guidance ${wordsOf(guidance)}`]),
    ...Object.entries(inputs).map(([name, values]) => (values.length > 8 ? name : `${name} ${values.join(" ")}`)),
  ].join(", ");

/** Return the class of a picture as the end of what is said of it, as ", Bag"; nothing where there is none. */
function classOf({ label: chosen }, number) {
  const label = labelOf(spec);
  if (label === null) return "";
  return `, ${label.classes[chosen ?? number % label.classes.length] ?? "none"}`;
}

/** Show what the pictures will begin with, as long as there is nothing better to see. */
function showNoise() {
  const { seed, first, n } = settingsFromForm();
  if (!isPainter() || shown !== null || !$("cancel").hidden || !$("form").checkValidity()) return;
  const noise = noiseStream(
    seed,
    Array.from({ length: n }, (_, k) => first + k),
    spec.state_shape,
  );
  draw(
    $("preview"),
    grid(
      toUint8(
        noise(0).map((z) => z / 3),
        spec.state_shape,
      ),
      spec.state_shape,
    ),
  );
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  await busy(async () => {
    const settings = settingsFromForm(); // once the model is there, and with it its own steps and plan
    const done = await make(settings);
    if (done === null) return;
    const { images, seconds } = done;
    await addToGallery(images, settings);
    tell(`Done: ${countOf(settings.n)} in ${seconds.toFixed(1)} s.`);
    document.documentElement.dataset.done = performance.now();
  });
});

/** Sample a batch, or edit pictures where there are any, with its preview; null where it was stopped. */
async function make(settings, pictures = null) {
  let quarter = 0;
  tell(`Making ${countOf(settings.n)} …`);
  shown = null;
  $("download").hidden = true;
  $("preview").setAttribute("aria-label", "The picture as it emerges");
  if (!isFirst) $("preview").scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
  isFirst = false;
  const done = await ask("sample", { settings, pictures }, ({ step, numSteps, pixels }) => {
    const quarterNow = Math.floor((4 * step) / numSteps);
    $("progress").value = step / numSteps;
    $("count").textContent = `Step ${step} of ${numSteps}`;
    // a screen reader hears the quarters; who wants little motion sees only them
    if (quarterNow > quarter && quarterNow < 4) tell(`${quarterNow * 25} % done`);
    if (pixels && (!calm.matches || quarterNow > quarter)) draw($("preview"), grid(pixels, shape));
    quarter = quarterNow;
  });
  if (done === null) {
    tell("Stopped.");
    return null;
  }
  justMade = done.images.slice(0, done.images.length / settings.n);
  const { seed, first, n, sampler = "plan", plan, times, numSteps, label, guidance } = settings;
  const told = [];
  if (label !== undefined) told.push(`class-${label}-`);
  if (guidance !== undefined) told.push(`guidance-${guidance.scale}-`);
  if (pictures !== null) told.unshift("filled-");
  const way = `${told.join("")}${sampler}-${plan ?? times?.join("-") ?? numSteps}`.slice(0, 80);
  shown = {
    page: grid(done.images, shape),
    name: `seed-${seed}-picture-${first}${n > 1 ? `-to-${first + n - 1}` : ""}-${way}.png`,
  };
  draw($("preview"), shown.page);
  $("preview").setAttribute("aria-label", `Finished: ${countOf(n)} of seed ${seed}`);
  $("download").hidden = false;
  return done;
}

const countOf = (n, what = "picture") => (n === 1 ? `1 ${what}` : `${n} ${what}s`);

let underWay = null; // a promise that is kept once what was asked for last is done

/** Run a task with Stop in the place of Make pictures, keeping the keyboard's focus on the button that is there. */
async function busy(task) {
  if ($("start").hidden || !$("form").reportValidity()) return;
  let free;
  underWay = new Promise((resolve) => (free = resolve));
  const from = document.activeElement;
  $("problem").hidden = true;
  $("start").hidden = true;
  $("cancel").hidden = false;
  $("prove").disabled = $("share").disabled = true;
  usePaint();
  for (const field of [...document.getElementsByName("provider"), $("file")]) field.disabled = true;
  if ([$("start"), $("prove"), $("fill")].includes(from)) $("cancel").focus();
  try {
    await turning;
    await ready;
    await task();
  } catch (error) {
    tellProblem(error);
  }
  const hadFocus = document.activeElement === $("cancel");
  $("start").hidden = false;
  $("cancel").hidden = true;
  $("prove").disabled = $("share").disabled = false;
  usePaint();
  for (const field of [...document.getElementsByName("provider"), $("file")]) field.disabled = false;
  $("progress").value = 0;
  $("count").textContent = "\u00a0";
  if (hadFocus) ([$("prove"), $("fill")].includes(from) ? from : $("start")).focus();
  free();
}

const cancel = () => worker.postMessage({ task: "cancel" });
$("cancel").addEventListener("click", cancel);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("cancel").hidden) cancel();
});

$("fresh").addEventListener("click", () => {
  $("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0]);
  $("seed").dispatchEvent(new Event("input", { bubbles: true }));
  tell(`Seed ${$("seed").value}`);
});

$("fast").addEventListener("input", ({ target }) => {
  $("plan").value = target.checked ? fastPlan() : "";
});

$("form").addEventListener("input", () => {
  const { seed } = settingsFromForm();
  $("seed").setCustomValidity(seed <= MAX_SEED ? "" : `The largest seed is ${MAX_SEED}.`);
  useFields();
  showNoise();
});

/** Grey out what times or a plan take the place of. */
function useFields() {
  const { sampler, numSteps, plan, guidance } = settingsFromForm();
  $("steps").disabled = numSteps === undefined;
  $("times").disabled = plan !== undefined;
  $("fast").checked = plan !== undefined && plan === fastPlan();
  $("eta").disabled = sampler !== "ddim";
  $("eta-value").textContent = sampler === "ddim" ? $("eta").value : "not used";
  $("guidance-value").textContent =
    guidance === undefined ? `${$("guidance").dataset.own}, the model's own` : wordsOf(guidance);
}

$("download").addEventListener("click", async () => {
  const canvas = draw(document.createElement("canvas"), shown.page);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: shown.name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
});

// --- the same seed, the same picture ---

$("prove").addEventListener("click", () =>
  busy(async () => {
    $("proof").replaceChildren();
    $("verdict").textContent = "";
    const { seed, label, guidance, inputs } = settingsFromForm();
    const numSteps = Math.min(PROOF.numSteps, spec.alphas_cumprod.length);
    const common = { seed, numSteps, sampler: "ddim", eta: 0, label, guidance, inputs };
    const alone = await make({ ...common, first: PROOF.image, n: 1 });
    const among = alone && (await make({ ...common, first: 0, n: PROOF.among }));
    if (!among) return;
    const size = alone.images.length;
    const pictures = [alone.images, among.images.slice(PROOF.image * size, (PROOF.image + 1) * size)];
    for (const [k, pixels] of pictures.entries()) {
      $("proof").append(await figure(pixels, k === 0 ? "Made alone" : `Made as one of ${PROOF.among}`));
    }
    const difference = pictures[0].reduce((most, level, k) => Math.max(most, Math.abs(level - pictures[1][k])), 0);
    tell("Done.");
    $("verdict").textContent =
      difference === 0
        ? `The same picture: all ${size} numbers are equal.`
        : `They differ by up to ${difference} of 255 levels of brightness.`;
  }),
);

// --- from one seed to the next: a picture wherever the slider is ---

let wanted = null; // where it is, until that is being drawn
let turning = null; // a promise, while pictures follow it

$("share").addEventListener("input", ({ target }) => {
  wanted = Number(target.value);
  turning ??= follow().catch(tellProblem).finally(() => (turning = null));
});

async function follow() {
  await ready;
  const begin = performance.now();
  for (let made = 1; wanted !== null && $("cancel").hidden; made++) {
    const { seed, first, label, guidance, inputs } = settingsFromForm();
    const toward = { seed: seed < MAX_SEED ? seed + 1n : 0n, share: wanted };
    wanted = null;
    const plan = shortPlans().findLast((name) => spec.plans[name].rows.length > 1);
    const way = plan === undefined ? { numSteps: 10, sampler: "ddim" } : { plan };
    const told = { seed, first, n: 1, label, guidance, inputs, toward };
    const { images } = await ask("sample", { settings: { ...told, ...way } });
    draw($("turned"), grid(images, shape));
    const percent = Math.round(100 * toward.share);
    $("turned").setAttribute("aria-label", `${percent} % of the way from seed ${seed} to seed ${toward.seed}`);
    const rate = (1000 * made) / (performance.now() - begin);
    $("rate").textContent = `${percent} % of the way to seed ${toward.seed}; ${rate.toFixed(0)} pictures a second`;
    await new Promise(requestAnimationFrame);
  }
  wanted = null;
}

// --- paint over a picture, have it filled ---

let justMade = null; // the pixels of the first picture of the last batch
const paint = painting($("paint"), () => Number($("brush").value), usePaint);

/** Offer what can be done with the painting as it is. */
function usePaint() {
  const isOurs = size() !== undefined && paint.page()?.data.length === size(); // else of a model that was open before
  const isPainted = isOurs && paint.mask().some((level) => level > 0);
  $("take").disabled = justMade?.length !== size();
  for (const id of ["right-half", "lower-half"]) $(id).disabled = !isOurs;
  $("clear").disabled = !isPainted;
  $("fill").disabled = !isPainted || !$("cancel").hidden;
  $("paint").setAttribute("aria-label", `${isOurs ? "A" : "No"} picture${isPainted ? ", painted over in part" : ""}`);
}

const isPainter = () => spec !== null && stateIsPicture(spec); // it begins with pictures as they are
const size = () => (isPainter() ? shape.reduce((product, length) => product * length, 1) : undefined);
const paintOver = (pixels) => paint.show(grid(pixels, shape));

$("take").addEventListener("click", () => paintOver(justMade));
$("clear").addEventListener("click", () => paint.show(paint.page()));
$("right-half").addEventListener("click", () => paint.cover((x) => x > paint.page().width / 2));
$("lower-half").addEventListener("click", () => paint.cover((_, y) => y > paint.page().height / 2));
$("picture").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  if (!file) return;
  $("problem").hidden = true;
  try {
    await ready;
    paintOver(await pixelsFromFile(file, shape));
  } catch (error) {
    tellProblem(error);
  }
  target.value = "";
});

$("fill").addEventListener("click", () =>
  busy(async () => {
    const { seed, first, n, label, guidance, inputs } = settingsFromForm();
    const [numSteps, returns] = [Math.min(FILL_STEPS, spec.alphas_cumprod.length), Number($("returns").value)];
    const told = { seed, first, n, label, guidance, inputs };
    const done = await make({ ...told, numSteps, sampler: "ddim", eta: 1, returns, mask: paint.mask() }, paint.page().data);
    if (done === null) return;
    $("filled").replaceChildren();
    for (let k = 0; k < n; k++) {
      const pixels = done.images.slice((k * done.images.length) / n, ((k + 1) * done.images.length) / n);
      $("filled").append(await figure(pixels, `Filled, seed ${seed}, picture ${first + k}`));
    }
    $("filled").scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
    tell(`Done: filled in ${countOf(n, "way")} in ${done.seconds.toFixed(1)} s.`);
  }),
);

const made = new Map(); // what a picture follows from -> its pixels' digest

async function addToGallery(images, settings) {
  $("gallery-section").hidden = false;
  const size = images.length / settings.n;
  for (let k = 0; k < settings.n; k++) {
    const pixels = images.slice(k * size, (k + 1) * size);
    const number = settings.first + k;
    const item = await figure(
      pixels,
      `Seed ${settings.seed}, picture ${number}${classOf(settings, number)}, ${wayOf(settings)}`,
    );
    const { n, first, ...decisive } = settings;
    const key = JSON.stringify({ ...decisive, seed: String(settings.seed), name: spec.name, number });
    const before = made.get(key);
    made.set(key, item.dataset.digest);
    if (before !== undefined) {
      const mark = document.createElement("span");
      const same = before === item.dataset.digest;
      mark.className = same ? "tick" : "";
      mark.textContent = same ? " ✓ the same as before" : " not the same as before";
      item.querySelector("figcaption").append(mark);
    }
    $("gallery").prepend(item);
  }
  while ($("gallery").children.length > MAX_GALLERY) $("gallery").lastChild.remove();
}

/** Return a list item: one picture, what it is, and the first digits of the SHA-256 of its pixels. */
async function figure(pixels, caption) {
  const item = document.createElement("li");
  const canvas = draw(document.createElement("canvas"), grid(pixels, shape));
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", caption);
  const text = document.createElement("figcaption");
  const code = document.createElement("code");
  item.dataset.digest = await digest(pixels);
  code.textContent = item.dataset.digest.slice(0, 12);
  text.append(`${caption}. `, code);
  const frame = document.createElement("figure");
  frame.append(canvas, text);
  item.append(frame);
  return item;
}

async function digest(pixels) {
  if (!crypto.subtle) return "no fingerprint without https";
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", pixels));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// --- showing ---

function draw(canvas, page) {
  canvas.width = page.width;
  canvas.height = page.height;
  canvas.getContext("2d").putImageData(new ImageData(rgba(page), page.width, page.height), 0, 0);
  return canvas;
}

function tell(text) {
  $("status").textContent = text;
}

function tellProblem(error) {
  tell("");
  $("problem").textContent = error.message;
  $("problem").hidden = false;
}

// --- begin ---

$("form").reset(); // some browsers keep what was chosen before a reload
open(source());
if (isFirst) $("form").requestSubmit();
if (await navigator.gpu?.requestAdapter()) $("engine").hidden = false;
await ready.catch(() => {});
await underWay; // keeping files comes after using them
await keepForOffline();
