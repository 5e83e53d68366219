// The numbers that travel inside a model file, and how they are read. Opens no file; knows no runtime.
// A reader never guesses: what is missing, unknown or out of range is refused.

import Foundation

/// The size of one image: C, H, W.
public struct ImageShape: Equatable, Sendable {
    public let channels: Int
    public let height: Int
    public let width: Int

    /// Throws `badFile` for sizes that are not positive, or numbers too many for one image.
    public init(_ sizes: [Int]) throws {
        let largest = 1 << 26  // numbers in one image: a header alone must not fill the memory
        guard sizes.count == 3, sizes.allSatisfy({ (1...largest).contains($0) }),
            sizes[0] * sizes[1] <= largest, sizes[0] * sizes[1] * sizes[2] <= largest
        else {
            throw unusable(
                "image_shape", sizes, "three positive integers [C, H, W] with a product of at most \(largest)")
        }
        (channels, height, width) = (sizes[0], sizes[1], sizes[2])
    }

    /// C x H x W.
    public var count: Int { channels * height * width }
}

/// What a network predicts of a noisy image; its first output bears that name.
public enum Prediction: String, CaseIterable, Sendable {
    case eps, x_0, v
}

/// The variance of the ddpm sampler's noise.
public enum Variance: String, CaseIterable, Sendable {
    /// The posterior's (Ho et al. 2020, eq. 7).
    case fixedSmall = "fixed_small"
    /// Beta's, sigma_t^2 = beta_t (Ho et al. 2020, section 3.2).
    case fixedLarge = "fixed_large"
    /// Where the network says between those two (Nichol and Dhariwal 2021, eq. 15).
    case learned
}

/// All that sampling needs to know of a network; `specFromJson` and `specFromOnnx` give a valid one.
public struct ModelSpec: Equatable, Sendable {
    /// The sampler a model is used with when the user says nothing.
    public struct Defaults: Equatable, Sendable {
        public let sampler: String
        public let numSteps: Int
        public let eta: Double
        /// In place of numSteps evenly spaced ones.
        public let times: [Int]?
        /// The name of one of the plans, in place of all else.
        public let plan: String?
        /// Of a network that takes any, nil for a scale of 1.
        public let guidance: Guidance?
    }

    public let name: String
    public let prediction: Prediction
    public let imageShape: ImageShape
    /// T numbers, strictly falling within (0, 1); the last may be 0 unless the prediction is eps.
    public let alphasCumprod: [Double]
    /// The bound on |x_0|, or nil.
    public let clip_x_0: Double?
    public let variance: Variance
    public let defaults: Defaults
    public let requires: Set<String>
    /// nil for a denoiser, else which graph around one the file holds: sampler or slice, which need no sampler here.
    public let graph: String?
    /// What the network is told besides x_t and t.
    public let inputs: [Input]
    /// Solvers as tables of numbers, by name.
    public let plans: [String: Plan]

    /// The size of what is sampled.
    public var stateShape: ImageShape { imageShape }

    /// The size of the pictures; that of the state for models that work on pixels.
    public var pictureShape: ImageShape { imageShape }

    /// T.
    public var numTrainTimesteps: Int { alphasCumprod.count }

    /// The names of the network's outputs, in order.
    public var outputs: [String] { [prediction.rawValue] + (hasVarianceFraction ? [varianceFractionName] : []) }

    /// Whether the network learned its variances, and says so in a second output.
    public var hasVarianceFraction: Bool { requires.contains(varianceFractionName) }

    /// The input that says which class is wanted; nil where the network is told none.
    public var label: Input? { inputs.first { $0.kind == .label } }

    /// Whether its predictions can be guided: it knows "no class", or takes guidance in its graph.
    public var takesGuidance: Bool {
        // a graph combines only where it says so
        (guidesItself || label?.none != nil) && (graph == nil || requires.contains("guidance"))
    }

    /// Whether the scale of guidance is an input of the network, which then combines by itself.
    var guidesItself: Bool { inputs.contains { $0.isOwnGuidance } }

    /// Whether the graph's t is float32, not int64.
    public var hasFractionalT: Bool { requires.contains("fractional_t") }
}

