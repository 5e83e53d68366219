// Make a grid of pictures: sample unet.onnx --n 16 --steps 50 --sampler ddim --eta 0 --seed 7 --first 0 --out grid.png
// On stdout one line of JSON; errors on stderr as one line, with the exit codes of DDPMError.Kind.

import DDPM
import DDPMOnnxRuntime
import Foundation

let started = Date()
let batch = 16

do {
    try run(Array(CommandLine.arguments.dropFirst()))
} catch {
    let line = error.localizedDescription.split(whereSeparator: \.isNewline).joined(separator: " ")
    FileHandle.standardError.write(Data("sample: \(line)\n".utf8))
    exit((error as? DDPMError)?.kind.rawValue ?? 1)
}

func run(_ arguments: [String]) throws {
    let options = try Options(arguments)
    let folder = URL(fileURLWithPath: options.out).deletingLastPathComponent().path
    guard FileManager.default.isWritableFile(atPath: folder) else {  // before the work, not after it
        throw DDPMError(
            .environment, "\(options.out): cannot be written. got \(shown(folder)), expected a writable folder. "
                + "Do choose another --out.")
    }
    let opening = Date()
    let network = try OnnxNetwork(path: options.model, threads: options.threads)
    let secondsToLoad = Date().timeIntervalSince(opening)
    let spec = network.spec
    guard [1, 3].contains(spec.imageShape.channels) else {
        throw DDPMError(
            .usage, "images: cannot be shown. got \(spec.imageShape.channels) channels, expected 1 or 3. "
                + "Do write a program that keeps the numbers.")
    }
    let sampler = try Sampler(options.sampler ?? spec.defaults.sampler, eta: options.eta, of: spec)

    var pixels: [UInt8] = []
    for start in stride(from: 0, to: options.n, by: batch) {
        let n = min(batch, options.n - start)
        let x = try sample(
            network, spec, seed: options.seed, first: options.first + start, n: n, numSteps: options.steps,
            sampler: sampler)
        pixels += try toUint8(x, spec.imageShape)
    }
    let seconds = Date().timeIntervalSince(started)
    try writePNG(grid(pixels, spec.imageShape), to: options.out)
    print("{\"images\": \(options.n), \"seconds_load\": \(secondsToLoad), \"seconds\": \(seconds)}")
}

struct Options {
    var model = ""
    var n = 16
    var steps: Int?
    var sampler: String?
    var eta: Double?
    var seed: Int64 = 0
    var first = 0
    var threads = 0
    var out = "grid.png"

    init(_ arguments: [String]) throws {
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            guard argument.hasPrefix("--") else {
                guard model.isEmpty else { throw usage("argument", argument, "one model") }
                model = argument
                continue
            }
            guard let value = rest.popFirst() else { throw usage(argument, "nothing", "a value") }
            switch argument {
            case "--n": n = try number(argument, value, 1...1 << 20)
            case "--steps": steps = try number(argument, value, 1...Int.max)
            case "--sampler": sampler = value
            case "--eta":
                guard let number = Double(value), (0...1).contains(number) else {
                    throw usage(argument, value, "a number from 0 to 1")
                }
                eta = number
            case "--seed": seed = Int64(try number(argument, value, 0...Int.max))
            case "--first": first = try number(argument, value, 0...1 << 32 - 1)
            case "--threads": threads = try number(argument, value, 0...1024)
            case "--out": out = value
            default:
                throw usage(
                    "argument", argument, "--n, --steps, --sampler, --eta, --seed, --first, --threads or --out")
            }
        }
        guard !model.isEmpty else { throw usage("argument", "no model", "unet.onnx [--n 16] [--steps 50] ...") }
    }
}

func number(_ option: String, _ value: String, _ range: ClosedRange<Int>) throws -> Int {
    guard let number = Int(value), range.contains(number) else {
        throw usage(option, value, "a whole number from \(range.lowerBound) to \(range.upperBound)")
    }
    return number
}

func usage(_ place: String, _ got: String, _ expected: String) -> DDPMError {
    DDPMError(.usage, "\(place): not understood. got \(shown(got)), expected \(expected). Do correct it.")
}
