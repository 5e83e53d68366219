// How ONNX Runtime starts: no telemetry unless the user asked for it, and nothing on stderr.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstdlib>
#include <iostream>

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

// Return an environment that logs fatal errors only. Debian's build registers every operator twice as it starts, and
// writes more than a thousand lines about it to std::cerr: they are dropped.
inline Ort::Env quiet_env() {
    std::cerr.setstate(std::ios_base::failbit);
    Ort::Env env(ORT_LOGGING_LEVEL_FATAL, "ddpm");
    std::cerr.clear();
    return env;
}
