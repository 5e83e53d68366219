// The native half of the stand-in for ai.onnxruntime: ONNX Runtime's C++ interface behind the few calls of OrtSession.
// Text crosses as UTF-8 bytes, since JNI's own strings are not quite UTF-8. Tensors are the caller's direct buffers.

#include <jni.h>
#include <onnxruntime_cxx_api.h>

#include <exception>
#include <memory>
#include <string>
#include <vector>

namespace {

Ort::Env& environment() {
    static Ort::Env env(ORT_LOGGING_LEVEL_FATAL, "ddpm");
    return env;
}

struct Handle {
    Ort::Session session;
};

Handle& from(jlong handle) { return *reinterpret_cast<Handle*>(handle); }

std::string text(JNIEnv* jni, jbyteArray bytes) {
    std::string result(static_cast<size_t>(jni->GetArrayLength(bytes)), '\0');
    jni->GetByteArrayRegion(bytes, 0, static_cast<jsize>(result.size()), reinterpret_cast<jbyte*>(result.data()));
    return result;
}

jbyteArray bytes(JNIEnv* jni, const char* text) {
    const auto size = static_cast<jsize>(std::char_traits<char>::length(text));
    jbyteArray result = jni->NewByteArray(size);
    jni->SetByteArrayRegion(result, 0, size, reinterpret_cast<const jbyte*>(text));
    return result;
}

jobjectArray all_bytes(JNIEnv* jni, const std::vector<Ort::AllocatedStringPtr>& texts) {
    jobjectArray result = jni->NewObjectArray(static_cast<jsize>(texts.size()), jni->FindClass("[B"), nullptr);
    for (size_t k = 0; k < texts.size(); ++k) {
        jni->SetObjectArrayElement(result, static_cast<jsize>(k), bytes(jni, texts[k].get()));
    }
    return result;
}

template <typename T>
Ort::Value tensor(const Ort::MemoryInfo& memory, void* data, size_t size, const std::vector<int64_t>& shape) {
    return Ort::Value::CreateTensor<T>(memory, static_cast<T*>(data), size, shape.data(), shape.size());
}

// Tensors over direct buffers, whose classes tell the type: Long int64, Float float, Byte uint8.
struct Values {
    std::vector<std::string> text;
    std::vector<const char*> names;
    std::vector<Ort::Value> values;

    Values(JNIEnv* jni, jobjectArray all_names, jobjectArray buffers, jobjectArray shapes) {
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
        const jsize count = jni->GetArrayLength(all_names);
        const jclass longs = jni->FindClass("java/nio/LongBuffer");
        const jclass floats = jni->FindClass("java/nio/FloatBuffer");
        for (jsize k = 0; k < count; ++k) {
            text.push_back(::text(jni, static_cast<jbyteArray>(jni->GetObjectArrayElement(all_names, k))));
            auto extents = static_cast<jlongArray>(jni->GetObjectArrayElement(shapes, k));
            std::vector<int64_t> shape(static_cast<size_t>(jni->GetArrayLength(extents)));
            std::vector<jlong> read(shape.size());
            jni->GetLongArrayRegion(extents, 0, static_cast<jsize>(read.size()), read.data());
            shape.assign(read.begin(), read.end());
            jobject buffer = jni->GetObjectArrayElement(buffers, k);
            void* data = jni->GetDirectBufferAddress(buffer);
            const auto size = static_cast<size_t>(jni->GetDirectBufferCapacity(buffer));
            if (jni->IsInstanceOf(buffer, longs)) {
                values.push_back(tensor<int64_t>(memory, data, size, shape));
            } else if (jni->IsInstanceOf(buffer, floats)) {
                values.push_back(tensor<float>(memory, data, size, shape));
            } else {
                values.push_back(tensor<uint8_t>(memory, data, size, shape));
            }
        }
        for (const std::string& name : text) {
            names.push_back(name.c_str());
        }
    }
};

// Runs `body`; what it throws becomes an OrtException in Java.
template <typename Body>
auto translated(JNIEnv* jni, Body body) -> decltype(body()) {
    try {
        return body();
    } catch (const std::exception& error) {
        jni->ThrowNew(jni->FindClass("ai/onnxruntime/OrtException"), error.what());
        return decltype(body())();
    }
}

}  // namespace

