//! Which way up a picture is, by its EXIF record.

use super::rgb_image::RgbImage;

/// What has to be done with a picture's pixels to see it upright.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Orientation {
    /// Rows are columns.
    transposed: bool,
    /// The file's columns are read from the right.
    from_right: bool,
    /// The file's rows are read from the bottom.
    from_bottom: bool,
}

/// Tag of the orientation, and the type of its value: one 16-bit number.
const ORIENTATION: u16 = 0x112;
const SHORT: u16 = 3;

impl Orientation {
    /// Nothing has to be done.
    pub const UPRIGHT: Orientation = Orientation { transposed: false, from_right: false, from_bottom: false };

    /// What an EXIF record says: a TIFF file, which `Exif\0\0` may precede. Upright where it says nothing, or is
    /// damaged.
    pub fn of_exif(record: &[u8]) -> Orientation {
        let (transposed, from_right, from_bottom) = match number(record) {
            Some(2) => (false, true, false),
            Some(3) => (false, true, true),
            Some(4) => (false, false, true),
            Some(5) => (true, false, false),
            Some(6) => (true, false, true),
            Some(7) => (true, true, true),
            Some(8) => (true, true, false),
            _ => (false, false, false),
        };
        Orientation { transposed, from_right, from_bottom }
    }

    /// The picture upright.
    pub fn apply(self, picture: RgbImage) -> RgbImage {
        if self == Orientation::UPRIGHT {
            return picture;
        }
        let (w, h) = picture.dimensions();
        let (width, height) = if self.transposed { (h, w) } else { (w, h) };
        RgbImage::from_fn(width, height, |x, y| {
            let (x, y) = if self.transposed { (y, x) } else { (x, y) };
            picture.pixel(if self.from_right { w - 1 - x } else { x }, if self.from_bottom { h - 1 - y } else { y })
        })
    }
}

/// The number of the orientation in the first directory of the record, 1 to 8 where it is valid.
fn number(record: &[u8]) -> Option<u16> {
    let tiff = record.strip_prefix(b"Exif\0\0").unwrap_or(record);
    let big_endian = match tiff.first_chunk()? {
        b"II*\0" => false,
        b"MM\0*" => true,
        _ => return None,
    };
    let u16_at = |bytes: &[u8], at: usize| {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    let u32_at = |bytes: &[u8], at: usize| {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    let directory = tiff.get(u32_at(tiff, 4)? as usize..)?;
    let entries = directory.get(2..)?.as_chunks::<12>().0.iter().take(u16_at(directory, 0)?.into());
    let says = |e: &&[u8; 12]| {
        (u16_at(&e[..], 0), u16_at(&e[..], 2), u32_at(&e[..], 4)) == (Some(ORIENTATION), Some(SHORT), Some(1))
    };
    u16_at(&entries.into_iter().find(says)?[..], 8)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An EXIF record with a make, then the orientation.
    pub fn record(big_endian: bool, orientation: u16) -> Vec<u8> {
        let entries = [(0x10f, 2, 4, u32::from_le_bytes(*b"acc\0")), (ORIENTATION, SHORT, 1, orientation.into())];
        let short = |v: u16| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
        let long = |v: u32| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
        let mut out = if big_endian { b"MM\0*".to_vec() } else { b"II*\0".to_vec() };
        out.extend(long(10));
        out.extend([0; 2]);
        out.extend(short(entries.len() as u16));
        for (tag, kind, count, value) in entries {
            out.extend([short(tag), short(kind)].concat());
            out.extend(long(count));
            match kind {
                SHORT => out.extend([short(value as u16), [0; 2]].concat()),
                _ => out.extend(value.to_le_bytes()),
            }
        }
        out.extend(long(0));
        out
    }

    /// The picture `ABC/DEF` as PIL's `ImageOps.exif_transpose` turns it, by orientation from 1 on.
    pub const TURNED: [&str; 8] =
        ["ABC/DEF", "CBA/FED", "FED/CBA", "DEF/ABC", "AD/BE/CF", "DA/EB/FC", "FC/EB/DA", "CF/BE/AD"];

    /// A picture with a grey level for each letter.
    pub fn letters(rows: &str) -> RgbImage {
        let rows: Vec<&[u8]> = rows.split('/').map(str::as_bytes).collect();
        RgbImage::from_fn(rows[0].len() as u32, rows.len() as u32, |x, y| [rows[y as usize][x as usize]; 3])
    }

    #[test]
    fn pictures_turn_as_pil_turns_them() {
        for (orientation, expected) in (1..).zip(TURNED) {
            for big_endian in [false, true] {
                let plain = record(big_endian, orientation);
                for record in [plain.clone(), [b"Exif\0\0", plain.as_slice()].concat()] {
                    let turned = Orientation::of_exif(&record).apply(letters("ABC/DEF"));
                    assert_eq!(turned, letters(expected), "{orientation}");
                }
            }
        }
    }

    #[test]
    fn damaged_records_turn_nothing() {
        for big_endian in [false, true] {
            let whole = record(big_endian, 6);
            assert_ne!(Orientation::of_exif(&whole), Orientation::UPRIGHT);
            // The last four bytes say that no directory follows.
            for cut in 0..whole.len() - 4 {
                assert_eq!(Orientation::of_exif(&whole[..cut]), Orientation::UPRIGHT, "cut at {cut}");
            }
            for number in [0, 9, 255, 256, 262, u16::MAX] {
                assert_eq!(Orientation::of_exif(&record(big_endian, number)), Orientation::UPRIGHT, "{number}");
            }
            // A directory outside the record, and one without entries.
            for (at, value) in [(4, [0xff; 4]), (10, [0; 4])] {
                let mut bytes = whole.clone();
                bytes[at..at + 4].copy_from_slice(&value);
                assert_eq!(Orientation::of_exif(&bytes), Orientation::UPRIGHT, "{at}");
            }
            // More entries than the record holds: those that it holds count.
            let many = [&whole[..10], &[0xff; 2], &whole[12..]].concat();
            assert_eq!(Orientation::of_exif(&many), Orientation::of_exif(&whole));
        }
    }
}
