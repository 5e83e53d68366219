// The equations of one reverse step, in the letters of Ho et al. 2020 and Song et al. 2020.
// From network to (x_0, eps) in three steps: predict, combine, denoised.
// Coefficients are computed in Double and rounded once to Float; everything else is Float.

/// A network: what it says of noisy images at one time. It knows of no sampler, and this module of no runtime.
public protocol Model {
    /// Fill `outputs`, by the names of the spec's outputs, in the shape of `x_t`, (n, C, H, W) flat.
    ///
    /// `t`: the time of all images, a whole number unless the spec has fractional_t. `inputs`: what else the network is
    /// told, by the names of the spec's inputs.
    func evaluate(
        _ x_t: [Float], t: Double, inputs: [String: InputArray], outputs: inout [String: [Float]]) throws
}

/// What a network's output says of noisy images, each (n, C, H, W) flat: the clean images and the noise in them.
public struct Denoised: Equatable, Sendable {
    public var x_0: [Float]
    public var eps: [Float]
    /// Where the network learned it: where between the logarithms of a row's small and large noise its own lies, 0
    /// small, 1 large (Nichol and Dhariwal 2021, eq. 15). Empty otherwise.
    public var varianceFraction: [Float] = []

    public init(x_0: [Float] = [], eps: [Float] = []) { (self.x_0, self.eps) = (x_0, eps) }
}

/// (x_t, row, the x_0 found before, nil at first) -> what is found, into buffers that are reused.
public typealias Denoiser = (
    _ x_t: [Float], _ row: Row, _ x_0_before: [Float]?, _ found: inout Denoised
) throws -> Void

/// Bind a model to what it predicts, its clipping, its inputs, given by the names of the spec's inputs, and guidance.
///
/// `guidance`: nil is the file's own. One network evaluation a call, for any batch, at times with a scale other than 0
/// and 1 of two rows an image: with its label and without. Throws `usage` for inputs that are unknown, missing or do
/// not fit, here where it can be seen without a batch, and for guidance that does not apply; its calls throw
/// `notFinite` where the network gives NaN or infinity.
public func denoiser(
    _ model: some Model, _ spec: ModelSpec, inputs: [String: InputValue] = [:], guidance: Guidance? = nil
) throws -> Denoiser {
    let guided = try guidanceFor(spec, guidance)
    let fitsAnyBatch = inputs.values.allSatisfy {
        switch $0 { case .index, .name: true; case .each, .numbers: false }
    }
    if fitsAnyBatch { _ = try boundInputs(spec.inputs, inputs, 1) }
    let previous = spec.inputs.filter { $0.kind == .previous }.map(\.name)
    let own = spec.inputs.filter(\.isOwnGuidance).map(\.name)
    let label = own.isEmpty ? spec.label : nil  // whose none stands for u
    var (bound, size, outputs): ([String: InputArray], Int, [String: [Float]]) = ([:], 0, [:])
    var (unlabelled, twice): (InputArray, Twice?) = (.labels([]), nil)
    return { x_t, row, x_0_before, found in
        let count = x_t.count
        let images = count / spec.stateShape.count
        if count != size {
            guard count > 0, count % spec.stateShape.count == 0 else {
                throw DDPMError(.usage, "x_t must hold images of \(spec.stateShape.count) numbers, got \(count).")
            }
            bound = try boundInputs(spec.inputs, inputs, images)
            unlabelled = .labels([Int64](repeating: Int64(label?.none ?? 0), count: images))
            (size, twice) = (count, nil)
        }
        resize(&found.x_0, to: count)
        resize(&found.eps, to: count)
        resize(&found.varianceFraction, to: spec.hasVarianceFraction ? count : 0)
        // the prediction lands where the walk wants it, and what follows from it is computed in place
        outputs[spec.prediction.rawValue] = []
        if spec.prediction == .x_0 {
            swap(&outputs[spec.prediction.rawValue]!, &found.x_0)
        } else {
            swap(&outputs[spec.prediction.rawValue]!, &found.eps)
        }
        if spec.hasVarianceFraction {
            outputs[varianceFractionName] = []
            swap(&outputs[varianceFractionName]!, &found.varianceFraction)
        }
        let scale = guided.at(row.t)
        var told = bound
        if let x_0_before { for name in previous { told[name] = .numbers(x_0_before) } }
        for name in own { told[name] = .numbers([Float](repeating: Float(scale), count: images)) }
        var predictions: [[String: [Float]]]
        if let label, scale != 1, scale != 0, told[label.name] != unlabelled {
            if twice == nil { twice = Twice(bound, replacing: label.name, by: unlabelled) }
            try twice!.predict(model, spec, x_t, row, previous, x_0_before, &outputs)
            predictions = [outputs, twice!.second]
        } else {
            if let label, scale == 0 { told[label.name] = unlabelled }
            try predict(model, spec, x_t, row, told, &outputs)
            predictions = [outputs]
        }
        outputs = [:]
        var said = combine(&predictions, scale: scale)
        try denoised(&said, spec, x_t, row, &found)
    }
}

