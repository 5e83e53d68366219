// Samplers: each a pure function from times to rows of numbers, and the one loop that walks them.

import Foundation

/// Return the times of a trajectory, `T (n - i) / n - 1` in integers: n distinct ones, falling from T - 1.
///
/// Throws `usage` for numSteps outside 1...T.
public func spacing(_ numTrainTimesteps: Int, _ numSteps: Int) throws -> [Int] {
    guard numTrainTimesteps >= 1, (1...numTrainTimesteps).contains(numSteps) else {
        throw DDPMError(
            .usage, "The number of steps must be from 1 to \(numTrainTimesteps), the model's own, got \(numSteps).")
    }
    return (0..<numSteps).map { numTrainTimesteps * (numSteps - $0) / numSteps - 1 }
}

/// Return the rows from noise to picture: of a sampler on a grid of times, or a plan that the file carries.
///
/// What is nil is the spec's default. `sampler`: ddim or ddpm. `times`: strictly falling ones, in place of `numSteps`
/// evenly spaced ones. `name`: of one of the spec's plans, in place of all else. `eta`: of ddim, 0 (adds no noise) to 1
/// (ddpm's fixed_small), rounded to Float first, as everywhere. `variance`: of ddpm.
/// Throws `usage` for what is no plan, `refused` for a default sampler that is unknown here.
public func plan(
    _ spec: ModelSpec, sampler: String? = nil, numSteps: Int? = nil, times: [Int]? = nil, name: String? = nil,
    eta: Double? = nil, variance: Variance? = nil
) throws -> Plan {
    func usage(_ message: String) -> DDPMError { DDPMError(.usage, message) }
    let given: [(String, Any?)] = [
        ("sampler", sampler), ("num_steps", numSteps), ("times", times), ("eta", eta), ("variance", variance),
    ]
    let said = given.first { $0.1 != nil }?.0
    if let name = name ?? (said == nil ? spec.defaults.plan : nil) {
        guard let plan = spec.plans[name] else {
            let names = spec.plans.isEmpty
                ? "none, for the model carries none" : spec.plans.keys.sorted().joined(separator: ", ")
            throw usage("plan must be one of \(names), got \(quoted(name)).")
        }
        guard said == nil else { throw usage("\(said!) does not apply to plan \(name), which is whole.") }
        return plan
    }
    let known = ["ddpm", "ddim"]
    guard sampler != nil || known.contains(spec.defaults.sampler) else {
        throw DDPMError(
            .refused, "The model's default sampler, \(quoted(spec.defaults.sampler)), is unknown to this version.")
    }
    let t = try grid(spec, numSteps, times ?? (numSteps == nil ? spec.defaults.times : nil))
    let a = t.map { spec.alphasCumprod[$0] } + [1]  // where the last row ends
    switch sampler ?? spec.defaults.sampler {
    case "ddim" where variance != nil: throw usage("variance does not apply to ddim.")
    case "ddpm" where eta != nil: throw usage("eta does not apply to ddpm.")
    case "ddim": return Plan(rows: try ddim(t, a, eta: eta ?? spec.defaults.eta))
    case "ddpm":
        let plan = Plan(rows: try ddpm(t, a, variance: variance ?? spec.variance))
        guard !plan.needsLearnedVariance || spec.hasVarianceFraction else { throw noLearnedVariance() }
        return plan
    case let other: throw usage("sampler must be one of \(known.joined(separator: ", ")), got \(quoted(other)).")
    }
}

private func grid(_ spec: ModelSpec, _ numSteps: Int?, _ times: [Int]?) throws -> [Int] {
    let T = spec.numTrainTimesteps
    guard let times else { return try spacing(T, numSteps ?? spec.defaults.numSteps) }
    guard let first = times.first, let last = times.last, first < T, last >= 0,
        zip(times, times.dropFirst()).allSatisfy({ $0 > $1 })
    else {
        let shown = times.prefix(5).map { "\($0)" }.joined(separator: ", ")
            + (times.count > 5 ? ", ... (\(times.count) of them)" : "")
        throw DDPMError(
            .usage, "times must strictly fall from at most \(T - 1) to at least 0, got \(shown).")
    }
    guard numSteps == nil || numSteps == times.count else {
        throw DDPMError(
            .usage, "num_steps must be left out or be the number of times, \(times.count), got \(numSteps!).")
    }
    return times
}

/// Return the rows of DDIM (Song et al. 2020, eq. 12 and 16); eta = 1 is ddpm's fixed_small (Ho et al. 2020, eq. 7).
private func ddim(_ t: [Int], _ a: [Double], eta: Double) throws -> [Row] {
    guard (0...1).contains(eta) else { throw DDPMError(.usage, "eta must be between 0 and 1, got \(eta).") }
    let eta = Double(Float(eta))  // the one-call graph takes float32: the same eta everywhere
    return t.indices.map { k in
        let (a, aPrev) = (a[k], a[k + 1])
        let noiseStd = eta * ((1 - aPrev) / (1 - a)).squareRoot() * (1 - a / aPrev).squareRoot()
        let ofEps = max(1 - aPrev - noiseStd * noiseStd, 0).squareRoot()
        return Row(
            i: k + 1, t: Double(t[k]), a: a, x_0: [aPrev.squareRoot()], eps: [ofEps],
            noise: noiseStd > 0 ? [noiseStd] : [])
    }
}