private let format = "ddpm-export/1"
private let metadataKey = "ddpm_export"
let varianceFractionName = "variance_fraction"
// the entries of `requires` that this reader can honour
private let understood: Set = [varianceFractionName, "fractional_t", "guidance", "inputs", "plan", "raw_eps", "times"]
private let keys = [
    "name", "prediction", "image_shape", "alphas_cumprod", "clip_x_0", "variance", "value_range", "defaults", "noise",
    "requires",
]
private let graphs = ["sampler", "slice", "edit"]
private let maxJsonBytes = 256 * 1024

/// Read and validate a spec, the JSON of section 1 of the format; unknown keys are ignored.
///
/// Throws `badFile` where the text is no valid spec, `refused` where a newer reader is needed.
public func specFromJson(_ text: Data) throws -> ModelSpec {
    guard text.count <= maxJsonBytes else {
        throw DDPMError(
            .badFile, "The model's spec must have at most \(maxJsonBytes) bytes, got \(text.count).")
    }
    return try spec(Values("", Json(text)))
}

/// Read the spec out of the bytes of an `.onnx` file, for runtimes that do not show a model's metadata.
///
/// Walks the top-level fields of the protobuf: field 14, `metadata_props`, holds entries of a key (1) and a value (2);
/// all else, the graph among it, is stepped over. Map the file (`.mappedIfSafe`) and little of it is read.
/// Throws `badFile` for what is no such file, and what `specFromJson` throws.
public func specFromOnnx(_ model: Data) throws -> ModelSpec {
    let found = try model.withUnsafeBytes { bytes in
        var values: [Data] = []
        for entry in try fields(of: Bytes(base: bytes, bounds: bytes.indices)) where entry.number == 14 {
            let parts = try fields(of: entry.bytes)
            guard let key = parts.last(where: { $0.number == 1 }), key.bytes.elementsEqual(metadataKey.utf8) else {
                continue
            }
            values.append(parts.last { $0.number == 2 }.map { Data($0.bytes) } ?? Data())
        }
        return values
    }
    guard found.count == 1 else {
        throw DDPMError(
            .badFile, "The model must have one entry '\(metadataKey)' in its metadata, got \(found.count). "
                + "Export the checkpoint with ddpm-export.")
    }
    return try specFromJson(found[0])
}

// MARK: - JSON

/// The values of a JSON object, each as the type it must have.
private struct Values {
    let place: String
    let values: [String: Json]

    init(_ place: String, _ json: Json) throws {
        guard case .object(let values) = json else {
            throw place.isEmpty
                ? DDPMError(.badFile, "The model's spec must be a JSON object, got \(shown(json)).")
                : unusable(place, json, "an object")
        }
        (self.place, self.values) = (place, values)
    }

    func path(_ key: String) -> String { place.isEmpty ? key : "\(place).\(key)" }

    func value(_ key: String) throws -> Json {
        guard let value = values[key] else {
            throw DDPMError(.badFile, "The model's spec must have \(path(key)), which it lacks.")
        }
        return value
    }

    func object(_ key: String) throws -> Values { try Values(path(key), try value(key)) }

    func string(_ key: String) throws -> String {
        guard case .string(let string) = try value(key) else { throw unusable(path(key), try value(key), "a string") }
        return string
    }

    func integer(_ key: String) throws -> Int {
        guard case .integer(let integer) = try value(key) else {
            throw unusable(path(key), try value(key), "a whole number")
        }
        return integer
    }

    func number(_ key: String) throws -> Double {
        guard let number = try value(key).double else { throw unusable(path(key), try value(key), "a number") }
        return number
    }

    func optionalNumber(_ key: String) throws -> Double? { try value(key) == .null ? nil : number(key) }

    func list<Element>(_ key: String, _ what: String, _ element: (Json) -> Element?) throws -> [Element] {
        guard case .array(let list) = try value(key), case let elements = list.compactMap(element),
            elements.count == list.count
        else { throw unusable(path(key), try value(key), "a list of \(what)") }
        return elements
    }
}

