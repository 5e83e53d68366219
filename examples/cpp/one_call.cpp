// one_call - the whole sampler is in the file: one_call unet.sampler.onnx N SEED grid.png [CLASS]
// CLASS is a number, of a model with classes. The file is one of ddpm-export --format sampler, without --open.
// A model of numbers that are no pictures writes values.npy, float32 (N, *shape), in place of grid.png.
#include <onnxruntime_cxx_api.h>

#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "external_data.hpp"
#include "grid_png.hpp"
#include "no_telemetry.hpp"
#include "npy.hpp"
#include "printable.hpp"

int main(int argc, char** argv) {
    turn_off_telemetry();
    std::cerr.setstate(std::ios::failbit);  // where Debian's ONNX Runtime writes 1,134 lines; this program does not
    const auto failed = [](int code, std::string reason) {
        std::fprintf(stderr, "error: one_call needs a *.sampler.onnx and numbers that it takes, got %s. See line 1 of "
                             "one_call.cpp.\n", printable(reason.substr(0, reason.find('\n'))).c_str());
        return code;
    };
    if (argc < 5 || argc > 6) {
        return failed(2, std::to_string(argc - 1) + " arguments");
    }
    if (const std::string trouble = external_data::trouble(argv[1]); !trouble.empty()) {
        return failed(3, "a file with " + trouble);
    }
    try {
        std::int64_t n = std::stoll(argv[2]), seed = std::stoll(argv[3]), first = 0;
        std::vector<std::int64_t> labels(n > 0 ? n : 0, argc > 5 ? std::stoll(argv[5]) : 0);  // of each image
        const bool is_numbers = std::filesystem::path(argv[4]).extension() == ".npy";
        const char* result = is_numbers ? "values" : "images";
        Ort::Env env(ORT_LOGGING_LEVEL_FATAL);
        Ort::Session session(env, std::filesystem::path(argv[1]).c_str(), Ort::SessionOptions());
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
        const auto scalar = [&](auto& value) { return Ort::Value::CreateTensor(memory, &value, 1, nullptr, 0); };
        Ort::Value given[] = {scalar(seed), scalar(first), scalar(n),
                              Ort::Value::CreateTensor(memory, labels.data(), labels.size(), &n, 1)};
        const char *inputs[] = {"seed", "first", "n", "y"}, *outputs[] = {result};
        const auto images = session.Run(Ort::RunOptions(), inputs, given, argc > 5 ? 4 : 3, outputs, 1);
        const auto shape = images[0].GetTensorTypeAndShapeInfo().GetShape();  // n, H, W, C
        if (is_numbers) {
            write_npy(argv[4], images[0].GetTensorData<float>(), shape);
            return 0;
        }
        write_grid_png(argv[4], images[0].GetTensorData<std::uint8_t>(), shape[0], shape[1], shape[2], shape[3]);
    } catch (const Ort::Exception& problem) {
        return failed(3, problem.what());
    } catch (const std::logic_error& problem) {  // std::stoll
        return failed(2, "no number for " + std::string(problem.what()));
    } catch (const std::exception& problem) {
        return failed(5, problem.what());
    }
}
