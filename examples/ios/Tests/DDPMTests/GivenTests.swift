import DDPM
import XCTest

private struct Golden: Decodable {
    struct Case: Decodable {
        struct Table: Decodable { let rows: [Cells], start: Double? }
        struct State: Decodable { let i: Int, t: Double, a: Double, x: [Float], x_0: [Float], eps: [Float] }
        let name: String, num_steps: Int, sampler: String?, eta: Double?, clip_x_0: Double?, plan: Table
        let mask: [Float]?, measure: String?, strength: Double?, returns: Int?, jump: Int?, states: [State]
    }
    /// [t, a, x_0, eps, noise]
    struct Cells: Decodable {
        let t: Double, a: Double, lists: [[Double]]
        init(from decoder: any Decoder) throws {
            var cells = try decoder.unkeyedContainer()
            (t, a) = (try cells.decode(Double.self), try cells.decode(Double.self))
            lists = try (0..<3).map { _ in try cells.decode([Double].self) }
        }
    }
    let seed: String, images: [Int], shape: [Int], mean: Double, std: Double, tolerance: Float
    let alphas_cumprod: [Double], times: [Double], levels: [Int], crossfade: [Float], cases: [Case]

    /// Two pictures between -1 and 1.
    var pictures: [Float] { levels.map { Float(Double($0) / 127.5 - 1) } }

    func model() -> GaussianModel { GaussianModel(alphasCumprod: alphas_cumprod, mean: mean, std: std, prediction: .v) }

    func spec(clip_x_0: Double? = nil, more: String = "", requires: [String] = []) throws -> ModelSpec {
        try gaussianSpec(alphas_cumprod, .v, clip_x_0: clip_x_0, shape: shape, requires: requires, more: more)
    }
}

private let label = #""inputs": [{"name": "y", "kind": "label", "shape": [], "none": 2, "classes": ["cat", "dog"]}],"#

/// The Gaussian model, which notes the labels that it is told.
private final class Told: Model {
    let model: GaussianModel
    var labels: [[Int64]] = []

    init(_ model: GaussianModel) { self.model = model }

    func evaluate(
        _ x_t: [Float], t: Double, inputs: [String: InputArray], outputs: inout [String: [Float]]
    ) throws {
        if case .labels(let told)? = inputs["y"] { labels.append(told) }
        try model.evaluate(x_t, t: t, inputs: [:], outputs: &outputs)
    }
}

final class GivenTests: XCTestCase {
    private func assertClose(_ some: [Float], _ others: [Float], _ tolerance: Float) {
        XCTAssertEqual(some.count, others.count)
        for (one, other) in zip(some, others) { XCTAssertEqual(one, other, accuracy: tolerance) }
    }

    func testGoldenGiven() throws {
        let data = try golden("given", as: Golden.self)
        let shape = try ImageShape(data.shape)
        let seed = try XCTUnwrap(Int64(data.seed))
        let noise = try noiseStream(seed: seed, images: data.images, shape: shape)
        XCTAssertEqual(data.cases.count, 10)
        for test in data.cases {
            let rows = zip(1..., test.plan.rows).map { i, row in
                Row(i: i, t: row.t, a: row.a, x_0: row.lists[0], eps: row.lists[1], noise: row.lists[2])
            }
            let plan = Plan(rows: rows, start: test.plan.start ?? 1)
            var denoise = try denoiser(data.model(), data.spec(clip_x_0: test.clip_x_0))
            var (x, keep): ([Float]?, Keep?) = (test.name == "backwards" ? data.pictures : nil, nil)
            if test.strength != nil {
                var z: [Float] = []
                try noise(0, &z)
                x = noised(data.pictures, z, rows[0].a)
            }
            if let measure = test.measure {
                let measurement = try measurementFromText(measure, shape, mask: test.mask)
                denoise = measured(denoise, measurement, measurement.of(data.pictures))
            } else if let mask = test.mask {
                let ofTheKnown = try noiseStream(seed: seed, images: data.images, shape: shape, domain: givenDomain)
                keep = knownPixels(data.pictures, mask, ofTheKnown)
            }
            var states: [State] = []
            try walk(denoise, noise, plan, x: x, keep: keep) { state in
                states.append(state)
                return true
            }
            XCTAssertEqual(states.count, test.states.count)
            for (state, right) in zip(states, test.states) {
                XCTAssertEqual(state.row.i, right.i)
                for (a, b) in [(state.x, right.x), (state.x_0, right.x_0), (state.eps, right.eps)] {
                    assertClose(a, b, data.tolerance)
                }
            }
            // going on from a state puts in no known pixels a second time
            var again: [State] = []
            try walk(denoise, noise, plan, state: states[0], keep: keep) { state in
                again.append(state)
                return true
            }
            XCTAssertEqual(again, Array(states.dropFirst()))
        }
    }

