//! Causal softmax attention.

use super::check::{Operands, below_2_31, number};
use super::launch::{Entry, enqueue};
use crate::abi::{self, TwLocal};
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::memory::{Mat, MatMut};

const ATTENTION: Entry = Entry {
    name: "attention",
    shared: abi::TW_ATTENTION_SHARED,
    ctas_per_sm: 1,
};
/// Rows of a tile, and columns of what a CTA sums.
const TILE: [usize; 2] = [32, 128];
/// The most columns of a head.
pub const MOST_HEAD_SIZE: usize = 256;

/// `o = softmax(scale q k^T) v` of every head and sequence, where a row sees itself and the rows before it in its sequence
/// (`torch.nn.functional.scaled_dot_product_attention` with `is_causal` and `enable_gqa`). Sequences follow each other in the rows
/// and have `seq` rows each; heads follow each other in the columns. Query head h has key and value head `h / (heads / kv_heads)`.
/// No matrix of `seq` times `seq` is ever in memory.
#[derive(Debug)]
pub struct Attention<'a> {
    /// Heads of q and o.
    pub heads: usize,
    /// Heads of k and v; divides `heads`.
    pub kv_heads: usize,
    /// Columns of a head, 1 to [`MOST_HEAD_SIZE`].
    pub head_size: usize,
    /// Rows of a sequence; divides the rows of q.
    pub seq: usize,
    /// By which scores are multiplied, mostly `1 / sqrt(head_size)`.
    pub scale: f32,
    /// `[m, heads * head_size]`.
    pub q: Mat<'a>,
    /// `[m, kv_heads * head_size]`.
    pub k: Mat<'a>,
    /// `[m, kv_heads * head_size]`.
    pub v: Mat<'a>,
    /// `[m, heads * head_size]`.
    pub o: MatMut<'a>,
    /// f32 `[m, heads]`, for the backward pass: the logarithm of the sum of the exponentials of a row's scores.
    pub lse: Option<MatMut<'a>>,
}

impl Attention<'_> {
    /// Enqueues it on the rank's stream.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for heads that do not divide, head sizes that are none or too large, rows that are no whole
    /// sequences; for operands of other shapes or types, that overlap, or lie elsewhere.
    pub fn launch(&self, rank: &Rank) -> Result<()> {
        let heads = Heads {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_size: self.head_size,
            seq: self.seq,
        };
        let m = self.q.rows();
        let what = format_args!("attention of {heads} over {m} rows");
        let mut all = Operands::new(rank, &what, "q's", &self.q.raw)?;
        let (mut local, q, kv) = heads.local(m, self.scale)?;
        let mats = [
            (abi::TW_ATTENTION_Q, all.read("q", &self.q, q)?),
            (abi::TW_ATTENTION_K, all.read("k", &self.k, kv)?),
            (abi::TW_ATTENTION_V, all.read("v", &self.v, kv)?),
            (abi::TW_ATTENTION_O, all.write("o", &self.o, q, &[])?),
            (
                abi::TW_ATTENTION_LSE,
                all.maybe_write_f32("lse", &self.lse, [m, self.heads])?,
            ),
        ];
        mats.into_iter().for_each(|(at, mat)| local.mat[at as usize] = mat);
        local.what = abi::TW_ATTENTION_FORWARD;
        local.vectors = all.in_vectors(self.head_size);
        enqueue(rank, ATTENTION, self.q.dtype(), heads.items(m, self.heads), local)
    }
}

/// The gradients of an [`Attention`], from its operands, its `o` and `lse`, and the gradient `do_` of its `o`. The scores are computed
/// anew.
#[derive(Debug)]
pub struct AttentionBackward<'a> {
    /// As forward had it.
    pub heads: usize,
    /// As forward had it.
    pub kv_heads: usize,
    /// As forward had it.
    pub head_size: usize,
    /// As forward had it.
    pub seq: usize,
    /// As forward had it.
    pub scale: f32,
    /// `[m, heads * head_size]`.
    pub q: Mat<'a>,
    /// `[m, kv_heads * head_size]`.
    pub k: Mat<'a>,
    /// `[m, kv_heads * head_size]`.
    pub v: Mat<'a>,
    /// `[m, heads * head_size]`, what forward left.
    pub o: Mat<'a>,
    /// f32 `[m, heads]`, what forward left.
    pub lse: Mat<'a>,
    /// `[m, heads * head_size]`, the gradient of o.
    pub do_: Mat<'a>,
    /// f32 `[m, heads]`: what the first of the two kernels leaves for the second.
    pub delta: MatMut<'a>,
    /// As q.
    pub dq: MatMut<'a>,
    /// As k.
    pub dk: MatMut<'a>,
    /// As v.
    pub dv: MatMut<'a>,
}

