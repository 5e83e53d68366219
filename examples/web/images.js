/** Pictures laid out for a screen or a file. Knows no model. */

import { UsageError } from "./ddpm.js";

/**
 * Return a page { width, height, channels, data } of images [n, H, W, C] uint8, row by row, as near to a square as they
 * allow; cells left over are black. shape is [C, H, W]; throws UsageError where C is neither 1 (grey) nor 3 (RGB).
 */
export function grid(images, [channels, height, width]) {
  if (channels !== 1 && channels !== 3) {
    throw new UsageError(`Pictures must have 1 or 3 channels to be shown, got ${channels}.`);
  }
  const row = width * channels;
  const count = images.length / (height * row);
  const columns = Math.ceil(Math.sqrt(count));
  const rows = Math.ceil(count / columns);
  const data = new Uint8Array(rows * columns * height * row);
  for (let image = 0; image < count; image++) {
    const corner = (Math.floor(image / columns) * height * columns + (image % columns)) * row;
    for (let y = 0; y < height; y++) {
      const from = (image * height + y) * row;
      data.set(images.subarray(from, from + row), corner + y * columns * row);
    }
  }
  return { width: columns * width, height: rows * height, channels, data };
}

/** Return the page's pixels for a canvas, [H, W, 4] opaque. */
export function rgba({ width, height, channels, data }) {
  const pixels = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let k = 0; k < width * height; k++) {
    for (let c = 0; c < 3; c++) pixels[4 * k + c] = data[channels * k + (c % channels)];
  }
  return pixels;
}

/**
 * Return the pixels [H, W, channels] of a page of 1 (grey), 2 (and opacity), 3 (RGB) or 4 (RGBA) channels, channels 1 or
 * 3: transparency is laid over white, and grey is ITU-R 601's, as in Python.
 */
export function flattened({ width, height, channels: given, data }, channels) {
  const pixels = new Uint8Array(width * height * channels);
  for (let k = 0; k < width * height; k++) {
    const opacity = given % 2 === 0 ? data[(k + 1) * given - 1] / 255 : 1;
    const [red, green, blue] = [0, 1, 2].map((c) => {
      const level = data[k * given + (given > 2 ? c : 0)];
      return Math.round(255 + (level - 255) * opacity);
    });
    if (channels === 3) pixels.set([red, green, blue], 3 * k);
    else pixels[k] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
  }
  return pixels;
}

/** Return a file of NumPy, format version 1.0, of the bytes of little-endian float32 numbers of a shape. */
export function npy(bytes, shape) {
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join()},)}`;
  const length = Math.ceil((10 + header.length + 1) / 64) * 64 - 10; // the numbers begin at a multiple of 64
  const start = [0x93, ...Buffer.from("NUMPY"), 1, 0, length % 256, length >> 8];
  return Buffer.concat([Buffer.from(start), Buffer.from(`${header.padEnd(length - 1)}\n`), bytes]);
}
