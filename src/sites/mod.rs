//! Where low-rank deltas fit in the base model: find the sites, choose among them, insert the products.

mod choose;
mod factor;
mod find;
mod insert;
mod lowrank;
mod op;

pub(crate) use crate::ops::floats;
pub use choose::Pattern;
pub(crate) use choose::last_block;
pub(crate) use factor::{SharedFactor, factor};
pub(crate) use find::{Found, direction, find};
pub(crate) use insert::insert;
pub(crate) use lowrank::Geometry;
pub(crate) use op::LowRank;
#[cfg(feature = "train")]
pub(crate) use op::{LowRankBackward, Onto};

pub use crate::adapter::SiteKind;
pub use crate::base::Module;

/// A node of the ONNX file whose weight can get a low-rank delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Name of the ONNX node; of a recurrent layer of both directions, with `:forward` or `:backward` behind it.
    pub name: String,
    /// Linear or convolution.
    pub kind: SiteKind,
    /// Input features or channels.
    pub inputs: usize,
    /// Output features or channels.
    pub outputs: usize,
    /// Kernel size per spatial axis; empty for a linear site.
    pub kernel: Vec<usize>,
    /// Groups of a convolution.
    pub groups: usize,
    /// The modules of the trained model that an exporter packed into it, such as queries, keys and values; empty where
    /// it is one.
    pub modules: Vec<Module>,
}

impl Site {
    /// Shape of `A` at `rank`: `[in, r]`, `[r, in/groups, k…]` for a convolution, `[in, r, k…]` for a transposed one.
    pub fn a_shape(&self, rank: usize) -> Vec<usize> {
        match self.kind {
            SiteKind::Linear => vec![self.inputs, rank],
            SiteKind::Conv => [&[rank, self.inputs / self.groups][..], &self.kernel].concat(),
            SiteKind::ConvTranspose => [&[self.inputs, rank][..], &self.kernel].concat(),
        }
    }
    /// Shape of `B` at `rank`: `[r, out]`, or `[out, r]` for a convolution.
    pub fn b_shape(&self, rank: usize) -> Vec<usize> {
        match self.kind {
            SiteKind::Linear => vec![rank, self.outputs],
            SiteKind::Conv | SiteKind::ConvTranspose => vec![self.outputs, rank],
        }
    }
    /// Rank that this site can use: a rank above the weight's own adds nothing.
    pub fn clamp_rank(&self, rank: usize) -> usize {
        let taps: usize = self.kernel.iter().product();
        rank.min(self.outputs).min(self.inputs / self.groups * taps).max(1)
    }
    /// Numbers in `A` and `B` at `rank`.
    pub fn trainable(&self, rank: usize) -> usize {
        self.a_shape(rank).iter().product::<usize>() + self.b_shape(rank).iter().product::<usize>()
    }
    /// Number of inputs that feed one output: what the scale of a random `A` follows.
    pub fn fan_in(&self) -> usize {
        self.inputs / self.groups * self.kernel.iter().product::<usize>()
    }
}

/// A node that could have been a site and is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Name of the ONNX node.
    pub name: String,
    /// Its operator.
    pub op: String,
    /// Why it is not a site.
    pub reason: String,
}

/// Sites in evaluation order, and the candidates that were passed over.
#[derive(Debug, Clone, Default)]
pub struct SiteTable {
    /// Usable sites.
    pub sites: Vec<Site>,
    /// Passed over, each with a reason.
    pub skipped: Vec<Skipped>,
}
