//! What the passes of an MLP are made of, and what their operands have to look like.

use super::{Kept, MlpBackward, MlpForward, MlpSpec, ParallelMlp};
use crate::error::Result;
use crate::layer::memory::Carver;
use crate::layer::operands::{Backward, Forward, check_optional};
use crate::layer::options::Rows;
use crate::layer::parameters::{LinearShape, MlpGradients, MlpParameters};
use crate::local::ActivateBackward;
use crate::memory::MatMut;

impl ParallelMlp {
    /// What lies between the layers, `saved` for a backward pass or not.
    pub(in crate::layer) fn keep<'a>(&self, rows: Rows, saved: bool, carver: &mut Carver<'a>) -> Result<Kept<'a>> {
        let (options, m) = (&self.spec.options, rows.all);
        let mut take = |needed: bool, cols: usize| needed.then(|| carver.take(m, cols, options.dtype)).transpose();
        Ok(Kept {
            x: take(saved && options.sequence_parallel, self.spec.hidden)?,
            product: take(saved, self.products * self.part)?,
            activation: carver.take(m, self.part, options.dtype)?,
        })
    }

    /// Gradients of the activation and of the product, and with sequence parallelism all rows of dY.
    pub(super) fn scratch<'a>(
        &self,
        rows: Rows,
        carver: &mut Carver<'a>,
    ) -> Result<(MatMut<'a>, MatMut<'a>, Option<MatMut<'a>>)> {
        let (options, m) = (&self.spec.options, rows.all);
        let activation = carver.take(m, self.part, options.dtype)?;
        let product = carver.take(m, self.products * self.part, options.dtype)?;
        let all = || carver.take(m, self.spec.hidden, options.dtype);
        Ok((activation, product, options.sequence_parallel.then(all).transpose()?))
    }

    /// A forward pass of operands that are right.
    pub(in crate::layer) fn run(&self, pass: MlpForward<'_>, mut kept: Kept<'_>) -> Result<()> {
        let MlpParameters { fc1, fc2 } = pass.parameters;
        self.fc1.product(Forward {
            bias: fc1.bias,
            gathered: kept.x,
            saved: kept.product,
            ..Forward::new(pass.m, pass.x, fc1.weight, kept.activation.reborrow())
        })?;
        self.fc2.forward(Forward {
            bias: fc2.bias,
            residual: pass.residual,
            ..Forward::new(pass.m, kept.activation.as_mat(), fc2.weight, pass.y)
        })
    }

    /// A backward pass of operands that are right.
    pub(in crate::layer) fn run_back(
        &self,
        pass: MlpBackward<'_>,
        kept: Kept<'_>,
        carver: &mut Carver<'_>,
    ) -> Result<()> {
        let (m, accumulate) = (pass.m, pass.accumulate);
        let rows = self.spec.options.rows(m, &self.rank);
        let (mut dactivation, mut dproduct, all) = self.scratch(rows, carver)?;
        let MlpGradients { fc1, fc2 } = pass.gradients;
        let second = Backward {
            x: Some(kept.activation.as_mat()),
            weight: Some(pass.parameters.fc2.weight),
            dx: Some(dactivation.reborrow()),
            dweight: fc2.weight,
            dbias: fc2.bias,
            accumulate,
            ..Backward::new(m, pass.dy)
        };
        self.fc2.backward_in(second, all)?;
        if let Some(product) = &kept.product {
            let activate = ActivateBackward {
                activation: self.spec.activation,
                x: product.as_mat(),
                dy: dactivation.as_mat(),
                dx: dproduct.reborrow(),
            };
            activate.launch(&self.rank)?;
        }
        self.fc1.backward(Backward {
            x: Some(kept.x.as_ref().map_or(pass.x, MatMut::as_mat)),
            weight: Some(pass.parameters.fc1.weight),
            dx: pass.dx,
            dweight: fc1.weight,
            dbias: fc1.bias,
            accumulate,
            ..Backward::new(m, dproduct.as_mat())
        })
    }

    fn shapes(&self) -> [LinearShape<'static>; 2] {
        let MlpSpec {
            hidden, bias, options, ..
        } = self.spec;
        let shape = |name, weight| LinearShape {
            name,
            weight,
            bias,
            dtype: options.dtype,
        };
        [
            shape("fc1", [self.products * self.part, hidden]),
            shape("fc2", [hidden, self.part]),
        ]
    }

    pub(in crate::layer) fn check_parameters(&self, given: &MlpParameters<'_>, m: usize) -> Result<()> {
        let [fc1, fc2] = self.shapes();
        fc1.check(&given.fc1, m, &self.rank)?;
        fc2.check(&given.fc2, m, &self.rank)
    }

    pub(in crate::layer) fn check_gradients(&self, given: &MlpGradients<'_>, m: usize) -> Result<()> {
        let [fc1, fc2] = self.shapes();
        fc1.check_gradients(&given.fc1, m, &self.rank)?;
        fc2.check_gradients(&given.fc2, m, &self.rank)
    }

    pub(super) fn check(&self, pass: &MlpForward<'_>) -> Result<()> {
        let residual = pass.residual.as_ref();
        let mats = [
            ("x", Some(&pass.x.raw)),
            ("residual", residual.map(|mat| &mat.raw)),
            ("y", Some(&pass.y.raw)),
        ];
        let MlpSpec { hidden, options, .. } = &self.spec;
        options.check_stream(pass.m, *hidden, &mats, &self.rank)?;
        check_optional("residual", residual.is_some(), self.spec.residual)?;
        self.check_parameters(&pass.parameters, pass.m)
    }

    pub(super) fn check_back(&self, pass: &MlpBackward<'_>) -> Result<()> {
        let dx = pass.dx.as_ref().map(|dx| &dx.raw);
        let mats = [("x", Some(&pass.x.raw)), ("dy", Some(&pass.dy.raw)), ("dx", dx)];
        let MlpSpec { hidden, options, .. } = &self.spec;
        options.check_stream(pass.m, *hidden, &mats, &self.rank)?;
        self.check_parameters(&pass.parameters, pass.m)?;
        self.check_gradients(&pass.gradients, pass.m)
    }
}