/// The arrays of one evaluation of a batch twice as long, kept from row to row: as told, then without the label.
private struct Twice {
    private let inputs: [String: InputArray]
    private var (x_t, x_0_before): ([Float], [Float]) = ([], [])
    private var outputs: [String: [Float]] = [:]
    /// What the network said without the label.
    private(set) var second: [String: [Float]] = [:]

    init(_ told: [String: InputArray], replacing label: String, by unlabelled: InputArray) {
        inputs = Dictionary(uniqueKeysWithValues: told.map { name, values in
            switch (values, name == label ? unlabelled : values) {
            case (.labels(let first), .labels(let second)): (name, .labels(first + second))
            case (.numbers(let first), .numbers(let second)): (name, .numbers(first + second))
            default: (name, values)  // no input is of two kinds
            }
        })
    }

    /// Do as `DDPM.predict`: what is said with the label comes to `said`, without it to `second`.
    mutating func predict(
        _ model: some Model, _ spec: ModelSpec, _ half: [Float], _ row: Row, _ previous: [String],
        _ before: [Float]?, _ said: inout [String: [Float]]
    ) throws {
        fill(&x_t, half, half)
        var told = inputs
        if let before {
            fill(&x_0_before, before, before)
            for name in previous { told[name] = .numbers(x_0_before) }
        }
        for name in spec.outputs {
            resize(&outputs[name, default: []], to: x_t.count)
            resize(&second[name, default: []], to: half.count)
        }
        try evaluate(model, spec, x_t, row, told, &outputs)
        let images = half.count / spec.stateShape.count
        for name in spec.outputs {
            copy(outputs[name]!, from: 0, to: &said[name]!)
            try refuseNonFinite(said[name]!, row, images: images)
        }
        for name in spec.outputs {
            copy(outputs[name]!, from: half.count, to: &second[name]!)
            try refuseNonFinite(second[name]!, row, images: images)
        }
    }
}

// functions of their own: a method would hold on to all arrays of the struct while one is written to

private func fill(_ both: inout [Float], _ first: [Float], _ second: [Float]) {
    resize(&both, to: first.count + second.count)
    both.withUnsafeMutableBufferPointer { both in
        for k in first.indices { both[k] = first[k] }
        for k in second.indices { both[first.count + k] = second[k] }
    }
}

private func copy(_ both: [Float], from start: Int, to half: inout [Float]) {
    half.withUnsafeMutableBufferPointer { half in
        for k in half.indices { half[k] = both[start + k] }
    }
}

/// Fill in what the network says of x_t in a row, by the names of the spec's outputs.
///
/// Throws `notFinite` where a number is not finite: clipping would hide it.
public func predict(
    _ model: some Model, _ spec: ModelSpec, _ x_t: [Float], _ row: Row, _ inputs: [String: InputArray],
    _ outputs: inout [String: [Float]]
) throws {
    try evaluate(model, spec, x_t, row, inputs, &outputs)
    for name in spec.outputs {
        try refuseNonFinite(outputs[name]!, row, images: x_t.count / spec.stateShape.count)
    }
}

private func evaluate(
    _ model: some Model, _ spec: ModelSpec, _ x_t: [Float], _ row: Row, _ inputs: [String: InputArray],
    _ outputs: inout [String: [Float]]
) throws {
    try model.evaluate(x_t, t: row.t, inputs: inputs, outputs: &outputs)
    for name in spec.outputs {
        guard let values = outputs[name], values.count == x_t.count else {
            throw DDPMError(
                .badFile, "The model's output \(name) must be \(x_t.count) numbers, got \(outputs[name]?.count ?? 0).")
        }
    }
}

