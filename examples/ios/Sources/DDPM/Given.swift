// Given something: pixels that are known, a measurement, a picture to start from, two to go between. As in Python's
// given.py and editing.py; docs/given.md says what each is good for, docs/format.md fixes every number.

/// The noise domain of known pixels.
public let givenDomain: UInt32 = 1

/// What changes every state of a walk, the first among them: (x, its noise draw, alphas_cumprod there; 1 of the picture).
public struct Keep {
    private let change: (_ x: inout [Float], _ draw: Int, _ a: Double) throws -> Void

    public init(_ change: @escaping (_ x: inout [Float], _ draw: Int, _ a: Double) throws -> Void) {
        self.change = change
    }

    public func callAsFunction(_ x: inout [Float], _ draw: Int, _ a: Double) throws { try change(&x, draw, a) }
}

/// A linear measurement y = A x of images x, (n, C, H, W) flat, and the way back: A+, its pseudo-inverse.
public struct Measurement {
    public let of: (_ x: [Float]) -> [Float]
    public let back: (_ y: [Float]) -> [Float]

    public init(of: @escaping (_ x: [Float]) -> [Float], back: @escaping (_ y: [Float]) -> [Float]) {
        (self.of, self.back) = (of, back)
    }

    /// Means of `count` numbers each: `place` says which mean a number is part of.
    fileprivate init(of count: Int, _ place: @escaping (Int) -> Int) {
        of = { x in
            var means = [Float](repeating: 0, count: x.count / count)
            for k in x.indices { means[place(k)] += x[k] }
            return means.map { $0 / Float(count) }
        }
        back = { y in (0..<y.count * count).map { y[place($0)] } }
    }
}

/// Return what puts known pixels into every state of a walk (replacement: Song et al. 2021, appendix I.2).
///
/// `known`: (n, C, H, W) in [-1, 1]. `mask`: 0 where a pixel is known, 1 where it is to be made, (H, W), (C, H, W) or as
/// known. `noise`: of the known pixels, draw i after row i, from `givenDomain`. Until the picture, whatever is not wholly
/// known is made: a mixture of two noises would have too little of it. The picture is mask x + (1 - mask) known.
public func knownPixels(_ known: [Float], _ mask: [Float], _ noise: Noise) -> Keep {
    var z: [Float] = []
    return Keep { x, draw, a in
        if a == 1 {
            for k in x.indices {
                let made = mask[k % mask.count]
                x[k] = made * x[k] + (1 - made) * known[k]
            }
            return
        }
        try noise(draw, &z)
        let kept = noised(known, z, a)
        for k in x.indices where mask[k % mask.count] <= 0 { x[k] = kept[k] }
    }
}

/// Return a denoiser whose clean images measure y: x_0 = A+ y + x_0 - A+ A x_0 (DDNM: Wang et al. 2023, eq. 13).
///
/// After clipping, which is not repeated; eps is then what leads from this x_0 to x_t. Costs what `denoise` does.
public func measured(_ denoise: @escaping Denoiser, _ measurement: Measurement, _ y: [Float]) -> Denoiser {
    let target = measurement.back(y)
    return { x_t, row, x_0_before, found in
        try denoise(x_t, row, x_0_before, &found)
        let seen = measurement.back(measurement.of(found.x_0))
        let (signal, perNoise) = (Float(row.a.squareRoot()), Float(1 / (1 - row.a).squareRoot()))
        for k in x_t.indices {
            found.x_0[k] = target[k] + (found.x_0[k] - seen[k])
            found.eps[k] = (x_t[k] - signal * found.x_0[k]) * perNoise
        }
    }
}

/// Return the means of squares of size x size pixels.
public func average(_ size: Int, _ shape: ImageShape) -> Measurement {
    let width = shape.width
    // all planes are whole squares high
    return Measurement(of: size * size) { k in k / width / size * (width / size) + k % width / size }
}

/// Return the mean of the channels.
public func grey(_ shape: ImageShape) -> Measurement {
    let plane = shape.height * shape.width
    return Measurement(of: shape.channels) { k in k / shape.count * plane + k % plane }
}

/// Return the pixels that are known, 0 in their mask as in `knownPixels`; values between weigh the measurement.
public func masked(_ mask: [Float]) -> Measurement {
    Measurement(of: { x in x.indices.map { (1 - mask[$0 % mask.count]) * x[$0] } }, back: { $0 })
}

/// Return the measurement that `average:4`, `grey` or `mask` names.
///
/// Throws `usage` for another name, for squares that do not fill the image, and for a mask that is nil.
public func measurementFromText(_ text: String, _ shape: ImageShape, mask: [Float]? = nil) throws -> Measurement {
    let digits = text.utf8.dropFirst("average:".utf8.count)
    if text.hasPrefix("average:"), (1...9).contains(digits.count),
        digits.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }), let size = Int(String(digits)!)
    {
        guard size >= 1, shape.height % size == 0, shape.width % size == 0 else {
            throw usage(
                "measure average:K must divide \(shape.height) x \(shape.width) pixels, got \(quoted(text)).")
        }
        return average(size, shape)
    }
    switch (text, mask) {
    case ("grey", _): return grey(shape)
    case ("mask", let mask?): return masked(mask)
    case ("mask", nil): throw usage("measure mask needs a mask.")
    default: throw usage("measure must be average:K, grey or mask, got \(quoted(text)).")
    }
}

