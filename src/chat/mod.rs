//! Conversations, and the chat templates of Hugging Face models that turn them into text.
//!
//! [`ChatTemplate`] renders as `apply_chat_template` of Python's `transformers` does. Its templates come with
//! a model, so they are not trusted: they read nothing but the conversation, and instructions, recursion and
//! output are limited.
//!
//! The limits do not hold against every template: the engine does not count the work of `+` on lists that it
//! doubles, of slices of slices, and of `~` and `==` on values that hold themselves or one value many times.
//! Such a template can use up memory or the stack. Render templates from hostile sources in a process that may
//! be ended.

mod date;
mod folder;
mod limits;
mod message;
mod python;
mod source;
mod special_tokens;
mod stack;
mod supervised;
mod template;

pub use date::Moment;
pub use limits::{MAX_RENDERED_BYTES, MAX_TEMPLATE_BYTES};
pub use message::{MAX_LINE_BYTES, Message, conversation, conversations};
pub use special_tokens::SpecialTokens;
pub use supervised::Supervised;
pub use template::ChatTemplate;

#[cfg(test)]
mod date_tests;
#[cfg(test)]
mod folder_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod message_tests;
#[cfg(test)]
mod renders_tests;
#[cfg(test)]
mod supervised_tests;