    func testPlansAreMadeOfWhatTheCasesSay() throws {
        let data = try golden("given", as: Golden.self)
        let spec = try data.spec()
        for test in data.cases where test.sampler == "ddim" {
            let times = try timesBelow(data.times, test.strength ?? 1, 50)
            let rows = try plan(spec, sampler: "ddim", times: times.map { Int($0) }, eta: test.eta)
            let made = try withReturns(rows, test.returns ?? 0, jump: test.jump ?? 1).rows
            XCTAssertEqual(made.map(\.i), Array(1...test.plan.rows.count))
            for (row, right) in zip(made, test.plan.rows) {
                XCTAssertEqual([row.t, row.a], [right.t, right.a])
                for (list, others) in zip([row.x_0, row.eps, row.noise], right.lists) {
                    XCTAssertEqual(list.count, others.count)
                    for (one, other) in zip(list, others) { XCTAssertEqual(one, other, accuracy: 1e-12) }
                }
            }
        }
    }

    func testBetweenTwoPictures() throws {
        let data = try golden("given", as: Golden.self)
        let (first, last) = (Array(data.pictures[..<24]), Array(data.pictures[24...]))
        assertClose(try crossfade(first, last, 3), data.crossfade, 1e-7)

        // what is between begins and ends at the edits of the pictures, with the noise and the label of one image
        let spec = try data.spec(more: label, requires: ["inputs"])
        let images = try toUint8(data.pictures, spec.stateShape)
        let said = InputValue.each([.name("cat"), .name("dog")])
        let settings = Settings(n: 5, numSteps: 4, sampler: "ddim", eta: 1, seed: 3, first: 5, label: said)
        let model = Told(data.model())
        let all = try edit(model, spec, images, settings, given: Given(strength: 0.5, between: true))
        XCTAssertEqual(model.labels[0], [1, 1, 1, 1, 1])
        var one = settings
        one.n = 1
        for (k, place) in [(0, 0), (1, 4)] {
            let picture = Array(images[k * 24..<(k + 1) * 24])
            let end = try edit(model, spec, picture, one, given: Given(strength: 0.5))
            XCTAssertEqual(Array(all[place * 24..<(place + 1) * 24]), end)
        }
    }

    func testAnEditIsItsParts() throws {
        let data = try golden("given", as: Golden.self)
        let spec = try data.spec(clip_x_0: 0.75)
        let images = try toUint8(data.pictures, spec.stateShape)
        XCTAssertEqual(try fromUint8(images, spec.stateShape), data.pictures)
        let mask: [UInt8] = [0, 255, 64, 0, 255, 255, 0, 128]
        let settings = Settings(n: 2, numSteps: 4, sampler: "ddim", eta: 0.5, seed: 1, first: 5)
        var (steps, states): ([Int], [[Float]]) = ([], [])
        let made = try edit(data.model(), spec, images, settings, given: Given(mask: mask, returns: 2, jump: 2)) {
            steps.append($0.step)
            states.append($0.x)
            return true
        }
        XCTAssertEqual(steps, Array(1...8))
        let each = [0, 0, 1, 1].flatMap { data.pictures[$0 * 24..<($0 + 1) * 24] }
        func noise(_ domain: UInt32) throws -> Noise {
            try noiseStream(seed: 1, images: 5...8, shape: spec.stateShape, domain: domain)
        }
        let keep = knownPixels(each, mask.map { Float($0) / 255 }, try noise(1))
        let rows = try withReturns(plan(spec, sampler: "ddim", numSteps: 4, eta: 0.5), 2, jump: 2)
        var expected: [[Float]] = []
        try walk(denoiser(data.model(), spec), noise(0), rows, keep: keep) { state in
            expected.append(state.x)
            return true
        }
        XCTAssertEqual(states, expected)
        XCTAssertEqual(made, expected.last)
        // known pixels come back to the level
        for (k, level) in try toUint8(made, spec.stateShape).enumerated() where mask[k % 24 / 3] == 0 {
            XCTAssertEqual(level, images[k / 48 * 24 + k % 24])
        }
        // an image is the same in any batch; a mask for each picture
        let (last, other) = (Array(images[24...]), mask.map { 255 - $0 })
        var one = settings
        (one.n, one.first) = (1, 7)
        let alone = try edit(data.model(), spec, last, one, given: Given(mask: mask, returns: 2, jump: 2))
        XCTAssertEqual(alone, Array(made[48..<72]))
        let both = try edit(data.model(), spec, images, one, given: Given(mask: mask + other, strength: 0.6))
        one.first = 8
        XCTAssertEqual(try edit(data.model(), spec, last, one, given: Given(mask: other, strength: 0.6)), Array(both[24...]))
    }

