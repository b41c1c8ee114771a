//! Operations by NCCL: this rank's GEMM, then NCCL's collective on the same stream; of a gather the other way round.
//!
//! NCCL takes matrices without gaps, of one type, and adds where it likes. So the GEMM writes its product without gaps,
//! into `out` itself where that has none and is as large, else into the rank's scratch; operands with gaps go through scratch
//! by a copy a row. Nothing is allocated. A bias is added by rank 0's GEMM, before its product is rounded: there is no
//! kernel of ours behind the sum. What else would need one, a tail or sums in a wider type, NCCL is not asked for.

use super::addresses::Addresses;
use super::config::{Config, Facts, gemm_kernel, splits_of};
use super::kernel::Kernel;
use super::launch::{Maker, Step};
use super::operands::Operands;
use super::{Axis, Op, OpSpec, Tail};
use crate::driver::DevicePtr;
use crate::error::{Error, Result};
use crate::memory::RawMat;
use crate::memory::layout::Layout;
use crate::nccl::{Call, calls};
use crate::route::Path;

/// What a matrix in scratch begins at a multiple of, in bytes.
const ALIGN: u64 = 256;

/// Part of a launch, in the order of the stream.
#[derive(Debug)]
pub(crate) enum Part {
    /// A kernel of this rank alone.
    Kernel(Box<Step>),
    /// Rows, one by one.
    Rows(Rows),
    /// Calls of NCCL, in one group.
    Nccl(Vec<Call>),
}

/// Rows of `bytes` bytes each, copied from one distance to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rows {
    pub from: (DevicePtr, u64),
    pub to: (DevicePtr, u64),
    pub rows: usize,
    pub bytes: usize,
}

/// What NCCL calls the collective of an operation.
pub(crate) const fn name(op: Op) -> &'static str {
    match op.collective() {
        Op::AllReduce => "ncclAllReduce",
        Op::ReduceScatter => "ncclReduceScatter",
        _ => "ncclAllGather",
    }
}

/// Bytes of scratch that every launch takes, behind the products of splits.
pub(super) fn scratch_of_nccl(spec: &OpSpec, m: u64, products: u64) -> u64 {
    let cols = match spec.op {
        Op::GemmReduceScatter => spec.n,
        Op::AllGatherGemm => spec.k,
        _ => 0,
    };
    let between = m.saturating_mul(cols as u64).saturating_mul(spec.dtype.size() as u64);
    products.next_multiple_of(ALIGN).saturating_add(between)
}

impl Facts {
    /// Whether this group's NCCL can do `spec`; else why not. Equal at all M and on all ranks.
    pub fn by_nccl(&self, spec: &OpSpec) -> Result<(), String> {
        self.communicators.clone()?;
        match spec.tail {
            Tail::None => {}
            Tail::Residual => return Err("NCCL has no residual behind its sum".into()),
            Tail::RmsNorm { .. } => return Err("NCCL has no residual and RMSNorm behind its all-reduce".into()),
        }
        if spec.axis == Axis::Columns {
            return Err("NCCL gathers matrices one behind the other, not side by side".into());
        }
        if spec.wire_dtype(self.world) != spec.dtype {
            let (wire, dtype) = (spec.wire_dtype(self.world), spec.dtype);
            return Err(format!("NCCL sums in the operands' own type, {dtype}, not in {wire}"));
        }
        match spec.exchange {
            Some(exchange) => Err(format!("NCCL exchanges as it likes, and {exchange} was asked for")),
            None => Ok(()),
        }
    }

    /// The GEMM, and NCCL's collective; of a plain collective, that alone.
    pub fn nccl(&self, spec: &OpSpec, m: u64) -> Result<Config> {
        let path = Path::Nccl;
        self.by_nccl(spec)
            .map_err(|reason| Error::RouteUnavailable { path, reason })?;
        let mut config = Config::without_kernels(path);
        if spec.op.has_gemm() {
            let setting = self.setting();
            self.check_mainloop(spec, m, path, &setting)?;
            let (gemm, cluster) = gemm_kernel(spec, m, &setting);
            self.resident(gemm, cluster, path)?;
            config.gemm = Some(gemm);
            config.clusters.1 = cluster;
            config.splits = splits_of(spec, m, &setting);
        }
        let need = scratch_of_nccl(spec, m, config.product_bytes(spec, m));
        let fits = |layout: &Layout| need <= layout.scratch_bytes;
        match fits(&self.layout) {
            true => Ok(config),
            false => Err(self.too_small(spec, "what lies between the GEMM and NCCL", fits)),
        }
    }
}

