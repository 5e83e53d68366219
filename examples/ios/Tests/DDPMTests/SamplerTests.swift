import DDPM
import XCTest

/// The best denoiser there is for pixels that are each N(mean, std^2), in closed form.
struct GaussianModel: Model {
    let alphasCumprod: [Double]
    var mean = 0.3
    var std = 0.5
    var prediction = Prediction.eps
    var fraction: Float = 0

    func evaluate(
        _ x_t: [Float], t: Double, inputs _: [String: InputArray], outputs: inout [String: [Float]]
    ) throws {
        let a = alphasCumprod[Int(t)]
        let s = a * std * std + 1 - a
        let slope: Double, offset: Double
        switch prediction {
        case .eps: (slope, offset) = ((1 - a).squareRoot() / s, 0)
        case .x_0: (slope, offset) = (a.squareRoot() * std * std / s, mean)
        case .v: (slope, offset) = ((a * (1 - a)).squareRoot() * (1 - std * std) / s, -(1 - a).squareRoot() * mean)
        }
        let shift = Float(a.squareRoot() * mean)
        outputs[prediction.rawValue] = x_t.map { Float(slope) * ($0 - shift) + Float(offset) }
        if outputs["variance_fraction"] != nil {
            outputs["variance_fraction"] = [Float](repeating: fraction, count: x_t.count)
        }
    }
}

/// Return the spec of such a network: by its JSON, the only way to one. `more` are further keys.
func gaussianSpec(
    _ alphasCumprod: [Double], _ prediction: Prediction = .eps, clip_x_0: Double? = nil, shape: [Int] = [1, 2, 3],
    variance: Variance = .fixedSmall, requires: [String] = [], defaults: String = "", more: String = ""
) throws -> ModelSpec {
    let names = requires + (variance == .learned ? ["variance_fraction"] : [])
    return try specFromJson(Data("""
        {"format": "ddpm-export/1", "name": "gaussian", "prediction": "\(prediction.rawValue)", "image_shape": \(shape),
         "value_range": [-1, 1], "alphas_cumprod": \(alphasCumprod), "clip_x_0": \(clip_x_0.map { "\($0)" } ?? "null"),
         "variance": "\(variance.rawValue)", "noise": "\(noiseTag)", "requires": \(names),\(more)
         "defaults": {"sampler": "ddim", "num_steps": \(min(50, alphasCumprod.count)), "eta": 0\(defaults)}}
        """.utf8))
}

private let alphas = (1...20).map { 1 - 0.0475 * Double($0) }

final class SamplerTests: XCTestCase {
    func testTimeGrids() throws {
        struct Case: Decodable { let num_train_timesteps: Int, num_steps: Int, t: [Int] }
        for test in try golden("time_grids", as: Cases<Case>.self).cases {
            XCTAssertEqual(try spacing(test.num_train_timesteps, test.num_steps), test.t)
        }
        for T in 1...40 {
            for n in 1...T {
                let times = try spacing(T, n)
                XCTAssertEqual(times.count, n)
                XCTAssertEqual(times.first, T - 1)
                XCTAssertTrue(zip(times, times.dropFirst()).allSatisfy { $0 > $1 } && times.last! >= 0)
            }
        }
        for n in [-1, 0, 11, .max] {
            XCTAssertTrue(thrown(.usage) { try spacing(10, n) }.hasPrefix("The number of steps must be "))
        }
    }

    func testCoefficients() throws {
        struct Case: Decodable {
            let num_steps: Int, i: Int, t: Int, a: Double, a_prev: Double, eta: Double, variance: String
            let sqrt_a: Double, sqrt_1_minus_a: Double, sqrt_a_prev: Double, c_eps: Double, c_noise: Double
            let bits: [String: UInt32]
        }
        struct Constant: Model {
            func evaluate(
                _: [Float], t _: Double, inputs _: [String: InputArray], outputs: inout [String: [Float]]
            ) { outputs["v"] = [0] }
        }
        for test in try golden("coefficients", as: Cases<Case>.self).cases {
            let levels = test.a_prev == 1 ? [test.a] : [test.a_prev, test.a]
            let spec = try gaussianSpec(levels, .v, shape: [1, 1, 1])
            let isSmall = test.variance == "fixed_small"
            let row = try plan(
                spec, sampler: isSmall ? "ddim" : "ddpm", times: Array(levels.indices.reversed()),
                eta: isSmall ? test.eta : nil, variance: isSmall ? nil : .fixedLarge).rows[0]
            let message = "\(test.num_steps) steps, step \(test.i), eta \(test.eta), \(test.variance)"
            XCTAssertEqual(row.a, test.a, message)
            for (found, right) in [(row.x_0, test.sqrt_a_prev), (row.eps, test.c_eps), (row.noise, test.c_noise)] {
                XCTAssertEqual(found.reduce(0, +), right, accuracy: 1e-14 * right, message)
            }
            var found = Denoised()  // v = 0 in ones: x_0 is sqrt_a, eps sqrt_1_minus_a
            try denoiser(Constant(), spec)([1], row, nil, &found)
            for (value, name) in [(found.x_0[0], "sqrt_a"), (found.eps[0], "sqrt_1_minus_a")] {
                let right = Float(bitPattern: test.bits[name]!)
                XCTAssertEqual(value, right, accuracy: right.ulp, message)
            }
        }
    }

