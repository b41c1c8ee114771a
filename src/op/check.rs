//! What a launch must be given: checked before anything is enqueued. Messages name the argument, its value, and what
//! would be right.

use std::fmt::Display;

use super::operands::{Operands, Out, Residual};
use super::{Axis, Epilogue, Gemm, Layout, Op, OpSpec, chunk};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::memory::{MatMut, RawMat};

/// Who launches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launcher {
    pub rank: usize,
    pub world: usize,
    /// The group's number and the rank, as buffers carry them.
    pub identity: (u64, usize),
}

pub(crate) struct Check<'a> {
    pub what: &'a dyn Display,
    /// And whose type that is.
    pub dtype: (DType, &'static str),
    pub by: Launcher,
}

impl Check<'_> {
    /// One matrix: its shape, type, leading dimension, address and owner.
    pub fn mat(&self, name: &str, mat: &RawMat, rows: usize, cols: usize) -> Result<()> {
        let bad = |value: String, expected: String| Err(Error::bad_argument(name, value, expected));
        if (mat.rows, mat.cols) != (rows, cols) {
            return bad(
                format!("[{}, {}]", mat.rows, mat.cols),
                format!(
                    "[{rows}, {cols}] for {} on rank {} of {}",
                    self.what, self.by.rank, self.by.world
                ),
            );
        }
        if mat.dtype != self.dtype.0 {
            return bad(
                mat.dtype.to_string(),
                format!("{}, {} type", self.dtype.0, self.dtype.1),
            );
        }
        if rows > 1 && mat.ld < cols {
            return bad(
                format!("a matrix of leading dimension {}", mat.ld),
                format!("at least its {cols} columns"),
            );
        }
        let Some(span) = mat.span() else {
            let what = format!("a matrix of leading dimension {}", mat.ld);
            return bad(what, "one whose bytes can be counted in 64 bits".to_string());
        };
        if span == 0 {
            return Ok(());
        }
        let at = || format!("a matrix at {:#x}", mat.ptr);
        if mat.ptr == 0 || mat.ptr.checked_add(span as u64).is_none() {
            return bad(at(), format!("device memory of {span} bytes"));
        }
        if !mat.ptr.is_multiple_of(mat.dtype.size() as u64) {
            return bad(
                at(),
                format!(
                    "an address that is a multiple of {}, its element's size",
                    mat.dtype.size()
                ),
            );
        }
        match mat.owner {
            Some(owner) if owner != self.by.identity => bad(
                format!(
                    "a buffer of rank {}{}",
                    owner.1,
                    if owner.0 == self.by.identity.0 {
                        ""
                    } else {
                        " of another group"
                    }
                ),
                format!("one of rank {}, which launches", self.by.rank),
            ),
            _ => Ok(()),
        }
    }
}

/// A plan at one M, for a person.
struct At<'a> {
    spec: &'a OpSpec,
    m: usize,
}

impl Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at M = {}", self.spec, self.m)
    }
}

/// An operand that is there if, and only if, it should be.
fn presence(name: &str, given: bool, wanted: bool, why: impl FnOnce() -> String) -> Result<()> {
    match (given, wanted) {
        (false, true) => Err(Error::bad_argument(name, "missing", format!("a matrix: {}", why()))),
        (true, false) => Err(Error::bad_argument(name, "given", format!("none: {}", why()))),
        _ => Ok(()),
    }
}

