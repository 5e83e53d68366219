// The network over ONNX Runtime's Objective-C interface, as Microsoft's Swift package has it; no other file names it.

import DDPM
import Foundation
import OnnxRuntimeBindings

/// A denoiser file, opened: the network and its spec.
///
/// Inputs and outputs are allocated once for a batch size. One evaluation runs at a time: a second caller waits.
public final class OnnxModel: Model, @unchecked Sendable {
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
            throw DDPMError(.badFile, "\(path): cannot be read: \(shown(error.localizedDescription)).")
        }
        spec = try specFromOnnx(model)
        if let graph = spec.graph {
            throw DDPMError(
                .refused, "\(path): a one-call \(graph), which shows no network. Run the .onnx that it was made from.")
        }
        let options: ORTSessionOptions
        do {
            environment = try ORTEnv(loggingLevel: .error)
            options = try ORTSessionOptions()
            try options.setIntraOpNumThreads(Int32(clamping: threads))
        } catch {
            throw DDPMError(
                .environment, "ONNX Runtime does not start: \(shown(error.localizedDescription)). Install it again.")
        }
        let inputs: [String], outputs: [String]
        do {
            session = try ORTSession(env: environment, modelPath: path, sessionOptions: options)
            (inputs, outputs) = (try session.inputNames(), try session.outputNames())
        } catch {
            throw DDPMError(
                .badFile, "\(path): ONNX Runtime cannot load it: \(shown(error.localizedDescription)). Export or copy "
                    + "it again.")
        }
        let wanted = ["x_t", "t"] + spec.inputs.map(\.name)
        guard Set(inputs) == Set(wanted), outputs.starts(with: spec.outputs) else {
            throw DDPMError(
                .badFile, "\(path): inputs must be \(wanted) and outputs \(spec.outputs), got \(inputs) and "
                    + "\(outputs). Export the model again, with --format onnx.")
        }
    }

    public func evaluate(
        _ x_t: [Float], t: Double, inputs: [String: InputArray], outputs: inout [String: [Float]]
    ) throws {
        lock.lock()
        defer { lock.unlock() }
        do {
            let tensors = try sized(x_t.count / spec.stateShape.count)
            tensors.fill("x_t", x_t)
            if spec.hasFractionalT {
                tensors.fill("t", [Float](repeating: Float(t), count: tensors.images))
            } else {
                tensors.fill("t", [Int64](repeating: Int64(t), count: tensors.images))
            }
            for (name, values) in inputs {
                switch values {
                case .labels(let labels): tensors.fill(name, labels)
                case .numbers(let numbers): tensors.fill(name, numbers)
                }
            }
            try session.run(withInputs: tensors.inputs, outputs: tensors.outputs, runOptions: nil)
            for name in spec.outputs { tensors.read(name, into: &outputs[name]!) }
        } catch let error as DDPMError {
            throw error
        } catch {
            throw DDPMError(
                .badFile, "The graph does not run on \(x_t.count) numbers: \(shown(error.localizedDescription)). "
                    + "Export the model again.")
        }
    }

    private func sized(_ images: Int) throws -> Tensors {
        if let tensors, tensors.images == images { return tensors }
        let fresh = try Tensors(images, spec)
        tensors = fresh
        return fresh
    }
}

/// The memory of one batch size and the tensors that lie in it.
private struct Tensors {
    let images: Int
    private var memory: [String: NSMutableData] = [:]
    private(set) var inputs: [String: ORTValue] = [:]
    private(set) var outputs: [String: ORTValue] = [:]

    init(_ images: Int, _ spec: ModelSpec) throws {
        self.images = images
        let state = [spec.stateShape.channels, spec.stateShape.height, spec.stateShape.width]
        inputs["x_t"] = try tensor("x_t", .float, state)
        inputs["t"] = try tensor("t", spec.hasFractionalT ? .float : .int64, [])
        for one in spec.inputs {
            inputs[one.name] = try tensor(one.name, one.kind == .label ? .int64 : .float, one.shape)
        }
        for name in spec.outputs { outputs[name] = try tensor(name, .float, state) }
    }

    private mutating func tensor(
        _ name: String, _ type: ORTTensorElementDataType, _ shape: [Int]
    ) throws -> ORTValue {
        let sizes = [images] + shape
        let stride = type == .int64 ? MemoryLayout<Int64>.stride : MemoryLayout<Float>.stride
        let bytes = sizes.reduce(stride, *)
        guard let data = NSMutableData(length: bytes) else {
            throw DDPMError(.environment, "There is no memory for \(bytes) bytes. Lower n.")
        }
        memory[name] = data
        return try ORTValue(tensorData: data, elementType: type, shape: sizes.map { NSNumber(value: $0) })
    }

    func fill<Number>(_ name: String, _ values: [Number]) {
        guard let data = memory[name] else { return }
        values.withUnsafeBytes {
            data.mutableBytes.copyMemory(from: $0.baseAddress!, byteCount: min($0.count, data.length))
        }
    }

    func read(_ name: String, into values: inout [Float]) {
        guard let data = memory[name] else { return }
        values.withUnsafeMutableBytes {
            $0.baseAddress!.copyMemory(from: data.mutableBytes, byteCount: min($0.count, data.length))
        }
    }
}
