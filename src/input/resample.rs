//! A picture at another size.

use resize::{PixelFormat, Type};

use super::rgb_image::RgbImage;
use crate::error::{Error, Result};

/// The picture at `width` by `height` pixels, by a triangle filter as wide as the picture shrinks: PIL's `BILINEAR`,
/// which rounds to 8 bits between its two passes where this one keeps floats. One order of operations, the same numbers
/// on every processor.
///
/// Errors: no pixels in the picture or asked for; out of memory.
pub(super) fn resized(picture: &RgbImage, width: u32, height: u32) -> Result<RgbImage> {
    let cannot = |e| Error::bad_data(format!("a picture that cannot be resized to {width}x{height}")).because(e);
    let (w, h) = picture.dimensions();
    let [w, h, to_w, to_h] = [w, h, width, height].map(|side| side as usize);
    let mut resizer = resize::new(w, h, to_w, to_h, Rgb, Type::Triangle).map_err(cannot)?;
    let mut out = RgbImage::from_fn(width, height, |_, _| [0; 3]);
    resizer.resize(picture.pixels(), out.pixels_mut()).map_err(cannot)?;
    Ok(out)
}

/// Pixels of 8-bit RGB as they lie in an [`RgbImage`].
struct Rgb;

impl PixelFormat for Rgb {
    type InputPixel = [u8; 3];
    type OutputPixel = [u8; 3];
    type Accumulator = [f32; 3];

    fn new() -> [f32; 3] {
        [0.0; 3]
    }

    #[inline]
    fn add(&self, sum: &mut [f32; 3], pixel: [u8; 3], weight: f32) {
        Rgb::add_acc(sum, pixel.map(f32::from), weight);
    }

    #[inline]
    fn add_acc(sum: &mut [f32; 3], pixel: [f32; 3], weight: f32) {
        sum.iter_mut().zip(pixel).for_each(|(sum, v)| *sum += v * weight);
    }

    #[inline]
    fn into_pixel(&self, sum: [f32; 3]) -> [u8; 3] {
        sum.map(|v| v.round() as u8)
    }
}
