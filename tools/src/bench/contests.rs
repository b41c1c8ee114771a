//! Who is measured against whom.

use tileweave::timeline::Recorder;
use tileweave::{Mainloop, Mat, Op, OpSpec, Operands, Path, Plan, Rank, Result, Want, chunk};

use super::clock::Contest;
use super::cublaslt::Multiplier;
use super::operands::{DTYPE, Pool, Rotating};
use super::shapes::{Fused, Gemm};

/// What is asked for of our GEMMs; `None`: the crate chooses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tuning {
    pub mainloop: Option<Mainloop>,
    /// Columns of a Hopper block, and whether CTAs work in pairs.
    pub blocks: Option<(usize, bool)>,
    /// CTAs that only reduce, of a GEMM + all-reduce that is measured beside the one without; 0: it is not.
    pub reducers: Option<usize>,
}

impl Tuning {
    fn apply(self, spec: OpSpec) -> OpSpec {
        let spec = match self.mainloop {
            Some(mainloop) => spec.mainloop(mainloop),
            None => spec,
        };
        match self.blocks {
            Some((columns, pairs)) => spec.blocks(columns, pairs),
            None => spec,
        }
    }
}

/// Our GEMM against cuBLASLt's, on one rank.
pub struct Plain {
    plan: Plan,
    m: usize,
    x: Rotating,
    weight: Rotating,
    out: Rotating,
    pub vendor: Option<Multiplier>,
}

impl Plain {
    /// Its plan's spec: a group of one rank sends nothing, and its unfused plan has the GEMM.
    pub fn spec(gemm: &Gemm, tuning: Tuning) -> OpSpec {
        let spec = OpSpec::new(Op::GemmReduceScatter, gemm.n, gemm.k, gemm.m, DTYPE);
        tuning.apply(spec.route(Want::Exactly(Path::Unfused)))
    }

    pub fn new(rank: &Rank, gemm: &Gemm, spec: &OpSpec, sets: usize, pool: &Pool, cublaslt: bool) -> Result<Plain> {
        let Gemm { m, n, k, .. } = *gemm;
        let mut plain = Plain {
            plan: rank.plan(spec)?,
            m,
            x: Rotating::new(rank, m, k, sets, Some(pool))?,
            weight: Rotating::new(rank, n, k, sets, Some(pool))?,
            out: Rotating::new(rank, m, n, sets, None)?,
            vendor: None,
        };
        rank.synchronize()?;
        if cublaslt {
            plain.vendor = Some(Multiplier::new(rank, [m, n, k], plain.addresses(0), None)?);
        }
        Ok(plain)
    }

    fn addresses(&self, set: usize) -> [u64; 3] {
        [self.x.ptr(set), self.weight.ptr(set), self.out.ptr(set)]
    }

    /// The kernel of our GEMM.
    pub fn kernel(&self) -> String {
        let route = self.plan.route(self.m).kernel;
        route.split(" + ").next().unwrap_or_default().to_string()
    }

    /// The product of the first set's operands, as bytes.
    pub fn product(&mut self, contender: usize) -> Result<Vec<u8>> {
        self.launch(contender, 0)?;
        self.out.bytes(0)
    }
}

impl Contest for Plain {
    fn contenders(&self) -> usize {
        1 + usize::from(self.vendor.is_some())
    }

    fn launch(&mut self, contender: usize, set: usize) -> Result<()> {
        match (&self.vendor, contender) {
            (Some(vendor), 1) => vendor.launch(self.addresses(set)),
            _ => {
                let (x, weight) = (self.x.mat(set)?, self.weight.mat(set)?);
                self.plan.launch_gemm(self.m, x, weight, &mut self.out.mat_mut(set)?)
            }
        }
    }
}

/// Who runs on a fused operation's operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    Fused,
    /// The GEMM alone.
    Gemm,
    Unfused,
    /// The fused operation where some CTAs only reduce.
    Reducers,
    /// cuBLASLt with our collective.
    Vendor,
}

/// A fused operation against all others on the same operands.
pub struct Overlapped {
    lanes: Vec<Lane>,
    m: usize,
    op: Op,
    /// Who takes part, in their order.
    pub field: Vec<Contender>,
    /// CTAs of a rank that only reduce, in the variant where some do.
    pub reducers: Option<usize>,
}

