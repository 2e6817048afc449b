//! Everything between what a user hands over and the arrays a model eats: arrays, text, pictures, and labelled sets of them.
//!
//! ```text
//! argument ──RawInput::from_argument──► RawInput ──Intake::example──► Example ──(batching)──► model
//!                                          │  ▲
//!                          Intake::prepare │  │ RawInput::from_stored
//!                                          ▼  │
//!                             Example and StoredInput (journal)
//! ```
//!
//! What is stored gives the same [`Example`], bit for bit, as what it was made from.

mod array;
pub mod arrays;
pub mod dataset;
mod decode;
mod exif;
mod folder;
pub mod image;
mod jpeg;
pub mod label;
pub mod npy;
mod picture_limits;
mod png;
mod resample;
mod rgb_image;
mod role;
pub mod text;
mod webp;

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use arrays::{ArrayData, ElementType, NamedArray, write_npz};
pub use dataset::LabelledSet;
pub use folder::Skipped;
pub use image::Preprocessing;
pub(crate) use npy::unravel as place;
pub use rgb_image::RgbImage;
pub use role::Role;
pub use text::TextEncoder;

use crate::error::{Error, Result};

/// One example as a model sees it: an array per model input, without batch dimension.
#[derive(Clone, PartialEq, Debug)]
pub struct Example {
    /// The arrays; a single one may have an empty name.
    pub arrays: Vec<NamedArray>,
}

impl Example {
    /// Bytes of its numbers.
    pub(crate) fn bytes(&self) -> u64 {
        let of = |data: &ArrayData| data.len() * if matches!(data, ArrayData::I64(_)) { 8 } else { 4 };
        self.arrays.iter().map(|a| of(&a.data) as u64).sum()
    }
}

/// What a user hands over: a text, a picture or arrays. A file is read by [`Home::read`](crate::Home::read).
///
/// ```
/// use acclimate::Input;
///
/// let text = Input::text("turn on the lights");
/// let picture = Input::rgb(2, 1, vec![255, 0, 0, 0, 0, 255])?; // a red and a blue pixel
/// let window = Input::array(&[3, 2], &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])?;
/// let two_inputs = Input::arrays([("left", &[2][..], &[0.1, 0.2][..]), ("right", &[1], &[0.3])])?;
/// # Ok::<(), acclimate::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum RawInput {
    /// A sentence.
    #[doc(hidden)]
    Text(String),
    /// A picture of any size.
    #[doc(hidden)]
    Image(RgbImage),
    /// Arrays by name, or a single one without. Where the model takes pictures, a single one may be a picture.
    #[doc(hidden)]
    Arrays(Vec<NamedArray>),
    /// Arrays that are no picture: they go to the model as they are.
    #[doc(hidden)]
    Tensor(Vec<NamedArray>),
}

/// An input as a journal keeps it. A picture is kept as the small one that the model saw.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum StoredInput {
    /// A sentence.
    Text(String),
    /// `Preprocessing::shrink`'s result, as PNG.
    Image {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
        /// The file's bytes.
        png: Vec<u8>,
    },
    /// Arrays that went to the model as they are.
    Arrays(Vec<NamedArray>),
}

/// An input on its way through a prediction.
#[derive(Clone, PartialEq, Debug)]
pub struct Prepared {
    /// What the model eats.
    pub example: Example,
    /// What a journal keeps; [`RawInput::from_stored`] of it gives the same example.
    pub stored: StoredInput,
}