extern "C" {

JNIEXPORT jlong JNICALL Java_ai_onnxruntime_OrtSession_open(JNIEnv* jni, jclass, jbyteArray path, jbyteArray model,
                                                            jint threads, jint log_level) {
    return translated(jni, [&] {
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(threads);
        options.SetLogSeverityLevel(log_level);
        const std::string source = text(jni, path != nullptr ? path : model);
        Ort::Session session = path != nullptr
                                   ? Ort::Session(environment(), source.c_str(), options)
                                   : Ort::Session(environment(), source.data(), source.size(), options);
        return reinterpret_cast<jlong>(new Handle{std::move(session)});
    });
}

JNIEXPORT jobjectArray JNICALL Java_ai_onnxruntime_OrtSession_names(JNIEnv* jni, jclass, jlong handle,
                                                                    jboolean of_inputs) {
    return translated(jni, [&] {
        Ort::AllocatorWithDefaultOptions allocator;
        const Ort::Session& session = from(handle).session;
        std::vector<Ort::AllocatedStringPtr> names;
        for (size_t k = 0; k < (of_inputs ? session.GetInputCount() : session.GetOutputCount()); ++k) {
            names.push_back(of_inputs ? session.GetInputNameAllocated(k, allocator)
                                      : session.GetOutputNameAllocated(k, allocator));
        }
        return all_bytes(jni, names);
    });
}

JNIEXPORT jobjectArray JNICALL Java_ai_onnxruntime_OrtSession_run(JNIEnv* jni, jclass, jlong handle,
                                                                   jobjectArray input_names, jobjectArray inputs,
                                                                   jobjectArray input_shapes,
                                                                   jobjectArray output_names) {
    return translated(jni, [&] {
        const Values in(jni, input_names, inputs, input_shapes);
        const jsize count = jni->GetArrayLength(output_names);
        std::vector<std::string> names;
        std::vector<const char*> wanted;
        for (jsize k = 0; k < count; ++k) {
            names.push_back(text(jni, static_cast<jbyteArray>(jni->GetObjectArrayElement(output_names, k))));
        }
        for (const std::string& name : names) {
            wanted.push_back(name.c_str());
        }
        const std::vector<Ort::Value> made =
            from(handle).session.Run(Ort::RunOptions{nullptr}, in.names.data(), in.values.data(), in.values.size(),
                                     wanted.data(), wanted.size());
        jobjectArray results = jni->NewObjectArray(2 * count, jni->FindClass("java/lang/Object"), nullptr);
        for (jsize k = 0; k < count; ++k) {
            const Ort::Value& value = made[static_cast<size_t>(k)];
            const auto info = value.GetTensorTypeAndShapeInfo();
            const auto type = info.GetElementType();
            const size_t size = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64   ? 8
                                : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? 4
                                                                              : 1;
            const auto length = static_cast<jsize>(size * info.GetElementCount());
            jbyteArray data = jni->NewByteArray(length);
            jni->SetByteArrayRegion(data, 0, length, static_cast<const jbyte*>(value.GetTensorRawData()));
            std::vector<jlong> header{type};
            for (const int64_t extent : info.GetShape()) {
                header.push_back(extent);
            }
            jlongArray shape = jni->NewLongArray(static_cast<jsize>(header.size()));
            jni->SetLongArrayRegion(shape, 0, static_cast<jsize>(header.size()), header.data());
            jni->SetObjectArrayElement(results, 2 * k, data);
            jni->SetObjectArrayElement(results, 2 * k + 1, shape);
        }
        return results;
    });
}

JNIEXPORT void JNICALL Java_ai_onnxruntime_OrtSession_release(JNIEnv*, jclass, jlong handle) {
    delete &from(handle);
}

}  // extern "C"
