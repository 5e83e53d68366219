import DDPM
import SwiftUI

/// One screen: a seed, a class, how strongly it is followed, a picture that takes shape, and a button that starts and cancels.
@MainActor
struct GenerationView: View {
    /// Those of the shipped model, in their order.
    private static let classes = [
        "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
    ]

    @State private var generation: Generation
    @State private var seed = 7
    @State private var label = 0
    @State private var guidance = 1.75

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
                Picker("Class", selection: $label) {
                    ForEach(Self.classes.indices, id: \.self) { Text(Self.classes[$0]).tag($0) }
                }
                LabeledContent("Guidance") {
                    TextField("1 for none", value: $guidance, format: .number)
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
                        var settings = Settings()  // nil: fixed in the file
                        (settings.seed, settings.labels) = (Int64(seed), [Int64(label)])
                        settings.guidance = Float(guidance)
                        generation.start(settings)
                    }
                }
                if let message = generation.message {
                    Text(message).foregroundStyle(.secondary)
                }
            }
        }
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

extension Pictures {
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
