//! The frame header of a JPEG file: sizes and colour planes (ITU-T T.81, B.2.2).

use super::{damaged, unsupported};
use crate::error::Result;

/// One colour plane of a frame.
pub(super) struct Component {
    pub id: u8,
    /// Sampling factors: blocks per MCU of an interleaved scan.
    pub h: u32,
    pub v: u32,
}

/// The frame header.
pub(super) struct Frame {
    pub width: u32,
    pub height: u32,
    pub progressive: bool,
    pub components: Vec<Component>,
}

impl Frame {
    /// Largest sampling factors of the components.
    pub fn max_factors(&self) -> (u32, u32) {
        let max = |f: fn(&Component) -> u32| self.components.iter().map(f).max().unwrap_or(1);
        (max(|c| c.h), max(|c| c.v))
    }

    /// MCUs of an interleaved scan, across and down.
    pub fn mcus(&self) -> (u32, u32) {
        let (h, v) = self.max_factors();
        (self.width.div_ceil(8 * h), self.height.div_ceil(8 * v))
    }

    /// Bytes that the decoder holds beside the picture: the planes, and for a progressive file every coefficient.
    pub fn work_bytes(&self) -> u64 {
        let (across, down) = self.mcus();
        let blocks: u64 = self.components.iter().map(|c| u64::from(c.h * c.v)).sum();
        let sample = if self.progressive { 3 } else { 1 };
        u64::from(across) * u64::from(down) * blocks * 64 * sample
    }

    pub fn read(marker: u8, body: &[u8], at: usize) -> Result<Frame> {
        let &[precision, h0, h1, w0, w1, count, ref rest @ ..] = body else {
            return Err(damaged(at, "the frame header is too short"));
        };
        let size = |a, b| u32::from(u16::from_be_bytes([a, b]));
        let (height, width) = (size(h0, h1), size(w0, w1));
        if precision != 8 {
            return Err(unsupported(format_args!("{precision} bits per sample")));
        }
        if height == 0 {
            return Err(unsupported("its height only after the first scan"));
        }
        let components: Vec<Component> = rest
            .as_chunks::<3>()
            .0
            .iter()
            .map(|&[id, factors, _]| Component { id, h: (factors >> 4).into(), v: (factors & 15).into() })
            .collect();
        if !matches!(count, 1 | 3 | 4) {
            return Err(unsupported(format_args!("{count} colour components")));
        }
        let factor = |f: u32| (1..=4).contains(&f);
        if width == 0
            || components.len() != usize::from(count)
            || components.iter().any(|c| !factor(c.h) || !factor(c.v))
        {
            return Err(damaged(at, "the frame header contradicts itself"));
        }
        let mut frame = Frame { width, height, progressive: marker == 0xc2, components };
        let (h, v) = frame.max_factors();
        if frame.components.iter().any(|c| h % c.h != 0 || v % c.v != 0) {
            return Err(unsupported("a colour plane that is two thirds or three quarters of another"));
        }
        if let [only] = frame.components.as_mut_slice() {
            // A lone component's blocks follow each other, whatever its factors say (A.2.2).
            (only.h, only.v) = (1, 1);
        }
        Ok(frame)
    }
}
