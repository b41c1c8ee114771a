//! What the passes of a norm are made of, and what their operands have to look like.

use super::{NormBackward, NormForward, ParallelNorm};
use crate::dtype::DType;
use crate::error::Result;
use crate::layer::finish::Part;
use crate::layer::memory::Carver;
use crate::layer::operands::{check_mat, check_optional};
use crate::layer::options::Rows;
use crate::layer::parameters::{NormGradients, NormParameters};
use crate::local;
use crate::memory::{Mat, MatMut};

impl ParallelNorm {
    /// Where its gradients lie in a row, from `at` on.
    pub(in crate::layer) fn parts<'a>(&self, gradients: NormGradients<'a>, at: usize) -> Vec<Part<'a>> {
        if self.spec.in_parts() == 0 {
            return Vec::new();
        }
        let places = [(gradients.gamma, at), (gradients.beta, at + self.spec.hidden)];
        let part = |(gradient, at): (Option<MatMut<'a>>, usize)| {
            Some(Part {
                gradient: gradient?,
                at,
            })
        };
        places.into_iter().filter_map(part).collect()
    }

    /// What is saved.
    pub(in crate::layer) fn keep<'a>(&self, rows: Rows, carver: &mut Carver<'a>) -> Result<MatMut<'a>> {
        carver.take(rows.own, 2, DType::F32)
    }

    pub(in crate::layer) fn run(&self, pass: NormForward<'_>, stats: Option<MatMut<'_>>) -> Result<()> {
        let (spec, m) = (&self.spec, pass.m);
        let mats = [("x", Some(&pass.x.raw)), ("y", Some(&pass.y.raw))];
        spec.options.check_stream(m, spec.hidden, &mats, &self.rank)?;
        self.check_parameters("", &pass.parameters, m)?;
        let norm = local::Norm {
            kind: spec.kind,
            eps: spec.eps,
            x: pass.x,
            gamma: pass.parameters.gamma,
            beta: pass.parameters.beta,
            y: pass.y,
            stats,
        };
        norm.launch(&self.rank)
    }

    pub(in crate::layer) fn run_back(&self, pass: NormBackward<'_>, stats: Mat<'_>) -> Result<()> {
        let (spec, m) = (&self.spec, pass.m);
        let mats = [
            ("x", Some(&pass.x.raw)),
            ("dy", Some(&pass.dy.raw)),
            ("add", pass.add.as_ref().map(|add| &add.raw)),
            ("dx", pass.dx.as_ref().map(|dx| &dx.raw)),
        ];
        spec.options.check_stream(m, spec.hidden, &mats, &self.rank)?;
        self.check_parameters("", &pass.parameters, m)?;
        self.check_gradients("", &pass.gradients, m)?;
        let back = local::NormBackward {
            kind: spec.kind,
            x: pass.x,
            gamma: pass.parameters.gamma,
            stats,
            dy: pass.dy,
            add: pass.add,
            dx: pass.dx,
            dgamma: pass.gradients.gamma,
            dbeta: pass.gradients.beta,
            accumulate: pass.accumulate,
        };
        back.launch(&self.rank)
    }

    pub(in crate::layer) fn check_parameters(&self, of: &str, given: &NormParameters<'_>, m: usize) -> Result<()> {
        let wanted = [1, self.spec.hidden];
        let check = |name: &str, mat: &Mat<'_>| {
            check_mat(
                &format!("{of}{name}"),
                &mat.raw,
                wanted,
                self.spec.options.dtype,
                m,
                &self.rank,
            )
        };
        check("gamma", &given.gamma)?;
        check_optional(&format!("{of}beta"), given.beta.is_some(), self.spec.bias)?;
        given.beta.as_ref().map_or(Ok(()), |beta| check("beta", beta))
    }

    pub(in crate::layer) fn check_gradients(&self, of: &str, given: &NormGradients<'_>, m: usize) -> Result<()> {
        let wanted = [1, self.spec.hidden];
        if !self.spec.bias && given.beta.is_some() {
            return check_optional(&format!("the gradient of {of}beta"), true, false);
        }
        for (name, mat) in [("gamma", &given.gamma), ("beta", &given.beta)] {
            if let Some(mat) = mat {
                let name = format!("the gradient of {of}{name}");
                check_mat(&name, &mat.raw, wanted, self.spec.options.dtype, m, &self.rank)?;
            }
        }
        Ok(())
    }
}
