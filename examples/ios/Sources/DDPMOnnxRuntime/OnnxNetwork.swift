// The network over ONNX Runtime's Objective-C interface, as Microsoft's Swift package has it; no other file names it.

import DDPM
import Foundation
import OnnxRuntimeBindings

/// A denoiser file, opened: the network and its spec.
///
/// Inputs and outputs are allocated once for a batch size. One evaluation runs at a time: a second caller waits.
public final class OnnxNetwork: Network, @unchecked Sendable {
    public let spec: ModelSpec
    private let environment: ORTEnv  // the session needs it alive
    private let session: ORTSession
    private let lock = NSLock()
    private var tensors: Tensors?

    /// Open the `.onnx` file at `path`. `threads`: of one evaluation, 0 for what ONNX Runtime chooses.
    ///
    /// Throws `badFile` for a file that is no denoiser of ours, `refused` for one this version cannot honour,
    /// `environment` where ONNX Runtime does not start.
    public init(path: String, threads: Int = 0) throws {
        let model: Data
        do {
            model = try Data(contentsOf: URL(fileURLWithPath: path), options: .mappedIfSafe)
        } catch {
            throw DDPMError(
                .badFile, "\(path): cannot be read. got \(shown(error.localizedDescription)), expected a model. "
                    + "Do check the path.")
        }
        spec = try specFromOnnx(model)
        if let graph = spec.graph {
            throw DDPMError(
                .refused, "\(path): no denoiser. got a \(graph) file, which holds its own sampler, expected a network "
                    + "alone. Do run it as it is, or export with --format onnx.")
        }
        let options: ORTSessionOptions
        do {
            environment = try ORTEnv(loggingLevel: .error)
            options = try ORTSessionOptions()
            try options.setIntraOpNumThreads(Int32(clamping: threads))
        } catch {
            throw DDPMError(
                .environment, "ONNX Runtime: does not start. got \(shown(error.localizedDescription)), expected a "
                    + "working library. Do install it again.")
        }
        let inputs: [String], outputs: [String]
        do {
            session = try ORTSession(env: environment, modelPath: path, sessionOptions: options)
            (inputs, outputs) = (try session.inputNames(), try session.outputNames())
        } catch {
            throw DDPMError(
                .badFile, "\(path): ONNX Runtime cannot load it. got \(shown(error.localizedDescription)), expected a "
                    + "sound ONNX file. Do export or copy it again.")
        }
        guard Set(inputs) == ["x_t", "t"], outputs.starts(with: spec.outputs) else {
            throw DDPMError(
                .badFile, "\(path): graph and spec disagree. got inputs \(inputs) and outputs \(outputs), expected "
                    + "x_t, t and \(spec.outputs). Do export the model again, with --format onnx.")
        }
    }

    public func predict(_ x_t: [Float], t: Int, predicted: inout [Float], varianceFraction: inout [Float]) throws {
        lock.lock()
        defer { lock.unlock() }
        do {
            let tensors = try sized(x_t.count / spec.imageShape.count)
            x_t.withUnsafeBytes { tensors.x_t.mutableBytes.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
            let times = tensors.t.mutableBytes.bindMemory(to: Int64.self, capacity: tensors.images)
            for image in 0..<tensors.images { times[image] = Int64(t) }
            try session.run(withInputs: tensors.inputs, outputs: tensors.outputs, runOptions: nil)
            read(tensors.results[0], into: &predicted)
            if spec.hasVarianceFraction { read(tensors.results[1], into: &varianceFraction) }
        } catch let error as DDPMError {
            throw error
        } catch {
            throw DDPMError(
                .badFile, "model: the graph does not run. got \(shown(error.localizedDescription)), expected outputs "
                    + "for \(x_t.count) numbers. Do export the model again.")
        }
    }

    private func sized(_ images: Int) throws -> Tensors {
        if let tensors, tensors.images == images { return tensors }
        let fresh = try Tensors(images, spec)
        tensors = fresh
        return fresh
    }

    private func read(_ result: NSMutableData, into values: inout [Float]) {
        values.withUnsafeMutableBytes {
            $0.baseAddress!.copyMemory(from: result.mutableBytes, byteCount: min($0.count, result.length))
        }
    }
}

/// The memory of one batch size and the tensors that lie in it.
private struct Tensors {
    let images: Int
    let x_t: NSMutableData
    let t: NSMutableData
    let results: [NSMutableData]
    let inputs: [String: ORTValue]
    let outputs: [String: ORTValue]

    init(_ images: Int, _ spec: ModelSpec) throws {
        func floats() throws -> NSMutableData {
            try memory(images * spec.imageShape.count * MemoryLayout<Float>.stride)
        }
        let size = spec.imageShape
        let shape = [images, size.channels, size.height, size.width].map { NSNumber(value: $0) }
        self.images = images
        x_t = try floats()
        t = try memory(images * MemoryLayout<Int64>.stride)
        results = try spec.outputs.map { _ in try floats() }
        inputs = [
            "x_t": try ORTValue(tensorData: x_t, elementType: .float, shape: shape),
            "t": try ORTValue(tensorData: t, elementType: .int64, shape: [NSNumber(value: images)]),
        ]
        outputs = try Dictionary(uniqueKeysWithValues: zip(spec.outputs, results).map { name, result in
            (name, try ORTValue(tensorData: result, elementType: .float, shape: shape))
        })
    }
}

private func memory(_ bytes: Int) throws -> NSMutableData {
    guard let data = NSMutableData(length: bytes) else {
        throw DDPMError(
            .environment, "memory: none left. got no \(bytes) bytes, expected room for a batch. Do lower n.")
    }
    return data
}