/// The rest of a rank's scratch.
struct Room {
    at: u64,
    end: u64,
}

impl Room {
    /// `bytes` of it, for what `name` has.
    fn take(&mut self, name: &str, bytes: usize) -> Result<u64> {
        let at = self.at;
        let end = at.checked_add(bytes as u64).filter(|end| *end <= self.end);
        let Some(end) = end else {
            let have = self.end.saturating_sub(at);
            let expected = format!(
                "one without: NCCL takes no other, and the scratch of this heap has {have} bytes for the {bytes} that would lie there"
            );
            return Err(Error::bad_argument(
                name,
                "a matrix with gaps between its rows",
                expected,
            ));
        };
        self.at = end.next_multiple_of(ALIGN).min(self.end);
        Ok(at)
    }
}

/// A matrix with gaps, to or from one without at `whole`.
fn rows(mat: &RawMat, whole: u64, into_whole: bool) -> Part {
    let element = mat.dtype.size();
    let (gaps, packed) = (
        (mat.ptr, (mat.ld * element) as u64),
        (whole, (mat.cols * element) as u64),
    );
    let (from, to) = if into_whole { (gaps, packed) } else { (packed, gaps) };
    Part::Rows(Rows {
        from,
        to,
        rows: mat.rows,
        bytes: mat.cols * element,
    })
}

impl Maker<'_> {
    /// What `config`, which goes by NCCL, enqueues for operands that were checked.
    pub fn by_nccl(&self, config: &Config, a: &Operands<'_>) -> Result<Vec<Part>> {
        let (spec, world, rank) = (self.spec, self.facts.world, self.group.rank as usize);
        let (x, out) = (&a.x.raw, a.out.raw());
        let bytes = |rows: usize, cols: usize| rows * cols * spec.dtype.size();
        let mut room = Room {
            at: self.scratch() + config.product_bytes(spec, a.m as u64).next_multiple_of(ALIGN),
            end: self.scratch() + self.facts.layout.scratch_bytes,
        };
        let mut parts = Vec::new();
        let gathers = spec.op == Op::AllGatherGemm;
        let scatters = spec.op.collective() == Op::ReduceScatter;
        // What NCCL reads.
        let from = match config.gemm {
            Some(gemm) if !gathers => {
                let in_place = !scatters && out.is_contiguous();
                let product = if in_place {
                    out.ptr
                } else {
                    room.take("out", bytes(a.m, spec.n))?
                };
                parts.push(self.product(config, gemm, a, (product, spec.n as u64))?);
                product
            }
            _ if x.is_contiguous() => x.ptr,
            _ => {
                let whole = room.take("x", bytes(x.rows, x.cols))?;
                parts.push(rows(x, whole, true));
                whole
            }
        };
        // What it writes.
        let cols = if gathers { spec.k } else { spec.n };
        let to = if gathers {
            room.take("x", bytes(a.m, cols))?
        } else if out.is_contiguous() {
            out.ptr
        } else if spec.op.collective() == Op::AllReduce && from != x.ptr {
            from
        } else {
            room.take("out", bytes(out.rows, out.cols))?
        };
        let calls = calls(spec.op, a.m, cols, (world, rank), (from, to), spec.dtype);
        if !calls.is_empty() {
            parts.push(Part::Nccl(calls));
        }
        match config.gemm {
            Some(gemm) if gathers => parts.push(self.product_of(config, gemm, a, (to, cols as u64))?),
            _ if to != out.ptr => parts.push(rows(out, to, false)),
            _ => {}
        }
        Ok(parts)
    }

    /// This rank's product of its operands into a matrix without gaps.
    fn product(&self, config: &Config, gemm: Kernel, a: &Operands<'_>, out: (u64, u64)) -> Result<Part> {
        let mut given = Addresses::of(a);
        if self.group.rank != 0 {
            given.bias = 0;
        }
        given.out = out;
        self.step(config, gemm, a, given)
    }

    /// The product of what was gathered.
    fn product_of(&self, config: &Config, gemm: Kernel, a: &Operands<'_>, x: (u64, u64)) -> Result<Part> {
        let mut given = Addresses::of(a);
        given.x = x;
        self.step(config, gemm, a, given)
    }

    fn step(&self, config: &Config, gemm: Kernel, a: &Operands<'_>, given: Addresses) -> Result<Part> {
        let gemm = self.settle(gemm, given)?;
        let step = self.gemm(config, a.m as u64, self.spec.dtype, given, gemm)?;
        Ok(Part::Kernel(Box::new(step)))
    }
}
