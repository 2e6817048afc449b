//! The first run of a model, before a home is made of it: examples go the whole way that those of a user will go, so that a model that can never
//! answer is refused before anything is written.

use super::config::TextPadding;
use super::intake::IntakeKind;
use crate::base::Base;
use crate::error::{Error, ErrorKind, Result};
use crate::input::{ArrayData, Example, Preprocessing, RawInput, RgbImage, Role};
use crate::plan::{Engine, Variant};

/// Lengths of the sequences that are tried, where the model takes them: each is padded to another one.
const LENGTHS: [usize; 2] = [5, 11];

/// Runs the model on what `intake` makes of a text, a picture or arrays, alone and two at once; says whether sequences may be padded.
///
/// # Errors
/// `UnsupportedModel` that says what can never work, and why.
pub(super) fn first_run(engine: &Engine, intake: &IntakeKind) -> Result<TextPadding> {
    let base = &engine.base;
    attempt(engine, intake).map_err(|e| if e.place().is_some() { e } else { e.at(base.path().display()) })
}

fn attempt(engine: &Engine, intake: &IntakeKind) -> Result<TextPadding> {
    let base = &engine.base;
    fed(base, intake)?;
    finite_weights(base)?;
    let first = answered(engine, own_examples(base, intake).map_err(refusal)?)?;
    if base.fixed_batch().is_none() {
        two_at_once(engine, &first)?;
    }
    let mut examples = vec![first];
    if base.mask().is_some() && base.has_sequence() {
        let most = match intake {
            IntakeKind::Text(encoder) => encoder.max_length(),
            _ => usize::MAX,
        };
        for length in LENGTHS.map(|n| n.min(most)) {
            examples.extend(answered(engine, random_inputs(base, length)?).ok());
        }
    }
    Ok(match engine.padding_works(intake.pad_id(), &examples).map_err(refusal)? {
        true => TextPadding::Masked,
        false => TextPadding::Exact,
    })
}

/// The first of `examples` that the model answers; or what it says to the first one.
fn answered(engine: &Engine, examples: Vec<Example>) -> Result<Example> {
    let mut refused = None;
    for example in examples {
        match engine.one(&Variant::Base, &example) {
            Ok(_) => return Ok(example),
            Err(e) => refused = refused.or(Some(refusal(e))),
        }
    }
    Err(refused.unwrap_or_else(|| Error::internal("no example to try")))
}

/// Every input of the model is one that what a home is given fills: a text its tokens, a picture one input, arrays any
/// but a state that each call hands to the next.
fn fed(base: &Base, intake: &IntakeKind) -> Result<()> {
    let all = 0..base.inputs().len();
    let (unfed, why): (Vec<usize>, _) = match intake {
        IntakeKind::Text(_) => {
            (all.filter(|ix| base.roles()[*ix] == Role::Data).collect(), "nothing in a text fills the model's input")
        }
        IntakeKind::Image(_) => (
            all.filter(|ix| base.fed_input() != Some(*ix)).collect(),
            "a picture fills one input alone, and nothing the model's input",
        ),
        IntakeKind::Arrays => (
            base.carried_states(),
            "a state that is carried from call to call, which no example has, is the model's input",
        ),
    };
    let names: Vec<&str> = unfed.iter().map(|ix| base.inputs()[*ix].name.as_str()).collect();
    let Some(name) = names.first() else { return Ok(()) };
    let beside = match intake {
        IntakeKind::Text(_) => "; or leave --tokenizer away and give every input as an array of an .npz",
        _ => "",
    };
    let hint = match base.zeroed(&names) {
        Some(options) => format!(
            "make it a constant: it loads with `acclimate pin MODEL{options} --output F.onnx`, which was tried; other \
             values may do, too{beside}"
        ),
        None => format!("make it a constant (`acclimate pin MODEL --input {name}=VALUE --output F.onnx`){beside}"),
    };
    Err(Error::unsupported(format!("{why} {name:?}")).hint(hint))
}

fn finite_weights(base: &Base) -> Result<()> {
    match base.nan_weight() {
        Some(node) => Err(Error::unsupported("a weight of the model is not a number (NaN)").at(node).hint(
            "export the model again from a state that trained well: what reads this weight answers with no number",
        )),
        None => Ok(()),
    }
}

/// What a user's inputs could become: one of a text or a picture, or arrays that are synthetic.
fn own_examples(base: &Base, intake: &IntakeKind) -> Result<Vec<Example>> {
    let input = match intake {
        IntakeKind::Text(encoder) => encoder.sample().map(RawInput::Text),
        IntakeKind::Image(preprocessing) => Some(RawInput::Image(picture(preprocessing))),
        IntakeKind::Arrays => return random_inputs(base, LENGTHS[0]),
    };
    let input = input.ok_or_else(|| Error::bad_data("the tokenizer keeps nothing of any text that was tried"))?;
    Ok(vec![intake.borrowed().example(&input)?])
}

/// Arrays of a sequence of at most `length`: random ones, the same without signs (a model may take logarithms of them) and of ones, and zeros.
fn random_inputs(base: &Base, length: usize) -> Result<Vec<Example>> {
    let length = base.longest(1, length).unwrap_or(length);
    let Some(random) = base.random_examples(&base.bucket(1, length), 0)?.into_iter().next() else { return Ok(vec![]) };
    let with = |floats: fn(f32) -> f32, whole: i64| {
        let mut example = random.clone();
        for (array, role) in example.arrays.iter_mut().zip(base.roles()) {
            match &mut array.data {
                ArrayData::F32(v) => v.iter_mut().for_each(|v| *v = floats(*v)),
                ArrayData::I64(v) if *role == Role::Data => v.fill(whole),
                _ => {}
            }
        }
        example
    };
    Ok(vec![random.clone(), with(f32::abs, 1), with(|_| 0.0, 0)])
}

/// A picture of the model's size in which every brightness occurs.
fn picture(preprocessing: &Preprocessing) -> RgbImage {
    let [height, width] = preprocessing.size;
    let level = |x: u32, of: u32| u8::try_from(255 * x / of.max(1)).unwrap_or(255);
    RgbImage::from_fn(width, height, |x, y| [level(x, width), level(y, height), level(x + y, width + height)])
}

/// A batch that the file leaves open is open, unless pictures of its size pass one by one anyway.
fn two_at_once(engine: &Engine, example: &Example) -> Result<()> {
    let Err(e) = engine.many(&Variant::Base, &[example, example], 1, 2) else { return Ok(()) };
    let refused = Error::unsupported("the model leaves the number of examples open, and takes only one at a time")
        .because(e.to_string());
    // With one the model ran just now.
    Err(match engine.base.batch_name() {
        Some(name) => refused
            .hint(format!("fix it: `acclimate pin MODEL --dim {name}=1 --output F.onnx`, and make the home of F.onnx")),
        None => refused,
    })
}

/// What fails on an input of the right form is the model's fault, not the input's.
fn refusal(e: Error) -> Error {
    if matches!(e.kind(), ErrorKind::Io | ErrorKind::Interrupted | ErrorKind::UnsupportedModel) {
        return e;
    }
    let refused = Error::unsupported("the model does not answer an input of the form that it asks for")
        .because(e.to_string())
        .hint(e.next_step().unwrap_or("export the model for inference (evaluation mode)"));
    match e.place() {
        Some(place) => refused.at(place.to_owned()),
        None => refused,
    }
}
