import DDPM
import XCTest

/// Read tests/golden/`name`.json of the repository that this package lies in.
func golden<Contents: Decodable>(_ name: String, as _: Contents.Type = Contents.self) throws -> Contents {
    let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("../../../..")
    let file = root.appendingPathComponent("tests/golden/\(name).json")
    guard FileManager.default.fileExists(atPath: file.path) else {
        throw XCTSkip("no \(file.standardized.path): run the tests in the repository")
    }
    return try JSONDecoder().decode(Contents.self, from: Data(contentsOf: file))
}

struct Cases<Case: Decodable>: Decodable {
    let cases: [Case]
}

/// Return the bytes of numbers, little-endian.
func bytes<Number: FixedWidthInteger>(_ numbers: [Number]) -> [UInt8] {
    numbers.flatMap { number in withUnsafeBytes(of: number.littleEndian) { Array($0) } }
}

/// Return the SHA-256 (FIPS 180-4) of bytes in hexadecimal: Foundation has none on Linux.
func sha256(_ message: [UInt8]) -> String {
    func fraction(_ root: Double) -> UInt32 { UInt32((root - root.rounded(.down)) * 0x1p32) }
    let primes = (2...311).filter { n in !(2..<n).contains { n % $0 == 0 } }
    let k = primes.map { fraction(cbrt(Double($0))) }
    var hash = primes.prefix(8).map { fraction(Double($0).squareRoot()) }
    func rotated(_ x: UInt32, _ by: UInt32) -> UInt32 { x >> by | x << (32 - by) }

    let zeros = (119 - message.count % 64) % 64
    let padded = message + [0x80] + [UInt8](repeating: 0, count: zeros)
        + withUnsafeBytes(of: UInt64(8 * message.count).bigEndian) { Array($0) }
    for start in stride(from: 0, to: padded.count, by: 64) {
        let block = padded[start..<start + 64]
        var w = (0..<16).map { i in block.dropFirst(4 * i).prefix(4).reduce(UInt32(0)) { $0 << 8 | UInt32($1) } }
        for i in 16..<64 {
            let s0 = rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3
            let s1 = rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10
            w.append(w[i - 16] &+ s0 &+ w[i - 7] &+ s1)
        }
        var v = hash
        for i in 0..<64 {
            let choice = (v[4] & v[5]) ^ (~v[4] & v[6])
            let majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2])
            let t1 = v[7] &+ (rotated(v[4], 6) ^ rotated(v[4], 11) ^ rotated(v[4], 25)) &+ choice &+ k[i] &+ w[i]
            let t2 = (rotated(v[0], 2) ^ rotated(v[0], 13) ^ rotated(v[0], 22)) &+ majority
            v = [t1 &+ t2, v[0], v[1], v[2], v[3] &+ t1, v[4], v[5], v[6]]
        }
        hash = zip(hash, v).map { $0 &+ $1 }
    }
    return hash.map { String(format: "%08x", $0) }.joined()
}

/// Return the error that `work` throws, a failure where it throws none or another kind.
func thrown(_ kind: DDPMError.Kind, file: StaticString = #filePath, line: UInt = #line, by work: () throws -> some Any)
    -> String
{
    var message = ""
    XCTAssertThrowsError(try work(), file: file, line: line) { error in
        XCTAssertEqual((error as? DDPMError)?.kind, kind, "\(error)", file: file, line: line)
        message = error.localizedDescription
        XCTAssertFalse(message.contains { $0.isNewline }, message, file: file, line: line)
        XCTAssertTrue(message.hasSuffix("."), message, file: file, line: line)
        for part in [". got ", ", expected ", ". Do "] {
            XCTAssertFalse(message.contains(part), message, file: file, line: line)
        }
    }
    return message
}
