// What a network is told besides x_t and t, as data: one record an input.

/// An input of a network's graph, beside x_t and t.
public struct Input: Equatable, Sendable {
    /// What it holds; each but a label is float32.
    public enum Kind: String, CaseIterable, Sendable {
        /// An int64 index for each image, of a class or of none.
        case label
        /// Numbers.
        case vector
        /// An image, (C', H', W').
        case image
        /// The clean image that the evaluation before found, zeros at first.
        case previous
    }

    public let name: String
    public let kind: Kind
    /// Without the batch, empty of a label.
    public let shape: [Int]
    /// The number that fills it where nothing is said, the index of "no class" of a label; nil: has to be given.
    public let none: Double?
    /// The names of a label's values, from 0 on.
    public let classes: [String]

    /// How many numbers it has for one image.
    public var count: Int { shape.reduce(1, *) }

    /// Whether whoever samples says it; the walk feeds a previous, and guidance its own scale.
    public var isTold: Bool { kind != .previous && !isOwnGuidance }

    /// Whether it is the scale of guidance, of a network that guides itself.
    var isOwnGuidance: Bool { name == "guidance" }
}

/// What is given for an input: for all images, or one for each; of `Settings`, several that images take in turn.
public enum InputValue: Equatable, Sendable {
    /// A class's index, or that of none.
    case index(Int)
    /// A class's name, its index as text, or none.
    case name(String)
    /// Several labels.
    case each([InputValue])
    /// Numbers of the input's shape, once or one image's after the other's.
    case numbers([Float])
}

/// What a network is fed for an input, image after image.
public enum InputArray: Equatable, Sendable {
    case labels([Int64])
    case numbers([Float])
}

/// Return what a network is fed for a batch: what was given, and what stands for nothing; zeros of kind previous.
///
/// Throws `usage` for an input that is unknown, missing or does not fit.
func boundInputs(_ inputs: [Input], _ given: [String: InputValue], _ batch: Int) throws -> [String: InputArray] {
    let named = inputs.filter(\.isTold).map(\.name)
    if let unknown = given.keys.filter({ !named.contains($0) }).min() {
        let known = named.isEmpty ? "none" : named.joined(separator: ", ")
        throw DDPMError(.usage, "The model has no input \(quoted(unknown)); it has \(known).")
    }
    return try Dictionary(uniqueKeysWithValues: inputs.map { one in
        if one.kind == .previous { return (one.name, .numbers([Float](repeating: 0, count: batch * one.count))) }
        if let value = given[one.name] { return (one.name, try one.batch(of: value, batch)) }
        guard let none = one.none else {
            throw DDPMError(
                .usage, "Input \(quoted(one.name)), of kind \(one.kind) and shape \(tuple(one.shape)), must be given.")
        }
        return one.kind == .label
            ? (one.name, .labels([Int64](repeating: Int64(none), count: batch)))
            : (one.name, .numbers([Float](repeating: Float(none), count: batch * one.count)))
    })
}

extension Input {
    fileprivate func batch(of given: InputValue, _ batch: Int) throws -> InputArray {
        inTurn(try checked(given, batch), Array(0..<batch))
    }

    /// Return what images are told by their numbers: image k the (k mod K)-th of the K values given, be it one.
    ///
    /// Throws `usage` for what does not fit.
    func told(_ given: InputValue, _ numbers: [Int]) throws -> InputValue {
        switch inTurn(try checked(given, nil), numbers) {
        case .labels(let labels): .each(labels.map { .index(Int($0)) })
        case .numbers(let values): .numbers(values)
        }
    }

    private func inTurn(_ values: InputArray, _ numbers: [Int]) -> InputArray {
        switch values {
        case .labels(let labels): .labels(numbers.map { labels[$0 % labels.count] })
        case .numbers(let all):
            .numbers(numbers.flatMap { number in
                let from = number % (all.count / count) * count
                return all[from..<from + count]
            })
        }
    }

    /// Return one value, or `several` of them, nil for any number, one after the other.
    private func checked(_ given: InputValue, _ several: Int?) throws -> InputArray {
        switch (kind, given) {
        case (.label, .each(let values)):
            guard values.count == several ?? max(1, values.count) else {
                throw misshapen("int64 (\(values.count),)", several)
            }
            return .labels(try values.map(label))
        case (.label, _): return .labels([try label(given)])
        case (_, .numbers(let values)):
            let isSeveral = several.map { values.count == $0 * count }
                ?? (!values.isEmpty && values.count % count == 0)
            guard isSeveral || values.count == count else { throw misshapen("float32 (\(values.count),)", several) }
            guard values.allSatisfy(\.isFinite) else {
                throw DDPMError(.usage, "Input \(quoted(name)) must be finite in float32, got NaN, infinity or beyond.")
            }
            return .numbers(values)
        default: throw misshapen("a label", several)
        }
    }

