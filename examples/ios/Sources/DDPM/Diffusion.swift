// The equations of one reverse step, in the letters of Ho et al. 2020 and Song et al. 2020.
// Coefficients are computed in Double and rounded once to Float; everything else is Float.

/// One step of a trajectory: i, its noise draw, from 1; t; a = alphasCumprod[t]; aPrev, 1 at the end.
public struct Step: Equatable, Sendable {
    public let i: Int
    public let t: Int
    public let a: Double
    public let aPrev: Double

    public init(i: Int, t: Int, a: Double, aPrev: Double) {
        (self.i, self.t, self.a, self.aPrev) = (i, t, a, aPrev)
    }
}

/// A network: what it predicts of noisy images at one time. It knows of no sampler, and this module of no runtime.
public protocol Network {
    /// Fill `predicted`, and `varianceFraction` unless it is empty, in the shape of `x_t`, (n, C, H, W) flat.
    func predict(_ x_t: [Float], t: Int, predicted: inout [Float], varianceFraction: inout [Float]) throws
}

/// What a network's output says of noisy images, each (n, C, H, W) flat: the clean images and the noise in them.
public struct Denoised: Equatable, Sendable {
    public var x_0: [Float] = []
    public var eps: [Float] = []
    /// Where the network learned it: where between the logarithms of the step's small and large variance its own lies,
    /// 0 small, 1 large (Nichol and Dhariwal 2021, eq. 15). Empty otherwise.
    public var varianceFraction: [Float] = []

    public init() {}
}

/// (x_t, step) -> (x_0, eps, varianceFraction), into buffers that are sized at the first call and then reused.
public typealias Denoiser = (_ x_t: [Float], _ step: Step, _ found: inout Denoised) throws -> Void

/// Return the times of a trajectory, `T (n - i) / n - 1` in integers: n distinct ones, falling from T - 1.
///
/// Throws `usage` for numSteps outside 1...T.
public func spacing(_ numTrainTimesteps: Int, _ numSteps: Int) throws -> [Int] {
    guard numTrainTimesteps >= 1, (1...numTrainTimesteps).contains(numSteps) else {
        throw DDPMError(
            .usage, "steps: out of range. got \(numSteps), expected 1 to \(numTrainTimesteps) (the model's own number "
                + "of time steps). Do pick one in that range.")
    }
    return (0..<numSteps).map { numTrainTimesteps * (numSteps - $0) / numSteps - 1 }
}

/// Return the steps from noise to image: numSteps evenly spaced ones, or those at the given falling times.
///
/// Without either, the spec's default number. Throws `usage` for numSteps outside 1...T and for times that do not
/// strictly fall within 0...T-1.
public func trajectory(_ spec: ModelSpec, numSteps: Int? = nil, times: [Int]? = nil) throws -> [Step] {
    let T = spec.numTrainTimesteps
    let grid = try times ?? spacing(T, numSteps ?? spec.defaults.numSteps)
    guard let first = grid.first, let last = grid.last, first < T, last >= 0,
        zip(grid, grid.dropFirst()).allSatisfy({ $0 > $1 }), times == nil || numSteps == nil || numSteps == grid.count
    else {
        throw DDPMError(
            .usage, "times: not a trajectory. got \(grid.prefix(5)) (\(grid.count) of them), expected strictly falling "
                + "times from \(T - 1) to 0. Do sort them.")
    }
    let a = grid.map { spec.alphasCumprod[$0] } + [1]
    return grid.indices.map { Step(i: $0 + 1, t: grid[$0], a: a[$0], aPrev: a[$0 + 1]) }
}

/// Bind a network to what it predicts and to its clipping: (x_t, step) -> (x_0, eps, varianceFraction).
///
/// One network evaluation a call. x_0 follows from eps (Ho et al. 2020, eq. 4), v (Salimans and Ho 2022, section 4) or
/// itself; where clip_x_0 is set, x_0 is clipped and eps is what then leads from it to x_t.
public func denoiser(_ network: some Network, _ spec: ModelSpec) -> Denoiser {
    { x_t, step, found in
        let count = x_t.count
        guard count > 0, count % spec.imageShape.count == 0 else {
            throw DDPMError(
                .usage, "x_t: not a batch of images. got \(count) numbers, expected a multiple of "
                    + "\(spec.imageShape.count). Do pass whole images.")
        }
        resize(&found.x_0, to: count)
        resize(&found.eps, to: count)
        resize(&found.varianceFraction, to: spec.hasVarianceFraction ? count : 0)
        // the prediction lands where the sampler wants it, and what follows from it is computed in place
        if spec.prediction == .eps {
            try network.predict(x_t, t: step.t, predicted: &found.eps, varianceFraction: &found.varianceFraction)
        } else {
            try network.predict(x_t, t: step.t, predicted: &found.x_0, varianceFraction: &found.varianceFraction)
        }
        guard found.x_0.count == count, found.eps.count == count else {
            throw DDPMError(
                .badFile, "network: another shape than x_t. got \(found.x_0.count) and \(found.eps.count) numbers, "
                    + "expected \(count). Do export the model again.")
        }
        x_t.withUnsafeBufferPointer { x_t in
            found.x_0.withUnsafeMutableBufferPointer { x_0 in
                found.eps.withUnsafeMutableBufferPointer { eps in denoise(x_t, step.a, spec, x_0, eps) }
            }
        }
    }
}

private typealias Buffer = UnsafeMutableBufferPointer<Float>

private func denoise(_ x_t: UnsafeBufferPointer<Float>, _ a: Double, _ spec: ModelSpec, _ x_0: Buffer, _ eps: Buffer) {
    let signal = Float(a.squareRoot()), noise = Float((1 - a).squareRoot())
    let perSignal = Float(1 / a.squareRoot()), perNoise = Float(1 / (1 - a).squareRoot())
    switch spec.prediction {
    case .eps:
        for k in x_t.indices { x_0[k] = (x_t[k] - noise * eps[k]) * perSignal }
    case .v:
        for k in x_t.indices {
            let v = x_0[k]
            x_0[k] = signal * x_t[k] - noise * v
            eps[k] = noise * x_t[k] + signal * v
        }
    case .x_0:
        for k in x_t.indices { eps[k] = (x_t[k] - signal * x_0[k]) * perNoise }
    }
    guard let bound = spec.clip_x_0.map({ Float($0) }) else { return }
    for k in x_t.indices {
        x_0[k] = x_0[k] < -bound ? -bound : x_0[k] > bound ? bound : x_0[k]  // NaN stays, to be seen
        eps[k] = (x_t[k] - signal * x_0[k]) * perNoise
    }
}

/// Return DDIM's noise standard deviation (Song et al. 2020, eq. 16); eta = 1 is Ho's fixed_small, eq. 7.
public func noiseStd(_ step: Step, eta: Double) -> Double {
    eta * ((1 - step.aPrev) / (1 - step.a)).squareRoot() * (1 - step.a / step.aPrev).squareRoot()
}
