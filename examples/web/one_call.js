// The sampler is in the file: node one_call.js unet.sampler.onnx 16 7 3 images.bin (n, seed, class).
import { writeFile } from "node:fs/promises";

process.env.ORT_DISABLE_TELEMETRY ??= "1";
const ort = await import("onnxruntime-node");
const [model, n, seed, label, out] = process.argv.slice(2);
const session = await ort.InferenceSession.create(model); // ddpm-export exported/unet.onnx --format sampler
const int64 = (values, shape = []) => new ort.Tensor("int64", values.map(BigInt), shape);
const given = { seed: int64([seed]), first: int64([0]), n: int64([n]) };
given.y = int64(Array(Number(n)).fill(label), [Number(n)]); // the class of each image, if the model has classes
const { images, values } = await session.run(given);
await writeFile(out, (images ?? values).data); // uint8 [n, H, W, C]; float32 [n, ...shape] if not an image
