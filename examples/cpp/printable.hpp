// What a terminal would act on, escaped: messages hold names, and text from files.
#pragma once

#include <string>

inline std::string printable(const std::string& text) {
    static constexpr char hex[] = "0123456789abcdef";
    std::string result;
    for (const char c : text.substr(0, 1000)) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte > 0x7e) {
            result += {'\\', 'x', hex[byte >> 4], hex[byte & 15]};
        } else {
            result += c;
        }
    }
    return result;
}
