// A plan: a solver as a table of numbers, one row a network evaluation. Knows no array and no network.

/// One network evaluation and the state after it: x = sum x_0[j] x_0^(j) + sum eps[j] eps^(j) + noise z.
public struct Row: Equatable, Sendable {
    /// Its number, from 1, and its noise draw.
    public let i: Int
    /// What the network is told.
    public let t: Double
    /// alphas_cumprod there.
    public let a: Double
    /// The weights of the clean images found, newest first.
    public let x_0: [Double]
    /// The weights of the noises found, newest first.
    public let eps: [Double]
    /// None; a standard deviation; or small and large, where the network learned its variance: small^(1-f) large^f,
    /// with its variance_fraction f, pixel by pixel.
    public internal(set) var noise: [Double]
    /// Whether eps stays as before where x_0 is clipped; of all rows of a plan, or of none.
    public let rawEps: Bool

    public init(
        i: Int, t: Double, a: Double, x_0: [Double], eps: [Double], noise: [Double], rawEps: Bool = false
    ) {
        (self.i, self.t, self.a, self.x_0, self.eps, self.noise) = (i, t, a, x_0, eps, noise)
        self.rawEps = rawEps
    }

    /// How many evaluations the row reads, its own among them.
    public var reach: Int { max(x_0.count, eps.count) }
}

/// The rows from noise to picture; the first state is `start` times noise draw 0.
public struct Plan: Equatable, Sendable {
    public let rows: [Row]
    public let start: Double

    public init(rows: [Row], start: Double = 1) { (self.rows, self.start) = (rows, start) }

    /// Whether any row's noise depends on variance_fraction.
    public var needsLearnedVariance: Bool { rows.contains { $0.noise.count == 2 } }

    /// Whether the noises found stay as before where clean images are clipped.
    public var rawEps: Bool { rows.contains(where: \.rawEps) }

    /// Return how many of the evaluations up to rows[k], newest first, later rows read.
    func keptAfter(_ k: Int) -> Int {
        zip(1..., rows[(k + 1)...].prefix(maxReach - 1)).map { ahead, row in row.reach - ahead }.reduce(0, max)
    }
}

private let maxRows = 10_000
private let maxReach = 16  // how many evaluations a row may read, its own among them

extension Plan {
    /// Read a plan of a file and check all that walking it relies on.
    init(_ name: String, _ json: Json, numTrainTimesteps: Int, fractional: Bool) throws {
        let others: Set<UInt8> = [UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "+"), UInt8(ascii: "-")]
        func isAlphanumeric(_ byte: UInt8) -> Bool {
            byte < 0x80 && (Character(Unicode.Scalar(byte)).isLetter || Character(Unicode.Scalar(byte)).isNumber)
        }
        guard let first = name.utf8.first, isAlphanumeric(first), name.utf8.count <= 64,
            name.utf8.allSatisfy({ isAlphanumeric($0) || others.contains($0) })
        else {
            throw noUse("a plan's name must be 1 to 64 letters, digits and ._+-, starting with a letter or digit")
        }
        guard case .object(let values) = json, case .array(let rows) = values["rows"] else {
            throw noUse("plan \(name) must be an object with a list of rows")
        }
        guard let start = values["start", default: .integer(1)].double, start > 0 else {
            throw noUse("the start of plan \(name) must be a positive number")
        }
        guard case .bool(let rawEps) = values["raw_eps", default: .bool(false)] else {
            throw noUse("raw_eps of plan \(name) must be true or false")
        }
        guard (1...maxRows).contains(rows.count) else {
            throw noUse("plan \(name) must have 1 to \(maxRows) rows, not \(rows.count)")
        }
        self.start = start
        self.rows = try zip(1..., rows).map { i, row in
            try Row(i, row, numTrainTimesteps, fractional, rawEps) { noUse("row \(i) of plan \(name): \($0)") }
        }
    }
}

extension Row {
    fileprivate init(
        _ i: Int, _ json: Json, _ T: Int, _ fractional: Bool, _ rawEps: Bool, _ bad: (String) -> DDPMError
    ) throws {
        guard case .array(let values) = json, values.count == 5 else {
            throw bad("it must be [t, a, x_0, eps, noise]")
        }
        guard let t = values[0].double, t >= 0, t <= Double(T - 1), fractional || values[0].isInteger else {
            throw bad("t must be \(fractional ? "a number" : "an integer") from 0 to \(T - 1)")
        }
        guard let a = values[1].double, a >= 0, a < 1 else { throw bad("a must be a number from 0 to below 1") }
        let lists = try values[2...].map { list in
            guard case .array(let numbers) = list, case let finite = numbers.compactMap(\.double),
                finite.count == numbers.count
            else { throw bad("x_0, eps and noise must be lists of finite numbers") }
            return finite
        }
        self.init(i: i, t: t, a: a, x_0: lists[0], eps: lists[1], noise: lists[2], rawEps: rawEps)
        guard (1...min(i, maxReach)).contains(reach) else {
            throw bad("it must read 1 to \(min(i, maxReach)) evaluations, not \(reach)")
        }
        guard noise.count <= 2, noise.allSatisfy({ $0 > 0 }) else {
            throw bad("noise must be empty, one positive number, or two of them, small and large")
        }
    }
}

func noUse(_ reason: String) -> DDPMError { DDPMError(.badFile, "The model's spec cannot be used: \(reason).") }
