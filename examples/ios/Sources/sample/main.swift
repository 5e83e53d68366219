// Make a grid of pictures: sample unet.slice.onnx --n 16 --steps 50 --seed 7 --label 3 --guidance 2 --out grid.png
// On stdout one line of JSON; errors on stderr as one line, with the exit codes of OneCallError.Kind, and 5 for the rest.

import DDPM
import Foundation

let started = Date()
setenv("ORT_DISABLE_TELEMETRY", "1", 0)  // before ONNX Runtime starts; what the user set stays
let known = "Say unet.slice.onnx [--n 16] [--seed 0] [--first 0] [--label 3,0] [--steps 50] [--eta 0] [--times 980,960,0] "
    + "[--plan 1] [--guidance 2] [--image x.png] [--mask mask.png] [--strength 0.5] [--threads 0] [--out grid.png]."

do {
    try run(Array(CommandLine.arguments.dropFirst()))
} catch {
    let line = error.localizedDescription.split(whereSeparator: \.isNewline).joined(separator: " ")
    FileHandle.standardError.write(Data("sample: \(line)\n".utf8))
    exit(Int32((error as? OneCallError)?.kind.rawValue ?? 5))
}

func run(_ arguments: [String]) throws {
    var options: [String: String] = [:]
    var rest = arguments[...]
    while let argument = rest.popFirst() {
        let isModel = !argument.hasPrefix("--") && options["model"] == nil
        guard isModel || known.contains("[\(argument) ") else { throw usage("Unknown argument \(argument). \(known)") }
        guard let value = isModel ? argument : rest.popFirst() else { throw usage("\(argument) needs a value. \(known)") }
        options[isModel ? "model" : argument] = value
    }
    guard let path = options["model"] else { throw usage("A model must be named. \(known)") }
    func numbers<T: LosslessStringConvertible>(_ name: String, _: T.Type) throws -> [T]? {
        try options[name]?.split(separator: ",", omittingEmptySubsequences: false).map {
            guard let number = T(String($0)) else { throw usage("\(name) must be numbers such as 3, got \(options[name]!).") }
            return number
        }
    }
    func integer(_ name: String) throws -> Int64? { try numbers(name, Int64.self)?.first }

    var settings = Settings()
    settings.n = Int(try integer("--n") ?? 16)
    settings.seed = try integer("--seed") ?? 0
    settings.first = try integer("--first") ?? 0
    settings.labels = try numbers("--label", Int64.self) ?? []
    settings.steps = try integer("--steps")
    settings.eta = try numbers("--eta", Float.self)?.first
    settings.times = try numbers("--times", Int64.self)
    settings.plan = try integer("--plan")
    settings.guidance = try numbers("--guidance", Float.self)?.first
    settings.strength = try numbers("--strength", Float.self)?.first
    guard (1...1 << 20).contains(settings.n) else { throw usage("--n must be 1 to 1048576, got \(settings.n).") }
    if let image = try options["--image"].map(readPNG) {  // the same picture for all images
        let copies = (0..<settings.n).flatMap { _ in image.pixels }
        settings.image = Pictures(
            n: settings.n, height: image.height, width: image.width, channels: image.channels, pixels: copies)
    }
    settings.mask = try options["--mask"].map(readPNG)
    let model = try OneCall(path: path, threads: Int(try integer("--threads") ?? 0))
    let secondsToLoad = Date().timeIntervalSince(started)
    let pictures = try model.pictures(settings)
    let seconds = Date().timeIntervalSince(started)
    try writePNG(pictures.grid, to: options["--out"] ?? "grid.png")
    print("{\"images\": \(settings.n), \"seconds_load\": \(secondsToLoad), \"seconds\": \(seconds)}")
}

func usage(_ message: String) -> OneCallError { OneCallError(.usage, message) }
