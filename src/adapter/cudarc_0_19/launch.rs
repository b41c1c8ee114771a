//! Launches on slices: their addresses are taken, and their guards held, until the work is enqueued.

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceSlice, SyncOnDrop};

use super::element::SliceElement;
use super::matrix::{Matrix, MatrixMut};
use super::{check, handle};
use crate::error::{Error, Result};
use crate::memory::{Mat, MatMut, RawMat};
use crate::op::{Operands, Out, Plan};

/// The data of one launch, as [`Operands`] are, of slices. All have one type.
#[derive(Debug)]
pub struct SliceOperands<'a, T> {
    m: usize,
    x: Option<Matrix<'a, T>>,
    weight: Option<Matrix<'a, T>>,
    bias: Option<Matrix<'a, T>>,
    addend: Option<Matrix<'a, T>>,
    residual: Option<MatrixMut<'a, T>>,
    gamma: Option<Matrix<'a, T>>,
    /// Also the input, where there is no `x`.
    out: MatrixMut<'a, T>,
}

impl<'a, T: SliceElement> SliceOperands<'a, T> {
    /// Of an operation with a GEMM: [`Operands::gemm`].
    pub fn gemm(m: usize, x: Matrix<'a, T>, weight: Matrix<'a, T>, out: MatrixMut<'a, T>) -> Self {
        SliceOperands {
            weight: Some(weight),
            ..SliceOperands::plain(m, x, out)
        }
    }

    /// Of a plain collective: [`Operands::plain`].
    pub fn plain(m: usize, x: Matrix<'a, T>, out: MatrixMut<'a, T>) -> Self {
        SliceOperands {
            x: Some(x),
            ..SliceOperands::in_place(m, out)
        }
    }

    /// Of a plain all-reduce over its own input: [`Operands::in_place`].
    pub fn in_place(m: usize, data: MatrixMut<'a, T>) -> Self {
        SliceOperands {
            m,
            x: None,
            weight: None,
            bias: None,
            addend: None,
            residual: None,
            gamma: None,
            out: data,
        }
    }

    /// With a bias, \[1, n\].
    pub fn bias(self, bias: Matrix<'a, T>) -> Self {
        SliceOperands {
            bias: Some(bias),
            ..self
        }
    }

    /// With this rank's own partial, \[m, n\].
    pub fn addend(self, addend: Matrix<'a, T>) -> Self {
        SliceOperands {
            addend: Some(addend),
            ..self
        }
    }

    /// With what a tail needs: \[m, n\], replaced by its sum with the result, and \[1, n\].
    pub fn tail(self, residual: MatrixMut<'a, T>, gamma: Matrix<'a, T>) -> Self {
        SliceOperands {
            residual: Some(residual),
            gamma: Some(gamma),
            ..self
        }
    }

    /// The slices, by name.
    fn slices(&self) -> impl Iterator<Item = (&'static str, &Arc<CudaStream>)> {
        let read = |name, mat: &Option<Matrix<'a, T>>| mat.map(|mat| (name, DeviceSlice::stream(mat.slice)));
        [
            read("x", &self.x),
            read("weight", &self.weight),
            read("bias", &self.bias),
            read("addend", &self.addend),
            read("gamma", &self.gamma),
            self.residual.as_ref().map(|mat| ("residual", mat.slice.stream())),
            Some(("out", self.out.slice.stream())),
        ]
        .into_iter()
        .flatten()
    }
}

/// Who sees to it that slices outlive the work, and that streams do not meet in them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// cudarc's events or the one stream, as was checked.
    Checked,
    /// The caller.
    Callers,
}

/// That cudarc orders the use of a slice on `stream` with every other, and its end. The guard tells whether the slice has events.
fn check_order(name: &str, own: &CudaStream, stream: &CudaStream, guard: &SyncOnDrop<'_>) -> Result<()> {
    let recorded = matches!(guard, SyncOnDrop::Record(Some(_)) | SyncOnDrop::Sync(Some(_)));
    if own == stream || recorded && stream.context().is_managing_stream_synchronization() {
        return Ok(());
    }
    let expected = "one of the rank's stream, or one that cudarc's event tracking follows (CudaContext::enable_event_tracking before it is \
                    allocated): else nothing keeps it until the kernel has run (Plan::launch_slices_unchecked leaves that to you)";
    Err(Error::bad_argument(
        name,
        "a slice of another stream, without events",
        expected,
    ))
}

