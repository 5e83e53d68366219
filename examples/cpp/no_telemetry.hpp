// ONNX Runtime's telemetry, off unless the user asked for it. Knows no runtime.
#pragma once

#include <cstdlib>

// Call it first in main, before any thread and before the first Ort::Env, which reads the variable.
inline void turn_off_telemetry() {
    constexpr char name[] = "ORT_DISABLE_TELEMETRY";
#ifdef _WIN32
    if (std::getenv(name) == nullptr) {
        _putenv_s(name, "1");
    }
#else
    setenv(name, "1", 0);  // 0: what the user set stays
#endif
}
