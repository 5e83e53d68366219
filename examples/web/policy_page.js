/** The page of plans: shows where things are, asks the worker for plans again and again, lets the dot follow one. */

import { keepForOffline, worker } from "./start.js";

const [PLANS, HORIZON, RADIUS, ROOM] = [32, 16, 0.12, 0.19]; // ROOM: how near the disc's middle may come to dot and goal
const [NEAR, FAR] = [0.05, 0.95]; // of the goal in training: one further is taken to be there
const [SPEED, ARRIVED, NUDGE, SLOW_MS, NEWS_MS] = [0.35, 0.015, 0.02, 90, 500]; // SPEED: of the dot, in widths a second
const $ = (id) => document.getElementById(id);
const at = { dot: [0.1, 0.5], goal: [0.9, 0.5], disc: [0.5, 0.5] };
const lines = Array.from({ length: PLANS }, () => document.createElementNS("http://www.w3.org/2000/svg", "polyline"));
$("plans").append(...lines);
$("onward").checked = !matchMedia("(prefers-reduced-motion: reduce)").matches;

const away = ([x, y], [u, v]) => Math.hypot(x - u, y - v);
const held = (value) => Math.min(Math.max(value, 0.03), 0.97);

/** Return a place that is moved off another one, to a distance at least. */
function off([x, y], from, distance) {
  const now = away([x, y], from);
  if (now >= distance) return [x, y];
  const [dx, dy] = now > 0 ? [(x - from[0]) / now, (y - from[1]) / now] : [0, 1];
  return [from[0] + distance * dx, from[1] + distance * dy];
}

function move(name, x, y) {
  const place = [held(x), held(y)];
  at[name] = name === "goal" ? off(place, at.disc, ROOM) : off(off(place, at.dot, ROOM), at.goal, ROOM);
}

function anotherGoal() {
  for (let tries = 0; tries < 100; tries++) {
    const place = [Math.random(), Math.random()].map((value) => 0.05 + 0.9 * value);
    if (away(place, at.disc) > ROOM + 0.03 && away(place, at.dot) > 0.5) return move("goal", ...place);
  }
}

// --- what the user does ---

for (const name of ["goal", "disc"]) {
  const handle = $(name);
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  handle.onpointerdown = (event) => handle.setPointerCapture(event.pointerId);
  handle.onpointermove = (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const box = $("scene").getBoundingClientRect();
    move(name, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  };
  handle.onkeydown = (event) => {
    if (!arrows[event.key]) return;
    event.preventDefault();
    move(name, ...at[name].map((value, k) => value + NUDGE * arrows[event.key][k]));
  };
}

// --- plans, again and again ---

let followed = null; // the places of the plan that the dot follows
let made = 0;
let evaluations = 0; // of the network, for a plan
let asked = { from: at.dot, ahead: [1, 0] }; // what the network sees: all from the dot, the goal ahead of it
const times = []; // when the last plans came

worker.onmessage = ({ data: { result, error, values } }) => {
  if (error !== undefined) return tellProblem(error);
  if (values) {
    if (made < 2) $("status").textContent = "Noise becomes plans …";
    return show(plansOf(values)); // on the way there
  }
  if (result?.spec) {
    const { plans, defaults } = result.spec;
    evaluations = plans[defaults.plan]?.rows.length ?? defaults.num_steps;
    return ask();
  }
  if (!result) return;
  const plans = plansOf(result.values);
  followed = nearest(plans);
  show(plans);
  made++;
  times.push(performance.now());
  if (times.length > 30) times.shift();
  Object.assign(document.documentElement.dataset, { made, plans: JSON.stringify(plans) });
  ask();
};
worker.onerror = (event) => tellProblem(`The worker stopped: ${event.message}. Load the page again.`);
worker.postMessage({ id: "open", task: "open", url: new URL("two-ways.onnx", location.href).href, provider: "wasm", isAny: true });

function ask() {
  const distance = Math.max(away(at.dot, at.goal), 1e-6);
  const seen = Math.min(Math.max(distance, NEAR), FAR);
  const [[c, s], [x, y]] = [at.goal.map((value, k) => (value - at.dot[k]) / distance), at.disc.map((value, k) => value - at.dot[k])];
  asked = { from: at.dot, ahead: [c, s].map((value) => value * Math.min(1, distance / seen)) }; // a nearer one by a smaller plan
  const inputs = { "observation.state": [seen], "observation.environment_state": [c * x + s * y, c * y - s * x] };
  const pause = $("slowly").checked || made === 0 ? SLOW_MS : 0;
  worker.postMessage({ id: "plan", task: "sample", settings: { seed: 7, first: PLANS * made, n: PLANS, inputs }, pause });
}

/** Return the ways of all plans, from where the dot was. */
function plansOf(values) {
  const { from, ahead: [c, s] } = asked;
  const place = (at) => [from[0] + c * values[at] - s * values[at + 1], from[1] + s * values[at] + c * values[at + 1]];
  return lines.map((_, plan) => [from, ...Array.from({ length: HORIZON }, (_, k) => place(2 * (plan * HORIZON + k)))]);
}

/** Return the plan most like the one that is followed, of those that keep off the disc where any does. */
function nearest(plans) {
  const clear = plans.filter((way) => way.every((place) => away(place, at.disc) > RADIUS));
  const like = (way) => way.reduce((sum, place) => sum + Math.min(...followed.map((old) => away(place, old))), 0);
  const all = clear.length > 0 ? clear : plans;
  return followed ? all.reduce((best, way) => (like(way) < like(best) ? way : best)) : all[0];
}

// --- what is seen ---

const pointsOf = (way) => way.map((place) => place.map((value) => value.toFixed(4)).join()).join(" ");

function show(plans) {
  plans.forEach((way, k) => lines[k].setAttribute("points", pointsOf(way)));
  $("followed").setAttribute("points", pointsOf(followed ?? []));
}

let before = performance.now();
function frame(now) {
  const step = (Math.min(now - before, 100) / 1000) * SPEED;
  before = now;
  if (followed) {
    const closest = followed.reduce((best, place, k) => (away(place, at.dot) < away(followed[best], at.dot) ? k : best), 0);
    const [x, y] = followed[Math.min(closest + 1, HORIZON)];
    const left = away(at.dot, [x, y]);
    if (left > 0) at.dot = at.dot.map((value, k) => value + (([x, y][k] - value) * Math.min(step, left)) / left);
    at.dot = off(at.dot, at.disc, RADIUS + 0.005);
  }
  if (away(at.dot, at.goal) < ARRIVED && $("onward").checked) anotherGoal();
  for (const [name, [x, y]] of Object.entries(at)) {
    $(name).setAttribute("cx", x);
    $(name).setAttribute("cy", y);
  }
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);

setInterval(() => {
  if (times.length < 2) return;
  const rate = (1000 * (times.length - 1)) / (times.at(-1) - times[0]);
  $("status").textContent = `Planned anew ${rate.toFixed(rate < 10 ? 1 : 0)} times a second.`;
  $("facts").textContent = `${(PLANS * rate).toFixed(0)} plans a second, of ${evaluations} evaluations of the network each.`;
}, NEWS_MS);

function tellProblem(line) {
  $("status").textContent = "";
  $("problem").textContent = line;
  $("problem").hidden = false;
}

keepForOffline();