/// One rank's plans and operands.
struct Lane {
    fused: Plan,
    unfused: Plan,
    collective: Plan,
    reducers: Option<Plan>,
    x: Rotating,
    weight: Rotating,
    out: Rotating,
    /// What lies between GEMM and collective: the rank's product, or of a gather the gathered x.
    between: Rotating,
    /// The GEMM alone by cuBLASLt.
    vendor: Option<Multiplier>,
}

/// The sizes of one rank's GEMM.
fn own(fused: &Fused, rank: usize) -> [usize; 3] {
    let part = |size: usize| chunk(size, fused.ranks, rank).len();
    match fused.op {
        Op::AllGatherGemm => [fused.m, part(fused.n), fused.k],
        _ => [fused.m, fused.n, part(fused.k)],
    }
}

impl Overlapped {
    /// The specs of a rank's plans: fused, unfused, the collective alone.
    pub fn specs(fused: &Fused, rank: usize, tuning: Tuning) -> [OpSpec; 3] {
        let [m, n, k] = own(fused, rank);
        let on = |path| tuning.apply(OpSpec::new(fused.op, n, k, m, DTYPE).route(Want::Exactly(path)));
        let (collective, columns) = match fused.op {
            Op::GemmReduceScatter => (Op::ReduceScatter, n),
            Op::AllGatherGemm => (Op::AllGather, k),
            _ => (Op::AllReduce, n),
        };
        [
            on(Path::Fused),
            on(Path::Unfused),
            OpSpec::new(collective, columns, 0, m, DTYPE),
        ]
    }

    /// Without a pool operands hold what memory held: for a machine that does not look at them.
    pub fn new(
        ranks: &[Rank],
        fused: &Fused,
        tuning: Tuning,
        sets: usize,
        pool: Option<&Pool>,
        cublaslt: bool,
    ) -> Result<Overlapped> {
        let mut lanes: Vec<Lane> = Vec::with_capacity(ranks.len());
        let mut reducers = None;
        for rank in ranks {
            let [m, n, k] = own(fused, rank.rank());
            let rows = chunk(m, fused.ranks, rank.rank()).len();
            let gathers = fused.op == Op::AllGatherGemm;
            let [one, two, three] = Overlapped::specs(fused, rank.rank(), tuning);
            let random = |rows, cols| Rotating::new(rank, rows, cols, sets, pool);
            let written = |rows, cols| Rotating::new(rank, rows, cols, sets, None);
            let plan = rank.plan(&one)?;
            reducers = reducers_beside(rank, &plan, m, tuning)?;
            lanes.push(Lane {
                reducers: reducers.map(|n| rank.plan(&one.reducers(n))).transpose()?,
                fused: plan,
                unfused: rank.plan(&two)?,
                collective: rank.plan(&three)?,
                x: random(if gathers { rows } else { m }, k)?,
                weight: random(n, k)?,
                out: written(if fused.op == Op::GemmReduceScatter { rows } else { m }, n)?,
                between: if gathers { random(m, k)? } else { written(m, n)? },
                vendor: None,
            });
            rank.synchronize()?;
        }
        // Equal shapes get what was chosen on the first rank; at these sizes a trial on each would take minutes.
        let mut known = None;
        for (rank, lane) in ranks.iter().zip(&mut lanes).filter(|_| cublaslt) {
            let shape = own(fused, rank.rank());
            let choice = known.filter(|(of, _)| *of == shape).map(|(_, choice)| choice);
            let vendor = Multiplier::new(rank, shape, lane.addresses(fused.op, 0), choice)?;
            known = Some((shape, vendor.choice));
            lane.vendor = Some(vendor);
        }
        let field = [
            (true, Contender::Fused),
            (true, Contender::Gemm),
            (true, Contender::Unfused),
            (reducers.is_some(), Contender::Reducers),
            (cublaslt, Contender::Vendor),
        ];
        Ok(Overlapped {
            lanes,
            m: fused.m,
            op: fused.op,
            field: field
                .into_iter()
                .filter_map(|(there, who)| there.then_some(who))
                .collect(),
            reducers,
        })
    }

    /// The GEMM alone on every rank.
    pub fn gemms(&mut self, set: usize) -> Result<()> {
        let (op, m) = (self.op, self.m);
        self.lanes.iter_mut().try_for_each(|lane| lane.gemm(op, m, set))
    }

