// Samplers call back once a step and keep nothing; they know a denoiser, a noise and steps.
// Those are @escaping although nothing keeps them: where a later argument throws, Swift 6.0 leaks them otherwise.

import Foundation

/// What a step leaves: the step, the images after it, and what the denoiser found before it, each (n, C, H, W) flat.
///
/// Its arrays are values: keep them for as long as you like, the sampler then writes into others.
public struct SamplerState: Sendable {
    public internal(set) var step: Step
    public internal(set) var x: [Float]
    public internal(set) var found: Denoised

    /// The clean images that the denoiser saw in the noisy ones before this step.
    public var x_0: [Float] { found.x_0 }
    /// The noise that it saw in them.
    public var eps: [Float] { found.eps }
}

/// Run DDIM (Song et al. 2020, eq. 12) and return the images; eta = 0 adds no noise, eta = 1 is ddpm's fixed_small.
///
/// Starts at noise draw 0, or goes on from `x`, the state before the first of `steps`. `onStep` sees every state and
/// says whether to go on; where it said no, the images so far come back. One network evaluation a step.
/// Throws `usage` for eta outside 0...1, and what the network throws.
@discardableResult
public func ddim(
    _ denoise: @escaping Denoiser, _ noise: @escaping Noise, _ steps: [Step], x: [Float]? = nil, eta: Double = 0,
    onStep: (SamplerState) throws -> Bool = { _ in true }
) throws -> [Float] {
    guard (0...1).contains(eta) else {
        throw DDPMError(
            .usage, "eta: out of range. got \(eta), expected 0 (no noise) to 1 (ddpm). Do pick one in that range.")
    }
    let eta = Double(Float(eta))  // the one-call graph takes float32: the same eta everywhere
    return try walk(denoise, noise, steps, x, onStep) { step in
        let std = noiseStd(step, eta: eta)
        return (std, std, nil)
    }
}

/// Run ancestral sampling (Ho et al. 2020, algorithm 2), respaced where steps leave times out, and return the images.
///
/// Starts at noise draw 0, or goes on from `x`; `onStep` as for `ddim`. One network evaluation a step.
/// Throws `usage` for a learned variance where the network has learned none, and what the network throws.
@discardableResult
public func ddpm(
    _ denoise: @escaping Denoiser, _ noise: @escaping Noise, _ steps: [Step], x: [Float]? = nil,
    variance: Variance = .fixedSmall, onStep: (SamplerState) throws -> Bool = { _ in true }
) throws -> [Float] {
    try walk(denoise, noise, steps, x, onStep) { step in
        let small = noiseStd(step, eta: 1)
        let large = step.aPrev < 1 ? (1 - step.a / step.aPrev).squareRoot() : 0
        switch variance {
        case .fixedSmall: return (small, small, nil)
        case .fixedLarge: return (small, large, nil)
        case .learned: return (small, small, large)
        }
    }
}

/// The noise of one step: what the mean makes room for, what is added, and, where the network says pixel by pixel how
/// far towards it the logarithm goes, the largest that is added.
private typealias Stds = (room: Double, added: Double, towards: Double?)

private func walk(
    _ denoise: Denoiser, _ noise: Noise, _ steps: [Step], _ x: [Float]?, _ onStep: (SamplerState) throws -> Bool,
    _ stds: (Step) -> Stds
) throws -> [Float] {
    guard let first = steps.first else {
        throw DDPMError(.usage, "steps: none. got an empty trajectory, expected at least one step. Do pass some.")
    }
    var state = SamplerState(step: first, x: x ?? [], found: Denoised())
    if x == nil { try noise(0, &state.x) }
    var z: [Float] = []
    for step in steps {
        try denoise(state.x, step, &state.found)
        let (room, added, towards) = stds(step)
        let ofEps = max(0, 1 - step.aPrev - room * room).squareRoot()
        set(&state.x, Float(step.aPrev.squareRoot()), state.found.x_0, Float(ofEps), state.found.eps)
        if added > 0 {  // it is 0 for eta = 0 and at the end of the grid
            try noise(step.i, &z)
            guard z.count == state.x.count else {
                throw DDPMError(
                    .usage, "x: not as many images as noise. got \(state.x.count) numbers, expected \(z.count). "
                        + "Do pass the images' own noise.")
            }
            if let towards {
                guard state.found.varianceFraction.count == z.count else { throw noLearnedVariance() }
                let ratio = Float(towards / added)
                for k in z.indices { z[k] *= pow(ratio, state.found.varianceFraction[k]) }
            }
            add(&state.x, Float(added), z)
        }
        state.step = step
        guard try onStep(state) else { break }
    }
    return state.x
}

/// x = p u + q v, element by element.
private func set(_ x: inout [Float], _ p: Float, _ u: [Float], _ q: Float, _ v: [Float]) {
    x.withUnsafeMutableBufferPointer { x in
        for k in x.indices { x[k] = p * u[k] + q * v[k] }
    }
}

/// x += p u, element by element.
private func add(_ x: inout [Float], _ p: Float, _ u: [Float]) {
    x.withUnsafeMutableBufferPointer { x in
        for k in x.indices { x[k] += p * u[k] }
    }
}

func noLearnedVariance() -> DDPMError {
    DDPMError(
        .usage, "variance: the network has learned none. got 'learned', expected fixed_small or fixed_large. "
            + "Do pick one.")
}
