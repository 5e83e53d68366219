// A denoiser file over ONNX Runtime, CPU: its spec, and its network as a ddpm::Model. The only place that knows both.
#pragma once

#include <onnxruntime_cxx_api.h>

#ifdef __linux__
#include <sched.h>
#endif

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "ddpm.hpp"

// Not to be moved or copied while in use: pass it to ddpm::denoiser or ddpm::sample by std::ref.
class OnnxModel {
public:
    // Open a file of ddpm-export. threads: 0 takes every core this process may use.
    // Throws ddpm::Error: bad_file for a file that is missing, broken, foreign or not what its spec says; see also
    // ddpm::spec_from_json.
    explicit OnnxModel(const std::string& path, int threads = 0) : path_(path) {
        if (!std::filesystem::is_regular_file(path)) {
            throw bad_file("no such file. got nothing, expected a model. Do check the path.");
        }
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(threads > 0 ? threads : usable_cores());
        options.SetDeterministicCompute(true);
        options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);  // what matters is thrown and translated below
        try {
            session_ = Ort::Session(env_, std::filesystem::path(path).c_str(), options);
        } catch (const Ort::Exception& problem) {
            throw bad_file("ONNX Runtime cannot load it. got " + first_line(problem) +
                           ", expected a sound ONNX file. Do export or copy it again.");
        }
        const auto metadata = session_.GetModelMetadata().LookupCustomMetadataMapAllocated("ddpm_export", allocator_);
        if (metadata == nullptr) {
            throw bad_file("not a file of ddpm-export. got an ONNX model without metadata 'ddpm_export', expected one. "
                           "Do export the checkpoint with ddpm-export.");
        }
        spec_ = ddpm::spec_from_json(metadata.get());
        check_signature();
    }

    const ddpm::ModelSpec& spec() const { return spec_; }

    // Let the network write its outputs straight to where they are wanted.
    void operator()(const ddpm::Evaluation& asked) {
        const auto batch = static_cast<std::int64_t>(asked.batch);
        const std::array<std::int64_t, 4> shape = {batch, spec_.image_shape[0], spec_.image_shape[1],
                                                   spec_.image_shape[2]};
        const std::size_t size = asked.batch * spec_.image_size();
        times_.assign(asked.batch, asked.t);
        Ort::Value inputs[] = {
            // inputs are not written to; the interface has no word for that
            Ort::Value::CreateTensor(memory_, const_cast<float*>(asked.x_t), size, shape.data(), shape.size()),
            Ort::Value::CreateTensor(memory_, times_.data(), times_.size(), &batch, 1)};
        std::vector<Ort::Value> outputs;
        for (float* answer : {asked.prediction, asked.variance_fraction}) {
            if (answer != nullptr) {
                outputs.push_back(Ort::Value::CreateTensor(memory_, answer, size, shape.data(), shape.size()));
            }
        }
        const char* input_names[] = {"x_t", "t"};
        const char* output_names[] = {prediction(), "variance_fraction"};
        try {
            session_.Run(Ort::RunOptions(), input_names, inputs, 2, output_names, outputs.data(), outputs.size());
        } catch (const Ort::Exception& problem) {  // a graph may load and yet not run
            throw bad_file("the graph does not run. got " + first_line(problem) + ", expected values of shape " +
                           text_of({shape.begin(), shape.end()}) + ". Do export the model again.");
        }
    }

private:
    ddpm::Error bad_file(const std::string& rest) const { return {ddpm::Code::bad_file, path_ + ": " + rest}; }

    // Return how many cores this process may use, not those of the machine; 0 leaves it to ONNX Runtime.
    static int usable_cores() {
#ifdef __linux__
        cpu_set_t cores;
        if (sched_getaffinity(0, sizeof cores, &cores) == 0) {
            return CPU_COUNT(&cores);
        }
#endif
        return static_cast<int>(std::thread::hardware_concurrency());
    }

    static std::string first_line(const Ort::Exception& problem) {
        const std::string text = problem.what();
        return "'" + text.substr(0, std::min<std::size_t>(text.find('\n'), 200)) + "'";
    }

    static std::string text_of(const std::vector<std::int64_t>& shape) {
        std::string text;
        for (const std::int64_t extent : shape) {
            text += (text.empty() ? "" : ", ") + std::to_string(extent);
        }
        return "[" + text + "]";
    }

    const char* prediction() const {
        static constexpr const char* names[] = {"eps", "x_0", "v"};
        return names[static_cast<int>(spec_.prediction)];
    }

    static bool has_type(const Ort::TypeInfo& info, ONNXTensorElementDataType type) {
        return info.GetONNXType() == ONNX_TYPE_TENSOR && info.GetTensorTypeAndShapeInfo().GetElementType() == type;
    }

    // Return the extents behind the batch.
    static std::vector<std::int64_t> tail_of(const Ort::TypeInfo& info) {
        std::vector<std::int64_t> shape = info.GetTensorTypeAndShapeInfo().GetShape();
        shape.erase(shape.begin(), shape.begin() + (shape.empty() ? 0 : 1));
        return shape;
    }

    void check_signature() {
        const std::vector<std::int64_t> image(spec_.image_shape.begin(), spec_.image_shape.end());
        std::string found;
        bool has_x_t = false, has_t = false;
        const std::size_t inputs = session_.GetInputCount(), outputs = session_.GetOutputCount();
        for (std::size_t k = 0; k < inputs; ++k) {
            const std::string name = session_.GetInputNameAllocated(k, allocator_).get();
            const Ort::TypeInfo info = session_.GetInputTypeInfo(k);
            has_x_t |= name == "x_t" && has_type(info, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) && tail_of(info) == image;
            has_t |= name == "t" && has_type(info, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) && tail_of(info).empty();
            found += (k == 0 ? "" : ", ") + name;
        }
        found = ddpm::detail::in_quotes(found);
        std::vector<std::string> wanted = {prediction()};
        if (spec_.has_variance_fraction) {
            wanted.push_back("variance_fraction");
        }
        bool has_outputs = outputs >= wanted.size();
        for (std::size_t k = 0; has_outputs && k < wanted.size(); ++k) {
            has_outputs = session_.GetOutputNameAllocated(k, allocator_).get() == wanted[k] &&
                          has_type(session_.GetOutputTypeInfo(k), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
        }
        if (inputs != 2 || !has_x_t || !has_t || !has_outputs) {
            throw bad_file("graph and spec disagree. got inputs " + found + ", expected x_t float [batch, " +
                           text_of(image).substr(1) + ", t int64 [batch] and a float output '" + prediction() +
                           "' first. Do export the model as a denoiser.");
        }
    }

    std::string path_;
    Ort::Env env_{ORT_LOGGING_LEVEL_FATAL, "ddpm"};
    Ort::AllocatorWithDefaultOptions allocator_;
    Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
    Ort::Session session_{nullptr};
    ddpm::ModelSpec spec_;
    std::vector<std::int64_t> times_;
};
