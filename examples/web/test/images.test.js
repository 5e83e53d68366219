// Pages of pictures.
import assert from "node:assert/strict";
import { test } from "node:test";

import { UsageError } from "../ddpm.js";
import { flattened, grid, rgba } from "../images.js";

test("three grey pictures of 1 x 2 make two rows, and the last cell is black", () => {
  const page = grid(Uint8Array.of(1, 2, 3, 4, 5, 6), [1, 1, 2]);
  assert.deepEqual(
    { ...page, data: [...page.data] },
    { width: 4, height: 2, channels: 1, data: [1, 2, 3, 4, 5, 6, 0, 0] },
  );
});

test("rows of a picture stay apart from its neighbour's", () => {
  const page = grid(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8), [1, 2, 2]);
  assert.deepEqual([...page.data], [1, 2, 5, 6, 3, 4, 7, 8]);
});

test("as many columns as the root of the count, rounded up", () => {
  for (const [count, columns, rows] of [
    [1, 1, 1],
    [2, 2, 1],
    [4, 2, 2],
    [5, 3, 2],
    [7, 3, 3],
    [16, 4, 4],
  ]) {
    const { width, height } = grid(new Uint8Array(count), [1, 1, 1]);
    assert.deepEqual([width, height], [columns, rows]);
  }
});

test("a canvas gets colours as they are and grey three times, opaque", () => {
  assert.deepEqual([...rgba(grid(Uint8Array.of(7), [1, 1, 1]))], [7, 7, 7, 255]);
  assert.deepEqual([...rgba(grid(Uint8Array.of(1, 2, 3, 4, 5, 6), [3, 1, 2]))], [1, 2, 3, 255, 4, 5, 6, 255]);
});

test("other numbers of channels are refused", () => {
  assert.throws(() => grid(new Uint8Array(8), [4, 1, 2]), UsageError);
});

test("pictures get the model's channels: transparency over white, grey as the eye weighs colours", () => {
  const of = (channels, data, wanted) => [...flattened({ width: 1, height: 1, channels, data }, wanted)];
  assert.deepEqual(of(1, [9], 1), [9]);
  assert.deepEqual(of(1, [9], 3), [9, 9, 9]);
  assert.deepEqual(of(2, [0, 51], 1), [204]);
  assert.deepEqual(of(3, [255, 128, 0], 1), [151]); // as Pillow's convert("L")
  assert.deepEqual(of(4, [1, 2, 3, 255], 3), [1, 2, 3]);
  assert.deepEqual(of(4, [1, 2, 3, 0], 3), [255, 255, 255]);
});
