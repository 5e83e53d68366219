import Foundation
import Observation

/// One generation at a time, for a screen to watch: the picture so far, how far it is, and what went wrong.
///
/// The work runs off the main actor; the model is opened there, too, at the first start.
@MainActor @Observable
public final class Generation {
    /// What the network sees so far, as a grid; after the last step, the result.
    public private(set) var picture: Pictures?
    public private(set) var step = 0
    public private(set) var numSteps = 0
    /// What stopped the last generation, for people.
    public private(set) var message: String?

    public var isRunning: Bool { work != nil }

    private let path: String
    private var model: OneCall?
    private var work: Task<Void, Never>?

    /// `path`: a one-call file; a slice shows its steps.
    public init(path: String) { self.path = path }

    /// Start; does nothing while one is running.
    public func start(_ settings: Settings) {
        guard work == nil else { return }
        (step, numSteps, message) = (0, Int(settings.steps ?? 0), nil)
        work = Task {
            do {
                try await run(settings)
            } catch is CancellationError {
                message = "Cancelled after step \(step) of \(numSteps)."
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
        let steps = AsyncThrowingStream<(Int, Int, Pictures), any Error>(bufferingPolicy: .bufferingNewest(1)) { stream in
            let making = Task.detached(priority: .userInitiated) {
                do {
                    _ = try model.pictures(settings) { step, all, preview in
                        stream.yield((step, all, preview))
                        return !Task.isCancelled
                    }
                    stream.finish()
                } catch {
                    stream.finish(throwing: error)
                }
            }
            stream.onTermination = { _ in making.cancel() }
        }
        for try await (step, all, preview) in steps {
            (self.step, numSteps, picture) = (step, all, preview.grid)
        }
        try Task.checkCancellation()  // a stream whose reader is cancelled just ends
    }

    private func opened() async throws -> OneCall {
        if let model { return model }
        let fresh = try await Task.detached { [path] in try OneCall(path: path) }.value
        model = fresh
        return fresh
    }
}
