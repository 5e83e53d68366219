// Pictures as one PNG, side by side. Knows libpng and nothing of models.
#pragma once

#include <png.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

// Return whether a file may take this name: a device or a pipe such as /dev/full would be gone for everybody.
inline bool can_be_replaced(const std::string& path) {
    std::error_code problem;
    return !std::filesystem::exists(path, problem) || std::filesystem::is_regular_file(path, problem);
}

// Write images (n, H, W, C), C 1 (grey) or 3 (RGB), as near to a square as they allow; cells left over are black. The
// file takes its name once it is whole. Throws std::runtime_error, one line, where it cannot be written.
inline void write_grid_png(const std::string& path, const std::uint8_t* images, std::size_t n, std::size_t height,
                           std::size_t width, std::size_t channels) {
    std::size_t columns = 1;
    while (columns * columns < n) {
        ++columns;
    }
    const std::size_t rows = (n + columns - 1) / columns, row_bytes = width * channels;
    std::vector<std::uint8_t> page(rows * height * columns * row_bytes);
    for (std::size_t image = 0; image < n; ++image) {
        for (std::size_t y = 0; y < height; ++y, images += row_bytes) {
            const std::size_t line = image / columns * height + y;
            std::copy(images, images + row_bytes, page.data() + (line * columns + image % columns) * row_bytes);
        }
    }
    const auto failed = [&](const std::string& reason) {
        return std::runtime_error(path + ": cannot be written, " + reason + ". Choose another path.");
    };
    if (!can_be_replaced(path)) {
        throw failed("since it is not a file");
    }
    png_image picture{};
    picture.version = PNG_IMAGE_VERSION;
    picture.width = static_cast<png_uint_32>(columns * width);
    picture.height = static_cast<png_uint_32>(rows * height);
    picture.format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
    const std::string beside = path + ".part";
    if (!png_image_write_to_file(&picture, beside.c_str(), 0, page.data(), 0, nullptr)) {
        throw failed(std::string("libpng says '") + picture.message + "'");
    }
    std::error_code problem;
    std::filesystem::rename(beside, path, problem);
    if (problem) {
        std::filesystem::remove(beside, problem);
        throw failed("since a folder has its name or its own is gone");
    }
}
