// Pages of pictures.
import assert from "node:assert/strict";
import { test } from "node:test";

import { UsageError } from "../ddpm.js";
import { grid, rgba } from "../images.js";

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
