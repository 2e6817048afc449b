//! Text generation without a model: configuration, choice of the next token, stop conditions and streamed
//! text.
//!
//! One step of a generation loop: [`Sampler::next_token`] on the logits of the last position, then
//! [`GeneratedText::push`] with that token, until it says why the text has ended.

pub mod candidate;
pub mod config;
mod config_files;
pub mod output;
pub mod processors;
pub mod sampling;
mod select;
pub mod stop;
pub mod stop_strings;
pub mod stream;

#[cfg(test)]
mod config_tests;
#[cfg(test)]
mod output_tests;
#[cfg(test)]
mod processors_tests;
#[cfg(test)]
mod sampling_tests;
#[cfg(test)]
mod stop_tests;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod test_tokenizers;

pub use candidate::Candidate;
pub use config::GenerationConfig;
pub use output::{GeneratedText, Piece};
pub use processors::{LogitsProcessors, argmax};
pub use sampling::Sampler;
pub use stop::{FinishReason, StoppingCriteria};
pub use stop_strings::StopStrings;
pub use stream::TextStream;