/// How inputs become arrays for one model.
#[derive(Clone, Copy, Debug)]
pub enum Intake<'a> {
    /// The model takes token ids.
    Text(&'a TextEncoder),
    /// The model takes a picture.
    Image(&'a Preprocessing),
    /// The model takes arrays as they are.
    Arrays,
}

impl Intake<'_> {
    /// What the model takes, to complete "this model takes …".
    pub fn takes(&self) -> &'static str {
        match self {
            Intake::Text(_) => "text (a sentence, or a .txt file)",
            Intake::Image(_) => "pictures (.png, .jpg, .webp, or an array in .npy)",
            Intake::Arrays => "arrays (.npy or .npz)",
        }
    }

    /// The arrays that the model eats. Error: the input is of a sort that this model does not take, or cannot be converted.
    pub fn example(&self, input: &RawInput) -> Result<Example> {
        Ok(match (self, self.content(input)?) {
            (Intake::Text(encoder), Content::Text(text)) => encoder.encode(text)?,
            (Intake::Image(preprocessing), Content::Picture(picture)) => preprocessing.apply(&picture)?,
            (Intake::Image(_) | Intake::Arrays, Content::Tensor(arrays)) => Example { arrays: arrays.to_vec() },
            _ => return Err(self.refuse(input.sort())),
        })
    }

    /// What the model eats, and what a journal keeps: a picture is shrunk once, and both are made from the small one.
    ///
    /// Error: as [`Intake::example`].
    pub fn prepare(&self, input: &RawInput) -> Result<Prepared> {
        let (example, stored) = match (self, self.content(input)?) {
            (Intake::Text(encoder), Content::Text(text)) => (encoder.encode(text)?, StoredInput::Text(text.to_owned())),
            (Intake::Image(preprocessing), Content::Picture(picture)) => {
                let small = preprocessing.shrink(&picture)?;
                let (width, height) = small.dimensions();
                let stored = StoredInput::Image { width, height, png: image::encode_png(&small)? };
                (preprocessing.normalise(&small)?, stored)
            }
            (Intake::Image(_) | Intake::Arrays, Content::Tensor(arrays)) => {
                (Example { arrays: arrays.to_vec() }, StoredInput::Arrays(arrays.to_vec()))
            }
            _ => return Err(self.refuse(input.sort())),
        };
        Ok(Prepared { example, stored })
    }

    /// What `input` is to this model.
    fn content<'i>(&self, input: &'i RawInput) -> Result<Content<'i>> {
        let tensor = |arrays: &'i [NamedArray]| {
            arrays.iter().try_for_each(NamedArray::check)?;
            Ok(Content::Tensor(arrays))
        };
        match (input, self) {
            (RawInput::Text(text), _) => Ok(Content::Text(text)),
            (RawInput::Image(picture), _) => Ok(Content::Picture(Cow::Borrowed(picture))),
            (RawInput::Tensor(arrays), _) => tensor(arrays),
            (RawInput::Arrays(arrays), Intake::Image(preprocessing)) => match arrays.as_slice() {
                [one] if preprocessing.takes_as_it_is(one)? => tensor(arrays),
                [one] => image::from_array(one).map(Cow::Owned).map(Content::Picture),
                _ => Err(Error::bad_data(format!("{} arrays where one picture is needed", arrays.len()))),
            },
            (RawInput::Arrays(arrays), _) => tensor(arrays),
        }
    }

    fn refuse(&self, got: &str) -> Error {
        let error = Error::bad_data(format!("{got} given; this model takes {}", self.takes()));
        match self {
            Intake::Arrays if got == "text" => error.hint("a model of texts needs its tokenizer.json: --tokenizer F"),
            _ => error,
        }
    }
}

