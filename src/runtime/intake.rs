//! What a home's model takes: how texts, pictures and arrays become what its inputs are.

use std::path::Path;

use super::config::Config;
use crate::base::{Base, Dim};
use crate::error::Result;
use crate::input::image::Layout;
use crate::input::{Intake, Preprocessing, Role, TextEncoder};

/// See [`Intake`], of which this owns what it borrows.
pub(crate) enum IntakeKind {
    Text(Box<TextEncoder>),
    Image(Preprocessing),
    Arrays,
}

impl IntakeKind {
    /// What `config` says of `base`, with the tokenizer in that file.
    ///
    /// # Errors
    /// When the tokenizer cannot be used, or the preprocessing is not one.
    pub fn new(base: &Base, config: &Config, tokenizer: Option<&Path>) -> Result<IntakeKind> {
        Ok(match (tokenizer, &config.image) {
            (Some(file), _) => {
                let encoder = |window: usize| TextEncoder::load(file, window).map(|e| e.for_inputs(named_roles(base)));
                IntakeKind::Text(Box::new(match text_length(base) {
                    Some(length) => encoder(config.max_length.min(length))?.filled_to(length),
                    None => encoder(config.max_length)?,
                }))
            }
            (None, Some(p)) => {
                p.validate()?;
                IntakeKind::Image(p.clone())
            }
            (None, None) => IntakeKind::Arrays,
        })
    }

    pub fn borrowed(&self) -> Intake<'_> {
        match self {
            IntakeKind::Text(encoder) => Intake::Text(encoder),
            IntakeKind::Image(p) => Intake::Image(p),
            IntakeKind::Arrays => Intake::Arrays,
        }
    }

    /// The token that pads; 0 where no tokenizer says which it is.
    pub fn pad_id(&self) -> i64 {
        match self {
            IntakeKind::Text(encoder) => encoder.pad_id(),
            IntakeKind::Image(_) | IntakeKind::Arrays => 0,
        }
    }
}

fn named_roles(base: &Base) -> Vec<(String, Role)> {
    base.inputs().iter().map(|p| p.name.clone()).zip(base.roles().iter().copied()).collect()
}

/// Most tokens of a text: what the model and the tokenizer in `file` take, up to `most`.
pub(super) fn window(base: &Base, file: &Path, most: usize) -> Result<usize> {
    let takes = base.longest(1, most).unwrap_or(most);
    let takes = [text_length(base), base.position_rows()].into_iter().flatten().fold(takes, usize::min);
    let declared = TextEncoder::load(file, takes)?.declared_max_length();
    let window = declared.map_or(takes, |d| d.min(takes));
    TextEncoder::load(file, window).map(|_| window)
}

/// The number of tokens that the model takes, where it takes no other.
fn text_length(base: &Base) -> Option<usize> {
    let ids = base.roles().iter().position(|r| *r == Role::Ids)?;
    match base.inputs()[ids].dims[..] {
        [_, Dim::Fixed(length)] if !base.has_sequence() => Some(length),
        _ => None,
    }
}

/// An input of one or three channels and two spatial sizes takes pictures: as floats with ImageNet's normalisation, as integers from 0 to 255.
pub(super) fn guess_image(base: &Base) -> Option<Preprocessing> {
    let port = base.inputs().get(base.fed_input()?)?;
    let sizes: Vec<usize> = port.dims.iter().skip(1).map(|d| if let Dim::Fixed(n) = d { *n } else { 0 }).collect();
    let (channels, h, w, layout) = match sizes[..] {
        [c @ (1 | 3), h, w] => (c, h, w, Layout::Nchw),
        [h, w, c @ (1 | 3)] => (c, h, w, Layout::Nhwc),
        _ => return None,
    };
    let usual = match (port.element.is_float(), port.element.range()) {
        (true, _) => Preprocessing::default(),
        (_, Some((_, most))) if most >= 255 => {
            Preprocessing { scale: false, mean: [0.0; 3], std: [1.0; 3], ..Preprocessing::default() }
        }
        _ => return None,
    };
    let size = [u32::try_from(h).ok()?, u32::try_from(w).ok()?];
    (h >= 8 && w >= 8).then_some(Preprocessing { size, layout, channels: if channels == 1 { 1 } else { 3 }, ..usual })
}
