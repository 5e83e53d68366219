// Pictures as one PNG, side by side, and a picture from a PNG. Knows libpng and nothing of models.
#pragma once

#include <png.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
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

// Read a PNG as (H, W, C), C 1 (grey, as Pillow weighs colours) or 3 (RGB); what is transparent is laid over white.
// `fits` is told width and height before a pixel is read, and throws where it does not like them. Throws
// std::runtime_error, one line, for what is no PNG.
inline std::vector<std::uint8_t> read_png(const std::string& path, std::size_t channels,
                                          const std::function<void(std::size_t, std::size_t)>& fits) {
    const auto failed = [&](const std::string& reason) {
        return std::runtime_error(path + " is not a picture that can be read: " + reason + ".");
    };
    std::error_code problem;
    if (!std::filesystem::is_regular_file(path, problem)) {
        throw std::runtime_error(path + ": no such file.");
    }
    png_image picture{};
    picture.version = PNG_IMAGE_VERSION;
    const std::unique_ptr<png_image, void (*)(png_image*)> freed(&picture, [](png_image* one) { png_image_free(one); });
    if (!png_image_begin_read_from_file(&picture, path.c_str())) {
        throw failed(std::string("libpng says '") + picture.message + "'");
    }
    fits(picture.width, picture.height);
    picture.format = PNG_FORMAT_RGB;
    picture.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;
    std::vector<std::uint8_t> pixels(PNG_IMAGE_SIZE(picture));
    const png_color white = {255, 255, 255};
    if (!png_image_finish_read(&picture, &white, pixels.data(), 0, nullptr)) {
        throw failed(std::string("libpng says '") + picture.message + "'");
    }
    if (channels == 1) {
        for (std::size_t k = 0; k < pixels.size() / 3; ++k) {
            const std::uint8_t* rgb = &pixels[3 * k];
            const unsigned grey = (rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16;
            pixels[k] = static_cast<std::uint8_t>(grey);
        }
        pixels.resize(pixels.size() / 3);
    }
    return pixels;
}
