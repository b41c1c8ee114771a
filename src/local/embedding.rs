//! Rows of a table by number, and what comes back.

use super::check::{NONE, Operands, below_2_31};
use super::launch::{Entry, enqueue, walk};
use crate::abi::{self, TwLocal, TwMat};
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::memory::{Buffer, Ids, Mat, MatMut};

const LOOKUP: Entry = Entry {
    name: "embedding",
    shared: abi::TW_LOSS_SHARED,
    ctas_per_sm: 2,
};
const BACKWARD: Entry = Entry {
    name: "embedding",
    shared: abi::TW_EMBEDDING_SHARED,
    ctas_per_sm: 2,
};
/// Rows of the table that a CTA has at a time.
const TABLE_ROWS: usize = 32;

/// The first id outside the vocabulary that launches have met since it was made or cleared: kernels cannot fail, and a
/// host that asked after every launch would wait for each.
#[derive(Debug)]
pub struct FirstBad {
    /// Its position + 1 or 0, and the id.
    words: Buffer,
}

impl FirstBad {
    /// None yet.
    ///
    /// # Errors
    /// The driver's, where there is no memory.
    pub fn new(rank: &Rank) -> Result<FirstBad> {
        let mut bad = FirstBad {
            words: rank.alloc(2 * size_of::<i64>())?,
        };
        bad.clear()?;
        Ok(bad)
    }

    /// Its position among the ids of its launch, and the id; `None`: all ids so far were of the vocabulary. Blocks until the
    /// work in the rank's stream is done.
    ///
    /// # Errors
    /// As [`Buffer::download`].
    pub fn get(&self) -> Result<Option<(usize, i64)>> {
        let mut words = [0i64; 2];
        self.words.download(&mut words)?;
        let [position, id] = words;
        Ok((position > 0).then(|| (position as usize - 1, id)))
    }

    /// Forgets it, behind the work in the rank's stream.
    ///
    /// # Errors
    /// The driver's.
    pub fn clear(&mut self) -> Result<()> {
        self.words.fill(0)
    }

    pub(super) fn of(bad: Option<&FirstBad>, rank: &Rank) -> Result<TwMat> {
        match bad {
            Some(bad) if bad.words.rank().identity() != rank.identity() => {
                let expected = format!("one of rank {}, which launches", rank.rank());
                Err(Error::bad_argument("bad", "that of another rank", expected))
            }
            Some(bad) => Ok(TwMat {
                at: bad.words.ptr(),
                ld: 0,
            }),
            None => Ok(NONE),
        }
    }
}

/// Where a part of a vocabulary begins, and how large all of it is.
pub(super) fn check_vocabulary(first: i64, part: usize, vocabulary: i64) -> Result<()> {
    let end = i64::try_from(part).ok().and_then(|part| first.checked_add(part));
    if first < 0 || end.is_none_or(|end| end > vocabulary) {
        let value = format!("{first}, of a part of {part}");
        let expected = format!("a part within the vocabulary of {vocabulary}");
        return Err(Error::bad_argument("first", value, expected));
    }
    Ok(())
}

/// `y[i] = table[ids[i] - first]`: rows of this part of the table; zeros for an id of another part, and for one outside the
/// vocabulary. The sum over parts is the whole table's row (`torch.nn.Embedding`; Megatron-LM's `VocabParallelEmbedding`).
#[derive(Debug)]
pub struct EmbeddingLookup<'a> {
    /// `m` of them.
    pub ids: Ids<'a>,
    /// The vocabulary's row that is the table's first.
    pub first: i64,
    /// Rows of the whole vocabulary.
    pub vocabulary: i64,
    /// `[v_r, d]`; v_r may be 0.
    pub table: Mat<'a>,
    /// `[m, d]`.
    pub y: MatMut<'a>,
    /// Learns of an id outside the vocabulary.
    pub bad: Option<&'a FirstBad>,
}

