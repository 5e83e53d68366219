// Noise as a pure function of (seed, image, draw), bit-equal in every language.
// The tag below names this construction; section 3 of the format fixes it to the last bit.

import Foundation

public let noiseTag = "philox4x32-10/icdf-q20/1"

/// The noise of some images: fills `z` with draw number `draw`, (n, C, H, W) flat; draw 0 is x_T.
///
/// Pure: the same draw is the same numbers. `z` is sized where it has another size, and otherwise reused.
public struct Noise {
    /// How many images it is for.
    public let images: Int
    private let fill: (_ draw: Int, _ z: inout [Float]) throws -> Void

    public init(images: Int, _ fill: @escaping (_ draw: Int, _ z: inout [Float]) throws -> Void) {
        (self.images, self.fill) = (images, fill)
    }

    public func callAsFunction(_ draw: Int, _ z: inout [Float]) throws { try fill(draw, &z) }
}

/// Return the four output words of Philox4x32-10 (Salmon et al. 2011, section 3.3).
public func philox4x32_10(_ counter: SIMD4<UInt32>, _ key: SIMD2<UInt32>) -> SIMD4<UInt32> {
    var (c, k) = (counter, key)
    for _ in 0..<10 {
        let product0 = UInt64(c[0]) * 0xD251_1F53
        let product1 = UInt64(c[2]) * 0xCD9E_8D57
        c = SIMD4(
            UInt32(truncatingIfNeeded: product1 >> 32) ^ c[1] ^ k[0], UInt32(truncatingIfNeeded: product1),
            UInt32(truncatingIfNeeded: product0 >> 32) ^ c[3] ^ k[1], UInt32(truncatingIfNeeded: product0))
        k &+= SIMD2(0x9E37_79B9, 0xBB67_AE85)
    }
    return c
}

/// The inverse normal distribution at the cells of a half-word, scaled by 2^20: 32 rows of 257, row after row.
///
/// Row e covers the probabilities of words with e leading zeros below the sign bit, in 256 equal cells; the last row is
/// the value of the zero word alone.
public let normalTable: [Int32] = {
    let bytes = Data(base64Encoded: NormalTable.base64)!  // a constant of this module, proven by the golden test
    return bytes.withUnsafeBytes { raw in
        (0..<raw.count / 4).map { Int32(littleEndian: raw.loadUnaligned(fromByteOffset: 4 * $0, as: Int32.self)) }
    }
}()

/// Return a standard normal for each word, by table and linear interpolation in integers: no math library has a say.
public func normalsFromWords(_ words: [UInt32]) -> [Float] {
    normalTable.withUnsafeBufferPointer { table in words.map { normal($0, table) } }
}

@inline(__always)
private func normal(_ word: UInt32, _ table: UnsafeBufferPointer<Int32>) -> Float {
    let m = word & 0x7FFF_FFFF
    let e = m.leadingZeroBitCount - 1  // 31 for m = 0
    let f = m << UInt32(min(e, 30))  // the leading one now stands at bit 30, save for m = 0
    let cell = e * 257 + Int((f >> 22) & 0xFF)
    let upper = Int64(table[cell])
    let z = upper - ((upper - Int64(table[cell + 1])) * Int64(f & 0x3F_FFFF)) >> 22  // both factors >= 0: it floors
    return Float(word >> 31 == 0 ? z : -z) * 0x1p-20  // exact: |z| < 2^23
}

/// Return the noise of some images: draw index -> (n, C, H, W) float32; draw 0 is x_T.
///
/// Nothing is kept between calls: image 7 has the same noise alone or among others. `domain` 0 is sampling, 1 is for
/// known pixels, 2 for inputs in golden vectors. Throws `usage` for a negative seed, and for an image or (when
/// called) a draw outside [0, 2^32).
public func noiseStream(
    seed: Int64, images: some Sequence<Int>, shape: ImageShape, domain: UInt32 = 0
) throws -> Noise {
    guard seed >= 0 else { throw DDPMError(.usage, "seed must be from 0 to 2^63 - 1, got \(seed).") }
    let numbers = try images.map { number in
        guard let image = UInt32(exactly: number) else {
            throw DDPMError(.usage, "Numbers of images must be from 0 to 2^32 - 1, got \(number).")
        }
        return image
    }
    let key = SIMD2(UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32))
    let size = shape.count

    return Noise(images: numbers.count) { draw, z in
        guard let draw = UInt32(exactly: draw) else {
            throw DDPMError(.usage, "draw must be from 0 to 2^32 - 1, got \(draw).")
        }
        resize(&z, to: numbers.count * size)
        normalTable.withUnsafeBufferPointer { table in
            z.withUnsafeMutableBufferPointer { z in
                for (row, image) in numbers.enumerated() {
                    for block in 0..<(size + 3) / 4 {
                        let words = philox4x32_10(SIMD4(UInt32(block), draw, image, domain), key)
                        for lane in 0..<min(4, size - 4 * block) {  // words left over in the last block are dropped
                            z[row * size + 4 * block + lane] = normal(words[lane], table)
                        }
                    }
                }
            }
        }
    }
}

/// Give a buffer its size, once: a buffer that has it already keeps its memory.
func resize(_ buffer: inout [Float], to count: Int) {
    if buffer.count != count { buffer = [Float](repeating: 0, count: count) }
}
