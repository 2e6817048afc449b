//! Pictures: the small 8-bit picture that is kept, and the numbers a model eats.
//!
//! Two steps, so that what is stored is exactly what was predicted on: `Preprocessing::shrink` resizes and crops to 8-bit RGB,
//! `Preprocessing::normalise` turns that into floats; `Preprocessing::apply` is one after the other.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::Example;
use super::arrays::{ArrayData, NamedArray};
use super::resample::resized;
use super::rgb_image::RgbImage;
use crate::error::{Error, Result};

pub use super::decode::{MAX_DECODE_BYTES, MAX_FILE_BYTES, MAX_SIDE, decode, encode_png, is_named_as_picture, read};

/// Largest side that a model may ask for, pixels.
const MAX_TARGET: u32 = 2048;

/// How a picture gets to the model's size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Resize {
    /// Each side to its target, whatever becomes of the proportions.
    Stretch,
    /// Proportions kept: resized so that the target is 0.875 of it, then the centre cut out (the ImageNet evaluation protocol).
    CropCenter,
}

/// Order of a picture's dimensions in the model's input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Layout {
    /// `[channels, height, width]`
    Nchw,
    /// `[height, width, channels]`
    Nhwc,
}

/// What happens to a picture before the model sees it: `(v / 255 - mean) / std` per channel, without the division when `scale` is false.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Preprocessing {
    /// Height and width, pixels.
    pub size: [u32; 2],
    /// How the picture gets to that size.
    pub resize: Resize,
    /// Divide the 8-bit values by 255 first.
    pub scale: bool,
    /// Subtracted per channel (red, green, blue; the first alone when `channels` is 1).
    pub mean: [f32; 3],
    /// Divided by per channel.
    pub std: [f32; 3],
    /// Order of the dimensions.
    pub layout: Layout,
    /// 3 for RGB, 1 for grey (ITU-R 601 luma).
    pub channels: u8,
    /// Arrays are no pictures: they go to the model as they are.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tensor: bool,
}

impl Default for Preprocessing {
    /// ImageNet: 224 × 224 from the centre, channels first.
    fn default() -> Preprocessing {
        Preprocessing {
            size: [224, 224],
            resize: Resize::CropCenter,
            scale: true,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            layout: Layout::Nchw,
            channels: 3,
            tensor: false,
        }
    }
}

impl Preprocessing {
    /// Errors ([`crate::error::ErrorKind::Usage`]) name the setting that cannot be used.
    pub(crate) fn validate(&self) -> Result<()> {
        let bad = |what: String| Err(Error::usage(what).hint("correct the preprocessing section of acclimate.toml"));
        if self.size.iter().any(|s| !(1..=MAX_TARGET).contains(s)) {
            return bad(format!("preprocessing size {:?} is not within 1 to {MAX_TARGET}", self.size));
        }
        if !matches!(self.channels, 1 | 3) {
            return bad(format!("preprocessing channels {} is not 1 or 3", self.channels));
        }
        if self.mean.iter().any(|m| !m.is_finite()) || self.std.iter().any(|s| !s.is_normal()) {
            return bad("preprocessing mean and std must be finite, std not 0".into());
        }
        Ok(())
    }

    /// The 8-bit picture that the model sees, of exactly `size` (grey when `channels` is 1). This is what a journal stores.
    ///
    /// A picture that already has the target size is taken as it is, so `shrink(shrink(x)) == shrink(x)`.
    pub(crate) fn shrink(&self, picture: &RgbImage) -> Result<RgbImage> {
        self.validate()?;
        let [height, width] = self.size;
        let (w, h) = picture.dimensions();
        if w == 0 || h == 0 {
            return Err(Error::bad_data("a picture without pixels"));
        }
        let mut small = match self.resize {
            _ if (w, h) == (width, height) => picture.clone(),
            Resize::Stretch => resized(picture, width, height)?,
            Resize::CropCenter => {
                let (picture, [cover_w, cover_h]) = cover(picture, width, height);
                let covering = resized(&picture, cover_w, cover_h)?;
                let offset = |all: u32, part: u32| (f64::from(all - part) / 2.0).round_ties_even() as u32;
                covering.crop(offset(cover_w, width), offset(cover_h, height), width, height)
            }
        };
        if self.channels == 1 {
            small.pixels_mut().iter_mut().for_each(|p| *p = [luma(*p); 3]);
        }
        Ok(small)
    }