/// What an input is to a model.
enum Content<'a> {
    Text(&'a str),
    Picture(Cow<'a, RgbImage>),
    Tensor(&'a [NamedArray]),
}

/// What a command-line argument names: one input, or arrays as they lie in their file, which may hold several.
#[derive(Debug)]
pub enum Given {
    /// One input.
    One(RawInput),
    /// A `.npy` file, whose rows can be read one at a time.
    Rows(npy::RowReader<BufReader<File>>),
    /// The arrays of an `.npz` archive, whose rows can be converted one at a time.
    Arrays(Vec<npy::RawArray>),
}

impl Given {
    /// What an argument means for this model: an existing file by its extension, otherwise a sentence if the model
    /// takes text.
    ///
    /// `.npy`, `.npz`: arrays; `.png`, `.jpg`, `.jpeg`, `.webp`: a picture; `.txt`, or any other extension when the
    /// model takes text: a text file. Errors: no such file, an unreadable or malformed one, or one of a sort that this
    /// model does not take.
    pub fn from_argument(argument: &str, intake: Intake<'_>) -> Result<Given> {
        let path = Path::new(argument);
        let text_model = matches!(intake, Intake::Text(_));
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        let extension = extension.as_deref().filter(|e| !e.is_empty() && e.chars().all(|c| c.is_ascii_alphanumeric()));
        let picture = image::is_named_as_picture(path);
        let names_a_file =
            (picture || matches!(extension, Some("npy" | "npz" | "txt"))) && !argument.contains(char::is_whitespace);
        let given = match extension {
            Some(_) if path.is_file() && picture => Given::One(RawInput::Image(image::read(path)?)),
            Some("npy" | "npz") if path.is_file() => match arrays::open(path, arrays::MAX_BYTES)? {
                arrays::Opened::One(rows) => Given::Rows(rows),
                arrays::Opened::Many(arrays) => Given::Arrays(arrays),
            },
            Some(extension) if path.is_file() && (text_model || extension == "txt") => {
                Given::One(RawInput::Text(read_text(path)?))
            }
            Some(_) if path.is_file() => {
                return Err(Error::bad_data(format!("unknown sort of file; this model takes {}", intake.takes()))
                    .at(argument)
                    .hint("rename the file if its content is one of these"));
            }
            _ if text_model && !names_a_file => Given::One(RawInput::Text(argument.to_owned())),
            _ => {
                return Err(Error::bad_data(format!("no such file; this model takes {}", intake.takes()))
                    .at(argument)
                    .hint("check the path"));
            }
        };
        let refuse = |got| Err(intake.refuse(got).at(argument));
        match (&intake, &given) {
            (Intake::Text(_), Given::Rows(_) | Given::Arrays(_)) => refuse(ARRAYS),
            (Intake::Text(_), Given::One(RawInput::Text(_))) | (Intake::Image(_), Given::One(RawInput::Image(_))) => {
                Ok(given)
            }
            (_, Given::Rows(_) | Given::Arrays(_)) => Ok(given),
            (_, Given::One(input)) => refuse(input.sort()),
        }
    }
}

const ARRAYS: &str = "arrays";

impl RawInput {
    /// A sentence.
    pub fn text(text: impl Into<String>) -> RawInput {
        RawInput::Text(text.into())
    }

    /// A picture of `width` × `height` pixels: rows from the top, three bytes a pixel, red first.
    ///
    /// # Errors
    /// [`ErrorKind::BadData`](crate::ErrorKind::BadData) when `bytes` are not `3 · width · height`, or none.
    pub fn rgb(width: u32, height: u32, bytes: Vec<u8>) -> Result<RawInput> {
        let length = bytes.len();
        let picture = RgbImage::from_raw(width, height, bytes).filter(|_| length > 0);
        picture.map(RawInput::Image).ok_or_else(|| {
            Error::bad_data(format!("{length} bytes for a picture of {width} x {height} pixels with three bytes each"))
        })
    }

    /// One array, for a model with one input: dimensions without the batch, slowest first. A model that takes other numbers than
    /// `f32` gets them converted if nothing is lost. Where the model takes pictures, it may be one.
    ///
    /// # Errors
    /// [`ErrorKind::BadData`](crate::ErrorKind::BadData) when shape and values disagree, or a value is not finite.
    pub fn array(shape: &[usize], values: &[f32]) -> Result<RawInput> {
        RawInput::arrays([("", shape, values)])
    }

    /// Arrays as (name of the model's input, shape, values); each as in [`Input::array`](RawInput::array).
    ///
    /// # Errors
    /// As [`Input::array`](RawInput::array).
    pub fn arrays<'a>(arrays: impl IntoIterator<Item = (&'a str, &'a [usize], &'a [f32])>) -> Result<RawInput> {
        let array = |(name, shape, values): (&str, &[usize], &[f32])| {
            let array = NamedArray::new(name, shape.to_vec(), ArrayData::F32(values.to_vec()));
            array.map_err(|e| if name.is_empty() { e } else { e.at(format!("input {name:?}")) })
        };
        arrays.into_iter().map(array).collect::<Result<_>>().map(RawInput::Arrays)
    }

    /// What the file `path` holds, as this model takes it. Error: no such file, one that is malformed, or another sort of input.
    pub(crate) fn file(path: &Path, intake: Intake<'_>) -> Result<RawInput> {
        let error = |what: &str, next: &str| Err(Error::bad_data(what).at(path.display()).hint(next));
        if !path.is_file() {
            return error("no such file", "check the path");
        }
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        let holds_arrays = matches!(extension.as_deref(), Some("npy" | "npz"));
        if matches!(intake, Intake::Text(_)) && !holds_arrays && !image::is_named_as_picture(path) {
            return read_text(path).map(RawInput::Text);
        }
        match path.to_str() {
            Some(name) => RawInput::from_argument(name, intake),
            None => error("a file name that is not UTF-8", "rename the file"),
        }
    }

    internal! {
        /// The one input that a command-line argument names, as [`Given::from_argument`] reads it; arrays are converted
        /// whole.
        pub fn from_argument(argument: &str, intake: Intake<'_>) -> Result<RawInput> {
            let path = Path::new(argument);
            let raw = match Given::from_argument(argument, intake)? {
                Given::One(input) => return Ok(input),
                Given::Rows(rows) => vec![rows.whole().map_err(|e| e.at(path.display()))?],
                Given::Arrays(raw) => raw,
            };
            arrays::convert(raw, path).map(RawInput::Arrays)
        }
    }

    fn sort(&self) -> &'static str {
        match self {
            RawInput::Text(_) => "text",
            RawInput::Image(_) => "a picture",
            RawInput::Arrays(_) | RawInput::Tensor(_) => ARRAYS,
        }
    }

    internal! {
        /// The input that a journal kept. Error: damaged picture, or arrays whose shape and data disagree.
        pub fn from_stored(stored: StoredInput) -> Result<RawInput> {
            match stored {
                StoredInput::Text(text) => Ok(RawInput::Text(text)),
                StoredInput::Image { png, .. } => image::decode(&png).map(RawInput::Image),
                StoredInput::Arrays(arrays) => {
                    arrays.iter().try_for_each(NamedArray::check)?;
                    Ok(RawInput::Tensor(arrays))
                }
            }
        }
    }

    /// The same with arrays that go to the model as they are.
    pub fn as_tensor(self) -> RawInput {
        match self {
            RawInput::Arrays(arrays) => RawInput::Tensor(arrays),
            other => other,
        }
    }
}

