//! What the passes of attention are made of, and what their operands have to look like.

use super::{AttentionBackward, AttentionForward, Kept, ParallelAttention, Scratch};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layer::finish::Part;
use crate::layer::heads::AttentionSpec;
use crate::layer::memory::Carver;
use crate::layer::operands::{Backward, Forward, check_optional};
use crate::layer::options::Rows;
use crate::layer::parameters::{AttentionGradients, AttentionParameters, LinearGradients, LinearShape};
use crate::local;
use crate::memory::{Mat, MatMut};

impl ParallelAttention {
    /// Where the gradients of its KV heads lie in a row, from `at` on.
    pub(in crate::layer) fn parts<'a>(&self, gradients: LinearGradients<'a>, at: usize) -> Result<Vec<Part<'a>>> {
        let mut parts = Vec::new();
        if self.spec.in_parts(self.rank.world()) == 0 {
            return Ok(parts);
        }
        let AttentionSpec {
            hidden,
            kv_heads,
            head_size,
            ..
        } = self.spec;
        let (q, each) = (self.heads.q.len() * head_size, 2 * head_size);
        if let Some(weight) = gradients.weight {
            parts.push(Part {
                gradient: weight.part(q..q + each, 0..hidden)?,
                at: at + self.heads.kv.start * each * hidden,
            });
        }
        if let Some(bias) = gradients.bias {
            parts.push(Part {
                gradient: bias.part(0..1, q..q + each)?,
                at: at + kv_heads * each * hidden + self.heads.kv.start * each,
            });
        }
        Ok(parts)
    }

    /// Columns of this rank's queries, and of its keys.
    fn columns(&self) -> [usize; 2] {
        [self.heads.q.len(), self.heads.kv.len()].map(|heads| heads * self.spec.head_size)
    }

    /// What lies between the linear layers, `saved` for a backward pass or not.
    pub(in crate::layer) fn keep<'a>(&self, rows: Rows, saved: bool, carver: &mut Carver<'a>) -> Result<Kept<'a>> {
        let (options, m, [q, kv]) = (&self.spec.options, rows.all, self.columns());
        let x = || carver.take(m, self.spec.hidden, options.dtype);
        let x = (saved && options.sequence_parallel).then(x).transpose()?;
        let qkv = carver.take(m, q + 2 * kv, options.dtype)?;
        let out = carver.take(m, q, options.dtype)?;
        let lse = || carver.take(m, self.heads.q.len(), DType::F32);
        let lse = saved.then(lse).transpose()?;
        Ok(Kept { x, qkv, out, lse })
    }

    pub(super) fn scratch<'a>(&self, rows: Rows, carver: &mut Carver<'a>) -> Result<Scratch<'a>> {
        let (options, m, [q, kv]) = (&self.spec.options, rows.all, self.columns());
        Ok(Scratch {
            dout: carver.take(m, q, options.dtype)?,
            dqkv: carver.take(m, q + 2 * kv, options.dtype)?,
            delta: carver.take(m, self.heads.q.len(), DType::F32)?,
            all: match options.sequence_parallel {
                true => Some(carver.take(m, self.spec.hidden, options.dtype)?),
                false => None,
            },
        })
    }

    /// Q, K and V of a matrix that holds them side by side.
    fn split<'a>(&self, qkv: Mat<'a>) -> Result<[Mat<'a>; 3]> {
        let [q, kv] = self.columns();
        let part = |columns| qkv.part(0..qkv.rows(), columns);
        Ok([part(0..q)?, part(q..q + kv)?, part(q + kv..q + 2 * kv)?])
    }

    /// A forward pass of operands that are right.
    pub(in crate::layer) fn run(&self, pass: AttentionForward<'_>, mut kept: Kept<'_>) -> Result<()> {
        let AttentionParameters { qkv, output } = pass.parameters;
        self.qkv.product(Forward {
            bias: qkv.bias,
            gathered: kept.x,
            ..Forward::new(pass.m, pass.x, qkv.weight, kept.qkv.reborrow())
        })?;
        let [q, k, v] = self.split(kept.qkv.as_mat())?;
        let attention = local::Attention {
            heads: self.heads.q.len(),
            kv_heads: self.heads.kv.len(),
            head_size: self.spec.head_size,
            seq: pass.seq,
            scale: self.spec.scale,
            q,
            k,
            v,
            o: kept.out.reborrow(),
            lse: kept.lse,
        };
        attention.launch(&self.rank)?;
        self.output.forward(Forward {
            bias: output.bias,
            residual: pass.residual,
            ..Forward::new(pass.m, kept.out.as_mat(), output.weight, pass.y)
        })
    }

    /// A backward pass of operands that are right.
    pub(in crate::layer) fn run_back(
        &self,
        pass: AttentionBackward<'_>,
        seq: usize,
        kept: Kept<'_>,
        carver: &mut Carver<'_>,
    ) -> Result<()> {
        let (m, accumulate) = (pass.m, pass.accumulate);
        let mut scratch = self.scratch(self.spec.options.rows(m, &self.rank), carver)?;
        let AttentionGradients { qkv, output } = pass.gradients;
        let projection = Backward {
            x: Some(kept.out.as_mat()),
            weight: Some(pass.parameters.output.weight),
            dx: Some(scratch.dout.reborrow()),
            dweight: output.weight,
            dbias: output.bias,
            accumulate,
            ..Backward::new(m, pass.dy)
        };
        self.output.backward_in(projection, scratch.all)?;
        if let Some(lse) = &kept.lse {
            let [q, k, v] = self.split(kept.qkv.as_mat())?;
            let [dq_columns, dk_columns] = self.columns();
            let (dq, dkv) = scratch.dqkv.reborrow().split_columns(dq_columns)?;
            let (dk, dv) = dkv.split_columns(dk_columns)?;
            let attention = local::AttentionBackward {
                heads: self.heads.q.len(),
                kv_heads: self.heads.kv.len(),
                head_size: self.spec.head_size,
                seq,
                scale: self.spec.scale,
                q,
                k,
                v,
                o: kept.out.as_mat(),
                lse: lse.as_mat(),
                do_: scratch.dout.as_mat(),
                delta: scratch.delta,
                dq,
                dk,
                dv,
            };
            attention.launch(&self.rank)?;
        }
        self.qkv.backward(Backward {
            x: Some(kept.x.as_ref().map_or(pass.x, MatMut::as_mat)),
            weight: Some(pass.parameters.qkv.weight),
            dx: pass.dx,
            dweight: qkv.weight,
            dbias: qkv.bias,
            accumulate,
            ..Backward::new(m, scratch.dqkv.as_mat())
        })
    }

    pub(super) fn shapes(&self) -> [LinearShape<'static>; 2] {
        let (
            [q, kv],
            AttentionSpec {
                hidden, bias, options, ..
            },
        ) = (self.columns(), self.spec);
        let shape = |name, weight| LinearShape {
            name,
            weight,
            bias,
            dtype: options.dtype,
        };
        [shape("qkv", [q + 2 * kv, hidden]), shape("output", [hidden, q])]
    }

    pub(in crate::layer) fn check_parameters(&self, given: &AttentionParameters<'_>, m: usize) -> Result<()> {
        let [qkv, output] = self.shapes();
        qkv.check(&given.qkv, m, &self.rank)?;
        output.check(&given.output, m, &self.rank)
    }

    pub(in crate::layer) fn check_gradients(&self, given: &AttentionGradients<'_>, m: usize) -> Result<()> {
        let [qkv, output] = self.shapes();
        qkv.check_gradients(&given.qkv, m, &self.rank)?;
        output.check_gradients(&given.output, m, &self.rank)
    }

    pub(super) fn check(&self, pass: &AttentionForward<'_>) -> Result<()> {
        let residual = pass.residual.as_ref();
        let mats = [
            ("x", Some(&pass.x.raw)),
            ("residual", residual.map(|mat| &mat.raw)),
            ("y", Some(&pass.y.raw)),
        ];
        let AttentionSpec { hidden, options, .. } = &self.spec;
        options.check_stream(pass.m, *hidden, &mats, &self.rank)?;
        check_sequences(pass.m, pass.seq)?;
        check_optional("residual", residual.is_some(), self.spec.residual)?;
        self.check_parameters(&pass.parameters, pass.m)
    }

    pub(super) fn check_back(&self, pass: &AttentionBackward<'_>) -> Result<()> {
        let dx = pass.dx.as_ref().map(|dx| &dx.raw);
        let mats = [("x", Some(&pass.x.raw)), ("dy", Some(&pass.dy.raw)), ("dx", dx)];
        let AttentionSpec { hidden, options, .. } = &self.spec;
        options.check_stream(pass.m, *hidden, &mats, &self.rank)?;
        self.check_parameters(&pass.parameters, pass.m)?;
        self.check_gradients(&pass.gradients, pass.m)
    }
}

/// Whole sequences.
pub(in crate::layer) fn check_sequences(m: usize, seq: usize) -> Result<()> {
    match seq > 0 && m.is_multiple_of(seq) {
        true => Ok(()),
        false => {
            let expected = format!("a sequence's length, at least 1, of which M = {m} is a multiple");
            Err(Error::bad_argument("seq", seq, expected))
        }
    }
}