    /// Numbers of a picture that has the target size; shape `[channels, height, width]` or `[height, width, channels]`, f32.
    ///
    /// Error: another size.
    pub(crate) fn normalise(&self, small: &RgbImage) -> Result<Example> {
        self.validate()?;
        let [height, width] = self.size;
        if small.dimensions() != (width, height) {
            let (w, h) = small.dimensions();
            return Err(Error::bad_data(format!("a picture of {w}x{h} where {width}x{height} is needed")));
        }
        let table = |c: usize| -> Vec<f32> {
            let scale = if self.scale { 255.0 } else { 1.0 };
            let (mean, std) = (self.mean.get(c).copied().unwrap_or(0.0), self.std.get(c).copied().unwrap_or(1.0));
            (0..=255u8).map(|v| (f32::from(v) / scale - mean) / std).collect()
        };
        let tables: Vec<Vec<f32>> = (0..usize::from(self.channels)).map(table).collect();
        let value = |c: usize, v: u8| tables.get(c).and_then(|t| t.get(usize::from(v))).copied().unwrap_or(0.0);
        let channels_of = |rgb: [u8; 3]| if self.channels == 1 { [luma(rgb); 3] } else { rgb };
        let channels = usize::from(self.channels);
        let data: Vec<f32> = match self.layout {
            Layout::Nhwc => {
                let pixels = small.pixels().iter().map(|&p| channels_of(p));
                pixels.flat_map(|rgb| rgb.into_iter().take(channels).enumerate().map(|(c, v)| value(c, v))).collect()
            }
            Layout::Nchw => (0..channels)
                .flat_map(|c| small.pixels().iter().map(move |&p| (c, p)))
                .map(|(c, rgb)| value(c, channels_of(rgb).get(c).copied().unwrap_or(0)))
                .collect(),
        };
        Ok(Example { arrays: vec![NamedArray::new("", self.shape(), ArrayData::F32(data))?] })
    }

    /// Shape of what the model eats: `[channels, height, width]` or `[height, width, channels]`.
    pub(crate) fn shape(&self) -> Vec<usize> {
        let ([height, width], channels) = (self.size.map(|s| s as usize), usize::from(self.channels));
        match self.layout {
            Layout::Nchw => vec![channels, height, width],
            Layout::Nhwc => vec![height, width, channels],
        }
    }

    /// Whether `array` goes to the model as it is: where [`Preprocessing::tensor`] says so, and where floats of the model's own shape are no
    /// brightness.
    ///
    /// # Errors
    /// `BadData` for floats of the model's own shape that may be either: brightness, or what the preprocessing makes of it.
    pub(crate) fn takes_as_it_is(&self, array: &NamedArray) -> Result<bool> {
        match &array.data {
            _ if self.tensor => Ok(true),
            ArrayData::F32(v) if array.shape == self.shape() => match v.iter().all(|v| (0.0..=255.0).contains(v)) {
                false => Ok(true),
                true => Err(Error::bad_data(format!(
                    "floats of shape {:?} may be a picture, or what the model takes, normalised",
                    array.shape
                ))
                .hint("--tensor passes arrays as they are; to be taken for a picture, save it as uint8, 0 to 255")),
            },
            _ => Ok(false),
        }
    }

    /// What the model eats: `normalise(shrink(picture))`.
    pub(crate) fn apply(&self, picture: &RgbImage) -> Result<Example> {
        self.normalise(&self.shrink(picture)?)
    }
}