    private struct Walks: Decodable {
        struct State: Decodable { let i: Int, t: Double, a: Double, x: [Float], x_0: [Float], eps: [Float] }
        struct Table: Decodable {
            let rows: [[Cell]], start: Double?, raw_eps: Bool?
            enum Cell: Decodable {
                case number(Double), list([Double])
                init(from decoder: any Decoder) throws {
                    let value = try decoder.singleValueContainer()
                    if let list = try? value.decode([Double].self) { self = .list(list) } else {
                        self = .number(try value.decode(Double.self))
                    }
                }
                var list: [Double] { if case .list(let list) = self { list } else { [] } }
                var number: Double { if case .number(let number) = self { number } else { .nan } }
            }
            var plan: Plan {
                Plan(
                    rows: zip(1..., rows).map { i, cells in
                        Row(
                            i: i, t: cells[0].number, a: cells[1].number, x_0: cells[2].list, eps: cells[3].list,
                            noise: cells[4].list, rawEps: raw_eps ?? false)
                    }, start: start ?? 1)
            }
        }
        struct Case: Decodable {
            let name: String?, sampler: String?, eta: Double?, variance: String?, plan: Table?
            let prediction: String, clip_x_0: Double?, states: [State]
        }
        let seed: String, images: [Int], shape: [Int], num_steps: Int?, mean: Double, std: Double, tolerance: Float
        let variance_fraction: Float?, alphas_cumprod: [Double], x_T: [Float]?, cases: [Case]
    }

    /// Whole walks; again from every state, to the same bits; and from every state as the file has it.
    func testGoldenWalks() throws {
        for file in ["trajectories", "plans"] {
            let data = try golden(file, as: Walks.self)
            let noise = try noiseStream(
                seed: try XCTUnwrap(Int64(data.seed)), images: data.images, shape: try ImageShape(data.shape))
            if let x_T = data.x_T {
                var first: [Float] = []
                try noise(0, &first)
                XCTAssertEqual(first, x_T)
            }
            for test in data.cases {
                let prediction = try XCTUnwrap(Prediction(rawValue: test.prediction))
                let isLearned = test.plan?.plan.needsLearnedVariance == true
                let spec = try gaussianSpec(
                    data.alphas_cumprod, prediction, clip_x_0: test.clip_x_0, shape: data.shape,
                    variance: isLearned ? .learned : .fixedSmall)
                let model = GaussianModel(
                    alphasCumprod: data.alphas_cumprod, mean: data.mean, std: data.std, prediction: prediction,
                    fraction: data.variance_fraction ?? 0)
                let rows = try test.plan?.plan ?? plan(
                    spec, sampler: test.sampler, numSteps: data.num_steps, eta: test.eta,
                    variance: try test.variance.map { try XCTUnwrap(Variance(rawValue: $0)) })

                func states(from state: State? = nil) throws -> [State] {
                    var states: [State] = []
                    let last = try walk(denoiser(model, spec), noise, rows, state: state) { state in
                        states.append(state)
                        return true
                    }
                    XCTAssertEqual(last, states.last?.x)
                    return states
                }
                func compare(_ found: some Collection<State>, _ wanted: some Collection<Walks.State>) {
                    XCTAssertEqual(found.count, wanted.count)
                    for (state, right) in zip(found, wanted) {
                        XCTAssertEqual(state.row.i, right.i)
                        XCTAssertEqual([state.row.t, state.row.a], [right.t, right.a])
                        for (a, b) in [(state.x, right.x), (state.x_0, right.x_0), (state.eps, right.eps)] {
                            XCTAssertEqual(a.count, b.count)
                            for (one, other) in zip(a, b) { XCTAssertEqual(one, other, accuracy: data.tolerance) }
                        }
                    }
                }

                let all = try states()
                compare(all, test.states)
                for k in 1..<all.count {
                    XCTAssertEqual(try states(from: all[k - 1]), Array(all[k...]))
                    let old = test.states[..<k].reversed().map { Denoised(x_0: $0.x_0, eps: $0.eps) }
                    let given = State(
                        row: rows.rows[k - 1], x: test.states[k - 1].x, x_0: old[0].x_0, eps: old[0].eps, history: old)
                    compare(try states(from: given), test.states[k...])
                }
                // the history is what later rows read, and no more
                for (k, state) in all.enumerated() {
                    let reaches = zip(1..., rows.rows[(k + 1)...]).map { ahead, row in row.reach - ahead }
                    let kept = max(0, reaches.max() ?? 0)
                    let found = all[...k].reversed().map { [$0.x_0, $0.eps] }
                    XCTAssertEqual(state.history.map { [$0.x_0, $0.eps] }, Array(found.prefix(kept)))
                }
            }
        }
    }

