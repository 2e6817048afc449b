//! Which sites of a home adapt.

use super::Home;
use crate::adapt::select;
use crate::error::Result;
use crate::sites::Pattern;

impl Home {
    internal! {
        /// Which sites adapt, and what that costs.
        pub fn summary(&self) -> Result<select::Summary> {
            let inner = &self.0;
            select::summarise(
                &inner.engine.base,
                inner.engine.task,
                &Pattern::new(&inner.config.sites),
                inner.config.rank,
                &inner.config.limits,
            )
        }
    }
}