    /// The fused operation once on every rank, each with its recorder.
    pub fn record(&mut self, recorders: &[Recorder]) -> Result<()> {
        let m = self.m;
        let mut lanes = self.lanes.iter_mut().zip(recorders);
        lanes.try_for_each(|(lane, recorder)| {
            let (x, weight, out) = (lane.x.mat(0)?, lane.weight.mat(0)?, lane.out.mat_mut(0)?);
            lane.fused.launch_recorded(&Operands::gemm(m, x, weight, out), recorder)
        })
    }

    /// Of every rank, where a collective between or behind the GEMMs reads and writes.
    pub fn exchanged(&self, set: usize) -> Vec<(u64, u64)> {
        let ends = |lane: &Lane| match self.op {
            Op::AllGatherGemm => (lane.x.ptr(set), lane.between.ptr(set)),
            _ => (lane.between.ptr(set), lane.out.ptr(set)),
        };
        self.lanes.iter().map(ends).collect()
    }

    /// The kernels of the fused path and the unfused one.
    pub fn kernels(&self) -> [String; 2] {
        [&self.lanes[0].fused, &self.lanes[0].unfused].map(|plan| plan.route(self.m).kernel)
    }
}

/// CTAs of `rank` that only reduce, where `plan` has a kernel that knows such: what is asked for, else an eighth of its SMs. Even,
/// as pairs are.
fn reducers_beside(rank: &Rank, plan: &Plan, m: usize, tuning: Tuning) -> Result<Option<usize>> {
    let kernel = plan.route(m).kernel;
    if tuning.reducers == Some(0) || !(kernel.starts_with("gemm_ar_") && kernel.ends_with("_sm90")) {
        return Ok(None);
    }
    let sms = rank.node().driver().place_info(rank.place())?.sms as usize;
    Ok(tuning.reducers.or(Some((sms / 16 * 2).max(2))))
}

impl Lane {
    /// x, weight and product of the GEMM alone.
    fn addresses(&self, op: Op, set: usize) -> [u64; 3] {
        let (between, weight) = (self.between.ptr(set), self.weight.ptr(set));
        match op {
            Op::AllGatherGemm => [between, weight, self.out.ptr(set)],
            _ => [self.x.ptr(set), weight, between],
        }
    }

    fn whole(&mut self, contender: Contender, m: usize, set: usize) -> Result<()> {
        let plan = match (contender, &self.reducers) {
            (Contender::Unfused, _) => &self.unfused,
            (Contender::Reducers, Some(plan)) => plan,
            _ => &self.fused,
        };
        let (x, weight) = (self.x.mat(set)?, self.weight.mat(set)?);
        plan.launch(&Operands::gemm(m, x, weight, self.out.mat_mut(set)?))
    }

    fn gemm(&mut self, op: Op, m: usize, set: usize) -> Result<()> {
        let (gathers, weight) = (op == Op::AllGatherGemm, self.weight.mat(set)?);
        let (x, out): (Mat<'_>, _) = if gathers {
            (self.between.mat(set)?, &mut self.out)
        } else {
            (self.x.mat(set)?, &mut self.between)
        };
        self.unfused.launch_gemm(m, x, weight, &mut out.mat_mut(set)?)
    }

    fn vendor_and_collective(&mut self, op: Op, m: usize, set: usize) -> Result<()> {
        let addresses = self.addresses(op, set);
        let product = || self.vendor.as_ref().map_or(Ok(()), |vendor| vendor.launch(addresses));
        if op == Op::AllGatherGemm {
            let gathered = self.between.mat_mut(set)?;
            self.collective
                .launch(&Operands::plain(m, self.x.mat(set)?, gathered))?;
            return product();
        }
        product()?;
        let (partial, out) = (self.between.mat(set)?, self.out.mat_mut(set)?);
        self.collective.launch(&Operands::plain(m, partial, out))
    }
}

impl Contest for Overlapped {
    fn contenders(&self) -> usize {
        self.field.len()
    }

    fn launch(&mut self, contender: usize, set: usize) -> Result<()> {
        let (op, m, contender) = (self.op, self.m, self.field[contender]);
        self.lanes.iter_mut().try_for_each(|lane| match contender {
            Contender::Gemm => lane.gemm(op, m, set),
            Contender::Vendor => lane.vendor_and_collective(op, m, set),
            whole => lane.whole(whole, m, set),
        })
    }
}