/// A UTF-8 text file without its final line break, of at most [`text::MAX_TEXT_BYTES`].
fn read_text(path: &Path) -> Result<String> {
    let cannot = |e| Error::io("cannot read the text", path, e);
    let mut bytes = Vec::new();
    File::open(path).map_err(cannot)?.take(text::MAX_TEXT_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > text::MAX_TEXT_BYTES {
        return Err(Error::bad_data(format!("a text of more than {} bytes", text::MAX_TEXT_BYTES)).at(path.display()));
    }
    let content = String::from_utf8(bytes)
        .map_err(|e| Error::bad_data("text that is not UTF-8").at(path.display()).because(e.utf8_error()))?;
    Ok(content.strip_prefix('\u{feff}').unwrap_or(&content).trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn small() -> Preprocessing {
        Preprocessing { size: [8, 8], ..Default::default() }
    }

    #[test]
    fn files_are_read_by_extension() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let picture = RgbImage::from_fn(10, 9, |x, y| [x as u8, y as u8, 7]);
        let preprocessing = small();
        let (images, plain) = (Intake::Image(&preprocessing), Intake::Arrays);

        std::fs::write(file("p.PNG"), image::encode_png(&picture).unwrap()).unwrap();
        assert_eq!(RawInput::from_argument(&file("p.PNG"), images).unwrap(), RawInput::Image(picture.clone()));
        let array = NamedArray::new("", vec![2, 2], ArrayData::U8(vec![1, 2, 3, 4])).unwrap();
        arrays::write_npy(Path::new(&file("a.npy")), &array).unwrap();
        assert_eq!(RawInput::from_argument(&file("a.npy"), plain).unwrap(), RawInput::Arrays(vec![array.clone()]));
        assert_eq!(RawInput::from_argument(&file("a.npy"), images).unwrap(), RawInput::Arrays(vec![array]));
        std::fs::write(file("s.txt"), "\u{feff}lights off\r\n").unwrap();
        std::fs::write(file("s.dat"), "x").unwrap();

        let refusals = [
            (file("p.PNG"), plain, "a picture given; this model takes arrays"),
            (file("s.txt"), images, "text given; this model takes pictures"),
            (file("s.dat"), plain, "unknown sort of file; this model takes arrays"),
            (file("absent.npy"), plain, "no such file; this model takes arrays"),
            ("turn on the lights".into(), images, "no such file; this model takes pictures"),
            (dir.path().to_str().unwrap().to_owned(), plain, "no such file"),
        ];
        for (argument, intake, expected) in refusals {
            let e = RawInput::from_argument(&argument, intake).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::BadData);
            assert!(e.to_string().contains(expected) && e.to_string().contains(&argument), "{e}");
        }
    }

    #[test]
    fn text_models_take_sentences_and_files() {
        let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/intents_tokenizer.json");
        let encoder = TextEncoder::load(&tokenizer, 32).unwrap();
        let intake = Intake::Text(&encoder);
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        for name in ["s.txt", "s.md"] {
            std::fs::write(file(name), "\u{feff}lights off\r\n").unwrap();
            assert_eq!(RawInput::from_argument(&file(name), intake).unwrap(), RawInput::Text("lights off".into()));
        }
        for sentence in ["turn on the lights", "stop.", "wait... what", "open notes.txt now please.txt", "ü"] {
            let input = RawInput::from_argument(sentence, intake).unwrap();
            assert_eq!(input, RawInput::Text(sentence.into()));
            let again = RawInput::from_stored(intake.prepare(&input).unwrap().stored).unwrap();
            assert_eq!(intake.example(&again).unwrap(), intake.example(&input).unwrap());
        }
        std::fs::write(file("bad.txt"), [b'a', 0xff]).unwrap();
        for argument in [file("absent.txt"), file("bad.txt")] {
            assert_eq!(RawInput::from_argument(&argument, intake).unwrap_err().kind(), ErrorKind::BadData);
        }
        assert!(
            intake
                .example(&RawInput::Arrays(vec![]))
                .unwrap_err()
                .to_string()
                .contains("arrays given; this model takes text")
        );
    }

    #[test]
    fn stored_inputs_give_the_same_example() {
        let preprocessing = small();
        let intake = Intake::Image(&preprocessing);
        let picture = RgbImage::from_fn(40, 31, |x, y| [(x * 6) as u8, (y * 8) as u8, (x * y) as u8]);
        let grey =
            NamedArray::new("", vec![28, 28], ArrayData::U8((0..784).map(|i| (i % 256) as u8).collect())).unwrap();
        for input in [RawInput::Image(picture), RawInput::Arrays(vec![grey.clone()])] {
            let Prepared { example, stored } = intake.prepare(&input).unwrap();
            let small =
                |s: &StoredInput| matches!(s, StoredInput::Image { width: 8, height: 8, png } if png.len() < 400);
            assert!(small(&stored), "8 x 8 pixels are small");
            let again = RawInput::from_stored(stored).unwrap();
            assert_eq!(intake.example(&again).unwrap(), example);
            assert_eq!(intake.example(&input).unwrap(), example);
        }
        let input = RawInput::Arrays(vec![grey.clone()]);
        assert_eq!(RawInput::from_stored(Intake::Arrays.prepare(&input).unwrap().stored).unwrap(), input.as_tensor());
        let damaged = StoredInput::Image { width: 1, height: 1, png: vec![1, 2, 3] };
        assert!(RawInput::from_stored(damaged).is_err());
        // What went to the model as it is does so again, where the same numbers alone would not be taken.
        let half = NamedArray::new("", vec![3, 8, 8], ArrayData::F32(vec![0.5; 192])).unwrap();
        let (given, tensor) = (RawInput::Arrays(vec![half.clone()]), RawInput::Tensor(vec![half.clone()]));
        let e = intake.example(&given).unwrap_err();
        assert!(e.kind() == ErrorKind::BadData && e.next_step().unwrap().contains("--tensor"), "{e}");
        let again = RawInput::from_stored(intake.prepare(&tensor).unwrap().stored).unwrap();
        assert_eq!(intake.example(&again).unwrap().arrays, vec![half.clone()]);
        let normalised =
            NamedArray { data: ArrayData::F32((0..192).map(|i| i as f32 / 96.0 - 1.0).collect()), ..half.clone() };
        let given = RawInput::Arrays(vec![normalised.clone()]);
        assert_eq!(intake.example(&given).unwrap().arrays, vec![normalised]);
        let always = Preprocessing { tensor: true, ..small() };
        assert_eq!(Intake::Image(&always).example(&RawInput::Arrays(vec![half.clone()])).unwrap().arrays, vec![half]);
        let lying = NamedArray { shape: vec![1 << 40], ..grey };
        assert!(RawInput::from_stored(StoredInput::Arrays(vec![lying])).is_err());
    }
}