impl AttentionBackward<'_> {
    /// Enqueues two kernels on the rank's stream.
    ///
    /// # Errors
    /// As [`Attention::launch`].
    pub fn launch(&self, rank: &Rank) -> Result<()> {
        let heads = Heads {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_size: self.head_size,
            seq: self.seq,
        };
        let m = self.q.rows();
        let what = format_args!("attention's gradients of {heads} over {m} rows");
        let mut all = Operands::new(rank, &what, "q's", &self.q.raw)?;
        let (mut local, q, kv) = heads.local(m, self.scale)?;
        let stats = [m, self.heads];
        let mats = [
            (abi::TW_ATTENTION_Q, all.read("q", &self.q, q)?),
            (abi::TW_ATTENTION_K, all.read("k", &self.k, kv)?),
            (abi::TW_ATTENTION_V, all.read("v", &self.v, kv)?),
            (abi::TW_ATTENTION_O, all.read("o", &self.o, q)?),
            (abi::TW_ATTENTION_LSE, all.read_f32("lse", &self.lse, stats)?),
            (abi::TW_ATTENTION_DO, all.read("do_", &self.do_, q)?),
            (abi::TW_ATTENTION_DELTA, all.write_f32("delta", &self.delta, stats)?),
            (abi::TW_ATTENTION_DQ_OUT, all.write("dq", &self.dq, q, &[])?),
            (abi::TW_ATTENTION_DK_OUT, all.write("dk", &self.dk, kv, &[])?),
            (abi::TW_ATTENTION_DV_OUT, all.write("dv", &self.dv, kv, &[])?),
        ];
        mats.into_iter().for_each(|(at, mat)| local.mat[at as usize] = mat);
        local.vectors = all.in_vectors(self.head_size);
        local.what = abi::TW_ATTENTION_DQ;
        enqueue(rank, ATTENTION, self.q.dtype(), heads.items(m, self.heads), local)?;
        local.what = abi::TW_ATTENTION_DKV;
        enqueue(rank, ATTENTION, self.q.dtype(), heads.items(m, self.kv_heads), local)
    }
}

/// What heads there are, and how long sequences are.
struct Heads {
    heads: usize,
    kv_heads: usize,
    head_size: usize,
    seq: usize,
}

impl std::fmt::Display for Heads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} heads of {} ({} of keys and values)",
            self.heads, self.head_size, self.kv_heads
        )
    }
}

impl Heads {
    /// What a kernel is told, and the shapes of q and of k.
    fn local(&self, m: usize, scale: f32) -> Result<(TwLocal, [usize; 2], [usize; 2])> {
        let bad = |name: &str, value: usize, expected: String| Err(Error::bad_argument(name, value, expected));
        if self.heads == 0 || self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            let expected = format!("at least 1, and one that divides the {} heads of queries", self.heads);
            return bad("kv_heads", self.kv_heads, expected);
        }
        if !(1..=MOST_HEAD_SIZE).contains(&self.head_size) {
            return bad("head_size", self.head_size, format!("1 to {MOST_HEAD_SIZE}"));
        }
        if self.seq == 0 || !m.is_multiple_of(self.seq) {
            let expected = format!("at least 1, and one that divides the {m} rows of q into whole sequences");
            return bad("seq", self.seq, expected);
        }
        let value = number("scale", scale, scale.is_finite(), "a finite number")?;
        let columns = |heads: usize| heads.saturating_mul(self.head_size);
        below_2_31("columns of q", columns(self.heads))?;
        let local = TwLocal {
            rows: m as u32,
            heads: self.heads as u32,
            kv_heads: self.kv_heads as u32,
            head_size: self.head_size as u32,
            // Of no rows, sequences may have any.
            seq: self.seq.min(m.max(1)) as u32,
            value,
            ..TwLocal::default()
        };
        Ok((local, [m, columns(self.heads)], [m, columns(self.kv_heads)]))
    }

    /// Tiles, of all sequences and so many heads.
    fn items(&self, m: usize, heads: usize) -> usize {
        let [rows, columns] = TILE;
        let tiles = self.seq.div_ceil(rows) * self.head_size.div_ceil(columns);
        (m / self.seq).saturating_mul(tiles).saturating_mul(heads)
    }
}