private func spec(_ json: Values) throws -> ModelSpec {
    let version = try json.string("format")
    let parts = version.split(separator: "/", omittingEmptySubsequences: false)
    guard parts.count >= 2, parts[0] == "ddpm-export" else { throw unusable("format", version, shown(format)) }
    guard parts[1].prefix(while: { $0 != "." }) == "1" else {
        throw tooNew("the format", version, format)
    }
    for key in keys { _ = try json.value(key) }
    for key in ["image_shape", "alphas_cumprod", "value_range"] {
        _ = try json.list(key, "numbers") { $0.isScalar ? $0 : nil }
    }
    let requires = Set(try json.list("requires", "names") {
        if case .string(let name) = $0 { return name } else { return nil }
    })
    // before what a newer one may have changed is read
    if let unknown = requires.subtracting(understood).min() {
        throw tooNew("a reader of", unknown, understood.sorted().joined(separator: ", "))
    }
    let defaults = try json.object("defaults")
    for key in ["sampler", "num_steps", "eta"] { _ = try defaults.value(key) }
    let times = defaults.values["times", default: .null]
    if case .array = times {} else if times != .null { throw unusable("defaults.times", times, "a list") }
    let guidance = try defaults.values["guidance"].flatMap { $0 == .null ? nil : try Guidance($0) }
    let inputParts = json.values["inputs"] == nil ? [] : try json.list("inputs", "inputs") { $0 }
    for parts in inputParts { _ = try InputParts(parts) }
    let T = try json.list("alphas_cumprod", "numbers") { $0 }.count
    let planValues = json.values["plans"] == nil ? [:] : try json.object("plans").values
    let plans = try Dictionary(uniqueKeysWithValues: planValues.map { name, plan in
        (name, try Plan(name, plan, numTrainTimesteps: T, fractional: requires.contains("fractional_t")))
    })
    let graph: String?
    switch json.values["graph", default: .null] {
    case .null: graph = nil
    case .string(let name) where graphs.contains(name): graph = name
    case let other:
        throw tooNew("the graph", other, "a denoiser, sampler, slice and edit")
    }
    let name = try json.string("name")
    guard name.unicodeScalars.count <= 200 else { throw unusable("name", name, "a short string") }
    guard let prediction = Prediction(rawValue: try json.string("prediction")) else {
        throw unusable("prediction", try json.string("prediction"), "one of \(names(Prediction.self))")
    }
    guard let variance = Variance(rawValue: try json.string("variance")) else {
        throw unusable("variance", try json.string("variance"), "one of \(names(Variance.self))")
    }
    guard variance != .learned || requires.contains(varianceFractionName) else {
        throw unusable("variance", variance.rawValue, "fixed unless requires has \(varianceFractionName)")
    }
    guard case .string(noiseTag) = try json.value("noise") else {
        throw tooNew("the noise", try json.value("noise"), noiseTag)
    }
    let shape = try ImageShape(json.list("image_shape", "whole numbers") {
        if case .integer(let size) = $0 { return size } else { return nil }
    })
    let range = try json.list("value_range", "numbers", \.double)
    guard range == [-1, 1] else { throw unusable("value_range", range, "[-1, 1]") }
    let clip_x_0 = try json.optionalNumber("clip_x_0")
    if let clip_x_0, clip_x_0 <= 0 { throw unusable("clip_x_0", clip_x_0, "a positive number or null") }

    let a = try json.list("alphas_cumprod", "numbers", \.double)
    guard let first = a.first, let last = a.last, first < 1, zip(a, a.dropFirst()).allSatisfy({ $0 > $1 }) else {
        throw unusable("alphas_cumprod", a, "numbers that strictly fall within (0, 1)")
    }
    guard last > 0 || (last == 0 && prediction != .eps) else {
        throw unusable("alphas_cumprod", last, "a last value above 0 (0 itself only with x_0 or v)")
    }

    // for tools and for people: not kept here, but a file that has them wrong is wrong
    if json.values["golden", default: .null] != .null { _ = try json.object("golden") }
    if json.values["source"] != nil { _ = try json.object("source") }

    let numSteps = try defaults.integer("num_steps")
    guard (1...a.count).contains(numSteps) else {
        throw unusable("defaults.num_steps", numSteps, "1 to \(a.count)")
    }
    let eta = try defaults.number("eta")
    guard (0...1).contains(eta) else { throw unusable("defaults.eta", eta, "a number from 0 to 1") }
    let given = try times == .null ? nil : defaults.list("times", "integers") {
        if case .integer(let t) = $0 { return t } else { return nil }
    }
    if let given {
        guard let first = given.first, let last = given.last, first < a.count, last >= 0,
            zip(given, given.dropFirst()).allSatisfy({ $0 > $1 })
        else { throw unusable("defaults.times", given, "strictly falling integers from \(a.count - 1) to 0") }
    }
    let planName: String?
    switch defaults.values["plan", default: .null] {
    case .null: planName = nil
    case .string(let name) where plans[name] != nil: planName = name
    case let other:
        throw DDPMError(.badFile, "The model's default plan, \(quoted(other)), is not among its plans.")
    }
    let inputs = try inputParts.map { try Input($0, shape) }
    guard Set(inputs.map(\.name)).count == inputs.count, inputs.isEmpty != requires.contains("inputs") else {
        throw DDPMError(
            .badFile,
            "In the model's spec, inputs must have different names, and requires must name inputs if there are any.")
    }
    for (name, plan) in plans {
        guard !plan.needsLearnedVariance || requires.contains(varianceFractionName) else {
            throw DDPMError(
                .badFile, "Plan \(name) needs a learned variance, which the network does not have.")
        }
        guard !plan.rawEps || requires.contains("raw_eps") else {
            throw DDPMError(
                .badFile,
                "Plan \(name) has raw_eps, so that requires must name it, got \(shown(requires.sorted())).")
        }
        guard prediction != .eps || plan.rows.allSatisfy({ $0.a > 0 }) else {
            throw DDPMError(.badFile, "Plan \(name) must keep a above 0, since the network predicts eps.")
        }
    }
    for (name, isNeeded) in [("times", given != nil), ("plan", planName != nil), ("guidance", guidance != nil)] {
        guard !isNeeded || requires.contains(name) else {
            throw DDPMError(
                .badFile, "In the model's spec, requires must name '\(name)', got \(shown(requires.sorted())).")
        }
    }
    let spec = ModelSpec(
        name: name, prediction: prediction, imageShape: shape, alphasCumprod: a, clip_x_0: clip_x_0, variance: variance,
        defaults: .init(
            sampler: try defaults.string("sampler"), numSteps: numSteps, eta: eta, times: given, plan: planName,
            guidance: guidance),
        requires: requires, graph: graph, inputs: inputs, plans: plans)
    guard guidance == nil || spec.takesGuidance else {
        throw DDPMError(
            .badFile, "In the model's spec, defaults.guidance needs a label that may be none, and has none.")
    }
    return spec
}

