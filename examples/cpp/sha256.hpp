// SHA-256 of bytes (FIPS 180-4, sections 4 to 6), as 64 hexadecimal digits: a model names its stages by it.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

namespace sha256 {

inline std::uint32_t rotated(std::uint32_t word, int by) { return (word >> by) | (word << (32 - by)); }

// Return the first 32 bits of the fractional part of a root of the first `count` primes (section 4.2.2 and 5.3.3).
template <std::size_t count, class Root>
std::array<std::uint32_t, count> words_of_primes(Root root) {
    std::array<std::uint32_t, count> words{};
    std::size_t found = 0;
    for (int number = 2; found < count; ++number) {
        bool is_prime = true;
        for (int factor = 2; factor * factor <= number; ++factor) {
            is_prime = is_prime && number % factor != 0;
        }
        if (is_prime) {
            const double value = root(static_cast<double>(number));
            words[found++] = static_cast<std::uint32_t>((value - std::floor(value)) * 4294967296.0);
        }
    }
    return words;
}

inline std::string digest(std::string_view bytes) {
    static const auto k = words_of_primes<64>([](double prime) { return std::cbrt(prime); });
    auto state = words_of_primes<8>([](double prime) { return std::sqrt(prime); });
    std::string tail(bytes.substr(bytes.size() / 64 * 64));  // what is left of the last block, and the padding
    tail += '\x80';
    tail.resize((tail.size() + 8 + 63) / 64 * 64 - 8);
    for (int shift = 56; shift >= 0; shift -= 8) {
        tail += static_cast<char>((std::uint64_t{bytes.size()} * 8) >> shift);
    }
    const std::size_t whole = bytes.size() / 64 * 64;
    for (std::size_t at = 0; at < whole + tail.size(); at += 64) {
        const std::string_view block = at < whole ? bytes.substr(at, 64) : std::string_view(tail).substr(at - whole, 64);
        std::array<std::uint32_t, 64> w{};
        for (std::size_t t = 0; t < 64; ++t) {
            for (std::size_t byte = 0; t < 16 && byte < 4; ++byte) {
                w[t] = w[t] << 8 | static_cast<unsigned char>(block[4 * t + byte]);
            }
            if (t >= 16) {
                const std::uint32_t a = w[t - 15], b = w[t - 2];
                w[t] = w[t - 16] + (rotated(a, 7) ^ rotated(a, 18) ^ a >> 3) + w[t - 7] +
                       (rotated(b, 17) ^ rotated(b, 19) ^ b >> 10);
            }
        }
        auto [a, b, c, d, e, f, g, h] = state;
        for (std::size_t t = 0; t < 64; ++t) {
            const std::uint32_t first =
                h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & f) ^ (~e & g)) + k[t] + w[t];
            const std::uint32_t second = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
            h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
        }
        const std::array<std::uint32_t, 8> added = {a, b, c, d, e, f, g, h};
        for (std::size_t n = 0; n < 8; ++n) {
            state[n] += added[n];
        }
    }
    std::string text;
    for (const std::uint32_t word : state) {
        for (int shift = 28; shift >= 0; shift -= 4) {
            text += "0123456789abcdef"[word >> shift & 15];
        }
    }
    return text;
}

}  // namespace sha256
