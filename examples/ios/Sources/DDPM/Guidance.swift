// Classifier-free guidance as data: how far predictions are carried towards what was asked for, and at which times.
// Knows no network; `combine` is the arithmetic.

private let maxScale = 100.0

/// How strongly a network follows its label: u + scale (c - u), u and c its predictions without and with it.
public struct Guidance: Equatable, Sendable {
    /// 1 + w of Ho and Salimans 2022 (eq. 6), 0 to 100: 0 ignores the label, 1 is the network as it is, and both cost
    /// one evaluation.
    public var scale: Double
    /// The times t that are guided, both ends among them, from 0 on; at others the scale is 1 (Kynkaanniemi et al.
    /// 2024). nil guides at all of them.
    public var interval: ClosedRange<Double>?

    public init(scale: Double = 1, interval: ClosedRange<Double>? = nil) {
        (self.scale, self.interval) = (scale, interval)
    }

    /// Return the scale at a time.
    public func at(_ t: Double) -> Double { interval?.contains(t) ?? true ? scale : 1 }

    /// What is wrong with a scale or an interval out of its range; nil where nothing is.
    var trouble: String? {
        guard (0...maxScale).contains(scale) else { return badScale(brief(scale)) }
        guard let interval, interval.lowerBound < 0 || interval.upperBound == .infinity else { return nil }
        return badInterval("(\(brief(interval.lowerBound)), \(brief(interval.upperBound)))")
    }

    /// Read the guidance of a file. Throws `badFile`, which says what is wrong.
    init(_ json: Json) throws {
        guard case .object(let values) = json, let given = values["scale"] else {
            throw noUse("guidance must be an object with scale, got \(shown(json))")
        }
        guard let scale = given.double else { throw noUse(badScale(shown(given))) }
        let times = values["interval", default: .null]
        if times == .null {
            self.init(scale: scale)
        } else {
            guard case .array(let ends) = times, ends.count == 2, let low = ends[0].double, let high = ends[1].double,
                low <= high
            else { throw noUse(badInterval(pair(times))) }
            self.init(scale: scale, interval: low...high)
        }
        if let trouble { throw noUse(trouble) }
    }
}

private func badScale(_ got: String) -> String { "guidance must be a number from 0 to \(brief(maxScale)), got \(got)" }

private func badInterval(_ got: String) -> String {
    "the interval of guidance must be two times, the lower first, from 0 on, got \(got)"
}

private func pair(_ times: Json) -> String {
    guard case .array(let ends) = times else { return shown(times) }
    return "(" + ends.prefix(5).map { shown($0) }.joined(separator: ", ") + ")"
}

/// Return a number as people write it: 2 for 2.0.
private func brief(_ value: Double) -> String { Int(exactly: value).map { "\($0)" } ?? "\(value)" }

/// Return the guidance that is meant: what is given, or else the file's.
///
/// Throws `usage` for what is out of its range, and for any scale but 1 of a network that takes none.
public func guidanceFor(_ spec: ModelSpec, _ given: Guidance?) throws -> Guidance {
    guard let given else { return spec.defaults.guidance ?? Guidance() }
    if let trouble = given.trouble { throw DDPMError(.usage, "\(trouble).") }
    guard given.scale == 1 || spec.takesGuidance else {
        throw DDPMError(
            .usage, "guidance must be 1 for a network that has not learned to do without a class, got "
                + "\(brief(given.scale)).")
    }
    return given
}
