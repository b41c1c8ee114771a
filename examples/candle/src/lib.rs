//! A row-parallel linear layer: `y = sum over ranks of x[:, K_r] * w[:, K_r]^T` on every rank, by one fused kernel. It
//! stands where candle's `llama_multiprocess` has `Linear` and then `AllReduce` over NCCL (README.md has the diff).

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaDType;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, DType, Error, Layout, Result, Shape, Tensor, bail};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};
use half::{bf16, f16};
use tileweave::driver::Stream;
use tileweave::{Mat, MatMut, Op, OpSpec, Operands, Path, Plan, Rank};

/// The all-reduce that the runtime has anyway, for routes that decline.
pub type AllReduce = Arc<dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync>;

/// A device's stream, as a rank's. Of a device with a stream of its own (`Device::new_cuda_with_stream`): candle's default
/// one is the null stream, which names no device.
pub fn stream(stream: &CudaStream) -> Stream {
    Stream(stream.cu_stream() as usize)
}

/// A linear layer whose weight is split by columns over the ranks of a group.
pub struct RowParallelLinear {
    /// `[N, K_r]`, contiguous.
    weight: Tensor,
    plan: Plan,
    otherwise: AllReduce,
}

impl RowParallelLinear {
    /// Of this rank's part of the weight, for up to `max_m` rows of input. `otherwise` reduces where tileweave declines: the
    /// GPUs do not reach each other, or NCCL is faster.
    pub fn new(rank: &Rank, weight: Tensor, max_m: usize, otherwise: AllReduce) -> Result<RowParallelLinear> {
        let (n, k) = weight.dims2()?;
        let spec = OpSpec::new(Op::GemmAllReduce, n, k, max_m, dtype(weight.dtype())?);
        Ok(RowParallelLinear {
            weight: weight.contiguous()?,
            plan: rank.plan(&spec).map_err(Error::wrap)?,
            otherwise,
        })
    }

    /// `[.., K_r]` to `[.., N]`, equal on every rank. All ranks call it in the same order, with as many rows.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rows = x.elem_count() / x.dim(candle_core::D::Minus1)?.max(1);
        if self.plan.route(rows).path == Path::Decline {
            let partial = x.broadcast_matmul(&self.weight.t()?)?;
            return (self.otherwise)(&partial);
        }
        x.contiguous()?
            .apply_op2_no_bwd(&self.weight, &GemmAllReduce { plan: &self.plan })
    }
}

fn dtype(dtype: DType) -> Result<tileweave::DType> {
    match dtype {
        DType::BF16 => Ok(tileweave::DType::Bf16),
        DType::F16 => Ok(tileweave::DType::F16),
        DType::F32 => Ok(tileweave::DType::F32),
        other => bail!("a weight of {other:?}: expected BF16, F16 or F32"),
    }
}

/// The operation, as candle calls it.
struct GemmAllReduce<'a> {
    plan: &'a Plan,
}

impl CustomOp2 for GemmAllReduce<'_> {
    fn name(&self) -> &'static str {
        "gemm-all-reduce"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("gemm-all-reduce is for tensors on CUDA devices")
    }

    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, w: &CudaStorage, lw: &Layout) -> Result<(CudaStorage, Shape)> {
        match x.dtype() {
            DType::BF16 => self.on::<bf16>(x, lx, w, lw),
            DType::F16 => self.on::<f16>(x, lx, w, lw),
            DType::F32 => self.on::<f32>(x, lx, w, lw),
            other => bail!("an input of {other:?}: expected the weight's BF16, F16 or F32"),
        }
    }
}

impl GemmAllReduce<'_> {
    fn on<T: CudaDType + DeviceRepr>(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        w: &CudaStorage,
        lw: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (n, k, dtype) = (self.plan.spec().n, self.plan.spec().k, self.plan.spec().dtype);
        let mut shape = lx.dims().to_vec();
        if shape.last() != Some(&k) {
            bail!("an input of {shape:?}: expected [.., {k}]");
        }
        let m = shape[..shape.len() - 1].iter().product::<usize>();
        let device = x.device().clone();
        let stream = device.cuda_stream();
        let (x, w) = (self.input::<T>(x, lx)?, self.input::<T>(w, lw)?);
        // SAFETY: the launch below writes every element, or fails, and then nobody reads them.
        let mut y = unsafe { device.alloc::<T>(m * n)? };
        {
            // The guards record events where cudarc tracks them: dropped behind the launch.
            let (x_ptr, _x_read) = x.0.device_ptr(&stream);
            let (w_ptr, _w_read) = w.0.device_ptr(&stream);
            let (y_ptr, _y_written) = y.device_ptr_mut(&stream);
            let at = |ptr: u64, offset: usize| ptr + (offset * size_of::<T>()) as u64;
            // SAFETY: contiguous elements of `T`, whose type is the spec's (`input`): m * k from x's offset, as its layout
            // says, n * k of the weight (`new`), m * n of y. cudarc frees each in the order of its stream, which is the
            // rank's (`input`; y is of the same device), and candle's operations on that stream come behind the launch.
            let operands = unsafe {
                Operands::gemm(
                    m,
                    Mat::from_raw(at(x_ptr, x.1), m, k, k, dtype),
                    Mat::from_raw(at(w_ptr, w.1), n, k, k, dtype),
                    MatMut::from_raw(y_ptr, m, n, n, dtype),
                )
            };
            self.plan.launch(&operands).map_err(Error::wrap)?;
        }
        if let Some(last) = shape.last_mut() {
            *last = n;
        }
        Ok((CudaStorage::wrap_cuda_slice(y, device), Shape::from(shape)))
    }

    /// A contiguous tensor's memory and its first element, if it is in the order of the rank's stream and of the spec's type.
    fn input<'a, T: CudaDType>(&self, storage: &'a CudaStorage, layout: &Layout) -> Result<(&'a CudaSlice<T>, usize)> {
        let Some((first, _)) = layout.contiguous_offsets() else {
            bail!("a tensor with gaps, {layout:?}: expected a contiguous one");
        };
        if dtype(storage.dtype())? != self.plan.spec().dtype {
            bail!(
                "a tensor of {:?}: expected the plan's {}",
                storage.dtype(),
                self.plan.spec().dtype
            );
        }
        let slice = storage.as_cuda_slice::<T>()?;
        if stream(slice.stream()) != self.plan.rank().stream() {
            bail!("a tensor of another stream than the rank's: make the group on the stream of the tensors' device");
        }
        Ok((slice, first))
    }
}

/// A tensor's device as candle has it, where it is a CUDA device.
pub fn cuda_stream(device: &candle_core::Device) -> Result<Arc<CudaStream>> {
    Ok(device.as_cuda_device()?.cuda_stream())
}
