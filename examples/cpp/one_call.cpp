// one_call - the whole sampler is in the file: one_call unet.sampler.onnx N STEPS SEED grid.png [CLASS [GUIDANCE]]
// CLASS is a number, of a model that is told one, and GUIDANCE, 0 to 100, of one that learned to do without: 1 for none.
#include <onnxruntime_cxx_api.h>

#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "external_data.hpp"
#include "grid_png.hpp"
#include "no_telemetry.hpp"
#include "printable.hpp"

int main(int argc, char** argv) {
    turn_off_telemetry();
    const auto failed = [](int code, std::string reason) {
        std::fprintf(stderr, "error: one_call needs a *.sampler.onnx and numbers that it takes, got %s. See line 1 of "
                             "one_call.cpp.\n", printable(reason.substr(0, reason.find('\n'))).c_str());
        return code;
    };
    if (argc < 6 || argc > 8) {
        return failed(2, std::to_string(argc - 1) + " arguments");
    }
    if (const std::string trouble = external_data::trouble(argv[1]); !trouble.empty()) {
        return failed(3, "a file with " + trouble);
    }
    try {
        std::int64_t none = 0, n = std::stoll(argv[2]), steps = std::stoll(argv[3]), seed = std::stoll(argv[4]);
        std::int64_t first = 0, label = argc > 6 ? std::stoll(argv[6]) : 0;
        float eta = 0.0f, guidance = argc > 7 ? std::stof(argv[7]) : 1.0f;
        Ort::Env env(ORT_LOGGING_LEVEL_FATAL);
        Ort::Session session(env, std::filesystem::path(argv[1]).c_str(), Ort::SessionOptions());
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
        const auto scalar = [&](auto& value) { return Ort::Value::CreateTensor(memory, &value, 1, nullptr, 0); };
        const auto list = [&](auto* values, std::int64_t count) {
            return Ort::Value::CreateTensor(memory, values, static_cast<std::size_t>(count), &count, 1);
        };
        std::vector<std::int64_t> labels(n > 0 ? static_cast<std::size_t>(n) : 1, label);  // of each image
        float interval[] = {0.0f, 1e9f};  // all times
        const char* names[] = {"seed", "first", "n", "steps", "eta", "times", "y", "guidance", "guidance_interval", "plan"};
        Ort::Value values[] = {scalar(seed), scalar(first), scalar(n), scalar(steps), scalar(eta),
                               list(&none, 0),  // no times, and no plan: evenly spaced steps
                               list(labels.data(), n > 0 ? n : 1), scalar(guidance), list(interval, 2), scalar(none)};
        std::set<std::string> taken;  // of these, y and what follows only of a model that has them
        for (std::size_t k = 0; k < session.GetInputCount(); ++k) {
            taken.insert(session.GetInputNameAllocated(k, Ort::AllocatorWithDefaultOptions()).get());
        }
        std::vector<const char*> inputs;
        std::vector<Ort::Value> given;
        for (int k = 0; k < 10; ++k) {
            if (k < argc || taken.count(names[k]) > 0) {
                inputs.push_back(names[k]);
                given.push_back(std::move(values[k]));
            }
        }
        const char* outputs[] = {"images"};
        const Ort::Value images =
            std::move(session.Run(Ort::RunOptions(), inputs.data(), given.data(), given.size(), outputs, 1)[0]);
        const auto shape = images.GetTensorTypeAndShapeInfo().GetShape();  // n, H, W, C
        write_grid_png(argv[5], images.GetTensorData<std::uint8_t>(), shape[0], shape[1], shape[2], shape[3]);
    } catch (const Ort::Exception& problem) {
        return failed(3, problem.what());
    } catch (const std::logic_error& problem) {  // std::stoll
        return failed(2, "no number for " + std::string(problem.what()));
    } catch (const std::exception& problem) {
        return failed(5, problem.what());
    }
}
