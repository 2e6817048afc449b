//! The first run of a model, before a home is made of it: examples go the whole way that those of a user will go, so that a model that can never
//! answer is refused before anything is written.

use super::config::TextPadding;
use super::intake::IntakeKind;
use crate::base::{Base, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::input::{Example, Preprocessing, RawInput, RgbImage};
use crate::plan::{Engine, Variant};

/// Lengths of the sequences that are tried, where the model takes them: each is padded to another one.
const LENGTHS: [usize; 2] = [5, 11];

/// Runs the model on what `intake` makes of a text, a picture or arrays, alone and two at once; says whether sequences may be padded.
///
/// # Errors
/// `UnsupportedModel` that says what can never work, and why.
pub(super) fn first_run(engine: &Engine, intake: &IntakeKind) -> Result<TextPadding> {
    let base = &engine.base;
    let at = |e: Error| if e.place().is_some() { e } else { e.at(base.path().display()) };
    fed(base, intake).and_then(|()| finite_weights(base)).map_err(at)?;
    let examples = examples(base, intake).map_err(refusal).map_err(at)?;
    for example in &examples {
        engine.one(&Variant::Base, example).map_err(refusal).map_err(at)?;
    }
    if base.fixed_batch().is_none() {
        two_at_once(engine).map_err(at)?;
    }
    Ok(match engine.padding_works(intake.pad_id(), &examples).map_err(refusal).map_err(at)? {
        true => TextPadding::Masked,
        false => TextPadding::Exact,
    })
}

/// Every input of a model of texts is one that a text fills.
fn fed(base: &Base, intake: &IntakeKind) -> Result<()> {
    let IntakeKind::Text(_) = intake else { return Ok(()) };
    let Some(ix) = base.roles().iter().position(|r| *r == Role::Data) else { return Ok(()) };
    let name = &base.inputs()[ix].name;
    Err(Error::unsupported(format!("nothing in a text fills the model's input {name:?}")).hint(format!(
        "make it a constant (`acclimate pin MODEL --input {name}=VALUE --output F.onnx`), or leave --tokenizer away and give every input as an \
         array of an .npz"
    )))
}

fn finite_weights(base: &Base) -> Result<()> {
    match base.nan_weight() {
        Some(node) => Err(Error::unsupported("a weight of the model is not a number (NaN)").at(node).hint(
            "export the model again from a state that trained well: what reads this weight answers with no number",
        )),
        None => Ok(()),
    }
}

/// What a user's inputs could become: those of the intake, and for sequences some of other lengths.
fn examples(base: &Base, intake: &IntakeKind) -> Result<Vec<Example>> {
    let taken = |input: &RawInput| intake.borrowed().example(input);
    let own = match intake {
        IntakeKind::Text(encoder) => {
            let text = encoder.sample();
            let none = || Error::bad_data("the tokenizer keeps nothing of any text that was tried");
            Some(taken(&RawInput::Text(text.ok_or_else(none)?))?)
        }
        IntakeKind::Image(preprocessing) => Some(taken(&RawInput::Image(picture(preprocessing)))?),
        IntakeKind::Arrays => None,
    };
    let most = match intake {
        IntakeKind::Text(encoder) => encoder.max_length(),
        _ => LENGTHS[1],
    };
    let mut examples: Vec<Example> = own.into_iter().collect();
    if examples.is_empty() || base.has_sequence() {
        let lengths = LENGTHS.map(|n| base.longest(1, n.min(most)).unwrap_or(n.min(most)));
        for (seed, length) in lengths.into_iter().take(if base.has_sequence() { 2 } else { 1 }).enumerate() {
            examples.extend(base.random_examples(&base.bucket(1, length), seed as u64)?.into_iter().take(1));
        }
    }
    Ok(examples)
}

/// A picture of the model's size in which every brightness occurs.
fn picture(preprocessing: &Preprocessing) -> RgbImage {
    let [height, width] = preprocessing.size;
    let level = |x: u32, of: u32| u8::try_from(255 * x / of.max(1)).unwrap_or(255);
    RgbImage::from_fn(width, height, |x, y| {
        ::image::Rgb([level(x, width), level(y, height), level(x + y, width + height)])
    })
}

/// A batch that the file leaves open is open.
fn two_at_once(engine: &Engine) -> Result<()> {
    let base = &engine.base;
    let length = base.longest(1, LENGTHS[0]).unwrap_or(LENGTHS[0]);
    let two = base.random_examples(&base.bucket(2, length), 0)?;
    let Err(e) = engine.many(&Variant::Base, &two.iter().collect::<Vec<_>>(), 1, 2) else { return Ok(()) };
    let refused = Error::unsupported("the model leaves the number of examples open, and takes only one at a time");
    // With one the model ran just now.
    let name = base.batch_name();
    let hint = name.map(|name| {
        format!("fix it: `acclimate pin MODEL --dim {name}=1 --output F.onnx`, and make the home of F.onnx")
    });
    let refused = match hint {
        Some(hint) => refused.hint(hint),
        None => refused,
    };
    Err(refused.because(e.to_string()))
}

/// What fails on an input of the right form is the model's fault, not the input's.
fn refusal(e: Error) -> Error {
    if matches!(e.kind(), ErrorKind::Io | ErrorKind::Interrupted | ErrorKind::UnsupportedModel) {
        return e;
    }
    let refused =
        Error::unsupported("the model does not answer an input of the form that it asks for").because(e.to_string());
    match (e.place(), e.kind()) {
        (Some(place), _) => refused.at(place.to_owned()),
        _ => refused,
    }
}
