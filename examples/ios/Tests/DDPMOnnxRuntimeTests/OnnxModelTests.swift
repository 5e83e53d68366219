import DDPM
import DDPMOnnxRuntime
import XCTest

private let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("../../../..")

private func shipped() throws -> String {
    let model = root.appendingPathComponent("exported/unet.onnx").standardized.path
    guard FileManager.default.fileExists(atPath: model) else { throw XCTSkip("no \(model): run in the repository") }
    return model
}

final class OnnxModelTests: XCTestCase {
    func testTheGoldenImage() throws {
        struct FullImage: Decodable {
            let seed: Int64, first: Int, num_steps: Int, sampler: String, eta: Double, shape: [Int], pixels: [UInt8]
        }
        let model = try OnnxModel(path: try shipped(), threads: 2)
        let golden = try JSONDecoder().decode(
            FullImage.self, from: Data(contentsOf: root.appendingPathComponent("tests/golden/full_image.json")))
        let spec = model.spec
        XCTAssertEqual(golden.shape, [spec.pictureShape.height, spec.pictureShape.width, spec.pictureShape.channels])
        let settings = Settings(
            n: 1, numSteps: golden.num_steps, sampler: golden.sampler, eta: golden.eta, seed: golden.seed,
            first: golden.first)
        let x = try sample(model, spec, settings)
        let pixels = try toUint8(x, spec.pictureShape)
        XCTAssertEqual(pixels.count, golden.pixels.count)
        XCTAssertLessThanOrEqual(zip(pixels, golden.pixels).map { abs(Int($0) - Int($1)) }.max()!, 1)
    }

    func testAnImageIsTheSameInAnyBatch() throws {
        let model = try OnnxModel(path: try shipped(), threads: 2)
        let spec = model.spec
        let two = try sample(model, spec, Settings(n: 2, numSteps: 2, seed: 1, first: 4))
        let one = try sample(model, spec, Settings(n: 1, numSteps: 2, seed: 1, first: 5))
        for (a, b) in zip(two.suffix(one.count), one) { XCTAssertEqual(a, b, accuracy: 1e-4) }
        XCTAssertNotEqual(Array(two.prefix(one.count)), one)
    }

    func testWhatIsNoModel() throws {
        func message(_ path: String) -> String {
            var message = ""
            XCTAssertThrowsError(try OnnxModel(path: path)) { error in
                XCTAssertEqual((error as? DDPMError)?.kind, .badFile)
                message = error.localizedDescription
            }
            return message
        }
        XCTAssertTrue(message("/nowhere/unet.onnx").contains("cannot be read"))
        XCTAssertTrue(message(#filePath).contains("no ONNX file"))

        // sound metadata behind a graph that is none
        let model = try Data(contentsOf: URL(fileURLWithPath: try shipped()))
        XCTAssertEqual(model[0], 0x08, "ir_version comes first")
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID().uuidString).onnx")
        defer { try? FileManager.default.removeItem(at: file) }
        var noGraph = Data([0x08, 0x08])
        let metadata = try XCTUnwrap(model.range(of: Data("ddpm_export".utf8), options: .backwards))
        // the entry is tag, length (two or three bytes), tag, length, key: step back to its tag
        let start = try XCTUnwrap(model[..<metadata.lowerBound].dropLast(2).lastIndex(of: 0x72))
        noGraph.append(model[start...])
        try noGraph.write(to: file)
        XCTAssertTrue(message(file.path).contains("cannot load it"))
    }
}

@MainActor
final class GenerationTests: XCTestCase {
    private func finished(_ generation: Generation, after seconds: Double = 60) async throws {
        for _ in 0..<Int(seconds / 0.01) where generation.isRunning { try await Task.sleep(nanoseconds: 10_000_000) }
        XCTAssertFalse(generation.isRunning)
    }

    func testAPictureAndItsProgress() async throws {
        let model = try shipped()
        let generation = Generation(path: model)
        generation.start(seed: 7, n: 2, numSteps: 3)
        XCTAssertTrue(generation.isRunning)
        generation.start(seed: 8, n: 1, numSteps: 1)  // changes nothing
        try await finished(generation)
        XCTAssertNil(generation.message)
        XCTAssertEqual([generation.step, generation.numSteps], [3, 3])
        let opened = try OnnxModel(path: model)
        let x = try sample(opened, opened.spec, Settings(n: 2, numSteps: 3, seed: 7))
        let shape = opened.spec.pictureShape
        XCTAssertEqual(generation.picture, grid(try toUint8(x, shape), shape))
    }

    func testAPlanTakesThePlaceOfTheSteps() async throws {
        let model = try shipped()
        let generation = Generation(path: model)
        await generation.open()
        XCTAssertEqual(generation.plans, try OnnxModel(path: model).spec.plans.keys.sorted())
        generation.start(seed: 7, numSteps: 3, plan: "no-such")
        try await finished(generation)
        XCTAssertTrue(try XCTUnwrap(generation.message).hasPrefix("plan must be one of "))
    }

    func testCancelAndStartAgain() async throws {
        let generation = Generation(path: try shipped())
        generation.start(seed: 7, numSteps: 1000)
        while generation.step < 2, generation.isRunning { try await Task.sleep(nanoseconds: 1_000_000) }
        generation.cancel()
        try await finished(generation)
        XCTAssertLessThan(generation.step, 1000)
        XCTAssertEqual(generation.message, "Cancelled after step \(generation.step) of 1000.")
        XCTAssertNotNil(generation.picture)
        generation.start(seed: 7, numSteps: 1)
        try await finished(generation)
        XCTAssertNil(generation.message)
        XCTAssertEqual(generation.step, 1)
    }

    func testWhatGoesWrongIsSaid() async throws {
        let generation = Generation(path: "/nowhere/unet.onnx")
        generation.start(seed: 7, numSteps: 1)
        try await finished(generation)
        XCTAssertTrue(try XCTUnwrap(generation.message).hasPrefix("/nowhere/unet.onnx: cannot be read:"))
    }
}
