import SwiftUI

@main
struct DDPMApp: App {
    init() {
        setenv("ORT_DISABLE_TELEMETRY", "1", 0)  // before ONNX Runtime starts
    }

    var body: some Scene {
        WindowGroup {
            // the model is a resource of the app, as project.yml has it
            if let model = Bundle.main.path(forResource: "unet.slice", ofType: "onnx") {
                GenerationView(model: model)
            } else {
                Text("There is no unet.slice.onnx among the app's resources.")
            }
        }
    }
}
