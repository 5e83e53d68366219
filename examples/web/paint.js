/** A picture with paint over it, on a canvas: what is painted is to be made anew. By mouse, pen or finger. Knows no model. */

import { rgba } from "./images.js";

const PAINT = [224, 64, 160]; // seen on black, grey and white, and in no grey picture
const COVER = 0.7;

/**
 * Return the canvas's painting, which is empty until a page { width, height, channels, data } is shown on it.
 * radius: () -> of the brush, in pixels of the picture. changed is called whenever paint is put on or taken off.
 */
export function painting(canvas, radius, changed = () => {}) {
  let page = null;
  let mask = new Uint8Array();
  let last = null; // where the pointer was, while it is down

  function draw() {
    const pixels = rgba(page);
    mask.forEach((level, k) => {
      for (let c = 0; level && c < 3; c++) pixels[4 * k + c] += COVER * (PAINT[c] - pixels[4 * k + c]);
    });
    Object.assign(canvas, { width: page.width, height: page.height });
    canvas.getContext("2d").putImageData(new ImageData(pixels, page.width, page.height), 0, 0);
    changed();
  }

  /** Paint where a pixel's middle satisfies (x, y) => boolean. */
  function cover(isIn) {
    for (let k = 0; k < mask.length; k++) {
      if (isIn((k % page.width) + 0.5, Math.floor(k / page.width) + 0.5)) mask[k] = 255;
    }
    draw();
  }

  function placeOf({ clientX, clientY }) {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    return [((clientX - left) / width) * page.width, ((clientY - top) / height) * page.height];
  }

  function stroke(event) {
    const [x1, y1] = placeOf(event);
    const [x0, y0] = last === null ? [x1, y1] : last;
    const length2 = (x1 - x0) ** 2 + (y1 - y0) ** 2;
    last = [x1, y1];
    cover((x, y) => {
      const along = length2 && Math.min(Math.max(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length2, 0), 1);
      return Math.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)) <= radius();
    });
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (page === null || event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    last = null;
    stroke(event);
  });
  canvas.addEventListener("pointermove", (event) => last !== null && stroke(event));
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));

  return {
    cover,
    /** The page below the paint; null before there is one. */
    page: () => page,
    /** uint8 [H, W]: 255 where there is paint. */
    mask: () => mask.slice(),
    /** Show a page without paint on it. */
    show(next) {
      page = next;
      mask = new Uint8Array(page.width * page.height);
      draw();
    },
  };
}

/** Return the pixels { width, height, channels: 4, data } of an image file's largest part in the middle of that shape. */
export async function pictureFromFile(file, width, height) {
  const image = await createImageBitmap(file);
  const scale = Math.max(width / image.width, height / image.height);
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.imageSmoothingEnabled = scale !== 1;
  const [wide, high] = [image.width * scale, image.height * scale];
  context.drawImage(image, (width - wide) / 2, (height - high) / 2, wide, high);
  return { width, height, channels: 4, data: context.getImageData(0, 0, width, height).data };
}
