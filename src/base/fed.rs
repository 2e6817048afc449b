//! The input that is fed with what is given without a name, and what computes the plans.

use super::{Base, Placement, tail};
use crate::error::{Error, Result};

impl Base {
    /// The same model, whose input `name` is fed with what is given without a name: a picture, or a single array.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) listing the inputs with their shapes if none has that name.
    pub fn reading(mut self, name: Option<&str>) -> Result<Base> {
        let fed = name.map(|name| {
            self.inputs.iter().position(|p| p.name == name).ok_or_else(|| {
                Error::usage(format!("the model has no input {name:?}")).at(self.path.display()).hint(tail::known(
                    "inputs",
                    name,
                    &self.inputs,
                ))
            })
        });
        self.fed = fed.transpose()?;
        Ok(self)
    }
    /// The input that is fed with what is given without a name: the one that was named, or the only one.
    pub fn fed_input(&self) -> Option<usize> {
        self.fed.or_else(|| (self.inputs.len() == 1).then_some(0))
    }
    /// The same model, whose plans are compiled for what was found to compute them.
    pub fn on(self, placement: Placement) -> Base {
        Base { placement, ..self }
    }
    /// What computes its plans; the processor where nothing else was said.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }
}
