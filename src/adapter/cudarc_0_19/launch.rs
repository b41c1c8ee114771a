//! Launches on slices.

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::element::SliceElement;
use super::guards::{Order, Taker};
use super::operands::{SliceOperands, SliceResidual};
use super::{check, check_rank_stream};
use crate::error::{Error, Result};
use crate::memory::{Mat, MatMut};
use crate::op::{Operands, Out, Plan, Residual};

impl Plan {
    /// Enqueues the operation on the rank's stream, as [`Plan::launch`], on cudarc's slices. `stream` is the rank's.
    ///
    /// The slices may be dropped as soon as this returns, and the streams that they are of may use them: these wait for the
    /// launch. Any other stream is ordered by cudarc's events, of which a slice has one for all its readers: where two
    /// streams have read a slice, a third one that writes it waits for the later alone
    /// ([`adapter::cudarc_0_19`](crate::adapter::cudarc_0_19#order)).
    ///
    /// # Errors
    /// As [`Plan::launch`]; [`Error::BadArgument`] for a stream that is not the rank's, or captures; for a slice of
    /// another context, or of a stream that captures; and for one of another stream that cudarc does not follow.
    pub fn launch_slices<T: SliceElement>(
        &self,
        stream: &Arc<CudaStream>,
        operands: SliceOperands<'_, T>,
    ) -> Result<()> {
        if self.rank().node().driver().stream_is_capturing(self.rank().stream())? {
            let expected =
                "one that does not: a graph outlives the borrow of its slices (Plan::launch_slices_unchecked)";
            return Err(Error::bad_argument("stream", "one that captures", expected));
        }
        self.enqueue_slices(stream, operands, Order::Checked, false)
    }

    /// As [`Plan::launch_slices`], without its rules for slices of other streams, and for captures. Events are honoured
    /// where cudarc keeps them.
    ///
    /// # Safety
    /// Every slice stays allocated, and none that is written is used otherwise, until the stream has run the work; of
    /// what is captured, until its graph is launched no more.
    ///
    /// # Errors
    /// As [`Plan::launch_slices`]; in a capture, [`Error::BadArgument`] while cudarc's event tracking is on.
    pub unsafe fn launch_slices_unchecked<T: SliceElement>(
        &self,
        stream: &Arc<CudaStream>,
        operands: SliceOperands<'_, T>,
    ) -> Result<()> {
        let capturing = self.rank().node().driver().stream_is_capturing(self.rank().stream())?;
        if capturing && stream.context().is_managing_stream_synchronization() {
            let expected =
                "off in a capture, which cannot wait for events from outside (CudaContext::disable_event_tracking)";
            return Err(Error::bad_argument("cudarc's event tracking", "on", expected));
        }
        self.enqueue_slices(stream, operands, Order::Callers, capturing)
    }

    fn enqueue_slices<T: SliceElement>(
        &self,
        stream: &Arc<CudaStream>,
        operands: SliceOperands<'_, T>,
        order: Order,
        capturing: bool,
    ) -> Result<()> {
        check_rank_stream(self.rank(), stream)?;
        for (name, own) in operands.slices() {
            if own.context().cu_ctx() != stream.context().cu_ctx() {
                let value = format!("a slice of device {}'s context", own.context().ordinal());
                let expected = format!("one of the stream's, on device {}", stream.context().ordinal());
                return Err(Error::bad_argument(name, value, expected));
            }
        }
        let SliceOperands {
            m,
            x,
            weight,
            bias,
            addend,
            mut residual,
            gamma,
            mut saved,
            mut out,
        } = operands;
        let mut take = Taker::new(stream, order);
        let x = take.read("x", &x)?;
        let weight = take.read("weight", &weight)?;
        let bias = take.read("bias", &bias)?;
        let addend = take.read("addend", &addend)?;
        let gamma = take.read("gamma", &gamma)?;
        let (mut added, mut updated) = (None, None);
        match &mut residual {
            Some(SliceResidual::Read(mat)) => added = take.read("residual", &Some(*mat))?,
            Some(SliceResidual::Update(mat)) => updated = Some(take.write("residual", mat)?),
            None => {}
        }
        let saved = saved.as_mut().map(|mat| take.write("saved", mat)).transpose()?;
        let out = take.write("out", &mut out)?;
        // What a slice could not wait for, cudarc has noted.
        check(stream.context(), "device_ptr")?;
        // An event that was recorded in another stream's capture draws the rank's stream into that.
        if self.rank().node().driver().stream_is_capturing(self.rank().stream())? != capturing {
            let expected = "slices without work in it: the rank's stream was drawn into it, which its end will refuse";
            return Err(Error::bad_argument(
                "operands",
                "slices of another stream's capture",
                expected,
            ));
        }
        // The operands' borrows and the guards see to what `Mat::from_raw` asks for, or the caller does.
        let mat = |raw| Mat {
            raw,
            memory: PhantomData,
        };
        let mat_mut = |raw| MatMut {
            raw,
            memory: PhantomData,
        };
        let in_place = x.is_none();
        let launched = self.launch(&Operands {
            m,
            x: mat(x.unwrap_or(out)),
            weight: weight.map(mat),
            bias: bias.map(mat),
            addend: addend.map(mat),
            residual: match updated {
                Some(updated) => Some(Residual::Update(mat_mut(updated))),
                None => added.map(|added| Residual::Read(mat(added))),
            },
            gamma: gamma.map(mat),
            saved: saved.map(mat_mut),
            out: if in_place {
                Out::InPlace(mat_mut(out))
            } else {
                Out::To(mat_mut(out))
            },
        });
        // Also where only a part of it was enqueued. A stream that could not be made to wait leaves that to the host.
        let released = take.release();
        if released.is_err() {
            let _ = self.rank().synchronize();
        }
        launched.and(released)
    }
}
