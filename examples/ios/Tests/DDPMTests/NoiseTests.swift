import DDPM
import XCTest

final class NoiseTests: XCTestCase {
    func testSha256() {
        XCTAssertEqual(sha256([]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        XCTAssertEqual(sha256(Array("abc".utf8)), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    }

    func testPhilox() throws {
        struct Case: Decodable { let counter: SIMD4<UInt32>, key: SIMD2<UInt32>, words: SIMD4<UInt32> }
        for test in try golden("philox", as: Cases<Case>.self).cases {
            XCTAssertEqual(philox4x32_10(test.counter, test.key), test.words)
        }
    }

    func testNormals() throws {
        struct Normals: Decodable {
            struct Case: Decodable { let word: UInt32, z: Int, bits: UInt32 }
            let noise: String, table_shape: [Int], table_sha256: String
            let table_first_column: [Int32], table_first_row: [Int32], cases: [Case]
        }
        let expected = try golden("normals", as: Normals.self)
        XCTAssertEqual(expected.noise, noiseTag)
        XCTAssertEqual(expected.table_shape, [32, 257])
        XCTAssertEqual(Array(normalTable.prefix(257)), expected.table_first_row)
        XCTAssertEqual((0..<32).map { normalTable[257 * $0] }, expected.table_first_column)
        XCTAssertEqual(normalTable.count, 32 * 257)
        XCTAssertEqual(sha256(bytes(normalTable)), expected.table_sha256)

        let normals = normalsFromWords(expected.cases.map(\.word))
        XCTAssertEqual(normals.map(\.bitPattern), expected.cases.map(\.bits))
        XCTAssertEqual(normals.map { Int($0 * 0x1p20) }, expected.cases.map(\.z))
    }

    func testNoise() throws {
        struct GoldenNoise: Decodable {
            struct Case: Decodable {
                let seed: String, image: Int, draw: Int, domain: UInt32, shape: [Int], sha256: String
                let first_bits: [UInt32], last_bits: [UInt32]
            }
            let noise: String, cases: [Case]
        }
        let expected = try golden("noise", as: GoldenNoise.self)
        XCTAssertEqual(expected.noise, noiseTag)
        for test in expected.cases {
            let noise = try noiseStream(
                seed: try XCTUnwrap(Int64(test.seed)), images: [test.image], shape: try ImageShape(test.shape),
                domain: test.domain)
            var z: [Float] = []
            try noise(test.draw, &z)
            let bits = z.map(\.bitPattern)
            XCTAssertEqual(Array(bits.prefix(8)), test.first_bits)
            XCTAssertEqual(Array(bits.suffix(3)), test.last_bits)
            XCTAssertEqual(sha256(bytes(bits)), test.sha256)
        }
    }

    func testAnImageHasItsNoiseAloneAndAmongOthers() throws {
        let shape = try ImageShape([3, 5, 7])  // 105 numbers: three words of the last block are dropped
        var (all, alone): ([Float], [Float]) = ([], [9])
        try noiseStream(seed: 5, images: 6..<9, shape: shape)(2, &all)
        try noiseStream(seed: 5, images: [7], shape: shape)(2, &alone)
        XCTAssertEqual(Array(all[105..<210]), alone)
    }

    func testOutOfRange() throws {
        let shape = try ImageShape([1, 2, 2])
        XCTAssertTrue(thrown(.usage) { try noiseStream(seed: -1, images: [0], shape: shape) }.hasPrefix("seed must be "))
        for image in [-1, 1 << 32] {
            let message = thrown(.usage) { try noiseStream(seed: 0, images: [0, image], shape: shape) }
            XCTAssertTrue(message.hasPrefix("Numbers of images must be "))
        }
        let noise = try noiseStream(seed: .max, images: [1 << 32 - 1], shape: shape)
        var z: [Float] = []
        try noise(1 << 32 - 1, &z)
        for draw in [-1, 1 << 32] { XCTAssertTrue(thrown(.usage) { try noise(draw, &z) }.hasPrefix("draw must be ")) }
    }
}
