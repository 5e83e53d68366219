/// Return the pixels (n, H, W, C) of images (n, C, H, W) in [-1, 1]: 127.5 x + 127.5, clipped, rounded half up.
///
/// What is not a number becomes black. Throws `usage` where `x` holds no whole images.
public func toUint8(_ x: [Float], _ shape: ImageShape) throws -> [UInt8] {
    guard x.count % shape.count == 0 else {
        throw DDPMError(.usage, "x must hold images of \(shape.count) numbers, got \(x.count).")
    }
    let area = shape.height * shape.width
    return [UInt8](unsafeUninitializedCapacity: x.count) { pixels, count in
        for k in x.indices {
            let (image, rest) = k.quotientAndRemainder(dividingBy: shape.count)
            let (channel, pixel) = rest.quotientAndRemainder(dividingBy: area)
            let level = 127.5 * x[k] + 127.5
            let clipped: Float = level > 0 ? min(level, 255) : 0
            pixels.initializeElement(
                at: image * shape.count + pixel * shape.channels + channel, to: UInt8(clipped + 0.5))
        }
        count = x.count
    }
}

/// Return images (n, C, H, W) of pixels (n, H, W, C): pixel k is k / 127.5 - 1 (Ho et al. 2020, section 3.3).
///
/// Throws `usage` where `pixels` hold no whole images.
public func fromUint8(_ pixels: [UInt8], _ shape: ImageShape) throws -> [Float] {
    guard pixels.count % shape.count == 0 else {
        throw DDPMError(.usage, "pixels must hold images of \(shape.count) numbers, got \(pixels.count).")
    }
    let area = shape.height * shape.width
    return pixels.indices.map { k in
        let (image, rest) = k.quotientAndRemainder(dividingBy: shape.count)
        let (channel, pixel) = rest.quotientAndRemainder(dividingBy: area)
        return Float(Double(pixels[image * shape.count + pixel * shape.channels + channel]) / 127.5 - 1)
    }
}

/// Pixels as rows: (height, width, channels) flat.
public struct Picture: Equatable, Sendable {
    public let width: Int
    public let height: Int
    public let channels: Int
    public let pixels: [UInt8]

    public init(width: Int, height: Int, channels: Int, pixels: [UInt8]) {
        (self.width, self.height, self.channels, self.pixels) = (width, height, channels, pixels)
    }
}

/// Lay images (n, H, W, C) out row by row, as near to a square as they allow; cells that are left over are black.
public func grid(_ images: [UInt8], _ shape: ImageShape) -> Picture {
    let n = images.count / shape.count
    let columns = Int(Double(n).squareRoot().rounded(.up))
    let rows = (n + max(columns, 1) - 1) / max(columns, 1)
    let rowBytes = shape.width * shape.channels
    var page = [UInt8](repeating: 0, count: rows * columns * shape.count)
    for k in 0..<n {
        for line in 0..<shape.height {
            let from = k * shape.count + line * rowBytes
            let to = ((k / columns * shape.height + line) * columns + k % columns) * rowBytes
            page.replaceSubrange(to..<to + rowBytes, with: images[from..<from + rowBytes])
        }
    }
    return Picture(width: columns * shape.width, height: rows * shape.height, channels: shape.channels, pixels: page)
}
