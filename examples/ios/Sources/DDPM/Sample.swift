// The whole line in one call, and the same as a stream for user interfaces.

import Foundation

/// How to go down the steps.
public enum Sampler: Equatable, Sendable {
    case ddim(eta: Double)
    case ddpm(Variance)

    /// Throws `usage` for another name than ddim and ddpm; what the name leaves open comes from the spec.
    public init(_ name: String, eta: Double? = nil, of spec: ModelSpec) throws {
        switch name {
        case "ddim": self = .ddim(eta: eta ?? spec.defaults.eta)
        case "ddpm" where eta == nil: self = .ddpm(spec.variance)
        case "ddpm":
            throw DDPMError(
                .usage, "eta: has no meaning for ddpm. got \(eta!), expected none. Do leave it out, or choose ddim.")
        default:
            throw DDPMError(.usage, "sampler: unknown. got \(shown(name)), expected one of ddim, ddpm. Do pick one.")
        }
    }
}

/// Images on their way: after `step` of `numSteps`, `x`, and `x_0`, the clean images seen in the noisy ones before it.
public struct StepProgress: Sendable {
    public let step: Int
    public let numSteps: Int
    public let x: [Float]
    public let x_0: [Float]
}

/// Return a batch of images (n, C, H, W) flat: numbers `first` to `first + n - 1` of `seed`.
///
/// What is nil comes from the spec. `onStep` sees every step and says whether to go on. numSteps network evaluations.
/// Throws `CancellationError` where `onStep` said no, `usage` for what no image can be made from, `notFinite` at the
/// step where a number is no longer finite, and what the network throws.
public func sample(
    _ network: some Network, _ spec: ModelSpec, seed: Int64, first: Int = 0, n: Int = 1, numSteps: Int? = nil,
    sampler: Sampler? = nil, onStep: (StepProgress) throws -> Bool = { _ in true }
) throws -> [Float] {
    let largest = 1 << 32
    guard n >= 1, (0..<largest).contains(first), n <= largest - first else {
        throw DDPMError(
            .usage, "images: out of range. got \(n) from \(first), expected at least one, below 2^32. "
                + "Do pick another n or first.")
    }
    let numbers = first..<first + n
    let steps = try trajectory(spec, numSteps: numSteps)
    let noise = try noiseStream(seed: seed, images: numbers, shape: spec.imageShape)
    let denoise = denoiser(WatchedNetwork(network: network, steps: steps, numbers: numbers), spec)

    func go(_ state: SamplerState) throws -> Bool {
        try refuseNonFinite(state.x, state.step, numbers)
        let progress = StepProgress(step: state.step.i, numSteps: steps.count, x: state.x, x_0: state.x_0)
        guard try onStep(progress) else { throw CancellationError() }
        return true
    }

    switch try sampler ?? Sampler(spec.defaults.sampler, of: spec) {
    case .ddim(let eta): return try ddim(denoise, noise, steps, eta: eta, onStep: go)
    case .ddpm(.learned) where !spec.hasVarianceFraction: throw noLearnedVariance()
    case .ddpm(let variance): return try ddpm(denoise, noise, steps, variance: variance, onStep: go)
    }
}

/// Return the same as a stream, made off the caller's actor: one `StepProgress` a step, the last with the images.
///
/// A reader that is slower than the network sees the newest state only, and always the last one. Cancelling the reading
/// task, or leaving its loop, stops the work after the step in progress.
public func sampleStream(
    _ network: some Network & Sendable, _ spec: ModelSpec, seed: Int64, first: Int = 0, n: Int = 1,
    numSteps: Int? = nil, sampler: Sampler? = nil
) -> AsyncThrowingStream<StepProgress, any Error> {
    AsyncThrowingStream(bufferingPolicy: .bufferingNewest(1)) { stream in
        let work = Task.detached(priority: .userInitiated) {
            do {
                _ = try sample(network, spec, seed: seed, first: first, n: n, numSteps: numSteps, sampler: sampler) {
                    stream.yield($0)
                    return !Task.isCancelled
                }
                stream.finish()
            } catch {
                stream.finish(throwing: error)
            }
        }
        stream.onTermination = { _ in work.cancel() }
    }
}

/// A network that is stopped where it predicts what is not finite: clipping would hide an infinity.
private struct WatchedNetwork<Watched: Network>: Network {
    let network: Watched
    let steps: [Step]
    let numbers: Range<Int>

    func predict(_ x_t: [Float], t: Int, predicted: inout [Float], varianceFraction: inout [Float]) throws {
        try network.predict(x_t, t: t, predicted: &predicted, varianceFraction: &varianceFraction)
        let step = steps.first { $0.t == t }!  // the denoiser asks for the times of these steps alone
        try refuseNonFinite(predicted, step, numbers)
        try refuseNonFinite(varianceFraction, step, numbers)
    }
}

private func refuseNonFinite(_ values: [Float], _ step: Step, _ numbers: Range<Int>) throws {
    guard let k = values.firstIndex(where: { !$0.isFinite }) else { return }
    let image = numbers.lowerBound + k / (values.count / numbers.count)
    throw DDPMError(
        .notFinite, "step \(step.i) (t = \(step.t)), image \(image): a number is not finite. got \(values[k]), "
            + "expected finite values. Do run ddpm-check on the model.")
}
