// A denoiser file over ONNX Runtime, CPU: its spec, and its network as a ddpm::Model. The only place that knows both.
#pragma once

#include <onnxruntime_cxx_api.h>

#ifdef __linux__
#include <sched.h>
#endif

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "ddpm.hpp"
#include "external_data.hpp"
#include "sha256.hpp"

// Not to be moved or copied while in use: pass it to ddpm::denoiser or ddpm::sample by std::ref.
class OnnxModel {
public:
    // Open a file of ddpm-export. threads: 0 takes every core this process may use.
    // Throws ddpm::Error: bad_file for a file that is missing, broken, foreign, not what its spec says, or with weights outside its
    // folder; see also
    // ddpm::spec_from_json.
    explicit OnnxModel(const std::string& path, int threads = 0) : path_(path) {
        session_ = opened(threads);
        const auto metadata = session_.GetModelMetadata().LookupCustomMetadataMapAllocated("ddpm_export", allocator_);
        if (metadata == nullptr) {
            throw bad_file("not a file of ddpm-export, since it has no metadata 'ddpm_export'. Export the checkpoint "
                           "with ddpm-export.");
        }
        spec_ = ddpm::spec_from_json(metadata.get());
        check_signature();
        for (const char* name : {"before", "after"}) {
            if (const auto stage = spec_.stages.find(name); stage != spec_.stages.end()) {
                open_stage(name, stage->second, threads);
            }
        }
    }

    const ddpm::ModelSpec& spec() const { return spec_; }

    // Return what states (B, *state_shape) are, as ddpm::decoded does.
    std::vector<float> decoded(std::vector<float> x) { return ddpm::decoded(spec_, std::ref(*this), std::move(x)); }

    // Run a stage of the file: a std::ref to this is also a ddpm::Stages.
    void operator()(const ddpm::StageCall& asked) {
        std::vector<Ort::Value> inputs, outputs;
        std::vector<const char*> input_names, output_names;
        for (const ddpm::InputArray& one : asked.inputs) {
            input_names.push_back(one.input->name.c_str());
            inputs.push_back(tensor_of(one, 1));
        }
        for (const auto& [name, shape] : spec_.stages.at(asked.name).outputs) {
            output_names.push_back(name.c_str());
            outputs.push_back(tensor(asked.outputs.at(name), with_batch(1, shape)));
        }
        try {
            stages_.at(asked.name).Run(Ort::RunOptions(), input_names.data(), inputs.data(), inputs.size(),
                                       output_names.data(), outputs.data(), outputs.size());
        } catch (const Ort::Exception& problem) {
            throw bad_file("its stage '" + asked.name + "' does not run, ONNX Runtime says " + first_line(problem) + ".");
        }
    }

    // Let the network write its outputs straight to where they are wanted.
    void operator()(const ddpm::Evaluation& asked) {
        const std::vector<std::int64_t> shape = with_batch(asked.batch, spec_.state_shape);
        const std::vector<std::int64_t> batch(shape.begin(), shape.begin() + 1);
        std::vector<Ort::Value> inputs, outputs;
        std::vector<const char*> input_names = {"x_t", "t"}, output_names = {prediction(), "variance_fraction"};
        inputs.push_back(tensor(asked.x_t, shape));
        times_.assign(asked.batch, static_cast<std::int64_t>(asked.t));
        fractional_times_.assign(asked.batch, static_cast<float>(asked.t));
        inputs.push_back(spec_.has_fractional_t ? tensor(fractional_times_.data(), batch)
                                                : tensor(times_.data(), batch));
        for (const ddpm::InputArray& one : asked.inputs) {
            input_names.push_back(one.input->name.c_str());
            inputs.push_back(tensor_of(one, asked.batch));
        }
        for (float* answer : {asked.prediction, asked.variance_fraction}) {
            if (answer != nullptr) {
                outputs.push_back(tensor(answer, shape));
            }
        }
        try {
            session_.Run(Ort::RunOptions(), input_names.data(), inputs.data(), inputs.size(), output_names.data(),
                         outputs.data(), outputs.size());
        } catch (const Ort::Exception& problem) {  // a graph may load and yet not run
            throw bad_file("the graph does not run on values of shape " + text_of(shape) + ", ONNX Runtime says " +
                           first_line(problem) + ".");
        }
    }

