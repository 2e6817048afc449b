//! JPEG files: checked from the first byte to the last, then decoded by the crate `jpeg-decoder`.
//!
//! Decoders of JPEG fill up what is missing, and go on after codes that do not exist: the picture is then grey, or
//! torn, without a word. So the file is first walked through once ([`segments`] for its tables and headers, [`entropy`]
//! for the coded data), without computing a pixel; only one that holds exactly the blocks that its frame asks for is
//! decoded. The walk also decides what the decoder is known to get wrong: the colour space, and some forms that are
//! refused.

mod entropy;
mod frame;
mod segments;
mod tables;

use jpeg_decoder::{Decoder, PixelFormat};

use super::exif::Orientation;
use super::picture_limits::check_size;
use super::rgb_image::RgbImage;
use crate::error::{Error, Result};
use segments::Survey;

/// What every JPEG file starts with.
pub(super) fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xd8, 0xff])
}

/// Decodes to 8-bit RGB. The orientation is what the EXIF record says; it is not applied.
///
/// Errors: larger than the limits, before anything of that size is allocated; a form that is not decoded; damage, with
/// the byte and the scan where it shows.
pub(super) fn decode(bytes: &[u8]) -> Result<(RgbImage, Orientation)> {
    if let Some(frame) = segments::frame(bytes)? {
        check_size(frame.width, frame.height, frame.work_bytes())?;
    }
    let survey = Survey::of(bytes)?;
    let mut decoder = Decoder::new(bytes);
    decoder.set_color_transform(survey.colors());
    let pixels = decoder.decode().map_err(|e| Error::bad_data("damaged JPEG").because(e.to_string()))?;
    let format = decoder.info().map(|i| i.pixel_format);
    let rgb = match format {
        Some(PixelFormat::RGB24) => pixels,
        Some(PixelFormat::L8) => pixels.iter().flat_map(|&v| [v; 3]).collect(),
        Some(PixelFormat::CMYK32) => pixels.as_chunks::<4>().0.iter().flat_map(|&ink| rgb_of(ink)).collect(),
        _ => return Err(Error::internal("the JPEG decoder gave pixels of an unknown form")),
    };
    let orientation = survey.exif.map_or(Orientation::UPRIGHT, Orientation::of_exif);
    let picture = RgbImage::from_raw(survey.frame.width, survey.frame.height, rgb)
        .ok_or_else(|| Error::internal("the JPEG decoder gave a picture of another size"))?;
    Ok((picture, orientation))
}

/// Ink to light as PIL does it, without a colour profile: each channel is what its ink and black leave.
fn rgb_of([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = u32::from(255 - k);
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * light + 128;
        (light - ((product + (product >> 8)) >> 8).min(light)) as u8
    })
}

/// Damage that shows at byte `at` of the file.
fn damaged(at: usize, why: impl Into<String>) -> Error {
    Error::bad_data("damaged JPEG")
        .at(format!("byte {at}"))
        .because(why.into())
        .hint("copy the file again from where it came from; if it looks right in a picture program, save it from there")
}

/// A form of JPEG that is not decoded.
fn unsupported(form: impl std::fmt::Display) -> Error {
    Error::bad_data(format!("a JPEG with {form}, which is not decoded"))
        .hint("save it with a picture program as PNG, or as JPEG with 8 bits (`djpeg IN | cjpeg > OUT`)")
}
