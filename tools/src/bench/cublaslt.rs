//! cuBLASLt, to be measured against: opened at run time, where it is installed.
//!
//! Of the algorithms that its heuristic proposes, the one is taken that proves fastest in a short trial: that is at least as
//! good as the heuristic's first. It gets 32 MiB of workspace, which NVIDIA recommends for Hopper
//! (docs.nvidia.com/cuda/cublas, cublasSetWorkspace), and is told the number of SMs where a rank has a share of them.

use std::ffi::c_void;
use std::ptr::{from_ref, null_mut};

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::{result, sys};
use cudarc::driver::sys as driver;
use tileweave::{Buffer, Error, Rank, Result};

const WORKSPACE: usize = 32 << 20;
/// Algorithms asked for.
const CANDIDATES: usize = 8;
/// Launches of a trial.
const TRIALS: usize = 4;

/// The library, present.
#[derive(Debug, Clone, Copy)]
pub struct Library {
    /// 10000 * major + 100 * minor + patch.
    pub version: usize,
    /// Of the CUDA runtime that it was built with: 1000 * major + 10 * minor.
    pub cudart: usize,
}

impl Library {
    /// Why there is none, if there is none.
    pub fn open() -> std::result::Result<Library, String> {
        // SAFETY: loading runs the library's initialisers; a library of this name is NVIDIA's, whose initialisers may run at
        // any time on any thread.
        if !unsafe { sys::is_culib_present() } {
            return Err("libcublasLt was not found where the loader looks (LD_LIBRARY_PATH)".into());
        }
        // SAFETY: both take nothing and return a number; they are there since CUDA 10.1.
        let (version, cudart) = unsafe { (sys::cublasLtGetVersion(), sys::cublasLtGetCudartVersion()) };
        Ok(Library { version, cudart })
    }
}

/// What was chosen for a shape.
#[derive(Clone, Copy)]
pub struct Choice {
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// Its place among the heuristic's proposals, from 0, and how many there were.
    pub place: (usize, usize),
}

/// One rank's `out = x weight^T` of one shape, everything row-major and contiguous, bf16.
pub struct Multiplier {
    rank: Rank,
    handle: sys::cublasLtHandle_t,
    description: sys::cublasLtMatmulDesc_t,
    /// Of weight, x and out, as column-major matrices.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    workspace: Buffer,
    pub choice: Choice,
}

/// Makes a stream's context current until it is dropped.
pub struct Current;

impl Current {
    pub fn of(rank: &Rank) -> Result<Current> {
        let mut context = null_mut();
        // SAFETY: the stream lives as long as its rank; `context` outlives the calls. Both symbols are there: the rank was
        // made by the crate's CUDA driver, which checked the library.
        let code = unsafe {
            match driver::cuStreamGetCtx(stream(rank).cast(), &mut context) {
                driver::CUresult::CUDA_SUCCESS => driver::cuCtxPushCurrent_v2(context),
                failed => failed,
            }
        };
        match code {
            driver::CUresult::CUDA_SUCCESS => Ok(Current),
            failed => Err(Error::Driver {
                call: "cuCtxPushCurrent",
                code: failed as i64,
                message: format!("{failed:?}"),
            }),
        }
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        let mut popped = null_mut();
        // SAFETY: pops what `of` pushed on this thread; guards nest.
        let _ = unsafe { driver::cuCtxPopCurrent_v2(&mut popped) };
    }
}

/// A rank's stream as the libraries take it.
pub fn stream(rank: &Rank) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(rank.stream().0)
}

fn failed(call: &'static str) -> impl Fn(CublasError) -> Error {
    move |CublasError(status)| Error::Driver {
        call,
        code: status as i64,
        message: format!("{status:?}"),
    }
}

