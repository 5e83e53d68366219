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