impl EmbeddingLookup<'_> {
    /// Enqueues it on the rank's stream.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a part outside the vocabulary; for operands of other shapes or types, that overlap, or lie
    /// elsewhere.
    pub fn launch(&self, rank: &Rank) -> Result<()> {
        let [m, d] = [self.y.rows(), self.table.cols()];
        let rows = self.table.rows();
        let what = format_args!("{m} rows of a table of [{rows}, {d}]");
        let mut all = Operands::new(rank, &what, "the table's", &self.table.raw)?;
        below_2_31("ids", m)?;
        check_vocabulary(self.first, rows, self.vocabulary)?;
        let (row_threads, items) = walk(m, d);
        let mut local = TwLocal {
            what: abi::TW_EMBEDDING_LOOKUP,
            first: self.first,
            vocabulary: self.vocabulary,
            rows: m as u32,
            cols: d as u32,
            row_threads,
            ids: rows as u32,
            ..TwLocal::default()
        };
        let mats = [
            (abi::TW_EMBEDDING_IDS, all.ids("ids", &self.ids.raw, m)?),
            (abi::TW_EMBEDDING_TABLE, all.read("table", &self.table, [rows, d])?),
            (abi::TW_EMBEDDING_Y, all.write("y", &self.y, [m, d], &[])?),
            (abi::TW_EMBEDDING_BAD, FirstBad::of(self.bad, rank)?),
        ];
        mats.into_iter().for_each(|(at, mat)| local.mat[at as usize] = mat);
        local.vectors = all.in_vectors(d);
        enqueue(rank, LOOKUP, self.table.dtype(), items, local)
    }
}

/// The gradient of an [`EmbeddingLookup`]'s table: `dtable[v]` = the sum of `dy[i]` over all i with `ids[i] - first = v`, in the order
/// of i, in f32, rounded once.
#[derive(Debug)]
pub struct EmbeddingBackward<'a> {
    /// `m` of them.
    pub ids: Ids<'a>,
    /// The vocabulary's row that is the table's first.
    pub first: i64,
    /// `[m, d]`.
    pub dy: Mat<'a>,
    /// `[v_r, d]`.
    pub dtable: MatMut<'a>,
    /// Whether sums are added to what is there, in f32, before the rounding. Rows that no id names keep their bits.
    pub accumulate: bool,
}

impl EmbeddingBackward<'_> {
    /// Enqueues it on the rank's stream.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes or types, that overlap, or lie elsewhere.
    pub fn launch(&self, rank: &Rank) -> Result<()> {
        let [m, d] = [self.dy.rows(), self.dy.cols()];
        let rows = self.dtable.rows();
        let what = format_args!("the gradient of a table of [{rows}, {d}] from {m} rows");
        let mut all = Operands::new(rank, &what, "dy's", &self.dy.raw)?;
        below_2_31("rows of dtable", rows)?;
        check_vocabulary(self.first, rows, i64::MAX)?;
        let mut local = TwLocal {
            what: abi::TW_EMBEDDING_BACKWARD,
            first: self.first,
            rows: rows as u32,
            cols: d as u32,
            ids: m as u32,
            accumulate: u32::from(self.accumulate),
            ..TwLocal::default()
        };
        let mats = [
            (abi::TW_EMBEDDING_IDS, all.ids("ids", &self.ids.raw, m)?),
            (abi::TW_EMBEDDING_Y, all.read("dy", &self.dy, [m, d])?),
            (
                abi::TW_EMBEDDING_TABLE,
                all.write("dtable", &self.dtable, [rows, d], &[])?,
            ),
        ];
        mats.into_iter().for_each(|(at, mat)| local.mat[at as usize] = mat);
        local.vectors = all.in_vectors(d);
        let items = if d == 0 { 0 } else { rows.div_ceil(TABLE_ROWS) };
        enqueue(rank, BACKWARD, self.dy.dtype(), items, local)
    }
}