/// Size that covers a target of `width` × `height` divided by 0.875, proportions kept. A strip of which most would be cut away again is
/// first cut to four times the target's proportion, which bounds the memory.
fn cover(picture: &RgbImage, width: u32, height: u32) -> (Cow<'_, RgbImage>, [u32; 2]) {
    let (target_w, target_h) = (u64::from(width) * 8 / 7, u64::from(height) * 8 / 7);
    let (w, h) = picture.dimensions();
    let (w, h) = (u64::from(w), u64::from(h));
    let (kept_w, kept_h) = ((4 * target_w * h).div_ceil(target_h).min(w), (4 * target_h * w).div_ceil(target_w).min(h));
    let kept = if (kept_w, kept_h) == (w, h) {
        Cow::Borrowed(picture)
    } else {
        let (x, y) = ((w - kept_w) / 2, (h - kept_h) / 2);
        Cow::Owned(picture.crop(x as u32, y as u32, kept_w as u32, kept_h as u32))
    };
    let size = if target_w * kept_h >= target_h * kept_w {
        [target_w, (kept_h * target_w / kept_w).max(target_h)]
    } else {
        [(kept_w * target_h / kept_h).max(target_w), target_h]
    };
    (kept, size.map(|s| s as u32))
}

/// ITU-R 601 luma in 16-bit fixed point, as PIL computes it; a grey pixel keeps its value.
fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// A picture from an array of shape `[H, W]`, `[H, W, C]` or `[C, H, W]` with C 1, 3 or 4 (the fourth is dropped), with or without a leading 1.
///
/// Integers are 0 to 255. Floats are 0 to 1 when all of the array's values are, else 0 to 255 (rounded).
/// Errors: another shape, a value out of range.
pub fn from_array(array: &NamedArray) -> Result<RgbImage> {
    array.check()?;
    let shape = || {
        Error::bad_data(format!("an array of shape {:?} is not a picture", array.shape))
            .hint("give [height, width], [height, width, 3] or [3, height, width]")
    };
    let dims = match array.shape.as_slice() {
        [1, rest @ ..] if rest.len() == 3 => rest,
        all => all,
    };
    let (h, w, c, channels_last) = match *dims {
        [h, w] => (h, w, 1, true),
        [h, w, c @ (1 | 3 | 4)] => (h, w, c, true),
        [c @ (1 | 3 | 4), h, w] => (h, w, c, false),
        _ => return Err(shape()),
    };
    let side = |n: usize| u32::try_from(n).ok().filter(|n| (1..=MAX_SIDE).contains(n)).ok_or_else(shape);
    let (width, height) = (side(w)?, side(h)?);
    let bytes = to_bytes(&array.data)?;
    let at = |y: usize, x: usize, k: usize| {
        let k = if c == 1 { 0 } else { k };
        let i = if channels_last { (y * w + x) * c + k } else { (k * h + y) * w + x };
        bytes.get(i).copied().unwrap_or(0)
    };
    Ok(RgbImage::from_fn(width, height, |x, y| [0, 1, 2].map(|k| at(y as usize, x as usize, k))))
}

