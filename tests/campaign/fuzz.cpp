// libFuzzer's target for C++: a spec as text (first byte 0), or the walk through an ONNX file's header (1).
#include <unistd.h>

#include <cstdio>
#include <string>

#define DDPM_IMPLEMENTATION
#include "ddpm.hpp"
#include "external_data.hpp"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    const std::string content(reinterpret_cast<const char*>(data + 1), size - 1);
    try {
        if (data[0] % 2 == 0) {
            ddpm::spec_from_json(content);
        } else {
            static const std::string path = "/dev/shm/campaign-" + std::to_string(getpid()) + ".onnx";
            if (std::FILE* file = std::fopen(path.c_str(), "wb")) {
                std::fwrite(content.data(), 1, content.size(), file);
                std::fclose(file);
            }
            external_data::detail::Walk walk(path);
        }
    } catch (const std::runtime_error&) {
        // ours, or of what cannot be read: each is told in a line by the program
    }
    return 0;
}