/// Return the rows of ancestral sampling (Ho et al. 2020, algorithm 2), respaced where times are left out.
private func ddpm(_ t: [Int], _ a: [Double], variance: Variance) throws -> [Row] {
    var rows = try ddim(t, a, eta: 1)
    for k in rows.indices where !rows[k].noise.isEmpty {
        let large = (1 - a[k] / a[k + 1]).squareRoot()
        switch variance {
        case .fixedSmall: break
        case .fixedLarge: rows[k].noise = [large]
        case .learned: rows[k].noise.append(large)
        }
    }
    return rows
}

/// What a row leaves: the row, the state after it, and what the denoiser found before it, each (n, C, H, W) flat.
///
/// Its arrays are values: keep them for as long as you like, the walk then writes into others.
public struct State: Equatable, Sendable {
    public let row: Row
    public let x: [Float]
    public let x_0: [Float]
    public let eps: [Float]
    /// What later rows read of what was found, newest first.
    public let history: [Denoised]

    public init(row: Row, x: [Float], x_0: [Float], eps: [Float], history: [Denoised] = []) {
        (self.row, self.x, self.x_0, self.eps, self.history) = (row, x, x_0, eps, history)
    }
}

/// Walk a plan and return the state after its last row; one network evaluation a row.
///
/// Starts at noise draw 0, or at `x` in its place; or goes on from `state`, which an earlier walk of the same plan
/// gave, to the same bits. `keep` changes every state, the first among them, before it is seen. `onState` sees every
/// state and says whether to go on; where it said no, the state so far comes back. Throws `notFinite` at the row whose
/// numbers are no longer finite, `usage` for a history or a variance that is missing, and what the network throws.
@discardableResult
public func walk(
    _ denoise: @escaping Denoiser, _ noise: Noise, _ plan: Plan, x: [Float]? = nil, state: State? = nil,
    keep: Keep? = nil, onState: (State) throws -> Bool = { _ in true }
) throws -> [Float] {
    // `denoise` is @escaping although nothing keeps it: where a later argument throws, Swift 6.0 leaks it otherwise
    var (now, z): ([Float], [Float]) = (state?.x ?? x ?? [], [])
    if now.isEmpty {
        try noise(0, &now)
        if plan.start != 1 { for k in now.indices { now[k] *= Float(plan.start) } }
    }
    if state == nil, let keep { try keep(&now, 0, plan.rows[0].a) }
    // what was found last, in a ring: at `at` and before it; two at least, since x_0 before must outlast an evaluation
    let size = max(2, plan.rows.map(\.reach).max() ?? 0)
    var (ring, at, known) = ([Denoised](repeating: Denoised(), count: size), size - 1, 0)
    if let state {
        known = min(size, max(1, state.history.count))
        for age in 1..<max(known, 1) { ring[at - age] = state.history[age] }
        ring[at] = Denoised(x_0: state.x_0, eps: state.eps)
    }
    func aged(_ age: Int) -> Int { (at - age + size) % size }

    for (k, row) in plan.rows.enumerated() where row.i > state?.row.i ?? 0 {
        guard row.reach <= known + 1 else {
            throw DDPMError(
                .usage, "Row \(row.i) reads \(row.reach) evaluations, got \(known + 1). Go on from a state, whose "
                    + "history holds them.")
        }
        let next = (at + 1) % size
        try denoise(now, row, known == 0 ? nil : ring[at].x_0, &ring[next])
        (at, known) = (next, min(known + 1, size))
        // newest first, clean image before noise, then fresh noise: this order is fixed
        var isFirst = true
        for age in 0..<row.reach {
            if age < row.x_0.count { weigh(&isFirst, Float(row.x_0[age]), ring[aged(age)].x_0, &now) }
            if age < row.eps.count { weigh(&isFirst, Float(row.eps[age]), ring[aged(age)].eps, &now) }
        }
        if !row.noise.isEmpty {
            try noise(row.i, &z)
            guard z.count == now.count else {
                throw DDPMError(.usage, "x must be as many numbers as the noise, \(z.count), got \(now.count).")
            }
            guard row.noise.count == 1 || ring[at].varianceFraction.count == z.count else { throw noLearnedVariance() }
            add(row.noise, ring[at].varianceFraction, &z, &now)
        }
        if let keep { try keep(&now, row.i, k + 1 < plan.rows.count ? plan.rows[k + 1].a : 1) }
        try refuseNonFinite(now, row, images: noise.images)
        guard try onState(State(
            row: row, x: now, x_0: ring[at].x_0, eps: ring[at].eps,
            history: (0..<plan.keptAfter(k)).map { ring[aged($0)] }))
        else { break }
    }
    return now
}

/// x = weight values where it is the first of a sum, x += weight values otherwise.
private func weigh(_ isFirst: inout Bool, _ weight: Float, _ values: [Float], _ x: inout [Float]) {
    x.withUnsafeMutableBufferPointer { x in
        if isFirst {
            for k in x.indices { x[k] = weight * values[k] }
        } else {
            for k in x.indices { x[k] += weight * values[k] }
        }
    }
    isFirst = false
}

/// x += small^(1-f) large^f z, pixel by pixel; x += std z where there is one.
private func add(_ stds: [Double], _ fraction: [Float], _ z: inout [Float], _ x: inout [Float]) {
    if stds.count == 2 {
        let ratio = Float(stds[1] / stds[0])
        for k in z.indices { z[k] *= pow(ratio, fraction[k]) }
    }
    var isFirst = false
    weigh(&isFirst, Float(stds[0]), z, &x)
}

func noLearnedVariance() -> DDPMError {
    DDPMError(
        .usage, "variance must be fixed_small or fixed_large, since the network has learned none, got 'learned'.")
}