fn to_bytes(data: &ArrayData) -> Result<Vec<u8>> {
    let out_of_range = |i: usize, v: f64| {
        Error::bad_data(format!("value {v} (element {i}) is not a brightness"))
            .hint("give integers 0 to 255, or floats 0 to 1 or 0 to 255; floats of the model's own shape are passed as they are")
    };
    let whole = |i: usize, v: i64| u8::try_from(v).map_err(|_| out_of_range(i, v as f64));
    match data {
        ArrayData::U8(v) => Ok(v.clone()),
        ArrayData::I64(v) => v.iter().enumerate().map(|(i, &x)| whole(i, x)).collect(),
        ArrayData::I32(v) => v.iter().enumerate().map(|(i, &x)| whole(i, x.into())).collect(),
        ArrayData::F32(v) => {
            let scale = if v.iter().all(|x| (0.0..=1.0).contains(x)) { 255.0 } else { 1.0 };
            let level = |(i, &x): (usize, &f32)| {
                if (0.0..=255.0).contains(&x) { Ok((x * scale).round() as u8) } else { Err(out_of_range(i, x.into())) }
            };
            v.iter().enumerate().map(level).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// The picture that `scripts/golden_images.py` makes too.
    fn pattern(w: u32, h: u32) -> RgbImage {
        RgbImage::from_fn(w, h, |x, y| {
            [(x * 255 / (w - 1)) as u8, ((x / 5 + y / 7) % 2 * 200 + 20) as u8, (x * x * 3 + y * 11 + x * y) as u8]
        })
    }

    fn floats(e: &Example) -> &[f32] {
        match &e.arrays[0].data {
            ArrayData::F32(v) => v,
            other => panic!("{other:?}"),
        }
    }

    /// PIL's antialiased bilinear filter rounds to 8 bits between its two passes and this one does not: at most 1 level of 255 apart.
    #[test]
    fn pictures_equal_those_of_pil_within_one_level() {
        type Golden = (&'static str, Resize, [u32; 2], (u32, u32), &'static [u8]);
        let golden: [Golden; 4] = [
            ("crop", Resize::CropCenter, [32, 32], (97, 61), include_bytes!("../../tests/fixtures/pil_crop_32.png")),
            (
                "stretch",
                Resize::Stretch,
                [32, 48],
                (97, 61),
                include_bytes!("../../tests/fixtures/pil_stretch_32x48.png"),
            ),
            (
                "enlarge",
                Resize::CropCenter,
                [56, 56],
                (28, 28),
                include_bytes!("../../tests/fixtures/pil_enlarge_56.png"),
            ),
            (
                "tall",
                Resize::CropCenter,
                [24, 40],
                (50, 110),
                include_bytes!("../../tests/fixtures/pil_tall_24x40.png"),
            ),
        ];
        for (name, resize, size, (w, h), png) in golden {
            let expected = decode(png).unwrap();
            let got = Preprocessing { size, resize, ..Default::default() }.shrink(&pattern(w, h)).unwrap();
            assert_eq!(got.dimensions(), expected.dimensions(), "{name}");
            let gaps: Vec<u8> = got.as_raw().iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b)).collect();
            let mean = gaps.iter().map(|&g| f64::from(g)).sum::<f64>() / gaps.len() as f64;
            assert!(gaps.iter().max() <= Some(&1) && mean < 0.15, "{name}: worst {:?}, mean {mean}", gaps.iter().max());
        }
    }

    #[test]
    fn storing_changes_no_bit() {
        for channels in [1, 3] {
            for layout in [Layout::Nchw, Layout::Nhwc] {
                for resize in [Resize::Stretch, Resize::CropCenter] {
                    let p = Preprocessing { size: [20, 30], channels, layout, resize, ..Default::default() };
                    let picture = pattern(123, 77);
                    let stored = decode(&encode_png(&p.shrink(&picture).unwrap()).unwrap()).unwrap();
                    assert_eq!(p.apply(&picture).unwrap(), p.normalise(&stored).unwrap());
                    assert_eq!(p.apply(&picture).unwrap(), p.apply(&stored).unwrap());
                    let c = usize::from(channels);
                    let shape = if layout == Layout::Nchw { vec![c, 20, 30] } else { vec![20, 30, c] };
                    assert_eq!(p.apply(&picture).unwrap().arrays[0].shape, shape);
                }
            }
        }
    }

    #[test]
    fn values_and_layouts() {
        let p = Preprocessing { size: [1, 2], ..Default::default() };
        let two = RgbImage::from_raw(2, 1, vec![255, 0, 10, 128, 64, 32]).unwrap();
        let n = |v: u8, c: usize| (f32::from(v) / 255.0 - p.mean[c]) / p.std[c];
        assert_eq!(floats(&p.apply(&two).unwrap()), [n(255, 0), n(128, 0), n(0, 1), n(64, 1), n(10, 2), n(32, 2)]);
        let last = Preprocessing { layout: Layout::Nhwc, ..p.clone() };
        assert_eq!(floats(&last.apply(&two).unwrap()), [n(255, 0), n(0, 1), n(10, 2), n(128, 0), n(64, 1), n(32, 2)]);
        let grey = Preprocessing { channels: 1, scale: false, mean: [0.0; 3], std: [1.0; 3], ..p.clone() };
        assert_eq!(floats(&grey.apply(&two).unwrap()), [77.0, 79.0]); // 0.299 r + 0.587 g + 0.114 b
    }

    #[test]
    fn settings_round_trip_through_toml_and_are_checked() {
        let p = Preprocessing { size: [96, 64], resize: Resize::Stretch, ..Default::default() };
        let text = toml::to_string(&p).unwrap();
        assert!(text.contains("resize = \"stretch\"") && text.contains("layout = \"nchw\""), "{text}");
        assert_eq!(toml::from_str::<Preprocessing>(&text).unwrap(), p);
        assert_eq!(toml::from_str::<Preprocessing>("").unwrap(), Preprocessing::default());
        assert!(toml::from_str::<Preprocessing>("sizes = [1, 2]").is_err());
        for bad in
            ["size = [0, 1]", "size = [100000, 1]", "channels = 2", "std = [0.0, 1.0, 1.0]", "mean = [nan, 0.0, 0.0]"]
        {
            let p: Preprocessing = toml::from_str(bad).unwrap();
            assert_eq!(p.shrink(&pattern(4, 4)).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
    }

    #[test]
    fn extreme_proportions_stay_small() {
        let p = Preprocessing::default();
        for (w, h) in [(8192, 1), (1, 8192), (1, 1), (2, 3)] {
            assert_eq!(p.shrink(&RgbImage::from_fn(w, h, |_, _| [9, 8, 7])).unwrap().dimensions(), (224, 224));
        }
    }

    #[test]
    fn arrays_become_pictures() {
        let array = |shape: &[usize], data| NamedArray { name: String::new(), shape: shape.to_vec(), data };
        let grey = from_array(&array(&[2, 2], ArrayData::U8(vec![0, 9, 200, 255]))).unwrap();
        assert_eq!(grey.as_raw(), &[0, 0, 0, 9, 9, 9, 200, 200, 200, 255, 255, 255]);
        let unit = from_array(&array(&[1, 1, 2], ArrayData::F32(vec![0.5, 1.0]))).unwrap();
        assert_eq!(unit.as_raw(), &[128, 128, 128, 255, 255, 255]);
        let full = from_array(&array(&[1, 2], ArrayData::F32(vec![0.5, 255.0]))).unwrap();
        assert_eq!(full.pixel(1, 0), [255; 3]);
        let planes = from_array(&array(&[3, 1, 2], ArrayData::I64(vec![1, 2, 3, 4, 5, 6]))).unwrap();
        assert_eq!(planes.as_raw(), &[1, 3, 5, 2, 4, 6]);
        let pixels = from_array(&array(&[1, 1, 2, 3], ArrayData::U8(vec![1, 2, 3, 4, 5, 6]))).unwrap();
        assert_eq!(pixels.as_raw(), &[1, 2, 3, 4, 5, 6]);
        for bad in [
            array(&[4], ArrayData::U8(vec![0; 4])),
            array(&[2, 2, 5], ArrayData::U8(vec![0; 20])),
            array(&[0, 3], ArrayData::U8(vec![])),
            array(&[2, 2], ArrayData::I64(vec![0, 0, 0, 256])),
            array(&[2, 2], ArrayData::F32(vec![0.0, -0.1, 0.0, 0.0])),
            array(&[2, 2], ArrayData::F32(vec![0.0, f32::NAN, 0.0, 0.0])),
            array(&[2, 2], ArrayData::U8(vec![0; 3])),
        ] {
            assert_eq!(from_array(&bad).unwrap_err().kind(), ErrorKind::BadData, "{:?}", bad.shape);
        }
    }
}
