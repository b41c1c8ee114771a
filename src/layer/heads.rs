//! Who has which heads.

use std::ops::Range;

use super::options::{Options, at_least_one};
use super::spec::{LinearSpec, Split};
use crate::error::{Error, Result};
use crate::local::MOST_HEAD_SIZE;
use crate::op::OpSpec;

/// Causal self-attention with grouped queries, whole; equal on every rank.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct AttentionSpec {
    /// Columns of x and y.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; `heads` of them is plain multi-head attention, 1 is multi-query.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_size: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// Whether QKV and the output projection have a bias.
    pub bias: bool,
    /// Whether a matrix of y's shape is added to y.
    pub residual: bool,
    /// What it has in common with the model's other layers.
    pub options: Options,
}

/// The heads of one rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadsOf {
    /// Its query heads.
    pub q: Range<usize>,
    /// Its key and value heads.
    pub kv: Range<usize>,
    /// The ranks that have the same key and value heads, this one among them.
    pub replicas: usize,
}

impl AttentionSpec {
    /// With heads of `hidden / heads` columns and scale `1 / sqrt(head size)`; without biases and residual.
    pub fn new(hidden: usize, heads: usize, kv_heads: usize, options: Options) -> AttentionSpec {
        let spec = AttentionSpec {
            hidden,
            heads,
            kv_heads,
            head_size: 0,
            scale: 0.0,
            bias: false,
            residual: false,
            options,
        };
        spec.head_size(hidden.checked_div(heads).unwrap_or(0))
    }

    /// With heads of so many columns, and scale `1 / sqrt(head_size)`.
    pub fn head_size(self, head_size: usize) -> AttentionSpec {
        AttentionSpec {
            head_size,
            scale: 1.0 / (head_size as f32).sqrt(),
            ..self
        }
    }

    /// With this scale.
    pub fn scale(self, scale: f32) -> AttentionSpec {
        AttentionSpec { scale, ..self }
    }

    /// With biases, or without.
    pub fn bias(self, bias: bool) -> AttentionSpec {
        AttentionSpec { bias, ..self }
    }

    /// With a residual, or without.
    pub fn residual(self, residual: bool) -> AttentionSpec {
        AttentionSpec { residual, ..self }
    }

    /// The heads of `rank` of `world`.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where heads cannot be dealt out evenly.
    pub fn heads_of(&self, world: usize, rank: usize) -> Result<HeadsOf> {
        let (heads, kv) = (self.heads, self.kv_heads);
        let world = world.max(1);
        at_least_one(&[("heads", heads), ("kv_heads", kv)])?;
        if !heads.is_multiple_of(kv) {
            return Err(Error::bad_argument(
                "heads",
                heads,
                format!("a multiple of the {kv} KV heads"),
            ));
        }
        if !heads.is_multiple_of(world) {
            return Err(Error::bad_argument(
                "heads",
                heads,
                format!("a multiple of the {world} ranks"),
            ));
        }
        let each = heads / world;
        let q = rank * each..(rank + 1) * each;
        if world <= kv && kv.is_multiple_of(world) {
            let each = kv / world;
            return Ok(HeadsOf {
                q,
                kv: rank * each..(rank + 1) * each,
                replicas: 1,
            });
        }
        if world > kv && world.is_multiple_of(kv) {
            let replicas = world / kv;
            let head = rank / replicas;
            return Ok(HeadsOf {
                q,
                kv: head..head + 1,
                replicas,
            });
        }
        let expected = format!("a multiple of the {world} ranks, or a divisor of {world}");
        Err(Error::bad_argument("kv_heads", kv, expected))
    }

    /// Columns of all ranks' QKV together, replicated heads as often as they are there.
    fn qkv_features(&self, world: usize) -> usize {
        (self.heads + 2 * self.kv_heads.max(world)) * self.head_size
    }

    /// QKV on `world` ranks, column-parallel.
    pub fn qkv(&self, world: usize) -> LinearSpec {
        self.options
            .linear(self.hidden, self.qkv_features(world))
            .bias(self.bias)
    }

    /// The output projection, row-parallel.
    pub fn output(&self) -> LinearSpec {
        let spec = self.options.linear(self.heads * self.head_size, self.hidden);
        spec.bias(self.bias).residual(self.residual)
    }

    /// Elements of gradients that ranks have in parts: of the KV heads' weights and biases.
    pub(super) fn in_parts(&self, world: usize) -> usize {
        match world > self.kv_heads {
            true => self.kv_heads * 2 * self.head_size * (self.hidden + usize::from(self.bias)),
            false => 0,
        }
    }

    /// The operations of such a layer on all ranks ([`GroupConfig::sized_for`](crate::GroupConfig::sized_for)).
    pub fn operations(&self, world: usize) -> Vec<OpSpec> {
        let mut all = self.qkv(world).operations(Split::Column, world);
        all.extend(self.output().operations(Split::Row, world));
        let sum = self.options.sum_of(self.in_parts(world));
        all.extend(sum.filter(|_| self.options.training));
        all
    }

    pub(super) fn check(&self) -> Result<()> {
        at_least_one(&[("hidden", self.hidden)])?;
        if !(1..=MOST_HEAD_SIZE).contains(&self.head_size) {
            return Err(Error::bad_argument(
                "head_size",
                self.head_size,
                format!("1 to {MOST_HEAD_SIZE}"),
            ));
        }
        match self.scale.is_finite() {
            true => Ok(()),
            false => Err(Error::bad_argument("scale", self.scale, "a finite number")),
        }
    }
}