    func testRowsThatReadWhatIsNotThere() throws {
        let spec = try gaussianSpec(alphas)
        let model = GaussianModel(alphasCumprod: alphas)
        let noise = try noiseStream(seed: 1, images: [0], shape: spec.stateShape)
        let rows = (1...3).map { i in
            Row(i: i, t: Double(20 - i), a: 0.1, x_0: [Double](repeating: 0.25, count: i), eps: [], noise: [])
        }
        var kept: [State] = []
        try walk(denoiser(model, spec), noise, Plan(rows: rows)) { state in
            kept.append(state)
            return true
        }
        let poor = State(row: rows[1], x: kept[1].x, x_0: kept[1].x_0, eps: kept[1].eps)
        XCTAssertEqual(
            thrown(.usage) { try walk(denoiser(model, spec), noise, Plan(rows: rows), state: poor) },
            "Row 3 reads 3 evaluations, got 2. Go on from a state, whose history holds them.")
        // from an x in place of draw 0, and stopped where onState says so
        let x: [Float] = [1, 2, 3, 4, 5, 6]
        let first = try walk(denoiser(model, spec), noise, Plan(rows: rows, start: 9), x: x) { _ in false }
        var found = Denoised()
        try denoiser(model, spec)(x, rows[0], nil, &found)
        XCTAssertEqual(first, found.x_0.map { 0.25 * $0 })
    }

    /// A network that mixes its inputs, and notes what it was fed.
    private final class Mixing: Model {
        var fed: [[String: InputArray]] = []

        func evaluate(
            _ x_t: [Float], t: Double, inputs: [String: InputArray], outputs: inout [String: [Float]]
        ) throws {
            fed.append(inputs)
            outputs["eps"] = x_t.map { 0.5 * $0 }
        }
    }