/// Checks the operands of `spec` on one rank.
pub(crate) fn check(spec: &OpSpec, by: Launcher, a: &Operands<'_>) -> Result<()> {
    let check = Check {
        what: &At { spec, m: a.m },
        dtype: (spec.dtype, "the plan's"),
        by,
    };
    if a.m > spec.max_m {
        return Err(Error::bad_argument(
            "m",
            a.m,
            format!("at most the plan's max_m, {}", spec.max_m),
        ));
    }
    let (m, n, k) = (a.m, spec.n, spec.k);
    let own = chunk(m, by.world, by.rank).len();
    let gemm = spec.op.has_gemm();
    let x = match spec.op {
        Op::GemmReduceScatter | Op::GemmAllReduce => (m, k),
        Op::AllGatherGemm => (own, k),
        Op::ReduceScatter | Op::AllReduce => (m, n),
        Op::AllGather if spec.axis == Axis::Columns => (m, chunk(n, by.world, by.rank).len()),
        Op::AllGather => (own, n),
    };
    let out = match spec.op {
        Op::GemmReduceScatter | Op::ReduceScatter => (own, n),
        _ => (m, spec.epilogue.columns(n)),
    };
    presence("weight", a.weight.is_some(), gemm, || {
        format!("{} has {} GEMM", spec.op, if gemm { "a" } else { "no" })
    })?;
    presence("bias", a.bias.is_some(), spec.bias, || {
        format!("the plan was made with bias = {}", spec.bias)
    })?;
    if !(gemm && spec.op.reduces()) {
        presence("addend", a.addend.is_some(), false, || {
            format!("only GEMMs whose results are summed take one, {} does not", spec.op)
        })?;
    }
    presence("residual", a.residual.is_some(), spec.tail.is_some(), || {
        let with = if spec.tail.is_some() { "" } else { "out" };
        format!("the plan was made with{with} a tail")
    })?;
    presence("gamma", a.gamma.is_some(), spec.tail.normalises(), || {
        format!(
            "the plan's tail {}",
            if spec.tail.normalises() {
                "normalises"
            } else {
                "does not normalise"
            }
        )
    })?;
    check.mat("x", &a.x.raw, x.0, x.1)?;
    let mut inputs = [Some(("x", a.x.raw)), None, None, None, None, None];
    let optional = [
        ("weight", &a.weight, spec.layout.weight(n, k)),
        ("bias", &a.bias, (1, n)),
        ("addend", &a.addend, (m, n)),
        ("gamma", &a.gamma, (1, n)),
    ];
    for (slot, (name, mat, (rows, cols))) in inputs[1..].iter_mut().zip(optional) {
        if let Some(mat) = mat {
            check.mat(name, &mat.raw, rows, cols)?;
            *slot = Some((name, mat.raw));
        }
    }
    check.mat("out", a.out.raw(), out.0, out.1)?;
    check_saved(&check, spec.epilogue, a.saved.as_ref(), (m, n), || {
        inputs.iter().flatten().copied().chain([("out", *a.out.raw())])
    })?;
    if let Some(residual) = &a.residual {
        check.mat("residual", residual.raw(), out.0, out.1)?;
    }
    match &a.residual {
        Some(Residual::Read(_)) if spec.tail.normalises() => {
            let expected = "one to update (Operands::tail): RMSNorm's tail replaces it";
            return Err(Error::bad_argument("residual", "only to be read", expected));
        }
        Some(Residual::Update(_)) if !spec.tail.normalises() => {
            let expected = "one to read (Operands::residual): the plan's tail leaves it as it is";
            return Err(Error::bad_argument("residual", "to be updated", expected));
        }
        Some(Residual::Read(residual)) => inputs[5] = Some(("residual", residual.raw)),
        Some(Residual::Update(residual)) => {
            let out = ("out", *a.out.raw());
            let others = inputs.iter().flatten().chain([&out]);
            apart(("residual", &residual.raw), others, "memory of its own")?;
        }
        None => {}
    }
    overlap(spec, a, &inputs)
}

/// Where a product goes as it is before its epilogue: there is one, and it shares no byte with anything else.
fn check_saved<I: Iterator<Item = (&'static str, RawMat)>>(
    check: &Check<'_>,
    epilogue: Epilogue,
    saved: Option<&MatMut<'_>>,
    (rows, cols): (usize, usize),
    others: impl FnOnce() -> I,
) -> Result<()> {
    let Some(saved) = saved else { return Ok(()) };
    if !epilogue.is_some() {
        let expected = "none: without an epilogue, out is the product itself";
        return Err(Error::bad_argument("saved", "given", expected));
    }
    check.mat("saved", &saved.raw, rows, cols)?;
    let others: Vec<_> = others().collect();
    apart(("saved", &saved.raw), &others, "memory of its own")
}