/// Return (1 - s) first + s last for `count` shares s from 0 to 1, (count, C, H, W), of pictures (C, H, W).
///
/// Noised with one noise these are the states that Ho et al. 2020 interpolate between (section 4.3): it is linear.
/// Throws `usage` for a count below 2.
public func crossfade(_ first: [Float], _ last: [Float], _ count: Int) throws -> [Float] {
    guard count >= 2 else {
        throw usage("There must be at least 2 images from one end to the other, got \(count).")
    }
    return (0..<count).flatMap { k in
        let share = Float(Double(k) / Double(count - 1))
        return zip(first, last).map { (1 - share) * $0 + share * $1 }
    }
}

/// Return a plan that goes `jump` rows back, `returns` times from each place (RePaint: Lugmayr et al. 2022).
///
/// The places are `jump` rows apart, the last one before the last row. Going back adds noise, so it is merged into the row
/// before. Costs about 1 + returns times the evaluations. Throws `usage` for returns below 0, for a jump that does not fit
/// the plan, and for a plan whose rows look back or weigh a learned variance.
public func withReturns(_ plan: Plan, _ returns: Int, jump: Int = 1) throws -> Plan {
    let (rows, most) = (plan.rows, plan.rows.count - 1)
    guard returns >= 0 else { throw usage("returns must be 0 or more, got \(returns).") }
    var left = [Int](repeating: 0, count: rows.count + 1)  // by the rows that lie behind, of those given
    if returns > 0 {
        guard jump >= 1, jump <= most else {
            throw usage("jump must be between 1 and \(most), below the plan's rows, got \(jump).")
        }
        guard !plan.needsLearnedVariance, rows.allSatisfy({ $0.reach == 1 }) else {
            throw usage("returns need a sampler that does not look back and has a fixed variance. Choose ddim.")
        }
        for place in stride(from: most, through: jump, by: -jump) { left[place] = returns }
    }
    var (walked, place): ([Row], Int) = ([], 0)
    while place < rows.count {
        let row = rows[place]
        place += 1
        var r: Double?
        if left[place] > 0 {
            left[place] -= 1
            r = (rows[place - jump].a / rows[place].a).squareRoot()
            place -= jump
        }
        walked.append(row.numbered(walked.count + 1, andBack: r))
    }
    return Plan(rows: walked, start: plan.start)
}

extension Row {
    /// Return the row with another number; with r = sqrt(a_u / a_s), noise then carries what it leaves at a_s back to a_u.
    fileprivate func numbered(_ number: Int, andBack r: Double? = nil) -> Row {
        var noise = noise
        if let r {
            let std = noise.first ?? 0
            noise = [(r * r * std * std + 1 - r * r).squareRoot()]
        }
        return Row(
            i: number, t: t, a: a, x_0: x_0.map { (r ?? 1) * $0 }, eps: eps.map { (r ?? 1) * $0 }, noise: noise,
            rawEps: rawEps)
    }
}

/// Return the times below strength T, where a picture that is noised gets made again (SDEdit: Meng et al. 2022).
///
/// Throws `usage` for a strength outside 0...1, and for one below which there is no time.
public func timesBelow(_ times: [Double], _ strength: Double, _ numTrainTimesteps: Int) throws -> [Double] {
    guard strength > 0, strength <= 1 else {
        throw usage("strength must be above 0 and at most 1, got \(strength).")
    }
    let end = (strength * Double(numTrainTimesteps) + 0.5).rounded(.down)
    let below = times.filter { $0 < end }
    guard !below.isEmpty else {
        let lowest = times.min() ?? 0
        let shown = lowest == lowest.rounded() ? "\(Int(lowest))" : "\(lowest)"
        throw usage("strength must reach the lowest time, t = \(shown) of \(numTrainTimesteps), got \(strength).")
    }
    return below
}

/// Return the rows from a share of the training times on; of ddim and ddpm they are the rows of those times.
private func planBelow(_ plan: Plan, _ strength: Double, _ numTrainTimesteps: Int) throws -> Plan {
    let highest = try timesBelow(plan.rows.map(\.t), strength, numTrainTimesteps).max()!
    let left = zip(1..., plan.rows.drop { $0.t > highest }).map { i, row in row.numbered(i) }
    guard left.allSatisfy({ $0.reach <= $0.i }) else {
        throw usage("strength does not apply to a plan whose rows look back beyond it.")
    }
    return Plan(rows: left)
}

