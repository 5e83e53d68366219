// A host of one-call files over ONNX Runtime's Objective-C interface: noise, steps and guidance are in the graph.

import Foundation
import OnnxRuntimeBindings

/// Pixels of images, (n, height, width, channels) flat, one byte each.
public struct Pictures: Equatable, Sendable {
    public let n: Int
    public let height: Int
    public let width: Int
    public let channels: Int
    public let pixels: [UInt8]

    /// `pixels`: n x height x width x channels of them.
    public init(n: Int = 1, height: Int, width: Int, channels: Int = 1, pixels: [UInt8]) {
        (self.n, self.height, self.width, self.channels, self.pixels) = (n, height, width, channels, pixels)
    }

    /// All of them as one image, row by row, as near to a square as they allow; cells that are left over are black.
    public var grid: Pictures {
        let columns = Int(Double(n).squareRoot().rounded(.up))
        let rows = (n + columns - 1) / columns
        let line = width * channels
        var page = [UInt8](repeating: 0, count: rows * columns * height * line)
        for k in 0..<n * height {
            let (image, y) = k.quotientAndRemainder(dividingBy: height)
            let to = ((image / columns * height + y) * columns + image % columns) * line
            page.replaceSubrange(to..<to + line, with: pixels[k * line..<(k + 1) * line])
        }
        return Pictures(height: rows * height, width: columns * width, channels: channels, pixels: page)
    }

    /// The same as a network's numbers, (n, channels, height, width): level k is k / 127.5 - 1.
    fileprivate var numbers: [Float] {
        let area = height * width
        return pixels.indices.map { k in
            let (image, rest) = k.quotientAndRemainder(dividingBy: area * channels)
            let (channel, pixel) = rest.quotientAndRemainder(dividingBy: area)
            return Float(Double(pixels[(image * area + pixel) * channels + channel]) / 127.5 - 1)
        }
    }
}

/// What an app says of its pictures. A choice that the file has fixed has to stay nil, one that it leaves open is said.
public struct Settings: Equatable, Sendable {
    /// How many images, numbered `first` and on; an image of a seed is the same whatever is made beside it.
    public var n = 1
    public var seed: Int64 = 0
    public var first: Int64 = 0
    /// Classes by index, which images take in turn by their numbers; of files that take `y`.
    public var labels: [Int64] = []
    public var steps: Int64?
    /// Of ddim: 0 (adds no noise) to 1.
    public var eta: Float?
    /// The steps' own times, falling.
    public var times: [Int64]?
    /// The number of one of the file's plans, in the order of their names, from 1 on; 0 for none. `steps` are its rows.
    public var plan: Int64?
    /// How strongly a class is followed: 1 is the network as it is.
    public var guidance: Float?
    /// The times at which it is; nil for all.
    public var interval: ClosedRange<Float>?
    /// Of an edit: the pictures, one for each of the n images.
    public var image: Pictures?
    /// 255 where pixels are to be made, 0 where those of `image` stay, blended in between: one for all, of one channel.
    public var mask: Pictures?
    /// 0 to begin with noise, to 1: how much noise `image` is made anew from.
    public var strength: Float?

    public init() {}
}

/// What an app is refused, in words for people.
public struct OneCallError: LocalizedError, Equatable {
    /// By the exit code of a program.
    public enum Kind: Int, Sendable { case usage = 2, badFile = 3, notFinite = 6 }

    public let kind: Kind
    public let errorDescription: String?

    public init(_ kind: Kind, _ description: String) { (self.kind, errorDescription) = (kind, description) }

    /// Return the error for a run that failed: the graph's checks are nodes called by what they ask for.
    fileprivate init(run error: any Error) {
        let reason = error.localizedDescription
        let node = reason.components(separatedBy: "Name:'").dropFirst().first?.components(separatedBy: "'").first ?? ""
        if node.contains("NaN or infinity") {
            self.init(.notFinite, "\(node). Check the model with ddpm-check.")
        } else if node.contains(" must be ") {
            self.init(.usage, "\(node).")
        } else {
            self.init(.badFile, "The graph does not run: \(reason)")
        }
    }
}

/// A one-call file, opened: a sampler, a slice or an edit of `ddpm-export`. One run at a time: a second caller waits.
public final class OneCall: @unchecked Sendable {
    /// The names of the graph's inputs: those of `Settings` among them are open.
    public let inputs: Set<String>
    private let outputs: Set<String>
    private let environment: ORTEnv  // the session needs it alive
    private let session: ORTSession
    private let lock = NSLock()

    /// Open the file at `path`. `threads`: of a run, 0 for what ONNX Runtime chooses.
    public init(path: String, threads: Int = 0) throws {
        do {
            environment = try ORTEnv(loggingLevel: .fatal)
            let options = try ORTSessionOptions()
            try options.setIntraOpNumThreads(Int32(clamping: threads))
            session = try ORTSession(env: environment, modelPath: path, sessionOptions: options)
            (inputs, outputs) = (Set(try session.inputNames()), Set(try session.outputNames()))
        } catch {
            throw OneCallError(.badFile, "\(path): ONNX Runtime cannot load it: \(error.localizedDescription)")
        }
        let isWhole = outputs.contains("num_steps") == inputs.contains("begin")
        guard inputs.isSuperset(of: ["seed", "first"]), isWhole else {
            throw OneCallError(
                .badFile, "\(path) is no one-call file that this host takes. Export the model with --format sampler, "
                    + "slice or edit; a slice without --open all.")
        }
    }

