//! A case on a group: operands on the devices, launches, results.

use std::sync::Arc;

use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::{
    Error, Exchange, GroupConfig, Layout, Node, Numerics, Op, Operands, Out, Path, Plan, Rank, Residual, Result,
};

use super::{Case, Data, Slab, check_traffic, judge, node};

fn of_tail(residual: &mut Option<Slab>, updates: bool) -> Result<Option<Residual<'_>>> {
    Ok(match (residual, updates) {
        (Some(residual), true) => Some(Residual::Update(residual.mat_mut()?)),
        (Some(residual), false) => Some(Residual::Read(residual.mat()?)),
        (None, _) => None,
    })
}

/// A rank's operands on its device.
pub struct Loaded {
    x: Slab,
    weight: Option<Slab>,
    bias: Option<Slab>,
    addend: Option<Slab>,
    residual: Option<Slab>,
    /// Whether the residual is a result, too.
    updates: bool,
    gamma: Option<Slab>,
    saved: Option<Slab>,
    pub out: Slab,
}

impl Loaded {
    pub fn new(rank: &Rank, c: &Case, data: &Data) -> Result<Loaded> {
        let r = rank.rank();
        let (k, n, m) = (c.k_of(r), c.n_of(r), c.m_of(r));
        let slab = |rows: usize, cols: usize, values: &[f64]| Slab::new(rank, rows, cols, c.gap, c.dtype, Some(values));
        let mut x = match c.op {
            Op::AllGatherGemm => slab(m.len(), c.k, &Data::part(&data.x, c.k, m.clone(), 0..c.k))?,
            _ if c.op.has_gemm() => slab(c.m, k.len(), &Data::part(&data.x, c.k, 0..c.m, k.clone()))?,
            _ => {
                let (rows, cols) = c.input(r);
                slab(rows, cols, &data.inputs[r])?
            }
        };
        let gemm = c.op.has_gemm();
        let part = gemm.then(|| Data::part(&data.weight, c.k, n.clone(), k.clone()));
        let (part, rows, cols) = match c.layout {
            Layout::Nt => (part, n.len(), k.len()),
            _ => (part.map(|part| Data::turned(&part, k.len())), k.len(), n.len()),
        };
        let mut weight = part.as_ref().map(|part| slab(rows, cols, part)).transpose()?;
        if c.unaligned == Some(r) {
            match (r % 2, &part) {
                (0, _) => x = x.moved(rank)?,
                // Rows of odd distances.
                (_, Some(part)) => {
                    weight = Some(Slab::new(rank, rows, cols, c.gap + 1, c.dtype, Some(part))?);
                }
                _ => {}
            }
        }
        let bias = c
            .bias
            .then(|| Slab::new(rank, 1, n.len(), 0, c.dtype, Some(&data.bias[n.clone()])));
        let addend = c.addend.then(|| slab(c.m, c.n, &data.addends[r]));
        let (rows, cols) = c.part(r);
        let with = c.residual || c.tail.is_some();
        let part = with.then(|| Data::part(&data.residual, c.n, rows.clone(), cols.clone()));
        let mut residual = part.map(|part| slab(rows.len(), cols.len(), &part)).transpose()?;
        let gamma = c.tail.map(|_| Slab::new(rank, 1, c.n, 0, c.dtype, Some(&data.gamma)));
        if c.unaligned == Some(r) {
            residual = residual.map(|residual| residual.moved(rank)).transpose()?;
        }
        let saved = c.saved.then(|| Slab::new(rank, c.m, n.len(), c.gap, c.dtype, None));
        let out = Slab::new(rank, rows.len(), cols.len(), c.gap, c.dtype, None)?;
        Ok(Loaded {
            x,
            weight,
            bias: bias.transpose()?,
            addend: addend.transpose()?,
            residual,
            updates: c.tail.is_some(),
            gamma: gamma.transpose()?,
            saved: saved.transpose()?,
            out,
        })
    }

    pub fn operands(&mut self, m: usize) -> Result<Operands<'_>> {
        let Loaded {
            x,
            weight,
            bias,
            addend,
            residual,
            updates,
            gamma,
            saved,
            out,
        } = self;
        Ok(Operands {
            m,
            x: x.mat()?,
            weight: weight.as_ref().map(Slab::mat).transpose()?,
            bias: bias.as_ref().map(Slab::mat).transpose()?,
            addend: addend.as_ref().map(Slab::mat).transpose()?,
            residual: of_tail(residual, *updates)?,
            gamma: gamma.as_ref().map(Slab::mat).transpose()?,
            saved: saved.as_mut().map(Slab::mat_mut).transpose()?,
            out: Out::To(out.mat_mut()?),
        })
    }

    /// What the operation left: the output, and the updated residual or the saved product if there is one.
    pub fn result(&self) -> Result<Vec<u8>> {
        let mut bytes = self.out.read()?;
        if let Some(saved) = &self.saved {
            bytes.extend(saved.read()?);
        }
        if let Some(residual) = self.residual.as_ref().filter(|_| self.updates) {
            bytes.extend(residual.read()?);
        }
        Ok(bytes)
    }

    pub fn launch(&mut self, plan: &Plan, m: usize) -> Result<()> {
        plan.launch(&self.operands(m)?)
    }
}

