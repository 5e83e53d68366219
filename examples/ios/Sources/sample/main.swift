// Make a grid of pictures: sample unet.onnx --n 16 --steps 50 --sampler ddim --eta 0 --seed 7 --first 0 --out grid.png
// On stdout one line of JSON; errors on stderr as one line, with the exit codes of DDPMError.Kind.

import DDPM
import DDPMOnnxRuntime
import Foundation

let started = Date()
setenv("ORT_DISABLE_TELEMETRY", "1", 0)  // before ONNX Runtime starts; what the user set stays
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
        throw DDPMError(.environment, "\(options.out) cannot be written. Choose another --out.")
    }
    let opening = Date()
    let model = try OnnxModel(path: options.model, threads: options.threads)
    let secondsToLoad = Date().timeIntervalSince(opening)
    let spec = model.spec
    let shape = spec.pictureShape
    guard [1, 3].contains(shape.channels) else {
        throw DDPMError(
            .usage, "The model's pictures must have 1 or 3 channels to be shown, got \(shape.channels).")
    }
    guard options.n <= 1 << 32 - options.settings.first else {
        throw DDPMError(.usage, "--first must be at most 2^32 - n, got \(options.settings.first).")
    }

    var given = options.given
    given.mask = try options.mask.map { try readPNG($0, channels: 1, shape) }
    let picture = try options.image.map { try readPNG($0, channels: shape.channels, shape) }
    var pixels: [UInt8] = []
    for start in stride(from: 0, to: options.n, by: batch) {
        var settings = options.settings
        settings.n = min(batch, options.n - start)
        settings.first += start
        let images = try picture.map { try edit(model, spec, $0, settings, given: given) }
            ?? sample(model, spec, settings)
        pixels += try toUint8(images, shape)
    }
    let seconds = Date().timeIntervalSince(started)
    try writePNG(grid(pixels, shape), to: options.out)
    print("{\"images\": \(options.n), \"seconds_load\": \(secondsToLoad), \"seconds\": \(seconds)}")
}

struct Options {
    private static let known = "Say unet.onnx [--n 16] [--steps 50] [--times 980,960,0] [--sampler ddim] [--eta 0] "
        + "[--plan NAME] [--seed 0] [--first 0] [--label NAME,...] [--guidance 2] [--image x.png] [--mask mask.png] "
        + "[--measure average:4] [--strength 0.5] [--returns 0] [--jump 1] [--threads 0] [--out grid.png]."

    var model = ""
    var n = 16
    var settings = Settings()
    var image: String?
    var mask: String?
    var given = Given()
    var threads = 0
    var out = "grid.png"

    init(_ arguments: [String]) throws {
        var rest = arguments[...]
        var needsImage: String?
        while let argument = rest.popFirst() {
            guard argument.hasPrefix("--") else {
                guard model.isEmpty else { throw usage("Unknown argument \(shown(argument)). \(Self.known)") }
                model = argument
                continue
            }
            guard let value = rest.popFirst() else { throw usage("\(argument) needs a value. \(Self.known)") }
            if ["--mask", "--measure", "--strength", "--returns", "--jump"].contains(argument) { needsImage = argument }
            switch argument {
            case "--n": n = try number(argument, value, 1...1 << 20)
            case "--steps": settings.numSteps = try number(argument, value, 1...Int.max)
            case "--times":
                settings.times = try value.split(separator: ",", omittingEmptySubsequences: false).map {
                    guard let t = Int($0) else {
                        throw usage(
                            "--times must be integers with commas between them, such as 980,960,0, got "
                                + "\(shown(value)).")
                    }
                    return t
                }
            case "--sampler": settings.sampler = value
            case "--eta":
                guard let number = Double(value) else { throw usage("--eta must be a number, got \(shown(value)).") }
                settings.eta = number
            case "--plan": settings.plan = value
            case "--seed": settings.seed = Int64(try number(argument, value, 0...Int.max))
            case "--first": settings.first = try number(argument, value, 0...1 << 32 - 1)
            case "--label":
                settings.label = .each(
                    value.split(separator: ",", omittingEmptySubsequences: false).map { .name(String($0)) })
            case "--guidance":
                guard let scale = Double(value) else {
                    throw usage("--guidance must be a number, got \(shown(value)).")
                }
                settings.guidance = Guidance(scale: scale)
            case "--image": image = value
            case "--mask": mask = value
            case "--measure": given.measure = value
            case "--strength":
                guard let number = Double(value) else {
                    throw usage("--strength must be a number, got \(shown(value)).")
                }
                given.strength = number
            case "--returns": given.returns = try number(argument, value, 0...10_000)
            case "--jump": given.jump = try number(argument, value, 1...10_000)
            case "--threads": threads = try number(argument, value, 0...1024)
            case "--out": out = value
            default: throw usage("Unknown argument \(shown(argument)). \(Self.known)")
            }
        }
        guard !model.isEmpty else { throw usage("A model must be named. \(Self.known)") }
        if let needsImage, image == nil { throw usage("\(needsImage) needs an --image.") }
    }
}

func number(_ option: String, _ value: String, _ range: ClosedRange<Int>) throws -> Int {
    guard let number = Int(value), range.contains(number) else {
        throw usage(
            "\(option) must be an integer from \(range.lowerBound) to \(range.upperBound), got \(shown(value)).")
    }
    return number
}

func usage(_ message: String) -> DDPMError { DDPMError(.usage, message) }