/// Return what predictions of one x_t make, before anything is converted or clipped; takes the first's arrays.
///
/// Of one, itself; of two, c with a label and u without, u + scale (c - u), scale = 1 + w of Ho and Salimans 2022
/// (eq. 6); a learned variance is that of c.
public func combine(_ predictions: inout [[String: [Float]]], scale: Double = 1) -> [String: [Float]] {
    var given = predictions.removeFirst()
    guard let without = predictions.first else { return given }
    let weight = Float(scale)
    for (name, u) in without where name != varianceFractionName {
        given[name]?.withUnsafeMutableBufferPointer { c in
            for k in c.indices { c[k] = u[k] + weight * (c[k] - u[k]) }
        }
    }
    return given
}

/// Return x_t = sqrt(a) x_0 + sqrt(1 - a) eps (Ho et al. 2020, eq. 4).
public func noised(_ x_0: [Float], _ eps: [Float], _ a: Double) -> [Float] {
    let (signal, noise) = (Float(a.squareRoot()), Float((1 - a).squareRoot()))
    return zip(x_0, eps).map { signal * $0 + noise * $1 }
}

/// Convert a prediction into the clean image and the noise, and clip, once; takes the outputs' arrays for its own.
///
/// x_0 follows from eps (Ho et al. 2020, eq. 4), v (Salimans and Ho 2022, section 4) or itself; where clip_x_0 is set,
/// x_0 is clipped and eps is what then leads from it to x_t, or with the row's rawEps what it was before.
public func denoised(
    _ outputs: inout [String: [Float]], _ spec: ModelSpec, _ x_t: [Float], _ row: Row, _ found: inout Denoised
) throws {
    let predicted = outputs.removeValue(forKey: spec.prediction.rawValue) ?? []
    if spec.prediction == .x_0 { found.x_0 = predicted } else { found.eps = predicted }
    found.varianceFraction = outputs.removeValue(forKey: varianceFractionName) ?? []
    resize(&found.x_0, to: x_t.count)
    resize(&found.eps, to: x_t.count)
    convert(x_t, row, spec, &found)
}

func refuseNonFinite(_ values: [Float], _ row: Row, images: Int) throws {
    guard let k = values.firstIndex(where: { !$0.isFinite }) else { return }
    let index = k / (values.count / images)
    throw DDPMError(notFinite: row, index, "image \(index) of its batch")
}

private func convert(_ x_t: [Float], _ row: Row, _ spec: ModelSpec, _ found: inout Denoised) {
    x_t.withUnsafeBufferPointer { x_t in
        found.x_0.withUnsafeMutableBufferPointer { x_0 in
            found.eps.withUnsafeMutableBufferPointer { eps in convert(x_t, row, spec, x_0, eps) }
        }
    }
}

private typealias Buffer = UnsafeMutableBufferPointer<Float>

private func convert(_ x_t: UnsafeBufferPointer<Float>, _ row: Row, _ spec: ModelSpec, _ x_0: Buffer, _ eps: Buffer) {
    let a = row.a
    let signal = Float(a.squareRoot()), noise = Float((1 - a).squareRoot())
    let perSignal = Float(1 / a.squareRoot()), perNoise = Float(1 / (1 - a).squareRoot())
    switch spec.prediction {
    case .eps:
        for k in x_t.indices { x_0[k] = (x_t[k] - noise * eps[k]) * perSignal }
    case .v:
        for k in x_t.indices {
            let v = eps[k]
            x_0[k] = signal * x_t[k] - noise * v
            eps[k] = noise * x_t[k] + signal * v
        }
    case .x_0:
        for k in x_t.indices { eps[k] = (x_t[k] - signal * x_0[k]) * perNoise }
    }
    guard let bound = spec.clip_x_0.map({ Float($0) }) else { return }
    for k in x_t.indices {
        x_0[k] = x_0[k] < -bound ? -bound : x_0[k] > bound ? bound : x_0[k]  // NaN stays, to be seen
    }
    for k in x_t.indices where !row.rawEps {
        eps[k] = (x_t[k] - signal * x_0[k]) * perNoise
    }
}
