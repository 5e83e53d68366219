import CPNG
import DDPM
import Foundation

struct Unwritable: LocalizedError { let errorDescription: String? }

/// Write a picture of one channel (grey) or three (RGB) as a PNG of 8 bits, not interlaced.
func writePNG(_ picture: Pictures, to path: String) throws {
    var image = png_image()
    image.version = png_uint_32(PNG_IMAGE_VERSION)
    image.width = png_uint_32(picture.width)
    image.height = png_uint_32(picture.height)
    image.format = picture.channels == 1 ? 0 : png_uint_32(PNG_FORMAT_FLAG_COLOR)  // PNG_FORMAT_GRAY and _RGB
    guard png_image_write_to_file(&image, path, 0, picture.pixels, 0, nil) != 0 else {
        throw Unwritable(errorDescription: "\(path) cannot be written. Choose another --out.")
    }
}

/// Return a PNG's pixels, with one channel where it is grey and three where it is not.
func readPNG(_ path: String) throws -> Pictures {
    var image = png_image()
    image.version = png_uint_32(PNG_IMAGE_VERSION)
    guard png_image_begin_read_from_file(&image, path) != 0 else {
        throw OneCallError(.badFile, "\(path) cannot be read as a PNG.")
    }
    let channels = image.format & png_uint_32(PNG_FORMAT_FLAG_COLOR) == 0 ? 1 : 3
    image.format = channels == 1 ? 0 : png_uint_32(PNG_FORMAT_FLAG_COLOR)
    var pixels = [UInt8](repeating: 0, count: Int(image.width * image.height) * channels)
    var white = png_color(red: 255, green: 255, blue: 255)
    guard png_image_finish_read(&image, &white, &pixels, 0, nil) != 0 else {
        throw OneCallError(.badFile, "\(path) cannot be read as a PNG.")
    }
    return Pictures(height: Int(image.height), width: Int(image.width), channels: channels, pixels: pixels)
}