impl Multiplier {
    /// For operands of these sizes. `trial`: addresses of x, weight and out, which are written; `known`: what was chosen on an
    /// equal rank, else the fastest is looked for. Nothing else may run on the rank's device meanwhile.
    pub fn new(rank: &Rank, [m, n, k]: [usize; 3], trial: [u64; 3], known: Option<Choice>) -> Result<Multiplier> {
        let _current = Current::of(rank)?;
        let [m, n, k] = [m as u64, n as u64, k as u64];
        let bf16 = sys::cudaDataType::CUDA_R_16BF;
        // Row-major out [m, n] is column-major [n, m]: weight (k x n, transposed) times x (k x m).
        let layout = |rows, cols| result::create_matrix_layout(bf16, rows, cols, rows as i64);
        let handle = result::create_handle().map_err(failed("cublasLtCreate"))?;
        // From here on a failure drops the multiplier, which gives back what was made: absent objects are null.
        let mut made = Multiplier {
            rank: rank.clone(),
            handle,
            description: null_mut(),
            layouts: [null_mut(); 3],
            workspace: rank.alloc(WORKSPACE)?,
            choice: Choice {
                algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
                place: (0, 0),
            },
        };
        made.description = result::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType::CUDA_R_32F,
        )
        .map_err(failed("cublasLtMatmulDescCreate"))?;
        for (slot, (rows, cols)) in made.layouts.iter_mut().zip([(k, n), (k, m), (n, m)]) {
            *slot = layout(rows, cols).map_err(failed("cublasLtMatrixLayoutCreate"))?;
        }
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        made.describe(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, 1)?;
        let place = rank.place();
        if place.shares > 1 {
            let sms = rank.node().driver().place_info(place)?.sms;
            made.describe(Attribute::CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, sms as i32)?;
        }
        made.choice = match known {
            Some(choice) => choice,
            None => made.choose(trial)?,
        };
        // Its code is loaded now, while no kernel waits for another.
        made.launch(trial)?;
        rank.synchronize()?;
        Ok(made)
    }

    /// Sets an attribute of four bytes.
    fn describe(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: i32) -> Result<()> {
        // SAFETY: the description is alive, and the attributes set here are 32-bit integers (cublasLt.h).
        unsafe { result::set_matmul_desc_attribute(self.description, attribute, from_ref(&value).cast(), 4) }
            .map_err(failed("cublasLtMatmulDescSetAttribute"))
    }

    /// The heuristic's proposals.
    fn proposals(&self) -> Result<Vec<sys::cublasLtMatmulAlgo_t>> {
        let preference = result::create_matmul_pref().map_err(failed("cublasLtMatmulPreferenceCreate"))?;
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        // SAFETY: all-zero is a valid value of a result: integers, a float, and a status that has a 0.
        let mut found: [sys::cublasLtMatmulHeuristicResult_t; CANDIDATES] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        let [weight, x, out] = self.layouts;
        // SAFETY: the preference, description and layouts are alive; the attribute is a size_t; `found` has room for as many
        // results as are asked for; the preference is ended once.
        let answer = unsafe {
            let most = Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            let answer =
                result::set_matmul_pref_attribute(preference, most, from_ref(&WORKSPACE).cast(), size_of::<usize>())
                    .and_then(|()| {
                        sys::cublasLtMatmulAlgoGetHeuristic(
                            self.handle,
                            self.description,
                            weight,
                            x,
                            out,
                            out,
                            preference,
                            CANDIDATES as i32,
                            found.as_mut_ptr(),
                            &mut count,
                        )
                        .result()
                    });
            let _ = result::destroy_matmul_pref(preference);
            answer
        };
        answer.map_err(failed("cublasLtMatmulAlgoGetHeuristic"))?;
        let usable =
            |one: &&sys::cublasLtMatmulHeuristicResult_t| one.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS;
        Ok(found[..count as usize]
            .iter()
            .filter(usable)
            .map(|one| one.algo)
            .collect())
    }

    /// The fastest proposal by a short trial.
    fn choose(&mut self, trial: [u64; 3]) -> Result<Choice> {
        let proposals = self.proposals()?;
        let node = self.rank.node();
        let (driver, stream) = (node.driver(), self.rank.stream());
        let events = [
            driver.event_create(self.rank.place())?,
            driver.event_create(self.rank.place())?,
        ];
        let mut best: Option<(f64, Choice)> = None;
        for (index, algorithm) in proposals.iter().enumerate() {
            self.choice = Choice {
                algorithm: *algorithm,
                place: (index, proposals.len()),
            };
            self.launch(trial)?;
            driver.event_record(events[0], stream)?;
            for _ in 0..TRIALS {
                self.launch(trial)?;
            }
            driver.event_record(events[1], stream)?;
            self.rank.synchronize()?;
            let ms = driver.event_elapsed_ms(events[0], events[1])?.unwrap_or(f64::INFINITY);
            if best.is_none_or(|(fastest, _)| ms < fastest) {
                best = Some((ms, self.choice));
            }
        }
        events.into_iter().try_for_each(|event| driver.event_destroy(event))?;
        best.map(|(_, choice)| choice).ok_or_else(|| Error::Unavailable {
            what: "cuBLASLt".into(),
            reason: "its heuristic proposes nothing for this shape".into(),
        })
    }

    /// Enqueues the product of the matrices at these addresses: x, weight, out.
    pub fn launch(&self, [x, weight, out]: [u64; 3]) -> Result<()> {
        let _current = Current::of(&self.rank)?;
        let (one, zero) = (1f32, 0f32);
        let at = |address: u64| std::ptr::with_exposed_provenance_mut::<c_void>(address as usize);
        let [weight_layout, x_layout, out_layout] = self.layouts;
        // SAFETY: handle, description, layouts and workspace are alive until `self` is dropped, behind the stream's work; the
        // scalars are read before the call returns (host pointer mode is the default). The addresses are of device
        // matrices of the layouts' sizes, alive until the stream has run this: the caller's word.
        unsafe {
            result::matmul(
                self.handle,
                self.description,
                from_ref(&one).cast(),
                from_ref(&zero).cast(),
                at(weight),
                weight_layout,
                at(x),
                x_layout,
                at(out),
                out_layout,
                at(out),
                out_layout,
                &self.choice.algorithm,
                at(self.workspace.ptr()),
                WORKSPACE,
                stream(&self.rank).cast(),
            )
        }
        .map_err(failed("cublasLtMatmul"))
    }
}

impl Drop for Multiplier {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure; objects that a failed `new` did not make are null.
        let _ = self.rank.synchronize();
        let Ok(_current) = Current::of(&self.rank) else { return };
        // SAFETY: each was made in `new`, is ended once, and no work uses it any more.
        unsafe {
            for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
                let _ = result::destroy_matrix_layout(layout);
            }
            if !self.description.is_null() {
                let _ = result::destroy_matmul_desc(self.description);
            }
            let _ = result::destroy_handle(self.handle);
        }
    }
}