    /// Make pictures. A slice shows each step to `progress`, which says whether to go on; other files show the end alone.
    ///
    /// Throws `CancellationError` where `progress` said no, and `OneCallError` for what the file or the graph refuses.
    public func pictures(
        _ settings: Settings, progress: (_ step: Int, _ of: Int, _ preview: Pictures) throws -> Bool = { _, _, _ in true }
    ) throws -> Pictures {
        lock.lock()
        defer { lock.unlock() }
        let given = try feeds(settings)
        guard inputs.contains("begin") else {
            let made = try run(given)
            let pictures = try shown(made)
            guard try progress(1, 1, pictures) else { throw CancellationError() }
            return pictures
        }
        let rows = NSNumber(value: settings.n)
        var state = [  // of step 0 only the number of rows counts
            "x": try floats([], [rows, 0, 0, 0]), "x_0_prev": try floats([], [rows, 0, 0, 0]),
            "history": try floats([], [0, rows, 0, 0, 0]),
        ]
        var step = 0
        while true {
            state["begin"] = try integers([Int64(step)], [])
            state["end"] = try integers([Int64(step + 1)], [])
            let made = try run(given.merging(state.filter { inputs.contains($0.key) }) { $1 })
            state = ["x": made["x_after"]!, "x_0_prev": made["x_0"]!]
            state["history"] = made["history_after"]
            step += 1
            let all = Int(try made["num_steps"]!.tensorData().bytes.load(as: Int64.self))
            let pictures = try shown(made)
            guard try progress(step, all, pictures) else { throw CancellationError() }
            if step >= all { return pictures }
        }
    }

    /// Return the inputs of a run, all but those that go from slice to slice.
    private func feeds(_ settings: Settings) throws -> [String: ORTValue] {
        let n = NSNumber(value: settings.n)
        var given = ["seed": try integers([settings.seed], []), "first": try integers([settings.first], [])]
        if inputs.contains("n") { given["n"] = try integers([Int64(settings.n)], []) }
        if !settings.labels.isEmpty {
            let count = Int64(settings.labels.count)
            let turn = (0..<Int64(settings.n)).map { settings.labels[Int((max(settings.first, 0) + $0) % count)] }
            given["y"] = try integers(turn, [n])
        }
        given["steps"] = try settings.steps.map { try integers([$0], []) }
        given["eta"] = try settings.eta.map { try floats([$0], []) }
        given["times"] = try settings.times.map { try integers($0, [NSNumber(value: $0.count)]) }
        given["plan"] = try settings.plan.map { try integers([$0], []) }
        given["guidance"] = try settings.guidance.map { try floats([$0], []) }
        given["strength"] = try settings.strength.map { try floats([$0], []) }
        if let interval = settings.interval {
            given["guidance_interval"] = try floats([interval.lowerBound, interval.upperBound], [2])
        }
        if let image = settings.image {
            let shape = [settings.n, image.channels, image.height, image.width].map { NSNumber(value: $0) }
            let area = image.height * image.width
            let mask = settings.mask?.pixels ?? [UInt8](repeating: 255, count: area)
            guard image.n == settings.n, mask.count == area else {
                throw OneCallError(.usage, "There must be an image for each of \(n), and a mask must have their size.")
            }
            given["image"] = try floats(image.numbers, shape)
            let each = mask.map { Float($0) / 255 }
            given["mask"] = try floats((0..<settings.n * image.channels).flatMap { _ in each }, shape)
        }
        let fixed = Set(given.keys).subtracting(inputs).sorted()
        guard fixed.isEmpty else {
            throw OneCallError(
                .usage, "\(fixed[0]) is fixed in this file. Export the model again with --open \(fixed[0]), where it has any.")
        }
        // what is open and has a value that stands for nothing
        if given["times"] == nil { given["times"] = try integers([], [0]) }
        if given["plan"] == nil { given["plan"] = try integers([0], []) }
        if given["eta"] == nil { given["eta"] = try floats([0], []) }
        if given["strength"] == nil { given["strength"] = try floats([0], []) }
        if given["guidance_interval"] == nil { given["guidance_interval"] = try floats([0, 1e9], [2]) }
        let carried: Set = ["x", "begin", "end", "history", "x_0_prev"]
        let missing = inputs.subtracting(given.keys).subtracting(carried).sorted()
        guard missing.isEmpty else { throw OneCallError(.usage, "\(missing[0]) must be set: the file leaves it open.") }
        return given.filter { inputs.contains($0.key) }
    }

    private func run(_ given: [String: ORTValue]) throws -> [String: ORTValue] {
        do {
            return try session.run(withInputs: given, outputNames: outputs, runOptions: nil)
        } catch {
            throw OneCallError(run: error)
        }
    }

    private func shown(_ made: [String: ORTValue]) throws -> Pictures {
        let images = made["images"]!
        let sizes = try images.tensorTypeAndShapeInfo().shape.map(\.intValue)
        let data = try images.tensorData()
        return Pictures(
            n: sizes[0], height: sizes[1], width: sizes[2], channels: sizes[3],
            pixels: [UInt8](UnsafeRawBufferPointer(start: data.bytes, count: data.length)))
    }

    private func integers(_ values: [Int64], _ shape: [NSNumber]) throws -> ORTValue {
        let data = NSMutableData(bytes: values, length: values.count * MemoryLayout<Int64>.stride)
        return try ORTValue(tensorData: data, elementType: .int64, shape: shape)
    }

    private func floats(_ values: [Float], _ shape: [NSNumber]) throws -> ORTValue {
        let data = NSMutableData(bytes: values, length: values.count * MemoryLayout<Float>.stride)
        return try ORTValue(tensorData: data, elementType: .float, shape: shape)
    }
}