/// Checks the operands of `spec`'s GEMM alone: x `[m, k]`, weight `[n, k]` (or as its layout says), out `[m, n]`.
pub(crate) fn check_gemm(spec: &OpSpec, by: Launcher, m: usize, [x, weight, out]: [&RawMat; 3]) -> Result<()> {
    if !spec.op.has_gemm() {
        return Err(Error::bad_argument("the operation", spec.op, "one with a GEMM"));
    }
    if m > spec.max_m {
        let expected = format!("at most the plan's max_m, {}", spec.max_m);
        return Err(Error::bad_argument("m", m, expected));
    }
    let check = Check {
        what: &At { spec, m },
        dtype: (spec.dtype, "the plan's"),
        by,
    };
    check.mat("x", x, m, spec.k)?;
    let shape = spec.layout.weight(spec.n, spec.k);
    check.mat("weight", weight, shape.0, shape.1)?;
    check.mat("out", out, m, spec.n)?;
    apart(("out", out), &[("x", *x), ("weight", *weight)], "memory of its own")
}

/// Checks the operands of a GEMM of a rank's own; its M, N and K.
pub(crate) fn check_own(g: &Gemm<'_>, by: Launcher) -> Result<[usize; 3]> {
    let turned = g.layout == Layout::Tn;
    let (x, out) = (&g.x.raw, &g.out.raw);
    let [m, k] = if turned { [x.cols, x.rows] } else { [x.rows, x.cols] };
    let weight = &g.weight.raw;
    let n = match g.epilogue {
        Epilogue::SwiGlu if g.layout == Layout::Nt => weight.rows,
        Epilogue::SwiGlu => weight.cols,
        _ => out.cols,
    };
    g.epilogue.check(n)?;
    if g.accumulate && g.epilogue == Epilogue::SwiGlu {
        let expected = "false: SwiGLU's out has half the columns of what would be added to it";
        return Err(Error::bad_argument("accumulate", true, expected));
    }
    for (name, value) in [("m", m), ("n", n), ("k", k)] {
        if value >= 1 << 31 {
            return Err(Error::bad_argument(name, value, "less than 2^31"));
        }
    }
    let check = Check {
        what: &format_args!("a GEMM {} of x [{}, {}]", g.layout, x.rows, x.cols),
        dtype: (x.dtype, "x's"),
        by,
    };
    check.mat("x", x, x.rows, x.cols)?;
    check.mat("out", out, m, g.epilogue.columns(n))?;
    let shape = g.layout.weight(n, k);
    check.mat("weight", weight, shape.0, shape.1)?;
    let mut inputs = vec![("x", *x), ("weight", *weight)];
    if let Some(bias) = &g.bias {
        check.mat("bias", &bias.raw, 1, n)?;
        inputs.push(("bias", bias.raw));
    }
    apart(("out", out), &inputs, "memory of its own")?;
    check_saved(&check, g.epilogue, g.saved.as_ref(), (m, n), || {
        inputs.iter().copied().chain([("out", *out)])
    })?;
    Ok([m, n, k])
}

/// What is written shares no byte with any of the others.
pub(crate) fn apart<'a>(
    (name, mat): (&str, &RawMat),
    others: impl IntoIterator<Item = &'a (&'static str, RawMat)>,
    expected: &str,
) -> Result<()> {
    match others.into_iter().find(|(_, other)| mat.overlaps(other)) {
        Some((of, other)) => {
            let value = format!("a matrix at {:#x} that overlaps {of} at {:#x}", mat.ptr, other.ptr);
            Err(Error::bad_argument(name, value, expected))
        }
        None => Ok(()),
    }
}

fn overlap(spec: &OpSpec, a: &Operands<'_>, inputs: &[Option<(&'static str, RawMat)>]) -> Result<()> {
    if let Out::InPlace(out) = &a.out {
        if spec.op != Op::AllReduce {
            let expected = format!("a matrix of its own: {} does not work in place", spec.op);
            return Err(Error::bad_argument("out", "in place", expected));
        }
        if !out.raw.same(&a.x.raw) {
            return Err(Error::bad_argument(
                "out",
                "in place, but not x",
                "the very elements of x",
            ));
        }
        // What is written over x is read by nobody else.
        let others = inputs.iter().flatten().filter(|(name, _)| *name != "x");
        return apart(("out", &out.raw), others, "memory of its own");
    }
    let expected = match spec.op {
        Op::AllReduce => "memory of its own, or Out::InPlace",
        _ => "memory of its own",
    };
    apart(("out", a.out.raw()), inputs.iter().flatten(), expected)
}