    private func label(_ given: InputValue) throws -> Int64 {
        let got: String
        switch given {
        case .name(let text):
            if let index = classes.firstIndex(of: text) { return Int64(index) }
            if text == noClass {
                guard let none else {
                    throw DDPMError(
                        .usage, "Input \(quoted(name)) cannot be none, since the network was always told a class.")
                }
                return Int64(none)
            }
            if (1...9).contains(text.utf8.count), text.utf8.allSatisfy(isDigit), let index = Int(text),
                classes.indices.contains(index) || none == Double(index)
            {
                return Int64(index)
            }
            got = text
        case .index(let index):
            if classes.indices.contains(index) || none == Double(index) { return Int64(index) }
            got = "\(index)"
        default: got = "numbers"
        }
        let names = classes.prefix(20).joined(separator: ", ") + (classes.count > 20 ? ", ..." : "")
        throw DDPMError(
            .usage, "Input \(quoted(name)) must be one of \(names) or its index from 0 to \(classes.count - 1), got "
                + "\(quoted(got)).")
    }

    private func misshapen(_ got: String, _ several: Int?) -> DDPMError {
        let each = tuple([several ?? 0] + shape, first: several == nil ? "K" : nil)
        return DDPMError(.usage, "Input \(quoted(name)) must have shape \(tuple(shape)) or \(each), got \(got).")
    }

    /// Read an input of a file. Throws `badFile`, which says what is wrong.
    init(_ json: Json, _ state: ImageShape) throws {
        let parts = try InputParts(json)
        guard case .string(let name) = parts.name, isIdentifier(name), !["x_t", "t"].contains(name) else {
            throw noUse("an input's name must be an identifier other than x_t and t, not \(quoted(parts.name))")
        }
        let place = "input \(quoted(name))"
        guard case .string(let kindName) = parts.kind, let kind = Kind(rawValue: kindName) else {
            throw noUse("the kind of \(place) must be one of \(names(Kind.self)), not \(quoted(parts.kind))")
        }
        for (reserved, owner) in [("y", Kind.label), ("x_0_prev", .previous)] {
            guard (name == reserved) == (kind == owner) else {
                throw noUse("the name \(reserved) is kept for the kind \(owner), and the only one that it may have")
            }
        }
        let isOwn = kind == .vector && parts.shape == [.integer(1)] && parts.none.double == 1
        guard name != "guidance" || isOwn else {
            throw noUse("\(place) must be a vector of one number, whose none is 1")
        }
        var (sizes, product): ([Int], Int) = ([], 1)
        for value in parts.shape {
            guard case .integer(let size) = value, (1...maxNumbers).contains(size), product * size <= maxNumbers else {
                throw noUse(
                    "the shape of \(place) must be positive integers with a product of at most \(maxNumbers)")
            }
            sizes.append(size)
            product *= size
        }
        let dimensions = [Kind.label: 0, .vector: 1, .image: 3, .previous: 3][kind]
        guard sizes.count == dimensions,
            kind != .previous || sizes == [state.channels, state.height, state.width]
        else { throw noUse("the shape of \(place), a \(kind), does not fit it: \(sizes)") }
        let classes = parts.classes.compactMap { if case .string(let text) = $0 { text } else { nil } }
        if kind == .label {
            guard (1...maxClasses).contains(parts.classes.count), classes.count == parts.classes.count else {
                throw noUse("the classes of \(place) must be 1 to \(maxClasses) names")
            }
            guard Set(classes.map { Array($0.unicodeScalars) }).count == classes.count else {
                throw noUse("the classes of \(place) must have different names")
            }
            switch parts.none {
            case .null: break
            case .integer(let none) where (0...classes.count).contains(none): break
            default: throw noUse("none of \(place) must be null or an index from 0 to \(classes.count)")
            }
        } else if !parts.classes.isEmpty {
            throw noUse("only a label has classes, \(place) is a \(kind)")
        } else if parts.none != .null, parts.none.double == nil {
            throw noUse("none of \(place) must be null or a finite number")
        }
        (self.name, self.kind, shape, none, self.classes) = (name, kind, sizes, parts.none.double, classes)
    }
}

private let noClass = "none"  // as users call it, unless a class has that name
private let maxClasses = 4096
private let maxNumbers = 1 << 26

/// The parts of an input in a file, whose values are not looked at yet.
struct InputParts {
    let name: Json, kind: Json, none: Json, shape: [Json], classes: [Json]

    init(_ json: Json) throws {
        guard case .object(let values) = json, let name = values["name"], let kind = values["kind"],
            let sizes = values["shape"], let none = values["none"]
        else { throw noUse("an input must be an object with name, kind, shape and none") }
        guard case .array(let shape) = sizes, case .array(let classes) = values["classes", default: .array([])] else {
            throw noUse("shape and classes of an input must be lists")
        }
        (self.name, self.kind, self.none, self.shape, self.classes) = (name, kind, none, shape, classes)
    }
}

private func isIdentifier(_ text: String) -> Bool {  // in ASCII
    let isSound = text.utf8.allSatisfy {
        $0 == UInt8(ascii: "_") || $0 < 0x80 && (Character(Unicode.Scalar($0)).isLetter || isDigit($0))
    }
    return isSound && !(text.utf8.first.map(isDigit) ?? true)
}

private func isDigit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }

private func tuple(_ shape: [Int], first: String? = nil) -> String {
    let sizes = shape.enumerated().map { k, size in k == 0 ? first ?? "\(size)" : "\(size)" }
    return "(" + sizes.joined(separator: ", ") + (shape.count == 1 ? ",)" : ")")
}
