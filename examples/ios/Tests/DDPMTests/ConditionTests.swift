import DDPM
import XCTest

private let label = #"{"name": "y", "kind": "label", "shape": [], "none": 3, "classes": ["cat", "dog", "owl"]}"#
private let rest = #"""
    {"name": "w", "kind": "vector", "shape": [2], "none": 0.5},
    {"name": "x_0_prev", "kind": "previous", "shape": [1, 2, 3], "none": null}
    """#
private let own = #"{"name": "guidance", "kind": "vector", "shape": [1], "none": 1.0}"#
private let alphas = (1...20).map { 1 - 0.0475 * Double($0) }

private func specTold(_ inputs: String..., requires: [String] = [], defaults: String = "") throws -> ModelSpec {
    let list = inputs.isEmpty ? "" : "\"inputs\": [\(inputs.joined(separator: ", "))],"
    return try gaussianSpec(
        alphas, variance: .learned, requires: requires + (inputs.isEmpty ? [] : ["inputs"]), defaults: defaults,
        more: list)
}

/// A network that is told a class and guides itself where it is told guidance; it notes what it was fed.
private final class Classes: Model {
    let models: [GaussianModel], fractions: [Float], prediction: Prediction
    var fed: [[String: InputArray]] = []
    var sick: Int?

    init(
        _ alphasCumprod: [Double], means: [Double], std: Double, fractions: [Float], _ prediction: Prediction = .eps
    ) {
        models = means.map {
            GaussianModel(alphasCumprod: alphasCumprod, mean: $0, std: std, prediction: prediction)
        }
        (self.fractions, self.prediction) = (fractions, prediction)
    }

    func evaluate(
        _ x_t: [Float], t: Double, inputs: [String: InputArray], outputs: inout [String: [Float]]
    ) throws {
        fed.append(inputs)
        guard case .labels(let labels)? = inputs["y"] else { return XCTFail("no label") }
        var scales: [Float]?
        if case .numbers(let given)? = inputs["guidance"] { scales = given }
        let size = x_t.count / labels.count
        func said(_ k: Int, _ label: Int) throws -> [Float] {
            var one: [String: [Float]] = [:]
            try models[label].evaluate(Array(x_t[k * size..<(k + 1) * size]), t: t, inputs: [:], outputs: &one)
            return one[prediction.rawValue]!
        }
        var (whole, fraction): ([Float], [Float]) = ([], [])
        for (k, label) in labels.enumerated() {
            let (c, u) = (try said(k, Int(label)), try said(k, 3))
            whole += scales.map { scales in zip(c, u).map { $1 + scales[k] * ($0 - $1) } } ?? c
            fraction += [Float](repeating: fractions[Int(label)], count: size)
        }
        if let sick { fraction[sick] = .nan }
        outputs[prediction.rawValue] = whole
        if outputs["variance_fraction"] != nil { outputs["variance_fraction"] = fraction }
    }

    /// The labels of every evaluation, image after image.
    var labels: [[Int64]] {
        fed.map { if case .labels(let labels)? = $0["y"] { labels } else { [] } }
    }
}

private func network() -> Classes {
    Classes(alphas, means: [-0.5, 0.25, 0.75, 0.125], std: 0.5, fractions: [0.25, 0.5, 1, 0.75])
}

final class ConditionTests: XCTestCase {
    private struct Golden: Decodable {
        struct Case: Decodable {
            struct Strength: Decodable { let scale: Double, interval: [Double]? }
            struct Named: Decodable { let name: String }
            struct State: Decodable { let i: Int, t: Double, a: Double, x: [Float], x_0: [Float], eps: [Float] }
            let y: [Int], guidance: Strength, inputs: [Named], prediction: String, clip_x_0: Double?
            let sampler: String, eta: Double?, variance: String?, states: [State]
        }
        let seed: String, images: [Int], shape: [Int], num_steps: Int, means: [Double], std: Double
        let variance_fractions: [Float], tolerance: Float, alphas_cumprod: [Double], cases: [Case]
    }

    /// One evaluation a row, of twice the batch where it is guided and not by the network itself.
    func testGoldenConditions() throws {
        let data = try golden("conditions", as: Golden.self)
        let noise = try noiseStream(
            seed: try XCTUnwrap(Int64(data.seed)), images: data.images, shape: try ImageShape(data.shape))
        let label = label.replacingOccurrences(of: #""cat", "dog", "owl""#, with: #""shoe", "bag", "coat""#)
        XCTAssertEqual(data.cases.count, 8)
        for test in data.cases {
            let guidesItself = test.inputs.map(\.name).contains("guidance")
            let prediction = try XCTUnwrap(Prediction(rawValue: test.prediction))
            let variance = try test.variance.map { try XCTUnwrap(Variance(rawValue: $0)) }
            let spec = try gaussianSpec(
                data.alphas_cumprod, prediction, clip_x_0: test.clip_x_0, shape: data.shape,
                variance: variance ?? .fixedSmall, requires: ["inputs"],
                more: "\"inputs\": [\(label)\(guidesItself ? ", \(own)" : "")],")
            let model = Classes(
                data.alphas_cumprod, means: data.means, std: data.std, fractions: data.variance_fractions, prediction)
            let guidance = Guidance(scale: test.guidance.scale, interval: test.guidance.interval.map { $0[0]...$0[1] })
            let denoise = try denoiser(model, spec, inputs: ["y": .each(test.y.map { .index($0) })], guidance: guidance)
            let rows = try plan(
                spec, sampler: test.sampler, numSteps: data.num_steps, eta: test.eta, variance: variance)
            var states: [State] = []
            try walk(denoise, noise, rows) { state in
                states.append(state)
                return true
            }
            XCTAssertEqual(states.count, test.states.count)
            for (state, right) in zip(states, test.states) {
                XCTAssertEqual(state.row.i, right.i)
                XCTAssertEqual([state.row.t, state.row.a], [right.t, right.a])
                for (a, b) in [(state.x, right.x), (state.x_0, right.x_0), (state.eps, right.eps)] {
                    XCTAssertEqual(a.count, b.count)
                    for (one, other) in zip(a, b) { XCTAssertEqual(one, other, accuracy: data.tolerance) }
                }
            }
            let isTwice = !guidesItself && test.y != [3, 3, 3]
            XCTAssertEqual(
                model.labels.map(\.count), rows.rows.map { isTwice && guidance.at($0.t) > 1 ? 6 : 3 })
        }
    }

    func testGuidanceAsksWithTheLabelAndWithoutInOneBatch() throws {
        let spec = try specTold(label, rest)
        let model = network()
        let given: [String: InputValue] = ["y": .each([.name("dog"), .name("cat")]), "w": .numbers([1, 2, 3, 4])]
        let denoise = try denoiser(model, spec, inputs: given, guidance: Guidance(scale: 3, interval: 0...9))
        let noise = try noiseStream(seed: 0, images: [0, 1], shape: spec.stateShape)
        var states: [State] = []
        try walk(denoise, noise, plan(spec, times: [10, 9, 0])) { state in
            states.append(state)
            return true
        }
        XCTAssertEqual(model.labels, [[1, 0], [1, 0, 3, 3], [1, 0, 3, 3]])
        XCTAssertEqual(model.fed[0]["w"], .numbers([1, 2, 3, 4]))
        for k in 1...2 {
            XCTAssertEqual(model.fed[k]["w"], .numbers([1, 2, 3, 4, 1, 2, 3, 4]))
            XCTAssertEqual(model.fed[k]["x_0_prev"], .numbers(states[k - 1].x_0 + states[k - 1].x_0))
        }
        // a denoiser begins anew where it is told no clean image
        var found = Denoised()
        try denoise(states[0].x, states[2].row, nil, &found)
        XCTAssertEqual(model.fed[3]["x_0_prev"], .numbers([Float](repeating: 0, count: 24)))
    }

    func testTheArithmetic() {
        var two: [[String: [Float]]] = [
            ["eps": [0.1], "variance_fraction": [0.25]], ["eps": [0.5], "variance_fraction": [0.5]],
        ]
        let weight: Float = 2.3
        XCTAssertEqual(
            combine(&two, scale: 2.3),
            ["eps": [Float(0.5) + weight * (Float(0.1) - Float(0.5))], "variance_fraction": [0.25]])
        var one: [[String: [Float]]] = [["eps": [0.3]]]
        XCTAssertEqual(combine(&one, scale: 7), ["eps": [0.3]])
    }

    func testImagesAreToldInTurnByTheirNumbers() throws {
        let spec = try specTold(label, rest)
        func fed(_ settings: Settings) throws -> [[String: InputArray]] {
            let model = network()
            var settings = settings
            settings.numSteps = settings.numSteps ?? 1
            _ = try sample(model, spec, settings)
            return model.fed
        }
        func labels(_ settings: Settings) throws -> InputArray? { try fed(settings)[0]["y"] }
        XCTAssertEqual(try labels(Settings(n: 4, first: 2)), .labels([2, 0, 1, 2]))
        let several = InputValue.each([.name("dog"), .name("none"), .index(0)])
        XCTAssertEqual(try labels(Settings(n: 4, first: 1, label: several)), .labels([3, 0, 1, 3]))
        for same in [InputValue.name("dog"), .name("1"), .index(1)] {
            XCTAssertEqual(try labels(Settings(n: 2, label: same)), .labels([1, 1]))
        }
        XCTAssertEqual(try labels(Settings(n: 2, inputs: ["y": .each([.name("dog"), .index(0)])])), .labels([1, 0]))
        XCTAssertEqual(try labels(Settings(n: 2, guidance: Guidance(scale: 0))), .labels([3, 3]))
        XCTAssertEqual(try labels(Settings(n: 2, guidance: Guidance(scale: 2))), .labels([0, 1, 3, 3]))
        XCTAssertEqual(
            try labels(Settings(n: 2, label: .name("none"), guidance: Guidance(scale: 2))), .labels([3, 3]))
        let w = try fed(Settings(n: 3, first: 1, inputs: ["w": .numbers([1, 2, 3, 4])]))[0]["w"]
        XCTAssertEqual(w, .numbers([3, 4, 1, 2, 3, 4]))

        // classes that are called so
        let named = try specTold(label.replacingOccurrences(of: #""dog", "owl""#, with: #""none", "0""#))
        let model = network()
        _ = try sample(
            model, named, Settings(n: 2, numSteps: 1, label: .each([.name("none"), .name("0")])))
        XCTAssertEqual(model.labels, [[1, 2]])

        // an image is the same alone and in any batch
        let settings = Settings(n: 5, numSteps: 4, sampler: "ddpm", seed: 3, guidance: Guidance(scale: 2.5))
        let all = try sample(network(), spec, settings)
        var last = settings
        (last.n, last.first) = (1, 4)
        XCTAssertEqual(try sample(network(), spec, last), Array(all.suffix(6)))
    }

    func testTheFilesOwnGuidance() throws {
        let spec = try specTold(
            label, requires: ["guidance"], defaults: #", "guidance": {"scale": 2, "interval": [0, 10]}"#)
        func batches(_ guidance: Guidance?) throws -> [Int] {
            let model = network()
            _ = try sample(model, spec, Settings(n: 1, numSteps: 2, guidance: guidance))
            return model.labels.map(\.count)
        }
        XCTAssertEqual(try batches(nil), [1, 2])
        XCTAssertEqual(try batches(Guidance(scale: 3)), [2, 2])
        XCTAssertEqual(try batches(Guidance()), [1, 1])
        XCTAssertEqual(try batches(Guidance(scale: 3, interval: 19...19)), [2, 1])
    }

    func testWhatIsNotFiniteIsToldOfItsImage() throws {
        for half in [0, 1] {
            let model = network()
            model.sick = 12 * half + 7
            let said = thrown(.notFinite) {
                try sample(
                    model, specTold(label), Settings(n: 2, numSteps: 1, first: 4, guidance: Guidance(scale: 2)))
            }
            XCTAssertTrue(said.hasPrefix("At step 1 (t = 19), image 5 became NaN"), said)
        }
    }

    func testConditionsThatNoImageCanBeMadeBy() throws {
        let always = label.replacingOccurrences(of: #""none": 3"#, with: #""none": null"#)
        let never = "guidance must be 1 for a network that has not learned to do without a class, got 2.5."
        let interval = "the interval of guidance must be two times, the lower first, from 0 on, got "
        let told = try specTold(label, rest)
        for (spec, settings, message) in [
            (told, Settings(guidance: Guidance(scale: -1)), "guidance must be a number from 0 to 100, got -1."),
            (told, Settings(guidance: Guidance(scale: 100.5)), "guidance must be a number from 0 to 100, got 100.5."),
            (told, Settings(guidance: Guidance(scale: .nan)), "guidance must be a number from 0 to 100, got nan."),
            (told, Settings(guidance: Guidance(interval: -1...1)), "\(interval)(-1, 1)."),
            (told, Settings(guidance: Guidance(interval: 0 ... .infinity)), "\(interval)(0, inf)."),
            (try specTold(), Settings(guidance: Guidance(scale: 2.5)), never),
            (try specTold(always), Settings(guidance: Guidance(scale: 2.5)), never),
            (try specTold(always), Settings(label: .name("none")),
                "Input 'y' cannot be none, since the network was always told a class."),
            (try specTold(), Settings(label: .index(0)), "label does not apply to a network that is told no class."),
            (told, Settings(label: .index(0), inputs: ["y": .index(1)]),
                "label must be left out beside the input 'y', which is the same."),
            (told, Settings(label: .name("cow")),
                "Input 'y' must be one of cat, dog, owl or its index from 0 to 2, got 'cow'."),
            (told, Settings(label: .each([.name("4")])),
                "Input 'y' must be one of cat, dog, owl or its index from 0 to 2, got '4'."),
            (told, Settings(label: .each([])), "Input 'y' must have shape () or (K,), got int64 (0,)."),
            (told, Settings(inputs: ["w": .numbers([1, 2, 3])]),
                "Input 'w' must have shape (2,) or (K, 2), got float32 (3,)."),
            (told, Settings(inputs: ["z": .index(1)]), "The model has no input 'z'; it has y, w."),
            (try specTold(label, own), Settings(inputs: ["guidance": .numbers([2])]),
                "The model has no input 'guidance'; it has y."),
        ] {
            let model = network()
            XCTAssertEqual(thrown(.usage) { try sample(model, spec, settings) }, message)
            XCTAssertTrue(model.fed.isEmpty)
        }
        XCTAssertNoThrow(try denoiser(network(), specTold(always), inputs: ["y": .index(0)], guidance: Guidance()))
    }
}
