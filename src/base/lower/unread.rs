//! Why nodes of ONNX Runtime's own operators are not read, and what to do about it.

use tract_onnx::pb::NodeProto;

use super::Lowering;
use crate::error::{Error, Result};

/// What of a node is not read, and what to do about it.
pub(super) type Unread = (String, &'static str);

/// For a language model.
pub(super) const OPTIMUM: &str =
    "export it with `optimum-cli export onnx --task text-generation-with-past`, which writes standard operators";
/// For an encoder.
pub(super) const UNFUSED: &str = "export it without fused attention: optimum without `--optimize`, or ONNX \
                                  Runtime's optimiser with `--disable_attention`";

pub(super) fn error((what, hint): Unread) -> Error {
    Error::unsupported(what).hint(hint)
}

/// What of `node` is neither among the `attributes` nor among the first `inputs` that its reader knows: of a later
/// version, which may mean anything.
pub(super) fn later(node: &NodeProto, attributes: &[&str], inputs: usize) -> Option<String> {
    let attribute = node.attribute.iter().find(|a| !attributes.contains(&a.name.as_str()));
    let input = (inputs..node.input.len()).find(|slot| !node.input[*slot].is_empty());
    attribute
        .map(|a| format!("the attribute {}, which is not known", a.name))
        .or_else(|| input.map(|slot| format!("an input {slot}, which is not known")))
}

impl Lowering<'_> {
    /// `found`, or the reason for which the node that is being rewritten is not read: nothing else reads it.
    pub(super) fn wanted<T>(&mut self, found: Option<T>, why: &str, hint: &'static str) -> Option<T> {
        if found.is_none() && self.unread.is_none() {
            self.unread = Some((why.to_string(), hint));
        }
        found
    }

    /// Keeps the reason why the node that was not rewritten is not read, if it is the first one.
    pub(super) fn refuse(&mut self) {
        if let Some(unread) = self.unread.take()
            && self.refused.is_none()
        {
            self.refused = Some(error(unread).at(&self.at));
        }
    }

    /// What was refused.
    pub(super) fn outcome(&mut self) -> Result<()> {
        self.refused.take().map_or(Ok(()), Err)
    }
}