    // Return the shape of a batch.
    static std::vector<std::int64_t> with_batch(std::size_t batch, const std::vector<std::int64_t>& extents) {
        std::vector<std::int64_t> shape = {static_cast<std::int64_t>(batch)};
        shape.insert(shape.end(), extents.begin(), extents.end());
        return shape;
    }

private:
    // Return a session of the file at path_, which is there and whose weights are in its folder.
    Ort::Session opened(int threads) const {
        if (!std::filesystem::is_regular_file(path_)) {
            throw bad_file("no such file.");
        }
        if (const std::string trouble = external_data::trouble(path_); !trouble.empty()) {
            throw bad_file("it has " + trouble + ". Do not use this file unless you made it.");
        }
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(threads > 0 ? threads : usable_cores());
        options.SetDeterministicCompute(true);
        options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);  // what matters is thrown and translated below
        try {
            return Ort::Session(env_, std::filesystem::path(path_).c_str(), options);
        } catch (const Ort::Exception& problem) {
            throw bad_file("ONNX Runtime cannot load it, it says " + first_line(problem) + ".");
        }
    }

    // Open the file of a stage beside this one, where it is the one that the spec names.
    void open_stage(const std::string& name, const ddpm::Stage& stage, int threads) {
        const std::string model = path_;
        path_ = std::filesystem::path(model).replace_filename(stage.file).string();  // for what is said of it
        std::ifstream file(path_, std::ios::binary);
        const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
        if (stage.file.empty() || bytes.empty()) {
            throw bad_file("no such file, which is the stage '" + name + "' of " + model + ". Copy it beside that.");
        }
        if (sha256::digest(bytes) != stage.sha256) {
            throw bad_file("it is not the stage '" + name + "' of " + model + ", whose SHA-256 begins with " +
                           stage.sha256.substr(0, 12) + ". Copy that beside it.");
        }
        Ort::Session session = opened(threads);
        std::map<std::string, ddpm::Shape> inputs, outputs;
        for (const ddpm::Input& one : stage.inputs) {
            inputs[one.name] = one.shape;
        }
        if (name == "after") {
            inputs["x"] = spec_.state_shape;
        }
        for (std::size_t k = 0; k < session.GetOutputCount(); ++k) {
            outputs[session.GetOutputNameAllocated(k, allocator_).get()] = tail_of(session.GetOutputTypeInfo(k));
        }
        bool fits = session.GetInputCount() == inputs.size() && outputs == stage.outputs;
        for (std::size_t k = 0; fits && k < session.GetInputCount(); ++k) {
            const auto at = inputs.find(session.GetInputNameAllocated(k, allocator_).get());
            fits = at != inputs.end() && tail_of(session.GetInputTypeInfo(k)) == at->second;
        }
        if (!fits) {
            throw bad_file("graph and spec disagree: the stage '" + name + "' must have the inputs and outputs that the "
                           "spec says. Export the model again.");
        }
        stages_.emplace(name, std::move(session));
        path_ = model;
    }

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
        return ddpm::detail::predictions[static_cast<std::size_t>(spec_.prediction)].data();
    }

    template <class T>
    Ort::Value tensor(const T* values, const std::vector<std::int64_t>& shape) const {
        std::size_t size = 1;
        for (const std::int64_t extent : shape) {
            size *= static_cast<std::size_t>(extent);
        }
        // inputs are not written to; the interface has no word for that
        return Ort::Value::CreateTensor(memory_, const_cast<T*>(values), size, shape.data(), shape.size());
    }

    Ort::Value tensor_of(const ddpm::InputArray& one, std::size_t batch) const {
        const auto shape = with_batch(batch, one.input->shape);
        return one.labels ? tensor(one.labels, shape) : tensor(one.numbers, shape);
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
        struct Wanted {
            ONNXTensorElementDataType type;
            std::vector<std::int64_t> tail;
        };
        constexpr auto floats = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, integers = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
        std::map<std::string, Wanted> wanted = {
            {"x_t", {floats, spec_.state_shape}},
            {"t", {spec_.has_fractional_t ? floats : integers, {}}}};
        for (const ddpm::Input& input : spec_.inputs) {
            wanted[input.name] = {input.kind == ddpm::Kind::label ? integers : floats, input.shape};
        }
        std::vector<std::string> names, expected;
        const std::size_t inputs = session_.GetInputCount(), outputs = session_.GetOutputCount();
        bool fits = inputs == wanted.size();
        for (std::size_t k = 0; k < inputs; ++k) {
            names.push_back(session_.GetInputNameAllocated(k, allocator_).get());
            const auto at = wanted.find(names.back());
            const Ort::TypeInfo info = session_.GetInputTypeInfo(k);
            fits = fits && at != wanted.end() && has_type(info, at->second.type) && tail_of(info) == at->second.tail;
        }
        const char* answers[] = {prediction(), "variance_fraction"};
        const std::size_t count = spec_.has_variance_fraction ? 2 : 1;
        fits = fits && outputs >= count;
        for (std::size_t k = 0; fits && k < count; ++k) {
            fits = session_.GetOutputNameAllocated(k, allocator_).get() == std::string(answers[k]) &&
                   has_type(session_.GetOutputTypeInfo(k), floats);
        }
        if (!fits) {
            for (const auto& [name, what] : wanted) {
                expected.push_back(name + (what.type == floats ? " float " : " int64 ") + text_of(what.tail));
            }
            throw bad_file("graph and spec disagree: the inputs must be " + ddpm::detail::several(expected) +
                           " behind the batch and the first output a float " + prediction() + ", got inputs " +
                           ddpm::detail::in_quotes(ddpm::detail::several(names)) + ". Export the model as a denoiser.");
        }
    }

    std::string path_;
    Ort::Env env_{ORT_LOGGING_LEVEL_FATAL, "ddpm"};
    Ort::AllocatorWithDefaultOptions allocator_;
    Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
    Ort::Session session_{nullptr};
    std::map<std::string, Ort::Session> stages_;
    ddpm::ModelSpec spec_;
    std::vector<std::int64_t> times_;
    std::vector<float> fractional_times_;
};
