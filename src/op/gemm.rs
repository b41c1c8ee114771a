//! A GEMM of a rank's own: what a layer computes where nothing travels, in every layout.

use super::check::{Launcher, check_own};
use super::config::{Config, Facts, gemm_kernel, splits_of};
use super::heuristics::Setting;
use super::kernel::Kernel;
use super::launch::Maker;
use super::start::Starter;
use super::{Epilogue, Layout, Mainloop, Op, OpSpec};
use crate::error::Result;
use crate::group::Rank;
use crate::memory::{Mat, MatMut};
use crate::route::Path;

/// `out = x weight^T`, or as the [`Layout`] says, with a bias and with what `out` held before where asked for; rounded
/// once, after all of it; then an activation, where asked for. All operands have one type. For [`Rank::gemm`].
#[derive(Debug)]
pub struct Gemm<'a> {
    /// How x and the weight lie.
    pub layout: Layout,
    /// `[m, k]`, or `[k, m]`.
    pub x: Mat<'a>,
    /// `[n, k]`, or `[k, n]`.
    pub weight: Mat<'a>,
    /// `[1, n]`.
    pub bias: Option<Mat<'a>>,
    /// Whether the product is added to what is in `out`; not with [`Epilogue::SwiGlu`], whose out is narrower. An activation
    /// is of the sum.
    pub accumulate: bool,
    /// What is made of the product: `pre`, with bias and what is added to, rounded.
    pub epilogue: Epilogue,
    /// `[m, n]`: where `pre` goes, which a pass backward wants. With an epilogue alone.
    pub saved: Option<MatMut<'a>>,
    /// The mainloop asked for; `None`: the crate chooses.
    pub mainloop: Option<Mainloop>,
    /// `[m, n]`, of SwiGLU `[m, n / 2]`; shares no byte with an input.
    pub out: MatMut<'a>,
}

impl<'a> Gemm<'a> {
    /// Without a bias, over what is in `out`.
    pub fn new(layout: Layout, x: Mat<'a>, weight: Mat<'a>, out: MatMut<'a>) -> Gemm<'a> {
        Gemm {
            layout,
            x,
            weight,
            bias: None,
            accumulate: false,
            epilogue: Epilogue::None,
            saved: None,
            mainloop: None,
            out,
        }
    }

    /// With a bias, or without.
    pub fn bias(self, bias: Option<Mat<'a>>) -> Gemm<'a> {
        Gemm { bias, ..self }
    }

    /// Added to what is in `out` (beta = 1), or not.
    pub fn accumulate(self, accumulate: bool) -> Gemm<'a> {
        Gemm { accumulate, ..self }
    }

    /// With this made of the product, before it is stored.
    pub fn epilogue(self, epilogue: Epilogue) -> Gemm<'a> {
        Gemm { epilogue, ..self }
    }

    /// With the product as it is before the epilogue, rounded, stored here.
    pub fn saved(self, saved: Option<MatMut<'a>>) -> Gemm<'a> {
        Gemm { saved, ..self }
    }

    /// By this mainloop: for comparison and for tests. Where it cannot serve, the launch fails and names the limit.
    pub fn mainloop(self, mainloop: Mainloop) -> Gemm<'a> {
        Gemm {
            mainloop: Some(mainloop),
            ..self
        }
    }

    pub(crate) fn launch(&self, rank: &Rank) -> Result<()> {
        let by = Launcher {
            rank: rank.rank(),
            world: rank.world(),
            identity: rank.identity(),
        };
        let [m, n, k] = check_own(self, by)?;
        if m == 0 || n == 0 {
            return Ok(());
        }
        // Kernel and tile are those that the GEMM of an all-reduce in two exchanges would have.
        let spec = OpSpec {
            layout: self.layout,
            mainloop: self.mainloop,
            epilogue: self.epilogue,
            ..OpSpec::new(Op::GemmAllReduce, n, k, m, self.x.raw.dtype)
        };
        let facts = rank.facts();
        let (kernel, config) = facts.own_gemm(&spec, m as u64)?;
        let maker = Maker {
            spec: &spec,
            facts,
            group: rank.abi_group(),
        };
        let step = maker.own_gemm(&config, kernel, self)?;
        rank.in_order(|_| Starter::default().start(rank, &step, None))
    }
}

impl Facts {
    /// The kernel of `spec`'s GEMM where nothing follows it.
    fn own_gemm(&self, spec: &OpSpec, m: u64) -> Result<(Kernel, Config)> {
        let setting = Setting {
            one_shot_bytes: 0,
            ..self.setting()
        };
        self.check_mainloop(spec, m, Path::Unfused, &setting)?;
        let (kernel, cluster) = gemm_kernel(spec, m, &setting);
        self.resident(kernel, cluster, Path::Unfused)?;
        let config = Config {
            gemm: Some(kernel),
            clusters: (1, cluster),
            splits: splits_of(spec, m, &setting),
            ..Config::without_kernels(Path::Unfused)
        };
        Ok((kernel, config))
    }
}
