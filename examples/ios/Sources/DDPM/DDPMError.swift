import Foundation

/// What stops the work, told in one line: `where: what. got ..., expected ... . Do ... .`
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

    public init(_ kind: Kind, _ description: String) {
        self.kind = kind
        self.description = description
    }

    public var errorDescription: String? { description }
}

/// Return foreign text as it may be shown: quoted, on one line, at most 80 characters.
public func shown(_ text: some Any) -> String {
    let full = String(reflecting: text)
    return full.count <= 80 ? full : full.prefix(77) + "..."
}