/// What an edit is given besides pictures and settings; one of `mask`, `measure` and `strength` at least.
public struct Given: Equatable, Sendable {
    /// (H, W), or one for each picture: 255 where pixels are to be made, 0 where they are known, between them blended.
    public var mask: [UInt8]?
    /// average:K, grey or mask.
    public var measure: String?
    /// Above 0 to 1: the share of the training times from which on noise is added and taken away again.
    public var strength: Double?
    /// How often to go back (RePaint), with a mask or a measurement.
    public var returns: Int
    /// How many rows to go back.
    public var jump: Int
    /// Makes n images from the first of two pictures to the second, all with the noise of one; needs a strength.
    public var between: Bool

    public init(
        mask: [UInt8]? = nil, measure: String? = nil, strength: Double? = nil, returns: Int = 0, jump: Int = 1,
        between: Bool = false
    ) {
        (self.mask, self.measure, self.strength) = (mask, measure, strength)
        (self.returns, self.jump, self.between) = (returns, jump, between)
    }

    fileprivate func refuseWhatDoesNotGoTogether() throws {
        let isLone = mask == nil && measure == nil
        if returns != 0 && isLone { throw usage("returns need a mask or a measure.") }
        if between && (strength == nil || !isLone) {
            throw usage("between needs a strength, and nothing else besides.")
        }
        if isLone && strength == nil { throw usage("A picture needs a mask, a measure or a strength.") }
        if let measure, measure != "mask", mask != nil { throw usage("mask does not apply to measure \(measure).") }
    }
}

/// Return images made from pictures, (n, C, H, W) flat, in one batch, as `sample` does.
///
/// `images`: (m, H, W, C), of each of which `settings.n` are made: image k, counted from `settings.first`, is of picture
/// k / n. The label of pictures is none, where the network knows that, unless one is given. `progress` sees every row and
/// says whether to go on. Throws `usage` for what does not fit the model or goes with nothing, and what `sample` throws.
public func edit(
    _ model: some Model, _ spec: ModelSpec, _ images: [UInt8], _ settings: Settings, given: Given,
    progress: (StepProgress) throws -> Bool = { _ in true }
) throws -> [Float] {
    try given.refuseWhatDoesNotGoTogether()
    let (shape, n) = (spec.stateShape, settings.n)
    let (size, plane) = (shape.count, shape.height * shape.width)
    let count = images.count / size
    guard count >= 1, images.count % size == 0 else {
        throw usage(
            "images must be uint8 (m, \(shape.height), \(shape.width), \(shape.channels)), got \(images.count) numbers.")
    }
    guard !given.between || count == 2 else { throw usage("between needs 2 images, got \(count).") }
    if let mask = given.mask, mask.count != plane, mask.count != count * plane {
        throw usage(
            "mask must be uint8 (\(shape.height), \(shape.width)), or one for each picture, got \(mask.count) numbers.")
    }
    guard n >= 1 else { throw usage("n must be at least 1, got \(n).") }
    var known = try fromUint8(images, shape)
    if given.between { known = try crossfade(Array(known[..<size]), Array(known[size...]), n) }
    let ways = given.between ? 1 : n
    let numbers = try settings.numbers(known.count / size * ways)
    // what is between has one noise, and is told alike
    let whose = given.between ? numbers.map { _ in settings.first } : numbers
    let of = numbers.indices.map { $0 / ways }
    let pictures = of.flatMap { known[$0 * size..<($0 + 1) * size] }
    let mask = given.mask.map { levels in
        of.flatMap { picture in
            (0..<size).map { Float(levels[(picture * plane + $0 % plane) % levels.count]) / 255 }
        }
    }

    var rows = try settings.rows(spec)
    if let strength = given.strength { rows = try planBelow(rows, strength, spec.numTrainTimesteps) }
    if given.returns != 0 { rows = try withReturns(rows, given.returns, jump: given.jump) }
    var told = settings
    if let label = spec.label, let none = label.none, settings.label == nil, settings.inputs[label.name] == nil {
        told.label = .index(Int(none))  // of a picture the class is not known, and every one is wrong
    }
    let guided = try guidanceFor(spec, settings.guidance)
    var denoise = try denoiser(model, spec, inputs: told.told(spec, whose), guidance: guided)
    let noise = try noiseStream(seed: settings.seed, images: whose, shape: shape)
    var (x, keep): ([Float]?, Keep?) = (nil, nil)
    if given.strength != nil {
        var z: [Float] = []
        try noise(0, &z)
        x = noised(pictures, z, rows.rows[0].a)
    }
    if let text = given.measure {
        let measurement = try measurementFromText(text, shape, mask: mask)
        denoise = measured(denoise, measurement, measurement.of(pictures))
    } else if let mask {
        let ofTheKnown = try noiseStream(seed: settings.seed, images: whose, shape: shape, domain: givenDomain)
        keep = knownPixels(pictures, mask, ofTheKnown)
    }
    return try walked(denoise, noise, rows, numbers, x: x, keep: keep, progress)
}

private func usage(_ message: String) -> DDPMError { DDPMError(.usage, message) }
