//! What a pass of a layer is made of, and what its operands have to look like.

use super::*;
use crate::error::Error;
use crate::layer::options::NamedMat;

/// A norm of the stream.
pub(super) fn norm<'a>(m: usize, x: Mat<'a>, parameters: NormParameters<'a>, y: MatMut<'a>) -> NormForward<'a> {
    NormForward { m, x, parameters, y }
}

/// Attention, added to the stream.
pub(super) fn attend<'a>(
    m: usize,
    seq: usize,
    x: Mat<'a>,
    stream: Mat<'a>,
    parameters: &TransformerParameters<'a>,
    y: MatMut<'a>,
) -> AttentionForward<'a> {
    AttentionForward {
        m,
        seq,
        x,
        parameters: parameters.attention,
        residual: Some(stream),
        y,
    }
}

/// The MLP, added to the stream.
pub(super) fn feed<'a>(
    m: usize,
    x: Mat<'a>,
    stream: Mat<'a>,
    parameters: &TransformerParameters<'a>,
    y: MatMut<'a>,
) -> MlpForward<'a> {
    MlpForward {
        m,
        x,
        parameters: parameters.mlp,
        residual: Some(stream),
        y,
    }
}

impl TransformerSpec {
    pub(super) fn check(&self) -> Result<()> {
        let TransformerSpec { attention, mlp, norm } = self;
        for (name, hidden) in [("mlp.hidden", mlp.hidden), ("norm.hidden", norm.hidden)] {
            if hidden != attention.hidden {
                return Err(Error::bad_argument(
                    name,
                    hidden,
                    format!("attention's, {}", attention.hidden),
                ));
            }
        }
        for (name, options) in [("mlp.options", &mlp.options), ("norm.options", &norm.options)] {
            if options != self.options() {
                let expected = format!("attention's, {:?}", self.options());
                return Err(Error::bad_argument(name, format!("{options:?}"), expected));
            }
        }
        for (name, residual) in [
            ("attention.residual", attention.residual),
            ("mlp.residual", mlp.residual),
        ] {
            if !residual {
                return Err(Error::bad_argument(name, residual, "true: the layer adds what came in"));
            }
        }
        Ok(())
    }
}

impl TransformerLayer {
    pub(super) fn options(&self) -> &Options {
        self.spec.options()
    }

    pub(super) fn keep<'a>(&self, rows: Rows, carver: &mut Carver<'a>) -> Result<Kept<'a>> {
        let (hidden, dtype) = (self.spec.norm.hidden, self.options().dtype);
        Ok(Kept {
            input_stats: self.input_norm.keep(rows, carver)?,
            input: carver.take(rows.own, hidden, dtype)?,
            attention: self.attention.keep(rows, true, carver)?,
            middle: carver.take(rows.own, hidden, dtype)?,
            post_stats: self.post_norm.keep(rows, carver)?,
            post: carver.take(rows.own, hidden, dtype)?,
            mlp: self.mlp.keep(rows, true, carver)?,
        })
    }

    /// Two matrices like x.
    pub(super) fn stream<'a>(&self, rows: Rows, carver: &mut Carver<'a>) -> Result<[MatMut<'a>; 2]> {
        let (hidden, dtype) = (self.spec.norm.hidden, self.options().dtype);
        Ok([
            carver.take(rows.own, hidden, dtype)?,
            carver.take(rows.own, hidden, dtype)?,
        ])
    }

    /// A backward pass of operands that are right.
    pub(super) fn run_back(
        &self,
        pass: TransformerBackward<'_>,
        seq: usize,
        kept: Kept<'_>,
        carver: &mut Carver<'_>,
    ) -> Result<()> {
        let (m, accumulate, parameters) = (pass.m, pass.accumulate, pass.parameters);
        let rows = self.options().rows(m, &self.rank);
        let gradients = pass.gradients;
        // What comes out of a block, and the stream's gradient between the blocks.
        let [mut dblock, mut dmiddle] = self.stream(rows, carver)?;
        let mlp = MlpBackward {
            m,
            x: kept.post.as_mat(),
            parameters: parameters.mlp,
            dy: pass.dy,
            dx: Some(dblock.reborrow()),
            gradients: gradients.mlp,
            accumulate,
        };
        carver.scope(|carver| self.mlp.run_back(mlp, kept.mlp, carver))?;
        let norm = NormBackward {
            m,
            x: kept.middle.as_mat(),
            parameters: parameters.post_attention_norm,
            dy: dblock.as_mat(),
            add: Some(pass.dy),
            dx: Some(dmiddle.reborrow()),
            gradients: gradients.post_attention_norm,
            accumulate,
        };
        self.post_norm.run_back(norm, kept.post_stats.as_mat())?;
        let attention = AttentionBackward {
            m,
            x: kept.input.as_mat(),
            parameters: parameters.attention,
            dy: dmiddle.as_mat(),
            dx: Some(dblock.reborrow()),
            gradients: gradients.attention,
            accumulate,
        };
        carver.scope(|carver| self.attention.run_back(attention, seq, kept.attention, carver))?;
        let norm = NormBackward {
            m,
            x: pass.x,
            parameters: parameters.input_norm,
            dy: dblock.as_mat(),
            add: Some(dmiddle.as_mat()),
            dx: pass.dx,
            gradients: gradients.input_norm,
            accumulate,
        };
        self.input_norm.run_back(norm, kept.input_stats.as_mat())
    }

    fn check_parameters(&self, given: &TransformerParameters<'_>, m: usize) -> Result<()> {
        self.input_norm.check_parameters("input_norm.", &given.input_norm, m)?;
        self.attention.check_parameters(&given.attention, m)?;
        let post = &given.post_attention_norm;
        self.post_norm.check_parameters("post_attention_norm.", post, m)?;
        self.mlp.check_parameters(&given.mlp, m)
    }

    pub(super) fn check_gradients(&self, given: &TransformerGradients<'_>, m: usize) -> Result<()> {
        self.input_norm.check_gradients("input_norm.", &given.input_norm, m)?;
        self.attention.check_gradients(&given.attention, m)?;
        let post = &given.post_attention_norm;
        self.post_norm.check_gradients("post_attention_norm.", post, m)?;
        self.mlp.check_gradients(&given.mlp, m)
    }

    fn check_stream(&self, m: usize, mats: &[NamedMat<'_>]) -> Result<()> {
        self.options().check_stream(m, self.spec.norm.hidden, mats, &self.rank)
    }

    pub(super) fn check(&self, pass: &TransformerForward<'_>) -> Result<()> {
        let mats = [("x", Some(&pass.x.raw)), ("y", Some(&pass.y.raw))];
        self.check_stream(pass.m, &mats)?;
        check_sequences(pass.m, pass.seq)?;
        self.check_parameters(&pass.parameters, pass.m)
    }

    pub(super) fn check_back(&self, pass: &TransformerBackward<'_>) -> Result<()> {
        let dx = pass.dx.as_ref().map(|dx| &dx.raw);
        let mats = [("x", Some(&pass.x.raw)), ("dy", Some(&pass.dy.raw)), ("dx", dx)];
        self.check_stream(pass.m, &mats)?;
        self.check_parameters(&pass.parameters, pass.m)?;
        self.check_gradients(&pass.gradients, pass.m)
    }
}
