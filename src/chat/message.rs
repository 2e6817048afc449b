//! A conversation, and the `messages` lines that hold one each.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Longest line of a file of conversations, bytes: 4 MiB.
pub const MAX_LINE_BYTES: usize = 4 << 20;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what else the model's chat template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// The conversations of a file, one a line: `{"messages": [{"role": "user", "content": "..."}, ...]}`. Blank
/// lines are no conversations.
///
/// Errors ([`crate::ErrorKind::BadData`]) name the line: not UTF-8, longer than [`MAX_LINE_BYTES`], or as
/// [`conversation`] says; or no line holds a conversation.
pub fn conversations(bytes: &[u8]) -> Result<Vec<Vec<Message>>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut all = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|b| *b == b'\n')) {
        let place = |e: Error| e.at(format!("line {number}"));
        if line.trim_ascii().is_empty() {
            continue;
        }
        let text = std::str::from_utf8(line)
            .map_err(|_| Error::bad_data("a conversation that is not UTF-8").hint("save the file as UTF-8"))
            .map_err(place)?;
        all.push(conversation(text).map_err(place)?);
    }
    if all.is_empty() {
        return Err(malformed("no conversation in the file"));
    }
    Ok(all)
}

/// One conversation: `{"messages": [{"role": "user", "content": "..."}, ...]}`. Content may be a list of text
/// parts, `[{"type": "text", "text": "..."}]`, which are joined. Other keys beside `messages` are not read.
///
/// Errors ([`crate::ErrorKind::BadData`]): not JSON, no messages, a message without role or content, a part
/// that is no text, a message that holds more than role and content (such as `tool_calls`), tools.
pub fn conversation(line: &str) -> Result<Vec<Message>> {
    if line.len() > MAX_LINE_BYTES {
        return Err(Error::bad_data(format!(
            "a conversation of {} bytes; at most {MAX_LINE_BYTES} are read",
            line.len()
        )));
    }
    let value: Value = serde_json::from_str(line).map_err(|e| malformed("a line that is not JSON").because(e))?;
    let Value::Object(mut line) = value else {
        return Err(malformed(format!("a line that holds {} instead of an object", kind(&value))));
    };
    if line.get("tools").is_some_and(|t| !t.is_null() && t.as_array().is_none_or(|t| !t.is_empty())) {
        return Err(Error::bad_data("a conversation with tools, which are not read").hint("leave such lines out"));
    }
    let messages = match line.remove("messages") {
        Some(Value::Array(messages)) => messages,
        Some(other) => return Err(malformed(format!("\"messages\" holds {} instead of a list", kind(&other)))),
        None => return Err(malformed("a line without \"messages\"")),
    };
    if messages.is_empty() {
        return Err(malformed("a conversation without messages"));
    }
    let read = |(number, value)| message(value).map_err(|e: Error| e.because(format!("message {number}")));
    (1..).zip(messages).map(read).collect()
}

fn message(value: Value) -> Result<Message> {
    let Value::Object(mut fields) = value else {
        return Err(malformed(format!("a message that is {} instead of an object", kind(&value))));
    };
    let role = match fields.remove("role") {
        Some(Value::String(role)) if !role.is_empty() => role,
        Some(Value::String(_)) => return Err(malformed("a message with an empty role")),
        Some(other) => return Err(malformed(format!("a role that is {} instead of text", kind(&other)))),
        None => return Err(malformed("a message without \"role\"")),
    };
    let content = fields.remove("content");
    if let Some((key, _)) = fields.iter().find(|(_, value)| !value.is_null()) {
        return Err(Error::bad_data(format!("a message with {key:?}, which is not read"))
            .hint("only \"role\" and \"content\" are read: take the other keys away, or leave such lines out"));
    }
    let content = match content {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => parts.into_iter().map(part).collect::<Result<String>>()?,
        Some(Value::Null) | None => return Err(malformed("a message without \"content\"")),
        Some(other) => return Err(malformed(format!("content that is {} instead of text", kind(&other)))),
    };
    Ok(Message { role, content })
}

/// The text of one part of a message's content.
fn part(value: Value) -> Result<String> {
    let Value::Object(mut fields) = value else {
        return Err(malformed(format!("a part of content that is {} instead of an object", kind(&value))));
    };
    match (kind_of_part(&fields), fields.remove("text")) {
        (Some("text") | None, Some(Value::String(text))) => Ok(text),
        (Some("text") | None, _) => Err(malformed("a part of content without \"text\"")),
        (Some(other), _) => Err(Error::bad_data(format!("content of type {other:?}; only text is read"))
            .hint("leave conversations with images, audio or video out")),
    }
}

fn kind_of_part(fields: &Map<String, Value>) -> Option<&'static str> {
    let named = fields.get("type").map(|t| t.as_str().unwrap_or("unknown"));
    const KNOWN: [&str; 8] = ["text", "image", "image_url", "input_image", "audio", "input_audio", "video", "file"];
    named.map(|name| KNOWN.into_iter().find(|k| *k == name).unwrap_or("unknown"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn malformed(what: impl Into<String>) -> Error {
    Error::bad_data(what).hint(r#"write one conversation a line: {"messages": [{"role": "user", "content": "..."}]}"#)
}
