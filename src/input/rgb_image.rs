//! A picture in memory.

/// A picture of 8-bit RGB pixels: rows from the top, each from the left, three bytes a pixel, red first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RgbImage {
    width: u32,
    height: u32,
    bytes: Vec<u8>,
}

impl RgbImage {
    /// A picture of these bytes, or `None` where they are not `3 · width · height`.
    pub fn from_raw(width: u32, height: u32, bytes: Vec<u8>) -> Option<RgbImage> {
        let length = (width as usize).checked_mul(height as usize)?.checked_mul(3)?;
        (bytes.len() == length).then_some(RgbImage { width, height, bytes })
    }

    /// A picture whose pixel in column `x` and row `y` is `pixel(x, y)`: red, green, blue.
    pub fn from_fn(width: u32, height: u32, mut pixel: impl FnMut(u32, u32) -> [u8; 3]) -> RgbImage {
        let mut bytes = Vec::with_capacity(3 * width as usize * height as usize);
        for y in 0..height {
            for x in 0..width {
                bytes.extend(pixel(x, y));
            }
        }
        RgbImage { width, height, bytes }
    }

    /// Width and height, pixels.
    pub fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// The bytes, `3 · width · height` of them.
    pub fn as_raw(&self) -> &[u8] {
        &self.bytes
    }

    /// The pixels, row by row.
    pub fn pixels(&self) -> &[[u8; 3]] {
        self.bytes.as_chunks().0
    }

    /// The pixels, row by row.
    pub fn pixels_mut(&mut self) -> &mut [[u8; 3]] {
        self.bytes.as_chunks_mut().0
    }

    /// The pixel in column `x` and row `y`.
    ///
    /// # Panics
    /// Outside the picture.
    pub fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        assert!(x < self.width, "column {x} of {}", self.width);
        self.pixels()[y as usize * self.width as usize + x as usize]
    }

    /// The part of `width` by `height` pixels whose left upper corner is in column `x` and row `y`.
    ///
    /// # Panics
    /// Where the part reaches out of the picture.
    pub fn crop(&self, x: u32, y: u32, width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |column, row| self.pixel(x + column, y + row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_lie_row_by_row() {
        let picture = RgbImage::from_fn(3, 2, |x, y| [x as u8, y as u8, 9]);
        assert_eq!(picture.as_raw(), [0, 0, 9, 1, 0, 9, 2, 0, 9, 0, 1, 9, 1, 1, 9, 2, 1, 9]);
        assert_eq!((picture.dimensions(), picture.pixel(2, 1), picture.pixels().len()), ((3, 2), [2, 1, 9], 6));
        assert_eq!(RgbImage::from_raw(3, 2, picture.as_raw().to_vec()).unwrap(), picture);
        let part = picture.crop(1, 1, 2, 1);
        assert_eq!((part.dimensions(), part.as_raw()), ((2, 1), &[1, 1, 9, 2, 1, 9][..]));
    }

    #[test]
    fn bytes_that_are_no_such_picture_are_refused() {
        let sizes = [(2, 1, 5), (2, 1, 7), (1, 1, 0), (0, 1, 3), (u32::MAX, u32::MAX, 3)];
        for (width, height, length) in sizes {
            assert_eq!(RgbImage::from_raw(width, height, vec![0; length]), None, "{width} x {height}: {length}");
        }
        assert!(std::panic::catch_unwind(|| RgbImage::from_fn(2, 2, |_, _| [0; 3]).pixel(2, 0)).is_err());
    }
}
