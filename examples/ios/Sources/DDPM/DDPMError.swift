import Foundation

/// What stops the work, told in one line: what is wrong and the value seen, then what helps.
public struct DDPMError: LocalizedError, CustomStringConvertible, Equatable {
    /// The kind of error; its raw value is the exit code of a command that ends with it.
    public enum Kind: Int32, Sendable {
        /// An argument is out of its range, or two contradict each other.
        case usage = 2
        /// A file is missing, broken or foreign.
        case badFile = 3
        /// A sound file asks for what this reader cannot do.
        case refused = 4
        /// A library, a device or room on the disk is missing.
        case environment = 5
        /// A prediction or an image became infinite or NaN.
        case notFinite = 6
    }

    public let kind: Kind
    public let description: String
    /// Of `notFinite`: the row, and the place of the image in its batch.
    var row: Row?
    var index = 0

    public init(_ kind: Kind, _ description: String) {
        self.kind = kind
        self.description = description
    }

    /// The error for an image of a batch that is no longer finite in a row.
    init(notFinite row: Row, _ index: Int, _ image: String) {
        let t = row.t == row.t.rounded() ? "\(Int(row.t))" : "\(row.t)"
        self.init(
            .notFinite, "At step \(row.i) (t = \(t)), \(image) became NaN or infinite. Run ddpm-check on the model.")
        (self.row, self.index) = (row, index)
    }

    public var errorDescription: String? { description }
}

/// Return foreign text as it may be shown: quoted, on one line, at most 80 characters.
public func shown(_ text: some Any) -> String {
    let full = String(reflecting: text)
    return full.count <= 80 ? full : full.prefix(77) + "..."
}

/// Return a text, or a value's own, in single quotes, as in the errors of the other languages.
func quoted(_ value: some Any) -> String {
    let text = value as? String ?? ((value as? Json).map { if case .string(let text) = $0 { text } else { "\($0)" } })
    return "'" + shown(text ?? "\(value)").dropFirst().dropLast() + "'"
}