/// A plain all-reduce over its own input.
impl Loaded {
    pub fn launch_in_place(&mut self, plan: &Plan, m: usize) -> Result<()> {
        let Loaded {
            x,
            residual,
            updates,
            gamma,
            ..
        } = self;
        let mut operands = Operands::in_place(m, x.mat_mut()?);
        operands.residual = of_tail(residual, *updates)?;
        operands.gamma = gamma.as_ref().map(Slab::mat).transpose()?;
        plan.launch(&operands)
    }

    pub fn result_in_place(&self) -> Result<Vec<u8>> {
        let mut bytes = self.x.read()?;
        if let Some(residual) = self.residual.as_ref().filter(|_| self.updates) {
            bytes.extend(residual.read()?);
        }
        Ok(bytes)
    }
}

/// Heap bytes a rank at which every rank's plan just fits, by what a too small heap says is needed; no one-shot.
pub fn smallest_heap(node: &Node, c: &Case, path: Path) -> usize {
    let mut bytes = 4096;
    for _ in 0..8 {
        let config = GroupConfig::default().one_shot_bytes(0).heap_bytes(bytes);
        let made = node.group(c.world, &config);
        let planned = made.and_then(|ranks| ranks.iter().try_for_each(|r| r.plan(&c.spec(r.rank(), path)).map(drop)));
        match planned {
            Ok(()) => return bytes,
            Err(Error::HeapTooSmall { need, .. }) => bytes = need.max(bytes + 1),
            Err(other) => panic!("{other}"),
        }
    }
    panic!("no heap is large enough for {c:?}");
}

/// Launches the case on every rank of a group, in rank order, from this thread; every rank's result.
pub fn run_on(ranks: &[Rank], c: &Case, data: &Data, path: Path) -> Result<Vec<Vec<u8>>> {
    let plans: Vec<Plan> = ranks
        .iter()
        .map(|r| r.plan(&c.spec(r.rank(), path)))
        .collect::<Result<_>>()?;
    let mut loaded: Vec<Loaded> = ranks.iter().map(|r| Loaded::new(r, c, data)).collect::<Result<_>>()?;
    for (plan, l) in plans.iter().zip(&mut loaded) {
        l.launch(plan, c.m)?;
    }
    // Every rank must be given its chance to finish before the first failure is returned.
    let ends: Vec<Result<()>> = ranks.iter().map(Rank::synchronize).collect();
    ends.into_iter().collect::<Result<Vec<_>>>()?;
    loaded.iter().map(Loaded::result).collect()
}

/// A group sized for the case.
pub fn group_for(node: &Node, c: &Case) -> Result<Vec<Rank>> {
    let config = GroupConfig::default()
        .one_shot_bytes(8 << 10)
        .sized_for(&c.all_specs(), c.world)?;
    node.group(c.world, &config)
}

/// Runs a case from nothing on a node of its own.
pub fn run(c: &Case, path: Path, seed: u64) -> Result<Vec<Vec<u8>>> {
    let node = node(c.world, seed);
    let ranks = group_for(&node, c)?;
    run_on(&ranks, c, &Data::new(c), path)
}

/// A group with heaps for both routes, one-shot up to so many bytes, on so many CTAs at most (0: as many as fit).
pub fn group(node: &Node, c: &Case, one_shot: usize, max_ctas: u32) -> Vec<Rank> {
    let config = GroupConfig::default().one_shot_bytes(one_shot).max_ctas(max_ctas);
    node.group(c.world, &config.sized_for(&c.all_specs(), c.world).unwrap())
        .unwrap()
}

/// Several rounds in one launch, on every route and twice, in the smallest heap: the bits of one round.
pub fn same_in_several_rounds(c: &Case, seed: u64) {
    let data = Data::new(c);
    for path in c.routes() {
        let whole = run(c, *path, seed).unwrap();
        let node = node(c.world, seed);
        let need = smallest_heap(&node, c, *path);
        let config = GroupConfig::default().one_shot_bytes(0).heap_bytes(need);
        let ranks = node.group(c.world, &config).unwrap();
        for _ in 0..2 {
            let results = run_on(&ranks, c, &data, *path).unwrap();
            judge(c, &data, &results, "several rounds");
            assert!(whole == results, "{c:?} {path}");
        }
        check_traffic(&node, &ranks);
    }
}

/// Pushed and pulled, on every route: one result.
pub fn same_by_every_exchange(c: &Case) {
    let data = Data::new(c);
    let mut first = None;
    for (i, path) in c.routes().iter().enumerate() {
        for exchange in [Exchange::Push, Exchange::Pull] {
            let c = c.clone().exchange(exchange);
            let node = node(c.world, i as u64);
            let results = run_on(&group(&node, &c, 32 << 10, 0), &c, &data, *path).unwrap();
            judge(&c, &data, &results, &format!("{path}, {exchange}"));
            let first = first.get_or_insert_with(|| results.clone());
            assert_eq!(*first, results, "{c:?} {path}");
        }
    }
}

/// Where the switch adds, on every route: within its bound.
pub fn in_switch(c: &Case, seed: u64) {
    let mut config = SimConfig::new(c.world, seed);
    config.multicast = true;
    let node = Node::new(Arc::new(SimNode::new(config).unwrap()));
    let group = GroupConfig::default().numerics(Numerics::InSwitch);
    let ranks = node
        .group(c.world, &group.sized_for(&c.all_specs(), c.world).unwrap())
        .unwrap();
    let data = Data::new(c);
    for path in c.routes() {
        let results = run_on(&ranks, c, &data, *path).unwrap();
        judge(c, &data, &results, &path.to_string());
    }
}