private func tooNew(_ what: String, _ got: some Any, _ known: String) -> DDPMError {
    DDPMError(
        .refused, "The model needs \(what) \(quoted(got)), and this version knows \(known). Install a newer one.")
}

/// Return the raw values of an enumeration, for an error's "expected one of".
func names<Names: CaseIterable & RawRepresentable<String>>(_: Names.Type) -> String {
    Names.allCases.map(\.rawValue).joined(separator: ", ")
}

private func unusable(_ place: String, _ got: some Any, _ expected: String) -> DDPMError {
    DDPMError(.badFile, "In the model's spec, \(place) must be \(expected), got \(shown(got)).")
}

// MARK: - Protobuf

private typealias Bytes = Slice<UnsafeRawBufferPointer>

/// One field of a message: its number, and its bytes where it is length-delimited (none otherwise).
private struct Field {
    let number: UInt64
    let bytes: Bytes
}

private func fields(of message: Bytes) throws -> [Field] {
    var rest = message
    var found: [Field] = []
    while !rest.isEmpty {
        let tag = try varint(&rest)
        switch tag & 7 {
        case 0:
            _ = try varint(&rest)
            found.append(Field(number: tag >> 3, bytes: rest.prefix(0)))
        case 1: found.append(Field(number: tag >> 3, bytes: try take(8, &rest).prefix(0)))
        case 2: found.append(Field(number: tag >> 3, bytes: try take(try varint(&rest), &rest)))
        case 5: found.append(Field(number: tag >> 3, bytes: try take(4, &rest).prefix(0)))
        case let wireType: throw notOnnx("a field of wire type \(wireType)")
        }
    }
    return found
}

private func varint(_ rest: inout Bytes) throws -> UInt64 {
    var value: UInt64 = 0
    for shift in stride(from: UInt64(0), to: 64, by: 7) {
        guard let byte = rest.popFirst() else { throw notOnnx("its end within a number") }
        value |= UInt64(byte & 0x7F) << shift
        if byte < 0x80 { return value }
    }
    throw notOnnx("a number of more than 64 bits")
}

private func take(_ count: UInt64, _ rest: inout Bytes) throws -> Bytes {
    guard count <= rest.count else { throw notOnnx("its end within a field") }
    defer { rest = rest.dropFirst(Int(count)) }
    return rest.prefix(Int(count))
}

private func notOnnx(_ got: String) -> DDPMError {
    DDPMError(.badFile, "The model is no ONNX file, got \(got). Copy it again.")
}
