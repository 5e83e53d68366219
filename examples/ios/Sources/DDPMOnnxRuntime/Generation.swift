import DDPM
import Foundation
import Observation

/// One generation at a time, for a screen to watch: the picture so far, how far it is, and what went wrong.
///
/// The work runs off the main actor; the model is opened there, too, at the first start.
@MainActor @Observable
public final class Generation {
    /// The clean images that the network sees so far, as a grid; after the last step, the result.
    public private(set) var picture: Picture?
    public private(set) var step = 0
    public private(set) var numSteps = 0
    /// The names of the plans that the model carries, any of which `start` takes; none until it is open.
    public private(set) var plans: [String] = []
    /// What stopped the last generation, for people.
    public private(set) var message: String?

    public var isRunning: Bool { work != nil }

    private let path: String
    private var model: OnnxModel?
    private var work: Task<Void, Never>?

    /// `path`: the `.onnx` file.
    public init(path: String) { self.path = path }

    /// Open the model ahead of the first start, to know its plans; what goes wrong is said by `start`.
    public func open() async { _ = try? await opened() }

    /// Start on images 0 to n - 1 of `seed`; does nothing while one is running. `plan`: the name of one of the model's,
    /// in place of numSteps. `label`, `guidance`: as of `Settings`.
    public func start(
        seed: Int64, n: Int = 1, numSteps: Int, plan: String? = nil, label: InputValue? = nil,
        guidance: Guidance? = nil
    ) {
        guard work == nil else { return }
        (step, self.numSteps, message) = (0, numSteps, nil)
        let settings = Settings(
            n: n, numSteps: plan == nil ? numSteps : nil, plan: plan, seed: seed, label: label, guidance: guidance)
        work = Task {
            do {
                try await run(settings)
            } catch is CancellationError {
                message = "Cancelled after step \(step) of \(self.numSteps)."
            } catch {
                message = error.localizedDescription
            }
            work = nil
        }
    }

    /// Stop after the step in progress; the picture so far stays.
    public func cancel() { work?.cancel() }

    private func run(_ settings: Settings) async throws {
        let model = try await opened()
        let shape = model.spec.pictureShape
        for try await progress in sampleStream(model, model.spec, settings) {
            let isLast = progress.step == progress.numSteps
            picture = grid(try toUint8(isLast ? progress.x : progress.x_0, shape), shape)
            (step, numSteps) = (progress.step, progress.numSteps)
        }
        try Task.checkCancellation()  // a stream whose reader is cancelled just ends
    }

    private func opened() async throws -> OnnxModel {
        if let model { return model }
        let fresh = try await Task.detached { [path] in try OnnxModel(path: path) }.value
        model = fresh
        plans = fresh.spec.plans.keys.sorted()
        return fresh
    }
}
