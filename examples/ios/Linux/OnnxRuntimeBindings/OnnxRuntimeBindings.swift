// On Linux: the part of ONNX Runtime's Objective-C interface that this package uses, under the same names and
// signatures, over its C interface. So the code that an iPhone runs, runs here, too.

import COnnxRuntime
import Foundation

private let api = OrtGetApiBase()!.pointee.GetApi(UInt32(ORT_API_VERSION))!.pointee

/// Throw the error that a call of the C interface returned, if it did.
private func check(_ status: OpaquePointer?) throws {
    guard let status else { return }
    defer { api.ReleaseStatus(status) }
    let message = String(cString: api.GetErrorMessage(status)!)
    throw NSError(
        domain: "onnxruntime", code: Int(api.GetErrorCode(status).rawValue),
        userInfo: [NSLocalizedDescriptionKey: message])
}

public enum ORTLoggingLevel: Int32 {
    case verbose, info, warning, error, fatal
}

public enum ORTTensorElementDataType: Int32 {
    case undefined, float, int8, uInt8, int32, uInt32, int64, uInt64, string, bool
}

public final class ORTEnv {
    fileprivate var pointer: OpaquePointer?

    public init(loggingLevel: ORTLoggingLevel) throws {
        try check(api.CreateEnv(OrtLoggingLevel(UInt32(loggingLevel.rawValue)), "ddpm", &pointer))
    }

    deinit { api.ReleaseEnv(pointer) }
}

public final class ORTSessionOptions {
    fileprivate var pointer: OpaquePointer?

    public init() throws { try check(api.CreateSessionOptions(&pointer)) }

    public func setIntraOpNumThreads(_ intraOpNumThreads: Int32) throws {
        try check(api.SetIntraOpNumThreads(pointer, intraOpNumThreads))
    }

    deinit { api.ReleaseSessionOptions(pointer) }
}

public final class ORTRunOptions {}

public final class ORTTensorTypeAndShapeInfo {
    public let shape: [NSNumber]

    fileprivate init(_ shape: [NSNumber]) { self.shape = shape }
}

public final class ORTValue {
    fileprivate var pointer: OpaquePointer?
    private let data: NSMutableData?  // the tensor's memory, where it is the caller's

    public init(tensorData: NSMutableData, elementType: ORTTensorElementDataType, shape: [NSNumber]) throws {
        data = tensorData
        let sizes = shape.map(\.int64Value)
        var memory: OpaquePointer?
        try check(api.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory))
        defer { api.ReleaseMemoryInfo(memory) }
        try check(
            api.CreateTensorWithDataAsOrtValue(
                memory, tensorData.mutableBytes, tensorData.length, sizes, sizes.count, try cType(elementType),
                &pointer))
    }

    fileprivate init(owning pointer: OpaquePointer) { (self.pointer, data) = (pointer, nil) }

    /// The tensor's memory itself, as in Objective-C; where ONNX Runtime allocated it, it lasts as long as this.
    public func tensorData() throws -> NSMutableData {
        if let data { return data }
        var info: OpaquePointer?
        try check(api.GetTensorTypeAndShape(pointer, &info))
        defer { api.ReleaseTensorTypeAndShapeInfo(info) }
        var (type, count, bytes) = (ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, 0, UnsafeMutableRawPointer?.none)
        try check(api.GetTensorElementType(info, &type))
        try check(api.GetTensorShapeElementCount(info, &count))
        try check(api.GetTensorMutableData(pointer, &bytes))
        let length = try count * size(of: type)
        return NSMutableData(bytesNoCopy: bytes!, length: length, freeWhenDone: false)
    }

    public func tensorTypeAndShapeInfo() throws -> ORTTensorTypeAndShapeInfo {
        var info: OpaquePointer?
        try check(api.GetTensorTypeAndShape(pointer, &info))
        defer { api.ReleaseTensorTypeAndShapeInfo(info) }
        var count = 0
        try check(api.GetDimensionsCount(info, &count))
        var sizes = [Int64](repeating: 0, count: count)
        try check(api.GetDimensions(info, &sizes, count))
        return ORTTensorTypeAndShapeInfo(sizes.map { NSNumber(value: $0) })
    }

    deinit { api.ReleaseValue(pointer) }
}

public final class ORTSession {
    private var pointer: OpaquePointer?

    public init(env: ORTEnv, modelPath path: String, sessionOptions: ORTSessionOptions?) throws {
        let options = try sessionOptions ?? ORTSessionOptions()
        try check(api.CreateSession(env.pointer, path, options.pointer, &pointer))
    }

    public func run(
        withInputs inputs: [String: ORTValue], outputNames: Set<String>, runOptions: ORTRunOptions?
    ) throws -> [String: ORTValue] {
        let given = inputs.map { (strdup($0.key), $0.value.pointer) }
        let wanted = outputNames.map { ($0, strdup($0)) }
        defer { (given.map(\.0) + wanted.map(\.1)).forEach { free($0) } }
        let (inputNames, names) = (given.map { UnsafePointer<CChar>($0.0) }, wanted.map { UnsafePointer<CChar>($0.1) })
        var results = [OpaquePointer?](repeating: nil, count: wanted.count)
        try check(api.Run(pointer, nil, inputNames, given.map(\.1), given.count, names, names.count, &results))
        return Dictionary(uniqueKeysWithValues: zip(wanted, results).map { ($0.0, ORTValue(owning: $1!)) })
    }

    public func inputNames() throws -> [String] { try names(api.SessionGetInputCount, api.SessionGetInputName) }

    public func outputNames() throws -> [String] { try names(api.SessionGetOutputCount, api.SessionGetOutputName) }

    private typealias Count = (OpaquePointer?, UnsafeMutablePointer<Int>?) -> OpaquePointer?
    private typealias Name = (
        OpaquePointer?, Int, UnsafeMutablePointer<OrtAllocator>?,
        UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?
    ) -> OpaquePointer?

    private func names(_ count: Count, _ name: Name) throws -> [String] {
        var (n, allocator) = (0, UnsafeMutablePointer<OrtAllocator>?.none)
        try check(count(pointer, &n))
        try check(api.GetAllocatorWithDefaultOptions(&allocator))
        return try (0..<n).map { index in
            var text: UnsafeMutablePointer<CChar>?
            try check(name(pointer, index, allocator, &text))
            defer { _ = api.AllocatorFree(allocator, text) }
            return String(cString: text!)
        }
    }

    deinit { api.ReleaseSession(pointer) }
}

private func cType(_ type: ORTTensorElementDataType) throws -> ONNXTensorElementDataType {
    switch type {
    case .float: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
    case .uInt8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
    case .int64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
    default: throw noUse(of: type)
    }
}

private func size(of type: ONNXTensorElementDataType) throws -> Int {
    switch type {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return 4
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return 1
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return 8
    default: throw noUse(of: type.rawValue)
    }
}

private func noUse(of type: Any) -> NSError {
    NSError(
        domain: "onnxruntime", code: 0, userInfo: [NSLocalizedDescriptionKey: "element type \(type) is not wrapped"])
}
