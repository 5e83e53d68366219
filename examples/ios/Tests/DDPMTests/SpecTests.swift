import DDPM
import XCTest

final class SpecTests: XCTestCase {
    private static let valid = """
        {"format": "ddpm-export/1", "name": "tiny", "prediction": "v", "image_shape": [1, 2, 3], "value_range": [-1, 1],
         "alphas_cumprod": [0.9, 0.5, 0.1, 0], "clip_x_0": null, "variance": "learned", "noise": "\(noiseTag)",
         "defaults": {"sampler": "ddim", "num_steps": 3, "eta": 0.5}, "requires": ["variance_fraction"],
         "golden": {"cases": []}, "source": {"license": "MIT"}, "something new": [[[1, {"a": true}]]]}
        """

    private func edited(_ from: String, _ to: String) -> Data {
        precondition(Self.valid.contains(from))
        return Data(Self.valid.replacingOccurrences(of: from, with: to).utf8)
    }

    func testValid() throws {
        let spec = try specFromJson(Data(Self.valid.utf8))
        XCTAssertEqual(spec.name, "tiny")
        XCTAssertEqual(spec.prediction, .v)
        XCTAssertEqual(spec.imageShape, try ImageShape([1, 2, 3]))
        XCTAssertEqual(spec.alphasCumprod, [0.9, 0.5, 0.1, 0])
        XCTAssertNil(spec.clip_x_0)
        XCTAssertEqual(spec.variance, .learned)
        XCTAssertNil(spec.graph)
        XCTAssertEqual(spec.outputs, ["v", "variance_fraction"])
        XCTAssertEqual(spec.defaults.sampler, "ddim")
        XCTAssertEqual(spec.defaults.numSteps, 3)
        XCTAssertEqual(spec.defaults.eta, 0.5)
        XCTAssertEqual(try specFromJson(edited("ddpm-export/1", "ddpm-export/1.4")), spec)
        XCTAssertEqual(try specFromJson(edited("null", "0.5")).clip_x_0, 0.5)
        XCTAssertEqual(try specFromJson(edited(#""golden": {"cases": []}"#, #""graph": "slice""#)).graph, "slice")
    }

    func testInputsPlansAndTimes() throws {
        let spec = try specFromJson(edited(#""golden": {"cases": []}"#, #"""
            "inputs": [{"name": "y", "kind": "label", "shape": [], "none": 2, "classes": ["cat", "dog"]},
                       {"name": "w", "kind": "vector", "shape": [4], "none": null}],
            "plans": {"p": {"start": 2, "rows": [[2.5, 0.1, [0.5], [], []], [0, 0, [1, -1], [2], [0.5, 0.75]]]}}
            """#)
            .replacing(
                #"["variance_fraction"]"#, #"["variance_fraction", "inputs", "times", "plan", "fractional_t"]"#)
            .replacing(#""eta": 0.5"#, #""eta": 0.5, "times": [3, 1], "plan": "p""#))
        XCTAssertEqual(spec.inputs.map(\.name), ["y", "w"])
        XCTAssertEqual(spec.inputs.map(\.kind), [.label, .vector])
        XCTAssertEqual(spec.inputs.map(\.shape), [[], [4]])
        XCTAssertEqual(spec.inputs.map(\.none), [2, nil])
        XCTAssertEqual(spec.inputs[0].classes, ["cat", "dog"])
        XCTAssertEqual(spec.plans["p"], Plan(
            rows: [
                Row(i: 1, t: 2.5, a: 0.1, x_0: [0.5], eps: [], noise: []),
                Row(i: 2, t: 0, a: 0, x_0: [1, -1], eps: [2], noise: [0.5, 0.75]),
            ], start: 2))
        XCTAssertEqual(spec.defaults.times, [3, 1])
        XCTAssertEqual(spec.defaults.plan, "p")
        XCTAssertTrue(spec.hasFractionalT)
        XCTAssertFalse(try specFromJson(Data(Self.valid.utf8)).hasFractionalT)
        XCTAssertEqual(spec.stateShape, spec.pictureShape)
    }

    func testGuidance() throws {
        let label = #"{"name": "y", "kind": "label", "shape": [], "none": 2, "classes": ["cat", "dog"]}"#
        let always = label.replacingOccurrences(of: #""none": 2"#, with: #""none": null"#)
        let own = #"{"name": "guidance", "kind": "vector", "shape": [1], "none": 1.0}"#
        func spec(
            _ inputs: String, _ guidance: String = #"{"scale": 2.5, "interval": [3, 20.5]}"#,
            requires: String = #"["variance_fraction", "inputs", "guidance"]"#, graph: String = "null"
        ) throws -> ModelSpec {
            try specFromJson(edited(#""golden": {"cases": []}"#, "\"inputs\": [\(inputs)], \"graph\": \(graph)")
                .replacing(#"["variance_fraction"]"#, requires)
                .replacing(#""eta": 0.5"#, "\"eta\": 0.5, \"guidance\": \(guidance)"))
        }
        XCTAssertEqual(try spec(label).defaults.guidance, Guidance(scale: 2.5, interval: 3...20.5))
        XCTAssertEqual(try spec(own, #"{"scale": 0}"#).defaults.guidance, Guidance(scale: 0))
        XCTAssertNil(try spec(label, "null").defaults.guidance)
        XCTAssertEqual(try spec(label).label?.classes, ["cat", "dog"])
        XCTAssertEqual(
            try [label, always, own].map { try spec($0, "null").takesGuidance }, [true, false, true])
        XCTAssertTrue(try spec(label, graph: #""slice""#).takesGuidance)
        XCTAssertFalse(
            try spec(label, "null", requires: #"["variance_fraction", "inputs"]"#, graph: #""slice""#).takesGuidance)
        let unusable = "The model's spec cannot be used: "
        let interval = "the interval of guidance must be two times, the lower first, from 0 on, got "
        for (inputs, guidance, message) in [
            (label, "2", "\(unusable)guidance must be an object with scale, got 2."),
            (label, #"{"scale": 100.5}"#, "\(unusable)guidance must be a number from 0 to 100, got 100.5."),
            (label, #"{"scale": -1}"#, "\(unusable)guidance must be a number from 0 to 100, got -1."),
            (label, #"{"scale": "2"}"#, "\(unusable)guidance must be a number from 0 to 100, got "),
            (label, #"{"scale": 2, "interval": [3, 2]}"#, "\(unusable)\(interval)(3, 2)."),
            (label, #"{"scale": 2, "interval": [-1, 2]}"#, "\(unusable)\(interval)(-1, 2)."),
            (label, #"{"scale": 2, "interval": [1]}"#, unusable + interval),
            (always, #"{"scale": 2}"#, "In the model's spec, defaults.guidance needs a label that may be none, and"),
            (own.replacingOccurrences(of: "1.0", with: "2"), "null",
                "\(unusable)input 'guidance' must be a vector of one number, whose none is 1."),
        ] {
            let said = thrown(.badFile) { try spec(inputs, guidance) }
            XCTAssertTrue(said.hasPrefix(message), said)
        }
        let unnamed = thrown(.badFile) { try spec(label, requires: #"["variance_fraction", "inputs"]"#) }
        XCTAssertTrue(unnamed.contains("requires must name 'guidance'"), unnamed)
    }

    func testNewerFilesAreRefused() {
        for (from, to) in [
            ("ddpm-export/1", "ddpm-export/2"), ("ddpm-export/1", "ddpm-export/10"), (noiseTag, "philox/2"),
            (#"["variance_fraction"]"#, #"["variance_fraction", "unheard-of"]"#),
            (#""golden": {"cases": []}"#, #""graph": "another""#),
        ] {
            _ = thrown(.refused) { try specFromJson(edited(from, to)) }
        }
    }

    func testImpossibleValues() {
        for (from, to, place) in [
            (#""ddpm-export/1""#, #""other/1""#, "format"), (#""ddpm-export/1""#, "1", "format"),
            (#""tiny""#, "7", "name"), (#""tiny""#, "\"\(String(repeating: "x", count: 201))\"", "name"),
            (#""v""#, #""w""#, "prediction"), (#""v""#, #""eps""#, "alphas_cumprod"),
            (#""learned""#, #""small""#, "variance"), (#"["variance_fraction"]"#, "[]", "variance"),
            (#"["variance_fraction"]"#, "3", "requires"), (#"["variance_fraction"]"#, "[3]", "requires"),
            ("[1, 2, 3]", "[1, 2]", "image_shape"), ("[1, 2, 3]", "[1, 2, 0]", "image_shape"),
            ("[1, 2, 3]", "[1, 2, -3]", "image_shape"), ("[1, 2, 3]", "[1, 2, 2.5]", "image_shape"),
            ("[1, 2, 3]", "[1, 2, true]", "image_shape"),
            ("[1, 2, 3]", "[4294967296, 4294967296, 4294967296]", "image_shape"),
            ("[1, 2, 3]", "[1, 8192, 8193]", "image_shape"), ("[-1, 1]", "[0, 1]", "value_range"),
            ("[0.9, 0.5, 0.1, 0]", "[]", "alphas_cumprod"), ("[0.9, 0.5, 0.1, 0]", "[0.9, 0.9]", "alphas_cumprod"),
            ("[0.9, 0.5, 0.1, 0]", "[1, 0.5, 0.4]", "alphas_cumprod"), ("0.1, 0]", "0.1, -0.1]", "alphas_cumprod"),
            ("0.1, 0]", "null, 0]", "alphas_cumprod"), ("0.1, 0]", #""0.1", 0]"#, "alphas_cumprod"),
            ("null", "0", "clip_x_0"), ("null", "-1", "clip_x_0"), ("null", #""1""#, "clip_x_0"),
            (#""ddim""#, "null", "defaults"), (#""num_steps": 3"#, #""num_steps": 5"#, "defaults.num_steps"),
            (#""num_steps": 3"#, #""num_steps": 2.5"#, "defaults.num_steps"),
            (#""num_steps": 3"#, #""num_steps": 0"#, "defaults.num_steps"), ("0.5}", "1.5}", "defaults.eta"),
            ("0.5}", "-0.5}", "defaults.eta"), ("0.5}", "true}", "defaults.eta"), ("0.5}", "1e999}", "not JSON"),
            ("[1, 2, 3]", "[1, 2.0, 3]", "image_shape"),
        ] {
            let message = thrown(.badFile) { try specFromJson(edited(from, to)) }
            XCTAssertTrue(message.contains(place), "\(to): \(message)")
        }
    }

    func testEveryKeyIsNeeded() {
        for key in [
            "format", "name", "prediction", "image_shape", "value_range", "alphas_cumprod", "clip_x_0", "variance",
            "defaults", "noise", "requires", "sampler", "num_steps", "eta",
        ] {
            let message = thrown(.badFile) { try specFromJson(edited("\"\(key)\"", "\"other\"")) }
            XCTAssertTrue(message.hasSuffix("\(key), which it lacks."), message)
        }
    }

    func testWhatIsNoSpec() {
        let nested = String(repeating: "[", count: 100_000)
        for text in [
            "", "{", "[]", "null", "7", "{\"format\": NaN}", "{\"format\": Infinity}", "\u{0}", nested, "{'format': 1}",
            Self.valid + "x", #"{"a": 1,}"#, #"{"a": [1,]}"#, #"{"a": 01}"#, #"{"a": .5}"#, #"{"a": 1.}"#,
            #"{"a": +1}"#,
            #"{"a": 1e}"#, #"{"a": "\x"}"#, #"{"a": "\u12"}"#, #"{"a": "\u+123"}"#, "{\"a\": \"\n\"}", #"{"a" 1}"#,
            #"{"a": tru}"#, #"{"\ud800": 1}"#, #"{"\ud800\u0041": "\udc00"}"#,
        ] {
            _ = thrown(.badFile) { try specFromJson(Data(text.utf8)) }
        }
        let noUtf8 = Data("{\"".utf8) + [0xFF] + Data("\": 1}".utf8)
        XCTAssertTrue(thrown(.badFile) { try specFromJson(noUtf8) }.contains("no UTF-8"))
        let long = Data(repeating: 0x20, count: 256 * 1024 + 1)
        XCTAssertEqual(
            thrown(.badFile) { try specFromJson(long) },
            "The model's spec must have at most 262144 bytes, got 262145.")
        let deep = String(repeating: "[", count: 31) + String(repeating: "]", count: 31)
        XCTAssertNoThrow(try specFromJson(edited("[[[1, {\"a\": true}]]]", deep)))
        XCTAssertTrue(thrown(.badFile) { try specFromJson(edited("[[[1, {\"a\": true}]]]", "[\(deep)]")) }.contains("32"))
    }

    func testStringsAndNumbersAreReadAsTheyWereWritten() throws {
        let name = #"\u0041\ud83d\ude00\ud800x\"\\\/\b\f\n\r\t é"#
        XCTAssertEqual(
            try specFromJson(edited("tiny", name)).name, "A\u{1F600}\u{FFFD}x\"\\/\u{8}\u{C}\n\r\t é")
        for _ in 0..<1000 {
            let a = Double.random(in: 0..<1)
            XCTAssertEqual(try specFromJson(edited("0.5}", "\(a)}")).defaults.eta, a)
        }
        XCTAssertEqual(try specFromJson(edited("0.5}", "25E-2}")).defaults.eta, 0.25)
        XCTAssertEqual(try specFromJson(edited("0.5}", "1}")).defaults.eta, 1)
        XCTAssertEqual(try specFromJson(edited("0.5}", "0.5, \"eta\": 0}")).defaults.eta, 0)
    }

    func testNoTruncationAndNoFlippedByteCrashes() {
        let text = Data(Self.valid.utf8)
        for k in text.indices {
            XCTAssertThrowsError(try specFromJson(text.prefix(k)))
            for bit in 0..<8 {
                var flipped = text
                flipped[k] ^= 1 << bit
                _ = try? specFromJson(flipped)
            }
        }
    }

    // MARK: ONNX

    /// A length-delimited protobuf field.
    private func field(_ number: UInt8, _ contents: [UInt8]) -> [UInt8] {
        var (rest, length): (Int, [UInt8]) = (contents.count, [])
        repeat {
            length.append(UInt8(rest & 0x7F) | (rest > 0x7F ? 0x80 : 0))
            rest >>= 7
        } while rest > 0
        return [number << 3 | 2] + length + contents
    }

    private func metadata(_ key: String, _ value: String) -> [UInt8] {
        field(14, field(1, Array(key.utf8)) + field(2, Array(value.utf8)))
    }

    func testSpecFromOnnx() throws {
        let spec = try specFromJson(Data(Self.valid.utf8))
        var others: [UInt8] = [0x08, 0x08]  // ir_version 8
        others += field(2, Array("pytorch".utf8))
        others += field(7, [UInt8](repeating: 0x72, count: 300))  // a graph
        others += [0x19] + [UInt8](repeating: 1, count: 8)  // fields of 8 and of 4 bytes
        others += [0x1D] + [UInt8](repeating: 1, count: 4)
        let ours = metadata("ddpm_export", Self.valid)
        for model in [others + ours, ours + others, metadata("another", "x") + ours] {
            XCTAssertEqual(try specFromOnnx(Data(model)), spec)
            XCTAssertEqual(try specFromOnnx(Data([0] + model).dropFirst()), spec)  // a slice starts elsewhere than at 0
        }
        for model in [[], others, ours + ours, metadata("ddpm_export2", Self.valid), field(7, ours)] {
            XCTAssertTrue(thrown(.badFile) { try specFromOnnx(Data(model)) }.hasPrefix("The model must have one entry"))
        }
    }

    func testDamagedOnnx() {
        let model = metadata("another", "x") + metadata("ddpm_export", Self.valid)
        for k in 1..<model.count { XCTAssertThrowsError(try specFromOnnx(Data(model.prefix(k)))) }
        for broken: [UInt8] in [
            [0x0B], [0x08], [0x72, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
            [0x08] + [UInt8](repeating: 0x80, count: 11),
        ] {
            XCTAssertTrue(thrown(.badFile) { try specFromOnnx(Data(broken)) }.hasPrefix("The model is no ONNX file"))
        }
    }
}

extension Data {
    fileprivate func replacing(_ from: String, _ to: String) -> Data {
        let text = String(decoding: self, as: UTF8.self)
        precondition(text.contains(from))
        return Data(text.replacingOccurrences(of: from, with: to).utf8)
    }
}