impl Plan {
    /// Enqueues the operation on the rank's stream, as [`Plan::launch`], on cudarc's slices. `stream` is the rank's.
    ///
    /// Other streams may use the slices, or they may be dropped, as soon as this returns: cudarc's events see to the order, or all are
    /// of the one stream.
    ///
    /// # Errors
    /// As [`Plan::launch`]; [`Error::BadArgument`] for a stream that is not the rank's, or captures; for a slice of another context; and for
    /// one of another stream that cudarc does not follow ([`adapter::cudarc_0_19`](crate::adapter::cudarc_0_19#order)).
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
        self.enqueue_slices(stream, operands, Order::Checked)
    }

    /// As [`Plan::launch_slices`], without its rules for slices of other streams, and for captures. Events are honoured where
    /// cudarc keeps them.
    ///
    /// # Safety
    /// Every slice stays allocated, and none that is written is used otherwise, until the stream has run the work; of what is captured, until
    /// its graph is launched no more.
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
        self.enqueue_slices(stream, operands, Order::Callers)
    }

    fn enqueue_slices<T: SliceElement>(
        &self,
        stream: &Arc<CudaStream>,
        operands: SliceOperands<'_, T>,
        order: Order,
    ) -> Result<()> {
        if handle(stream) != self.rank().stream() {
            let expected = format!("rank {}'s, {:#x}", self.rank().rank(), self.rank().stream().0);
            return Err(Error::bad_argument(
                "stream",
                format!("{:#x}", handle(stream).0),
                expected,
            ));
        }
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
            mut out,
        } = operands;
        // Guards are let go, and their events recorded, at the end of this scope: behind the launch.
        let enqueued = {
            let mut take = Taker {
                stream,
                order,
                guards: Default::default(),
                taken: 0,
            };
            let x = take.read("x", &x)?;
            let weight = take.read("weight", &weight)?;
            let bias = take.read("bias", &bias)?;
            let addend = take.read("addend", &addend)?;
            let gamma = take.read("gamma", &gamma)?;
            let residual = residual.as_mut().map(|mat| take.write("residual", mat)).transpose()?;
            let out = take.write("out", &mut out)?;
            // What a slice could not wait for, cudarc has noted.
            check(stream.context(), "device_ptr")?;
            let mat = |raw| Mat {
                raw,
                memory: PhantomData,
            };
            let mat_mut = |raw| MatMut {
                raw,
                memory: PhantomData,
            };
            let in_place = x.is_none();
            self.launch(&Operands {
                m,
                x: mat(x.unwrap_or(out)),
                weight: weight.map(mat),
                bias: bias.map(mat),
                addend: addend.map(mat),
                residual: residual.map(mat_mut),
                gamma: gamma.map(mat),
                out: if in_place {
                    Out::InPlace(mat_mut(out))
                } else {
                    Out::To(mat_mut(out))
                },
            })
        };
        enqueued?;
        // The work is enqueued; whether whoever comes next will wait for it is this.
        check(stream.context(), "SyncOnDrop")
    }
}

/// Takes addresses, and holds the slices' guards.
struct Taker<'a> {
    stream: &'a Arc<CudaStream>,
    order: Order,
    guards: [Option<SyncOnDrop<'a>>; 7],
    taken: usize,
}

impl<'a> Taker<'a> {
    fn hold(&mut self, name: &str, own: &CudaStream, guard: SyncOnDrop<'a>) -> Result<()> {
        let checked = match self.order {
            Order::Checked => check_order(name, own, self.stream, &guard),
            Order::Callers => Ok(()),
        };
        self.guards[self.taken] = Some(guard);
        self.taken += 1;
        checked
    }

    fn read<T: SliceElement>(&mut self, name: &str, mat: &Option<Matrix<'a, T>>) -> Result<Option<RawMat>> {
        let Some(Matrix { slice, shape }) = *mat else {
            return Ok(None);
        };
        let (ptr, guard) = slice.device_ptr(self.stream);
        self.hold(name, slice.stream(), guard)?;
        Ok(Some(shape.at::<T>(ptr)))
    }

    fn write<T: SliceElement>(&mut self, name: &str, mat: &'a mut MatrixMut<'_, T>) -> Result<RawMat> {
        let own = mat.slice.stream().clone();
        let (ptr, guard) = mat.slice.device_ptr_mut(self.stream);
        self.hold(name, &own, guard)?;
        Ok(mat.shape.at::<T>(ptr))
    }
}
