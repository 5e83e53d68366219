// A reader of JSON (RFC 8259) for files of any origin. Not Foundation's: in Swift 6.0 JSONDecoder traps on a malformed
// key, and JSONSerialization rounds a Double's last digits.

/// A JSON value. Whole numbers that fit an Int are integers; longer ones are
/// numbers, infinite beyond Double.
indirect enum Json: Equatable, CustomDebugStringConvertible {
    case null
    case bool(Bool)
    case integer(Int)
    case number(Double)
    case string(String)
    case array([Json])
    case object([String: Json])

    /// Read one value, and nothing after it; of two equal keys the later one counts.
    ///
    /// Throws `badFile` for what is no JSON, fractions beyond Double and more than 32 levels.
    init(_ text: some Sequence<UInt8>) throws {
        var reader = JsonReader(rest: Array(text)[...])
        self = try reader.value(levels: 32)
        reader.skipSpace()
        guard reader.rest.isEmpty else { throw reader.noJson("text after its end") }
    }

    /// The finite number that this is, of either kind.
    var double: Double? {
        switch self {
        case .integer(let value): return Double(value)
        case .number(let value): return value.isFinite ? value : nil
        default: return nil
        }
    }

    var isInteger: Bool { if case .integer = self { true } else { false } }

    var isScalar: Bool { switch self { case .null, .array, .object: false; default: true } }

    /// The value as errors show it.
    var debugDescription: String {
        switch self {
        case .null: return "null"
        case .bool(let value): return "\(value)"
        case .integer(let value): return "\(value)"
        case .number(let value): return "\(value)"
        case .string(let value): return value.debugDescription
        case .array(let values): return values.debugDescription
        case .object(let values): return "an object of \(values.count) keys"
        }
    }
}

private struct JsonReader {
    var rest: ArraySlice<UInt8>

    func noJson(_ got: String) -> DDPMError {
        DDPMError(.badFile, "The model's spec is not JSON: \(got) at byte \(rest.startIndex).")
    }

    mutating func skipSpace() {
        rest = rest.drop { $0 == 0x20 || $0 == 0x0A || $0 == 0x0D || $0 == 0x09 }
    }

    /// Take a text if it comes next.
    mutating func take(_ text: StaticString) -> Bool {
        let wanted = UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
        guard rest.starts(with: wanted) else { return false }
        rest = rest.dropFirst(wanted.count)
        return true
    }

    mutating func value(levels: Int) throws -> Json {
        guard levels > 0 else { throw noJson("more than 32 levels") }
        skipSpace()
        switch rest.first {
        case UInt8(ascii: "{"): return .object(try object(levels: levels))
        case UInt8(ascii: "["): return .array(try array(levels: levels))
        case UInt8(ascii: "\""): return .string(try string())
        case nil: throw noJson("its end")
        default: break
        }
        if take("null") { return .null }
        if take("true") { return .bool(true) }
        if take("false") { return .bool(false) }
        return try number()
    }

    mutating func object(levels: Int) throws -> [String: Json] {
        var values: [String: Json] = [:]
        _ = take("{")
        skipSpace()
        if take("}") { return values }
        while true {
            skipSpace()
            let key = try string()
            skipSpace()
            guard take(":") else { throw noJson("no colon") }
            values[key] = try value(levels: levels - 1)
            skipSpace()
            if take("}") { return values }
            guard take(",") else { throw noJson("no comma") }
        }
    }

    mutating func array(levels: Int) throws -> [Json] {
        var values: [Json] = []
        _ = take("[")
        skipSpace()
        if take("]") { return values }
        while true {
            values.append(try value(levels: levels - 1))
            skipSpace()
            if take("]") { return values }
            guard take(",") else { throw noJson("no comma") }
        }
    }

    mutating func string() throws -> String {
        guard take("\"") else { throw noJson("no string") }
        var units: [UInt8] = []
        while let byte = rest.popFirst() {
            switch byte {
            case UInt8(ascii: "\""):
                guard let text = String(bytes: units, encoding: .utf8) else { throw noJson("no UTF-8") }
                return text
            case UInt8(ascii: "\\"): units += String(try escaped()).utf8
            case 0..<0x20: throw noJson("a control character")
            default: units.append(byte)
            }
        }
        throw noJson("its end within a string")
    }

    /// Take what stands after a backslash; half a surrogate pair becomes U+FFFD.
    mutating func escaped() throws -> Unicode.Scalar {
        switch rest.popFirst() {
        case UInt8(ascii: "\""): return "\""
        case UInt8(ascii: "\\"): return "\\"
        case UInt8(ascii: "/"): return "/"
        case UInt8(ascii: "b"): return "\u{8}"
        case UInt8(ascii: "f"): return "\u{C}"
        case UInt8(ascii: "n"): return "\n"
        case UInt8(ascii: "r"): return "\r"
        case UInt8(ascii: "t"): return "\t"
        case UInt8(ascii: "u"):
            let high = try hexadecimal()
            if let scalar = Unicode.Scalar(high) { return scalar }
            let after = rest
            if (0xD800..<0xDC00).contains(high), take("\\u") {
                let low = try hexadecimal()
                if (0xDC00..<0xE000).contains(low) {
                    return Unicode.Scalar(0x10000 + (high - 0xD800) << 10 + (low - 0xDC00)) ?? "\u{FFFD}"
                }
                rest = after
            }
            return "\u{FFFD}"
        default: throw noJson("an unknown escape")
        }
    }

    mutating func hexadecimal() throws -> UInt32 {
        let digits = rest.prefix(4)
        guard digits.count == 4, digits.allSatisfy({ Character(Unicode.Scalar($0)).isHexDigit }) else {
            throw noJson("an unknown escape")
        }
        rest = rest.dropFirst(4)
        return UInt32(String(decoding: digits, as: UTF8.self), radix: 16)!  // four such digits are a number
    }

    mutating func number() throws -> Json {
        let start = rest
        func isDigit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }
        func digits() throws {
            let after = rest.drop(while: isDigit)
            guard after.count < rest.count else { throw noJson("no value") }
            rest = after
        }

        _ = take("-")
        if !take("0") { try digits() }
        var isWhole = true
        if take(".") {
            isWhole = false
            try digits()
        }
        if take("e") || take("E") {
            isWhole = false
            _ = take("+") || take("-")
            try digits()
        }
        let text = String(decoding: start[..<rest.startIndex], as: UTF8.self)
        if isWhole, let value = Int(text) { return .integer(value) }
        guard let value = Double(text), value.isFinite || isWhole else {
            throw noJson("the number \(text.prefix(40))")
        }
        return .number(value)
    }
}
