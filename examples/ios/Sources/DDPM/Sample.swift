// The whole line in one call, and the same as a stream for user interfaces.

/// All that decides the images besides the model; what is nil is the file's default.
public struct Settings: Equatable, Sendable {
    /// How many images, in one batch.
    public var n: Int
    /// 1 to T.
    public var numSteps: Int?
    /// Falling, in place of numSteps evenly spaced ones.
    public var times: [Int]?
    /// ddim or ddpm.
    public var sampler: String?
    /// Of ddim: 0 (adds no noise) to 1.
    public var eta: Double?
    /// Of ddpm.
    public var variance: Variance?
    /// The name of a plan that the file carries, in place of the five above.
    public var plan: String?
    /// 0 to 2^63 - 1.
    public var seed: Int64
    /// The number of the first image, of 2^32.
    public var first: Int
    /// A class, none, or several, which images take in turn, image k number k mod their count; nil: every class.
    public var label: InputValue?
    /// As of `denoiser`.
    public var guidance: Guidance?
    /// What else the network is told, by name: values for one image or for several, which images take in turn, too.
    public var inputs: [String: InputValue]

    public init(
        n: Int = 16, numSteps: Int? = nil, times: [Int]? = nil, sampler: String? = nil, eta: Double? = nil,
        variance: Variance? = nil, plan: String? = nil, seed: Int64 = 0, first: Int = 0,
        label: InputValue? = nil, guidance: Guidance? = nil, inputs: [String: InputValue] = [:]
    ) {
        (self.n, self.numSteps, self.times, self.sampler, self.eta) = (n, numSteps, times, sampler, eta)
        (self.variance, self.plan, self.seed, self.first) = (variance, plan, seed, first)
        (self.label, self.guidance, self.inputs) = (label, guidance, inputs)
    }

    /// Return what a network is told of images by their numbers; what is unknown or missing the denoiser refuses.
    func told(_ spec: ModelSpec, _ numbers: [Int]) throws -> [String: InputValue] {
        var given = inputs
        if let label {
            guard let own = spec.label else {
                throw DDPMError(.usage, "label does not apply to a network that is told no class.")
            }
            guard given.updateValue(label, forKey: own.name) == nil else {
                throw DDPMError(
                    .usage, "label must be left out beside the input \(quoted(own.name)), which is the same.")
            }
        } else if let own = spec.label, given[own.name] == nil {
            given[own.name] = .each(own.classes.indices.map { .index($0) })
        }
        for one in spec.inputs where one.isTold {
            if let values = given[one.name] { given[one.name] = try one.told(values, numbers) }
        }
        return given
    }

    /// Return the plan that is chosen.
    func rows(_ spec: ModelSpec) throws -> Plan {
        try DDPM.plan(
            spec, sampler: sampler, numSteps: numSteps, times: times, name: plan, eta: eta, variance: variance)
    }

    /// Return the numbers of `count` images, `first` on.
    func numbers(_ count: Int) throws -> [Int] {
        let largest = 1 << 32
        guard (0..<largest).contains(first), count <= largest - first else {
            throw DDPMError(.usage, "first + n must be at most 2^32, and first 0 or more, got \(first) and \(count).")
        }
        return Array(first..<first + count)
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
/// `progress` sees every row of the plan and says whether to go on. One network evaluation a row.
/// Throws `CancellationError` where `progress` said no, `usage` for what no image can be made from, `notFinite` at the
/// row where a number is no longer finite, and what the network throws.
public func sample(
    _ model: some Model, _ spec: ModelSpec, _ settings: Settings,
    progress: (StepProgress) throws -> Bool = { _ in true }
) throws -> [Float] {
    let rows = try settings.rows(spec)
    guard settings.n >= 1 else { throw DDPMError(.usage, "n must be at least 1, got \(settings.n).") }
    let numbers = try settings.numbers(settings.n)
    let guided = try guidanceFor(spec, settings.guidance)
    let noise = try noiseStream(seed: settings.seed, images: numbers, shape: spec.stateShape)
    let denoise = try denoiser(model, spec, inputs: settings.told(spec, numbers), guidance: guided)
    return try walked(denoise, noise, rows, numbers, progress)
}

/// Walk to the end; tells `progress`, and the number of an image that is not finite.
func walked(
    _ denoise: @escaping Denoiser, _ noise: Noise, _ plan: Plan, _ numbers: [Int], x: [Float]? = nil,
    keep: Keep? = nil, _ progress: (StepProgress) throws -> Bool
) throws -> [Float] {
    do {
        return try walk(denoise, noise, plan, x: x, keep: keep) { state in
            let told = StepProgress(step: state.row.i, numSteps: plan.rows.count, x: state.x, x_0: state.x_0)
            guard try progress(told) else { throw CancellationError() }
            return true
        }
    } catch let error as DDPMError {
        guard let row = error.row else { throw error }
        throw DDPMError(notFinite: row, error.index, "image \(numbers[error.index])")
    }
}

/// Return the same as a stream, made off the caller's actor: one `StepProgress` a row, the last with the images.
///
/// A reader that is slower than the network sees the newest state only, and always the last one. Cancelling the reading
/// task, or leaving its loop, stops the work after the row in progress.
public func sampleStream(
    _ model: some Model & Sendable, _ spec: ModelSpec, _ settings: Settings
) -> AsyncThrowingStream<StepProgress, any Error> {
    AsyncThrowingStream(bufferingPolicy: .bufferingNewest(1)) { stream in
        let work = Task.detached(priority: .userInitiated) {
            do {
                _ = try sample(model, spec, settings) {
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
