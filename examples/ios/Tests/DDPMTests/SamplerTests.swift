import DDPM
import XCTest

/// The best denoiser there is for pixels that are each N(mean, std^2), in closed form.
struct GaussianNetwork: Network {
    let alphasCumprod: [Double]
    var mean = 0.3
    var std = 0.5
    var prediction = Prediction.eps
    var fraction: Float = 0

    func predict(_ x_t: [Float], t: Int, predicted: inout [Float], varianceFraction: inout [Float]) {
        let a = alphasCumprod[t]
        let s = a * std * std + 1 - a
        let slope: Double, offset: Double
        switch prediction {
        case .eps: (slope, offset) = ((1 - a).squareRoot() / s, 0)
        case .x_0: (slope, offset) = (a.squareRoot() * std * std / s, mean)
        case .v: (slope, offset) = ((a * (1 - a)).squareRoot() * (1 - std * std) / s, -(1 - a).squareRoot() * mean)
        }
        let shift = Float(a.squareRoot() * mean)
        for k in x_t.indices { predicted[k] = Float(slope) * (x_t[k] - shift) + Float(offset) }
        for k in varianceFraction.indices { varianceFraction[k] = fraction }
    }
}

/// Return the spec of such a network: by its JSON, the only way to one.
func gaussianSpec(
    _ alphasCumprod: [Double], _ prediction: Prediction = .eps, clip_x_0: Double? = nil, shape: [Int] = [1, 2, 3],
    variance: Variance = .fixedSmall
) throws -> ModelSpec {
    let requires = variance == .learned ? #"["variance_fraction"]"# : "[]"
    return try specFromJson(Data("""
        {"format": "ddpm-export/1", "name": "gaussian", "prediction": "\(prediction.rawValue)", "image_shape": \(shape),
         "value_range": [-1, 1], "alphas_cumprod": \(alphasCumprod), "clip_x_0": \(clip_x_0.map { "\($0)" } ?? "null"),
         "variance": "\(variance.rawValue)", "noise": "\(noiseTag)", "requires": \(requires),
         "defaults": {"sampler": "ddim", "num_steps": \(min(50, alphasCumprod.count)), "eta": 0}}
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
        for n in [-1, 0, 11, .max] { XCTAssertTrue(thrown(.usage) { try spacing(10, n) }.hasPrefix("steps: ")) }
    }

    func testCoefficients() throws {
        struct Case: Decodable {
            let num_steps: Int, i: Int, t: Int, a: Double, a_prev: Double, eta: Double, variance: String
            let sqrt_a: Double, sqrt_1_minus_a: Double, sqrt_a_prev: Double, c_eps: Double, c_noise: Double
            let bits: [String: UInt32]
        }
        // what the core computes of a step is seen by feeding it units: a network that says 0 or 1, noise that is 1
        struct Constant: Network {
            let value: Float
            func predict(_: [Float], t _: Int, predicted: inout [Float], varianceFraction _: inout [Float]) {
                for k in predicted.indices { predicted[k] = value }
            }
        }
        let tests = try golden("coefficients", as: Cases<Case>.self).cases
        let spec = try gaussianSpec([0.5, 0.25], .x_0, shape: [1, 1, 1])
        let epsSpec = try gaussianSpec([0.5, 0.25], .eps, shape: [1, 1, 1])
        func within(_ value: Float, _ bits: UInt32, _ message: String) {
            let expected = Float(bitPattern: bits)
            XCTAssertEqual(value, expected, accuracy: expected.ulp, message)
        }
        for test in tests {
            let step = Step(i: test.i, t: test.t, a: test.a, aPrev: test.a_prev)
            if test.variance == "fixed_small" {
                XCTAssertEqual(noiseStd(step, eta: test.eta), test.c_noise, accuracy: 1e-14 * test.c_noise)
            }
            func after(_ x_t: Float, _ x_0: Float, _ z: Float) throws -> SamplerState {
                var state: SamplerState?
                let denoise = denoiser(Constant(value: x_0), spec)
                func keep(_ reached: SamplerState) -> Bool { state = reached; return true }
                let noise: Noise = { _, values in values = [z] }
                if test.variance == "fixed_small" {
                    try ddim(denoise, noise, [step], x: [x_t], eta: test.eta, onStep: keep)
                } else {
                    try ddpm(denoise, noise, [step], x: [x_t], variance: .fixedLarge, onStep: keep)
                }
                return try XCTUnwrap(state)
            }
            let message = "\(test.num_steps) steps, step \(test.i), eta \(test.eta), \(test.variance)"
            within(try after(0, 0, 1).x[0], test.bits["c_noise"]!, message)
            let clean = try after(Float(bitPattern: test.bits["sqrt_a"]!), 1, 0)  // eps = 0: x_t holds no noise
            XCTAssertEqual(clean.eps, [0], message)
            within(clean.x[0], test.bits["sqrt_a_prev"]!, message)
            let noisy = try after(Float(bitPattern: test.bits["sqrt_1_minus_a"]!), 0, 0)  // eps = 1
            XCTAssertEqual(noisy.eps[0], 1, accuracy: Float(1).ulp, message)
            XCTAssertEqual(noisy.x[0], Float(bitPattern: test.bits["c_eps"]!), accuracy: 2 * noisy.x[0].ulp, message)
            var found = Denoised()  // the other way: a predicted eps of 1 in nothing is x_0 = -sqrt_1_minus_a / sqrt_a
            try denoiser(Constant(value: 1), epsSpec)([0], step, &found)
            let x_0 = -Float(test.sqrt_1_minus_a / test.sqrt_a)
            XCTAssertEqual(found.x_0[0], x_0, accuracy: 2 * x_0.ulp, message)
        }
    }

    private struct Trajectories: Decodable {
        struct State: Decodable { let i: Int, t: Int, a: Double, a_prev: Double, x: [Float], x_0: [Float], eps: [Float] }
        struct Case: Decodable {
            let sampler: String, eta: Double?, variance: String?, prediction: String, clip_x_0: Double?, states: [State]
        }
        let seed: String, images: [Int], shape: [Int], num_steps: Int, mean: Double, std: Double, tolerance: Float
        let alphas_cumprod: [Double], x_T: [Float], cases: [Case]
    }

    func testTrajectories() throws {
        let data = try golden("trajectories", as: Trajectories.self)
        let noise = try noiseStream(
            seed: try XCTUnwrap(Int64(data.seed)), images: data.images, shape: try ImageShape(data.shape))
        var x_T: [Float] = []
        try noise(0, &x_T)
        XCTAssertEqual(x_T, data.x_T)
        for test in data.cases {
            let prediction = try XCTUnwrap(Prediction(rawValue: test.prediction))
            let spec = try gaussianSpec(data.alphas_cumprod, prediction, clip_x_0: test.clip_x_0, shape: data.shape)
            XCTAssertEqual(spec.alphasCumprod, data.alphas_cumprod)
            let network = GaussianNetwork(
                alphasCumprod: data.alphas_cumprod, mean: data.mean, std: data.std, prediction: prediction)
            let denoise = denoiser(network, spec)
            let steps = try trajectory(spec, numSteps: data.num_steps)
            let variance = try test.variance.map { try XCTUnwrap(Variance(rawValue: $0)) }
            let eta = try variance == nil ? XCTUnwrap(test.eta) : 1

            func states(_ steps: [Step], from x: [Float]?) throws -> [SamplerState] {
                var states: [SamplerState] = []
                func keep(_ state: SamplerState) -> Bool { states.append(state); return true }
                let last: [Float]
                if let variance {
                    last = try ddpm(denoise, noise, steps, x: x, variance: variance, onStep: keep)
                } else {
                    last = try ddim(denoise, noise, steps, x: x, eta: eta, onStep: keep)
                }
                XCTAssertEqual(last, states.last?.x)
                return states
            }

            let all = try states(steps, from: nil)
            XCTAssertEqual(all.count, test.states.count)
            for (state, expected) in zip(all, test.states) {
                XCTAssertEqual(
                    state.step, Step(i: expected.i, t: expected.t, a: expected.a, aPrev: expected.a_prev))
                for (got, wanted) in [(state.x, expected.x), (state.x_0, expected.x_0), (state.eps, expected.eps)] {
                    XCTAssertEqual(got.count, wanted.count)
                    for (one, other) in zip(got, wanted) { XCTAssertEqual(one, other, accuracy: data.tolerance) }
                }
            }
            let resumed = try states(Array(steps[3...]), from: all[2].x)
            XCTAssertEqual(resumed.map(\.x), all[3...].map(\.x))
        }
    }

    func testStatesStayWhatTheyWere() throws {
        let spec = try gaussianSpec(alphas)
        let noise = try noiseStream(seed: 1, images: [0], shape: spec.imageShape)
        let denoise = denoiser(GaussianNetwork(alphasCumprod: alphas), spec)
        var kept: [SamplerState] = [], copies: [[Float]] = []
        try ddim(denoise, noise, try trajectory(spec), eta: 1) { state in
            kept.append(state)
            copies.append(state.x.map { $0 })
            return true
        }
        XCTAssertEqual(kept.map(\.x), copies)
        XCTAssertEqual(Set(copies).count, 20)
    }

    func testLearnedVarianceLiesBetweenSmallAndLarge() throws {
        let spec = try gaussianSpec(alphas, variance: .learned)
        let noise = try noiseStream(seed: 3, images: [0, 1], shape: spec.imageShape)
        let steps = try trajectory(spec, numSteps: 7)
        func last(_ fraction: Float, _ variance: Variance) throws -> [Float] {
            let network = GaussianNetwork(alphasCumprod: alphas, fraction: fraction)
            return try ddpm(denoiser(network, spec), noise, steps, variance: variance)
        }
        for (fraction, fixed) in [(Float(0), Variance.fixedSmall), (1, .fixedLarge)] {
            for (one, other) in zip(try last(fraction, .learned), try last(fraction, fixed)) {
                XCTAssertEqual(one, other, accuracy: 1e-5)
            }
        }
        XCTAssertNotEqual(try last(0.5, .learned), try last(0, .learned))

        // one step, x_0 = eps = 0: what is added is small^(1/2) large^(1/2) z
        let step = steps[2]
        struct Half: Network {
            func predict(_: [Float], t _: Int, predicted: inout [Float], varianceFraction: inout [Float]) {
                for k in predicted.indices { (predicted[k], varianceFraction[k]) = (0, 0.5) }
            }
        }
        let small = noiseStd(step, eta: 1), large = (1 - step.a / step.aPrev).squareRoot()
        let ones: Noise = { _, z in z = [Float](repeating: 1, count: 6) }
        let x = [Float](repeating: 0, count: 6)
        for value in try ddpm(denoiser(Half(), spec), ones, [step], x: x, variance: .learned) {
            XCTAssertEqual(value, Float((small * large).squareRoot()), accuracy: 1e-6)
        }
        let plain = try gaussianSpec(alphas)
        let network = GaussianNetwork(alphasCumprod: alphas)
        _ = thrown(.usage) { try ddpm(denoiser(network, plain), noise, steps, variance: .learned) }
        _ = thrown(.usage) { try sample(network, plain, seed: 0, sampler: .ddpm(.learned)) }
    }

    func testOutOfRange() throws {
        let spec = try gaussianSpec(alphas)
        let denoise = denoiser(GaussianNetwork(alphasCumprod: alphas), spec)
        let noise = try noiseStream(seed: 1, images: [0], shape: spec.imageShape)
        let steps = try trajectory(spec)
        for eta in [-0.1, 1.1, .nan] {
            XCTAssertTrue(thrown(.usage) { try ddim(denoise, noise, steps, eta: eta) }.hasPrefix("eta: "))
        }
        for times in [[], [3, 3], [2, 5], [20], [5, -1]] {
            XCTAssertTrue(thrown(.usage) { try trajectory(spec, times: times) }.hasPrefix("times: "))
        }
        _ = thrown(.usage) { try trajectory(spec, numSteps: 3, times: [5, 2]) }
        XCTAssertEqual(try trajectory(spec, times: [5, 0]).map(\.t), [5, 0])
        _ = thrown(.usage) { try ddim(denoise, noise, []) }
        _ = thrown(.usage) { try ddim(denoise, noise, steps, x: [1, 2, 3]) }
        _ = thrown(.usage) { try ddim(denoise, noise, steps, x: [Float](repeating: 0, count: 12), eta: 1) }
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
    private let network = GaussianNetwork(alphasCumprod: alphas)

    func testTheWholeLineIsItsParts() throws {
        let spec = try gaussianSpec(alphas)
        var seen: [Int] = []
        let x = try sample(network, spec, seed: 9, first: 2, n: 3, numSteps: 5, sampler: .ddim(eta: 0.5)) { progress in
            XCTAssertEqual(progress.numSteps, 5)
            XCTAssertEqual([progress.x.count, progress.x_0.count], [18, 18])
            seen.append(progress.step)
            return true
        }
        XCTAssertEqual(seen, [1, 2, 3, 4, 5])
        let noise = try noiseStream(seed: 9, images: 2..<5, shape: spec.imageShape)
        XCTAssertEqual(
            x, try ddim(denoiser(network, spec), noise, try trajectory(spec, numSteps: 5), eta: 0.5))
        let second = try sample(network, spec, seed: 9, first: 3, numSteps: 5, sampler: .ddim(eta: 0.5))
        XCTAssertEqual(second, Array(x[6..<12]))
        let usual = try sample(network, spec, seed: 1, numSteps: 20, sampler: .ddim(eta: 0))
        XCTAssertEqual(try sample(network, spec, seed: 1), usual)
        XCTAssertEqual(try Sampler("ddpm", of: spec), .ddpm(.fixedSmall))
        _ = thrown(.usage) { try Sampler("ddpm", eta: 0, of: spec) }
        _ = thrown(.usage) { try Sampler("euler", of: spec) }
    }

    func testCancel() throws {
        let spec = try gaussianSpec(alphas)
        var seen = 0
        XCTAssertThrowsError(
            try sample(network, spec, seed: 9) { progress in
                seen = progress.step
                return progress.step < 3
            }
        ) { XCTAssertTrue($0 is CancellationError) }
        XCTAssertEqual(seen, 3)
    }

    func testOutOfRange() throws {
        let spec = try gaussianSpec(alphas)
        for (first, n) in [(0, 0), (-1, 1), (1 << 32, 1), (1 << 32 - 1, 2), (1, .max), (0, -5)] {
            let message = thrown(.usage) { try sample(network, spec, seed: 0, first: first, n: n) }
            XCTAssertTrue(message.hasPrefix("images: "))
        }
        _ = thrown(.usage) { try sample(network, spec, seed: -1) }
        _ = thrown(.usage) { try sample(network, spec, seed: 0, numSteps: 21) }
        _ = thrown(.usage) { try sample(network, spec, seed: 0, sampler: .ddim(eta: 2)) }
    }

    func testNonFinite() throws {
        struct Broken: Network {
            let value: Float
            func predict(_: [Float], t: Int, predicted: inout [Float], varianceFraction _: inout [Float]) {
                predicted[7] = t < 10 ? value : 0
            }
        }
        // clipping would hide what is infinite
        let spec = try gaussianSpec(alphas, clip_x_0: 1)
        for value in [Float.nan, .infinity] {
            let message = thrown(.notFinite) { try sample(Broken(value: value), spec, seed: 0, first: 4, n: 2) }
            XCTAssertTrue(message.hasPrefix("step 11 (t = 9), image 5: "), message)
        }
    }

    func testStream() async throws {
        let spec = try gaussianSpec(alphas)
        var last: StepProgress?
        for try await progress in sampleStream(network, spec, seed: 9, n: 2) { last = progress }
        XCTAssertEqual(last?.step, 20)
        XCTAssertEqual(last?.x, try sample(network, spec, seed: 9, n: 2))

        do {
            for try await _ in sampleStream(network, spec, seed: -1) {}
            XCTFail("a negative seed was taken")
        } catch let error as DDPMError {
            XCTAssertEqual(error.kind, .usage)
        }
    }

    func testLeavingTheStreamStopsTheWork() async throws {
        final class Slow: Network, @unchecked Sendable {
            let lock = NSLock()
            var calls = 0
            func predict(_: [Float], t _: Int, predicted _: inout [Float], varianceFraction _: inout [Float]) {
                lock.withLock { calls += 1 }
                Thread.sleep(forTimeInterval: 0.05)
            }
        }
        let (slow, spec) = (Slow(), try gaussianSpec(alphas))
        for try await progress in sampleStream(slow, spec, seed: 0) where progress.step >= 2 { break }
        try await Task.sleep(nanoseconds: 300_000_000)
        let calls = slow.lock.withLock { slow.calls }
        XCTAssertLessThan(calls, 20)
        try await Task.sleep(nanoseconds: 200_000_000)
        XCTAssertEqual(slow.lock.withLock { slow.calls }, calls)
    }
}
