import DDPM
import DDPMOnnxRuntime
import SwiftUI

/// One screen: seed and steps or a plan, a class where the model has any, a picture that takes shape, and a button that starts and cancels.
@MainActor
struct GenerationView: View {
    @State private var generation: Generation
    @State private var seed = 7
    @State private var numSteps = 50
    @State private var plan: String?
    @State private var label = ""
    @State private var guidance: Double?

    init(model: String) {
        _generation = State(initialValue: Generation(path: model))
    }

    var body: some View {
        Form {
            Section {
                LabeledContent("Seed") {
                    TextField("Seed", value: $seed, format: .number.grouping(.never))
                        .keyboardType(.numberPad)
                        .multilineTextAlignment(.trailing)
                        .accessibilityLabel("Seed")
                        .accessibilityHint("The same seed gives the same picture on every device.")
                }
                Stepper("Steps: \(numSteps)", value: $numSteps, in: 10...1000, step: 10)
                    .accessibilityHint("More steps take longer and give finer pictures.")
                if !generation.plans.isEmpty {
                    Picker("Way", selection: $plan) {
                        Text("Steps as above").tag(String?.none)
                        ForEach(generation.plans, id: \.self) { Text($0).tag(String?.some($0)) }
                    }
                    .accessibilityHint("A plan that the model carries takes the place of the steps.")
                }
                LabeledContent("Class") {
                    TextField("Any", text: $label)
                        .multilineTextAlignment(.trailing)
                        .accessibilityLabel("Class")
                        .accessibilityHint("A name or a number, or none, where the model has classes.")
                }
                LabeledContent("Guidance") {
                    TextField("The model's", value: $guidance, format: .number)
                        .keyboardType(.decimalPad)
                        .multilineTextAlignment(.trailing)
                        .accessibilityLabel("Guidance")
                        .accessibilityHint("How strongly to follow the class, 0 to 100.")
                }
            }
            .disabled(generation.isRunning)

            Section {
                picture
                ProgressView(value: Double(generation.step), total: Double(max(1, generation.numSteps)))
                    .accessibilityLabel("Progress")
                    .accessibilityValue("Step \(generation.step) of \(generation.numSteps)")
                if generation.isRunning {
                    Button("Cancel", role: .cancel) { generation.cancel() }
                } else {
                    Button("Generate") {
                        generation.start(
                            seed: Int64(seed), numSteps: numSteps, plan: plan,
                            label: label.isEmpty ? nil : .name(label), guidance: guidance.map { Guidance(scale: $0) })
                    }
                }
                if let message = generation.message {
                    Text(message).foregroundStyle(.secondary)
                }
            }
        }
        .task { await generation.open() }
    }

    @ViewBuilder private var picture: some View {
        let label = generation.isRunning ? "Picture so far" : "Generated picture"
        if let image = generation.picture?.image {
            Image(image, scale: 1, label: Text(label))
                .interpolation(.none)
                .resizable()
                .aspectRatio(contentMode: .fit)
        } else {
            Rectangle()
                .fill(.quaternary)
                .aspectRatio(1, contentMode: .fit)
                .accessibilityLabel("No picture yet")
        }
    }
}

extension Picture {
    /// The picture for the screen; nil for other than one channel (grey) or three (RGB).
    var image: CGImage? {
        guard [1, 3].contains(channels), let data = CGDataProvider(data: Data(pixels) as CFData) else { return nil }
        return CGImage(
            width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 8 * channels,
            bytesPerRow: width * channels,
            space: channels == 1 ? CGColorSpaceCreateDeviceGray() : CGColorSpaceCreateDeviceRGB(),
            bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.none.rawValue), provider: data, decode: nil,
            shouldInterpolate: false, intent: .defaultIntent)
    }
}
