//! GEMMs of a rank's own: what is run, its numbers, and how.

use tileweave::reference::{self, Expected};
use tileweave::{DType, Epilogue, Gemm, GroupConfig, Layout, Mainloop, Rank, Result};

use super::{Data, Rng, Slab, node};

/// A GEMM of a rank's own.
#[derive(Debug, Clone)]
pub struct Own {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub dtype: DType,
    pub epilogue: Epilogue,
    pub layout: Layout,
    pub bias: bool,
    pub accumulate: bool,
    /// Elements between the rows of every matrix.
    pub gap: usize,
    /// Whether x, the weight, out and saved begin one element beyond what is aligned.
    pub moved: [bool; 4],
    pub mainloop: Option<Mainloop>,
    pub data_seed: u64,
}

impl Own {
    pub fn new(m: usize, n: usize, k: usize, dtype: DType) -> Own {
        Own {
            m,
            n,
            k,
            dtype,
            epilogue: Epilogue::None,
            layout: Layout::Nt,
            bias: false,
            accumulate: false,
            gap: 0,
            moved: [false; 4],
            mainloop: None,
            data_seed: 1,
        }
    }

    pub fn epilogue(self, epilogue: Epilogue) -> Own {
        Own { epilogue, ..self }
    }

    pub fn layout(self, layout: Layout) -> Own {
        Own { layout, ..self }
    }
}

/// Whole operands: x `[m, k]`, weight `[n, k]`, bias, and what was in the output.
pub struct Numbers {
    pub x: Vec<f64>,
    pub weight: Vec<f64>,
    pub bias: Vec<f64>,
    pub before: Vec<f64>,
}

impl Numbers {
    pub fn new(c: &Own) -> Numbers {
        let mut rng = Rng(c.data_seed);
        let mut draw = |count: usize, scale: f64| {
            let drawn: Vec<f64> = (0..count).map(|_| rng.normal() * scale).collect();
            reference::decode(c.dtype, &reference::encode(c.dtype, &drawn))
        };
        Numbers {
            x: draw(c.m * c.k, 2.0),
            weight: draw(c.n * c.k, 1.0 / (c.k.max(1) as f64).sqrt()),
            bias: draw(c.n, 1.0),
            before: draw(c.m * c.n, 1.0),
        }
    }

    /// Without the epilogue.
    pub fn product(&self, c: &Own) -> Expected {
        let before = [self.before.as_slice()];
        let gemm = reference::Gemm {
            m: c.m,
            n: c.n,
            k: c.k,
            x: &self.x,
            weight: &self.weight,
            bias: c.bias.then_some(self.bias.as_slice()),
            addends: if c.accumulate { &before } else { &[] },
        };
        gemm.gathered(c.dtype)
    }
}

/// A group of one.
pub fn alone(seed: u64, heap: usize) -> Rank {
    let config = GroupConfig::default().one_shot_bytes(0).heap_bytes(heap);
    node(1, seed).group(1, &config).unwrap().remove(0)
}

/// Runs it; what is in out and in what was saved.
pub fn run_own(rank: &Rank, c: &Own, data: &Numbers, save: bool) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let slab = |rows: usize, cols: usize, moved: bool, values: Option<&[f64]>| {
        let slab = Slab::new(rank, rows, cols, c.gap, c.dtype, values)?;
        if moved { slab.moved(rank) } else { Ok(slab) }
    };
    let x = match c.layout {
        Layout::Tn => slab(c.k, c.m, c.moved[0], Some(&Data::turned(&data.x, c.k)))?,
        _ => slab(c.m, c.k, c.moved[0], Some(&data.x))?,
    };
    let weight = match c.layout {
        Layout::Nt => slab(c.n, c.k, c.moved[1], Some(&data.weight))?,
        _ => slab(c.k, c.n, c.moved[1], Some(&Data::turned(&data.weight, c.k)))?,
    };
    let bias = c.bias.then(|| slab(1, c.n, false, Some(&data.bias))).transpose()?;
    let before = c.accumulate.then_some(data.before.as_slice());
    let mut out = slab(c.m, c.epilogue.columns(c.n), c.moved[2], before)?;
    let mut saved = save.then(|| slab(c.m, c.n, c.moved[3], None)).transpose()?;
    {
        let bias = bias.as_ref().map(Slab::mat).transpose()?;
        let saved = saved.as_mut().map(Slab::mat_mut).transpose()?;
        let gemm = Gemm::new(c.layout, x.mat()?, weight.mat()?, out.mat_mut()?);
        let gemm = gemm.bias(bias).accumulate(c.accumulate);
        let gemm = gemm.epilogue(c.epilogue).saved(saved);
        rank.gemm(&match c.mainloop {
            Some(mainloop) => gemm.mainloop(mainloop),
            None => gemm,
        })?;
    }
    rank.synchronize()?;
    Ok((out.read()?, saved.map(|saved| saved.read()).transpose()?))
}
