import CPNG
import DDPM
import Foundation

/// Write a picture of one channel (grey) or three (RGB) as a PNG of 8 bits, not interlaced.
///
/// Throws `environment` where it cannot be written.
func writePNG(_ picture: Picture, to path: String) throws {
    var image = png_image()
    image.version = png_uint_32(PNG_IMAGE_VERSION)
    image.width = png_uint_32(picture.width)
    image.height = png_uint_32(picture.height)
    image.format = picture.channels == 1 ? 0 : png_uint_32(PNG_FORMAT_FLAG_COLOR)  // PNG_FORMAT_GRAY and _RGB
    guard png_image_write_to_file(&image, path, 0, picture.pixels, 0, nil) != 0 else {
        let reason = withUnsafeBytes(of: &image.message) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        throw DDPMError(
            .environment, "\(path): cannot be written. got \(shown(reason)), expected a writable place. "
                + "Do choose another --out.")
    }
}

/// Return the pixels (H, W, channels) of a PNG of the model's size, channels 1 or 3: transparency is laid over white, and
/// grey is ITU-R 601's, as in Python.
///
/// Throws `badFile` where it cannot be read, `usage` for another size.
func readPNG(_ path: String, channels: Int, _ shape: ImageShape) throws -> [UInt8] {
    var image = png_image()
    image.version = png_uint_32(PNG_IMAGE_VERSION)
    func bad() -> DDPMError {
        let reason = withUnsafeBytes(of: &image.message) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        return DDPMError(.badFile, "\(path) cannot be read as a PNG (\(shown(reason))).")
    }
    guard png_image_begin_read_from_file(&image, path) != 0 else { throw bad() }
    let (width, height) = (Int(image.width), Int(image.height))
    guard width == shape.width, height == shape.height else {
        png_image_free(&image)
        throw usage("\(path) must have \(shape.width) x \(shape.height) pixels, got \(width) x \(height).")
    }
    image.format = png_uint_32(PNG_FORMAT_FLAG_COLOR | PNG_FORMAT_FLAG_ALPHA)
    var rgba = [UInt8](repeating: 0, count: 4 * width * height)
    guard png_image_finish_read(&image, nil, &rgba, 0, nil) != 0 else { throw bad() }
    return (0..<width * height).flatMap { k in
        let opacity = Double(rgba[4 * k + 3]) / 255
        let colours = (0..<3).map { c in Int((255 + (Double(rgba[4 * k + c]) - 255) * opacity).rounded()) }
        let grey = (colours[0] * 19595 + colours[1] * 38470 + colours[2] * 7471 + 0x8000) >> 16
        return (channels == 1 ? [grey] : colours).map { UInt8($0) }
    }
}