    func testInputsReachTheModel() throws {
        let spec = try gaussianSpec(alphas, requires: ["inputs"], more: #"""
            "inputs": [{"name": "y", "kind": "label", "shape": [], "none": 3, "classes": ["cat", "dog", "owl"]},
                       {"name": "w", "kind": "vector", "shape": [2], "none": 0.5},
                       {"name": "hint", "kind": "image", "shape": [1, 1, 2], "none": null},
                       {"name": "x_0_prev", "kind": "previous", "shape": [1, 2, 3], "none": null}],
            """#)
        let noise = try noiseStream(seed: 1, images: [0, 1], shape: spec.stateShape)
        let hint = InputValue.numbers([1, 2])
        func fed(_ inputs: [String: InputValue]) throws -> (fed: [[String: InputArray]], states: [State]) {
            let model = Mixing()
            var states: [State] = []
            try walk(denoiser(model, spec, inputs: inputs), noise, plan(spec, numSteps: 3)) { state in
                states.append(state)
                return true
            }
            return (model.fed, states)
        }
        let (plain, states) = try fed(["hint": hint])
        XCTAssertEqual(plain.count, 3)
        for (k, inputs) in plain.enumerated() {
            XCTAssertEqual(Set(inputs.keys), ["y", "w", "hint", "x_0_prev"])
            XCTAssertEqual(inputs["y"], .labels([3, 3]))
            XCTAssertEqual(inputs["w"], .numbers([0.5, 0.5, 0.5, 0.5]))
            XCTAssertEqual(inputs["hint"], .numbers([1, 2, 1, 2]))
            let before = k == 0 ? [Float](repeating: 0, count: 12) : states[k - 1].x_0
            XCTAssertEqual(inputs["x_0_prev"], .numbers(before))
        }
        let said = try fed([
            "hint": .numbers([1, 2, 3, 4]), "y": .each([.name("dog"), .index(3)]), "w": .numbers([7, 8]),
        ]).fed[0]
        XCTAssertEqual(said["y"], .labels([1, 3]))
        XCTAssertEqual(said["w"], .numbers([7, 8, 7, 8]))
        XCTAssertEqual(said["hint"], .numbers([1, 2, 3, 4]))
        XCTAssertEqual(try fed(["hint": hint, "y": .name("owl")]).fed[0]["y"], .labels([2, 2]))

        let choice = "must be one of cat, dog, owl or its index from 0 to 2, got "
        for (inputs, message): ([String: InputValue], String) in [
            ([:], "Input 'hint', of kind image and shape (1, 1, 2), must be given."),
            (["hint": hint, "z": .index(1)], "The model has no input 'z'; it has y, w, hint."),
            (["hint": hint, "x_0_prev": hint], "The model has no input 'x_0_prev'; it has y, w, hint."),
            (["hint": hint, "y": .index(4)], "Input 'y' \(choice)'4'."),
            (["hint": hint, "y": .index(-1)], "Input 'y' \(choice)'-1'."),
            (["hint": hint, "y": .name("fox")], "Input 'y' \(choice)'fox'."),
            (["hint": hint, "y": .each([.index(0)])], "Input 'y' must have shape () or (2,), got int64 (1,)."),
            (["hint": .numbers([1])], "Input 'hint' must have shape (1, 1, 2) or (2, 1, 1, 2), got float32 (1,)."),
            (["hint": .index(1)], "Input 'hint' must have shape (1, 1, 2) or (1, 1, 1, 2), got a label."),
            (["hint": .numbers([1, .nan])], "Input 'hint' must be finite in float32, got NaN, infinity or beyond."),
        ] {
            XCTAssertEqual(thrown(.usage) { try fed(inputs) }, message)
        }
        _ = thrown(.usage) { try denoiser(Mixing(), spec, inputs: ["y": .name("fox")]) }  // before any batch
        let nothing = try gaussianSpec(alphas)
        XCTAssertEqual(
            thrown(.usage) { try denoiser(Mixing(), nothing, inputs: ["y": .index(0)]) },
            "The model has no input 'y'; it has none.")
    }

    func testStatesStayWhatTheyWere() throws {
        let spec = try gaussianSpec(alphas)
        let noise = try noiseStream(seed: 1, images: [0], shape: spec.stateShape)
        let rows = (1...20).map { i in
            let weights = [Double](repeating: 0.3, count: min(i, 3))
            return Row(i: i, t: Double(20 - i), a: 0.0475 * Double(i), x_0: weights, eps: weights, noise: [0.5])
        }
        var kept: [State] = [], copies: [[Float]] = []
        try walk(denoiser(GaussianModel(alphasCumprod: alphas), spec), noise, Plan(rows: rows)) { state in
            kept.append(state)
            copies += [state.x.map { $0 }, state.x_0.map { $0 }, state.eps.map { $0 }]
            return true
        }
        XCTAssertEqual(kept.flatMap { [$0.x, $0.x_0, $0.eps] }, copies)
        XCTAssertEqual(Set(copies).count, 60)
    }

    func testLearnedVarianceLiesBetweenSmallAndLarge() throws {
        let spec = try gaussianSpec(alphas, variance: .learned)
        let noise = try noiseStream(seed: 3, images: [0, 1], shape: spec.stateShape)
        func last(_ fraction: Float, _ variance: Variance?) throws -> [Float] {
            let model = GaussianModel(alphasCumprod: alphas, fraction: fraction)
            return try walk(
                denoiser(model, spec), noise, plan(spec, sampler: "ddpm", numSteps: 7, variance: variance))
        }
        for (fraction, fixed) in [(Float(0), Variance.fixedSmall), (1, .fixedLarge)] {
            for (one, other) in zip(try last(fraction, .learned), try last(fraction, fixed)) {
                XCTAssertEqual(one, other, accuracy: 1e-5)
            }
        }
        XCTAssertNotEqual(try last(0.5, .learned), try last(0, .learned))
        XCTAssertEqual(try last(0.5, nil), try last(0.5, .learned))

        // one row of no image: what is added is small^(1/2) large^(1/2) z
        let row = Row(i: 1, t: 3, a: 0.5, x_0: [0], eps: [0], noise: [0.25, 0.75])
        let ones = Noise(images: 1) { _, z in z = [Float](repeating: 1, count: 6) }
        let half = GaussianModel(alphasCumprod: alphas, fraction: 0.5)
        for value in try walk(denoiser(half, spec), ones, Plan(rows: [row])) {
            XCTAssertEqual(value, Float((0.25 * 0.75).squareRoot()), accuracy: 1e-6)
        }
        let plain = try gaussianSpec(alphas)
        let message = "variance must be fixed_small or fixed_large, since the network has learned none, got 'learned'."
        XCTAssertEqual(thrown(.usage) { try walk(denoiser(half, plain), ones, Plan(rows: [row])) }, message)
        XCTAssertEqual(thrown(.usage) { try plan(plain, sampler: "ddpm", variance: .learned) }, message)
    }

    func testPlansAreChosenAndRefused() throws {
        let table = #""plans": {"p": {"rows": [[3, 0.25, [0.5], [], []]]}},"#
        let spec = try gaussianSpec(alphas, more: table)
        XCTAssertEqual(try plan(spec, times: [5, 0]).rows.map(\.t), [5, 0])
        XCTAssertEqual(try plan(spec, numSteps: 4).rows.map(\.t), [19, 14, 9, 4])
        XCTAssertEqual(try plan(spec, name: "p").rows, [Row(i: 1, t: 3, a: 0.25, x_0: [0.5], eps: [], noise: [])])
        let timed = try gaussianSpec(alphas, requires: ["times"], defaults: #", "times": [9, 2]"#)
        XCTAssertEqual(try plan(timed).rows.map(\.t), [9, 2])
        XCTAssertEqual(try plan(timed, numSteps: 1).rows.map(\.t), [19])
        let planned = try gaussianSpec(alphas, requires: ["plan"], defaults: #", "plan": "p""#, more: table)
        XCTAssertEqual(try plan(planned), try plan(spec, name: "p"))
        XCTAssertEqual(try plan(planned, eta: 0).rows.count, 20)

        let times = "times must strictly fall from at most 19 to at least 0, got "
        func say(_ message: String, _ work: @autoclosure () throws -> Plan, line: UInt = #line) {
            XCTAssertEqual(thrown(.usage, line: line) { try work() }, message, line: line)
        }
        say("The number of steps must be from 1 to 20, the model's own, got 21.", try plan(spec, numSteps: 21))
        say("\(times).", try plan(spec, times: []))
        say("\(times)3, 3.", try plan(spec, times: [3, 3]))
        say("\(times)20.", try plan(spec, times: [20]))
        say("\(times)6, 5, 4, 3, 2, ... (7 of them).", try plan(spec, times: [6, 5, 4, 3, 2, 1, -1]))
        say(
            "num_steps must be left out or be the number of times, 2, got 3.",
            try plan(spec, numSteps: 3, times: [5, 2]))
        say("sampler must be one of ddpm, ddim, got 'euler'.", try plan(spec, sampler: "euler"))
        say("eta does not apply to ddpm.", try plan(spec, sampler: "ddpm", eta: 0))
        say("variance does not apply to ddim.", try plan(spec, sampler: "ddim", variance: .fixedSmall))
        for eta in [-0.1, 1.1, .nan] { say("eta must be between 0 and 1, got \(eta).", try plan(spec, eta: eta)) }
        say("plan must be one of p, got 'q'.", try plan(spec, name: "q"))
        say("plan must be one of none, for the model carries none, got 'q'.", try plan(timed, name: "q"))
        say("num_steps does not apply to plan p, which is whole.", try plan(spec, numSteps: 1, name: "p"))
        let model = GaussianModel(alphasCumprod: alphas)
        let noise = try noiseStream(seed: 1, images: [0], shape: spec.stateShape)
        let rows = try plan(spec, sampler: "ddpm")
        _ = thrown(.usage) { try walk(denoiser(model, spec), noise, rows, x: [1, 2, 3]) }
        _ = thrown(.usage) { try walk(denoiser(model, spec), noise, rows, x: [Float](repeating: 0, count: 12)) }
    }

    func testAnUnknownDefaultSamplerIsRefused() throws {
        let unknown = try gaussianSpec(alphas, defaults: #", "sampler": "euler""#)
        XCTAssertEqual(
            thrown(.refused) { try plan(unknown) },
            "The model's default sampler, 'euler', is unknown to this version.")
        XCTAssertEqual(try plan(unknown, sampler: "ddim").rows.count, 20)
    }

    func testPixels() throws {
        struct Case: Decodable { let x: Float, bits: UInt32, level: UInt8 }
        let tests = try golden("pixels", as: Cases<Case>.self).cases
        let row = try ImageShape([1, 1, tests.count])
        XCTAssertEqual(tests.map(\.x.bitPattern), tests.map(\.bits))
        XCTAssertEqual(try toUint8(tests.map(\.x), row), tests.map(\.level))
        XCTAssertEqual(try toUint8([.nan, .infinity, -.infinity], try ImageShape([1, 1, 3])), [0, 255, 0])
        // two images of (2, 1, 3): channels end up side by side
        let x = (0..<12).map { (Float($0) - 127.5) / 127.5 }
        XCTAssertEqual(try toUint8(x, try ImageShape([2, 1, 3])), [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11])
        _ = thrown(.usage) { try toUint8([0, 0], try ImageShape([1, 1, 3])) }
    }

    func testGrid() throws {
        let shape = try ImageShape([1, 1, 2])
        let page = grid([1, 2, 3, 4, 5, 6], shape)
        XCTAssertEqual([page.width, page.height, page.channels], [4, 2, 1])
        XCTAssertEqual(page.pixels, [1, 2, 3, 4, 5, 6, 0, 0])
        XCTAssertEqual(grid([], shape).pixels, [])
        let tall = try ImageShape([3, 2, 1])
        XCTAssertEqual(grid(Array(1...12), tall).pixels, [1, 2, 3, 7, 8, 9, 4, 5, 6, 10, 11, 12])
    }
}

final class SampleTests: XCTestCase {
    private let model = GaussianModel(alphasCumprod: alphas)

    func testTheWholeLineIsItsParts() throws {
        let spec = try gaussianSpec(alphas, more: #""plans": {"p": {"rows": [[3, 0.25, [0.5], [0.5], []]]}},"#)
        var seen: [Int] = []
        let settings = Settings(n: 3, numSteps: 5, sampler: "ddim", eta: 0.5, seed: 9, first: 2)
        let x = try sample(model, spec, settings) { progress in
            XCTAssertEqual(progress.numSteps, 5)
            XCTAssertEqual([progress.x.count, progress.x_0.count], [18, 18])
            seen.append(progress.step)
            return true
        }
        XCTAssertEqual(seen, [1, 2, 3, 4, 5])
        let noise = try noiseStream(seed: 9, images: 2..<5, shape: spec.stateShape)
        XCTAssertEqual(x, try walk(denoiser(model, spec), noise, plan(spec, numSteps: 5, eta: 0.5)))
        var second = settings
        (second.n, second.first) = (1, 3)
        XCTAssertEqual(try sample(model, spec, second), Array(x[6..<12]))
        let usual = try sample(model, spec, Settings(numSteps: 20, sampler: "ddim", eta: 0, seed: 1))
        XCTAssertEqual(try sample(model, spec, Settings(seed: 1)), usual)
        XCTAssertEqual(usual.count, 16 * 6)
        for (given, rows) in [
            (Settings(n: 3, times: [7, 1], seed: 9, first: 2), try plan(spec, times: [7, 1])),
            (Settings(n: 3, sampler: "ddpm", variance: .fixedLarge, seed: 9, first: 2),
                try plan(spec, sampler: "ddpm", variance: .fixedLarge)),
            (Settings(n: 3, plan: "p", seed: 9, first: 2), try plan(spec, name: "p")),
        ] {
            XCTAssertEqual(try sample(model, spec, given), try walk(denoiser(model, spec), noise, rows))
        }
    }

    func testCancel() throws {
        let spec = try gaussianSpec(alphas)
        var seen = 0
        XCTAssertThrowsError(
            try sample(model, spec, Settings(seed: 9)) { progress in
                seen = progress.step
                return progress.step < 3
            }
        ) { XCTAssertTrue($0 is CancellationError) }
        XCTAssertEqual(seen, 3)
    }

    func testOutOfRange() throws {
        let spec = try gaussianSpec(alphas)
        for (first, n) in [(0, 0), (-1, 1), (1 << 32, 1), (1 << 32 - 1, 2), (1, .max), (0, -5)] {
            let message = thrown(.usage) { try sample(model, spec, Settings(n: n, first: first)) }
            XCTAssertTrue(message.hasPrefix(n < 1 ? "n must be at least 1" : "first + n must be at most"), message)
        }
        _ = thrown(.usage) { try sample(model, spec, Settings(seed: -1)) }
        _ = thrown(.usage) { try sample(model, spec, Settings(numSteps: 21)) }
        _ = thrown(.usage) { try sample(model, spec, Settings(eta: 2)) }
    }

    func testNonFinite() throws {
        final class Broken: Model {
            let value: Float, output: String, at: Int
            var calls = 0
            init(_ value: Float, _ output: String, at: Int) { (self.value, self.output, self.at) = (value, output, at) }
            func evaluate(
                _ x_t: [Float], t _: Double, inputs _: [String: InputArray], outputs: inout [String: [Float]]
            ) {
                calls += 1
                for name in outputs.keys { outputs[name] = [Float](repeating: 0, count: x_t.count) }
                if calls == at { outputs[output]![7] = value }
            }
        }
        // clipping would hide what is infinite; rows are told by their number, since times repeat
        let spec = try gaussianSpec(alphas, clip_x_0: 1, variance: .learned, requires: ["fractional_t"], more: #"""
            "plans": {"p": {"rows": [[9.5, 0.25, [0.5], [], []], [9.5, 0.25, [0.5], [], []], [3, 0.5, [0.5], [], []]]},
                      "q": {"rows": [[3, 0.5, [1e300], [], [1]]]}},
            """#)
        for (broken, place) in [
            (Broken(.nan, "eps", at: 1), "step 1 (t = 9.5)"), (Broken(.infinity, "eps", at: 2), "step 2 (t = 9.5)"),
            (Broken(.nan, "variance_fraction", at: 3), "step 3 (t = 3)"),
        ] {
            XCTAssertEqual(
                thrown(.notFinite) { try sample(broken, spec, Settings(n: 2, plan: "p", first: 4)) },
                "At \(place), image 5 became NaN or infinite. Run ddpm-check on the model.")
        }
        let sound = Broken(0, "eps", at: 0)
        let large = thrown(.notFinite) { try sample(sound, spec, Settings(n: 2, plan: "q", first: 4)) }
        XCTAssertEqual(large, "At step 1 (t = 3), image 4 became NaN or infinite. Run ddpm-check on the model.")
    }

    func testStream() async throws {
        let spec = try gaussianSpec(alphas)
        var last: StepProgress?
        let settings = Settings(n: 2, seed: 9)
        for try await progress in sampleStream(model, spec, settings) { last = progress }
        XCTAssertEqual(last?.step, 20)
        XCTAssertEqual(last?.x, try sample(model, spec, settings))

        do {
            for try await _ in sampleStream(model, spec, Settings(seed: -1)) {}
            XCTFail("a negative seed was taken")
        } catch let error as DDPMError {
            XCTAssertEqual(error.kind, .usage)
        }
    }

    func testLeavingTheStreamStopsTheWork() async throws {
        final class Slow: Model, @unchecked Sendable {
            let lock = NSLock()
            var calls = 0
            func evaluate(
                _: [Float], t _: Double, inputs _: [String: InputArray], outputs _: inout [String: [Float]]
            ) {
                lock.withLock { calls += 1 }
                Thread.sleep(forTimeInterval: 0.05)
            }
        }
        let (slow, spec) = (Slow(), try gaussianSpec(alphas))
        for try await progress in sampleStream(slow, spec, Settings(n: 1)) where progress.step >= 2 { break }
        try await Task.sleep(nanoseconds: 300_000_000)
        let calls = slow.lock.withLock { slow.calls }
        XCTAssertLessThan(calls, 20)
        try await Task.sleep(nanoseconds: 200_000_000)
        XCTAssertEqual(slow.lock.withLock { slow.calls }, calls)
    }
}
