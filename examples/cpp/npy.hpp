// Numbers as a file of NumPy, format version 1.0. Knows nothing of models.
#pragma once

#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

// Write float32 numbers of this shape, on a machine whose bytes are little-endian. Throws std::runtime_error, one line,
// where the file cannot be written.
inline void write_npy(const std::string& path, const float* numbers, const std::vector<std::int64_t>& shape) {
    std::size_t size = sizeof *numbers;
    std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (";
    for (const std::int64_t extent : shape) {
        header += std::to_string(extent) + ",";
        size *= static_cast<std::size_t>(extent);
    }
    header += ")}";
    header.resize((10 + header.size()) / 64 * 64 + 64 - 10 - 1, ' ');  // the numbers begin at a multiple of 64
    header += '\n';
    std::ofstream file(path, std::ios::binary);
    file.write("\x93NUMPY\x01\x00", 8);
    file.put(static_cast<char>(header.size() & 0xFF)).put(static_cast<char>(header.size() >> 8));
    file << header;
    file.write(reinterpret_cast<const char*>(numbers), static_cast<std::streamsize>(size));
    if (!file.flush()) {
        throw std::runtime_error(path + ": cannot be written. Choose another path.");
    }
}
