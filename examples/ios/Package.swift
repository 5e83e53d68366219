// swift-tools-version:5.9
import PackageDescription

// The manifest runs on the machine that builds. On a Mac, ONNX Runtime is Microsoft's package, and the product is for
// iPhones and Macs; on Linux nothing is fetched, a stand-in of the same name wraps the system's C library, and there is
// the program `sample`, so that the same host makes pictures there.

var dependencies: [Package.Dependency] = []
let strict: [SwiftSetting] = [.enableExperimentalFeature("StrictConcurrency")]
var targets: [Target] = []

#if os(Linux)
let onnxRuntime: Target.Dependency = "OnnxRuntimeBindings"
targets += [
    .systemLibrary(
        name: "COnnxRuntime", path: "Linux/COnnxRuntime", pkgConfig: "libonnxruntime",
        providers: [.apt(["libonnxruntime-dev"])]),
    .systemLibrary(name: "CPNG", path: "Linux/CPNG", pkgConfig: "libpng", providers: [.apt(["libpng-dev"])]),
    .target(name: "OnnxRuntimeBindings", dependencies: ["COnnxRuntime"], path: "Linux/OnnxRuntimeBindings"),
    .executableTarget(name: "sample", dependencies: ["DDPM", "CPNG"]),
]
#else
let onnxRuntime: Target.Dependency = .product(name: "onnxruntime", package: "onnxruntime-swift-package-manager")
dependencies = [.package(url: "https://github.com/microsoft/onnxruntime-swift-package-manager", from: "1.24.2")]
#endif

targets.append(
    .target(
        name: "DDPM", dependencies: [onnxRuntime], swiftSettings: strict,
        // ONNX Runtime's archive is static C++, whose library a target without C++ sources would not link
        linkerSettings: [.linkedLibrary("c++", .when(platforms: [.iOS, .macOS]))]))

let package = Package(
    name: "DDPM",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [.library(name: "DDPM", targets: ["DDPM"])],
    dependencies: dependencies,
    targets: targets
)