    func testWhatIsMeasured() throws {
        let data = try golden("given", as: Golden.self)
        let spec = try data.spec(more: label, requires: ["inputs"])
        let images = try toUint8(data.pictures, spec.stateShape)
        let model = Told(data.model())
        for measure in ["average:2", "grey"] {
            let settings = Settings(n: 1, numSteps: 6, sampler: "ddim", eta: 1)
            let made = try edit(model, spec, images, settings, given: Given(measure: measure))
            let measurement = try measurementFromText(measure, spec.stateShape)
            assertClose(measurement.of(made), measurement.of(data.pictures), 1e-5)
        }
        XCTAssertEqual(Set(model.labels), [[2, 2]], "of a picture no class is known")
    }

    func testEditsThatAreRefused() throws {
        let data = try golden("given", as: Golden.self)
        let back = #""plans": {"back": {"rows": [[40, 0.5, [1], [0.5], []], [30, 0.5, [1, 0.5], [0.5], []]]}},"#
        let spec = try data.spec(more: back)
        let images = try toUint8(data.pictures, spec.stateShape)
        let mask = [UInt8](repeating: 0, count: 8)
        let four = Settings(n: 1, numSteps: 4)
        let looking = Settings(n: 1, plan: "back")
        let short = Array(images.dropFirst())
        for (some, settings, given, message) in [
            (images, four, Given(), "A picture needs a mask, a measure or a strength."),
            (images, four, Given(strength: 0), "strength must be above 0 and at most 1, got 0.0."),
            (images, four, Given(strength: 0.1), "strength must reach the lowest time, t = 11 of 50, got 0.1."),
            (images, four, Given(strength: 0.5, returns: 1), "returns need a mask or a measure."),
            (images, four, Given(mask: mask, returns: -1), "returns must be 0 or more, got -1."),
            (images, four, Given(mask: mask, returns: 1, jump: 4),
                "jump must be between 1 and 3, below the plan's rows, got 4."),
            (images, looking, Given(mask: mask, returns: 1),
                "returns need a sampler that does not look back and has a fixed variance. Choose ddim."),
            (images, looking, Given(strength: 0.7), "strength does not apply to a plan whose rows look back beyond it."),
            (images, four, Given(mask: Array(mask.dropFirst())),
                "mask must be uint8 (2, 4), or one for each picture, got 7 numbers."),
            (short, four, Given(mask: mask), "images must be uint8 (m, 2, 4, 3), got 47 numbers."),
            (images, four, Given(measure: "average:4"), "measure average:K must divide 2 x 4 pixels, got 'average:4'."),
            (images, four, Given(measure: "average:0"), "measure average:K must divide 2 x 4 pixels, got 'average:0'."),
            (images, four, Given(measure: "half"), "measure must be average:K, grey or mask, got 'half'."),
            (images, four, Given(measure: "mask"), "measure mask needs a mask."),
            (images, four, Given(mask: mask, measure: "grey"), "mask does not apply to measure grey."),
            (images, four, Given(mask: mask, between: true), "between needs a strength, and nothing else besides."),
            (images, four, Given(strength: 0.5, between: true),
                "There must be at least 2 images from one end to the other, got 1."),
            (Array(images[..<24]), four, Given(strength: 0.5, between: true), "between needs 2 images, got 1."),
            (images, Settings(n: 0), Given(strength: 0.5), "n must be at least 1, got 0."),
        ] {
            XCTAssertEqual(thrown(.usage) { try edit(data.model(), spec, some, settings, given: given) }, message)
        }
    }
}
