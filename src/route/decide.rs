//! The decision: machine and operation in, path and reason out. Pure, and cheap enough to be asked again for the words.
//!
//! In this order: what makes it impossible, by name; the best of our own ways by the model; whether fusing loses;
//! whether NCCL is clearly faster, and who could stand in then.

use super::machine::{LinkKind, Machine};
use super::model::{Transport, Work};
use super::obstacle::Obstacle;
use super::{Exchange, Path};
use crate::abi;
use crate::group::Numerics;
use crate::nccl::NcclPolicy;

/// What a decision depends on beside the machine and the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// The largest message that an all-reduce may send to everybody at once, in bytes.
    pub one_shot_bytes: u64,
    /// What sums may depend on.
    pub numerics: Numerics,
    /// What becomes of work that NCCL does clearly faster, or that the links do not allow.
    pub nccl: NcclPolicy,
    /// Ways that the kernels have of moving a two-shot all-reduce, or a collective of several blocks.
    pub exchanges: &'static [Exchange],
}

/// Microseconds by the model, of each path that there is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Predicted {
    /// The GEMM alone.
    pub gemm_us: f64,
    /// One kernel.
    pub fused_us: Option<f64>,
    /// Our GEMM and our collective.
    pub unfused_us: Option<f64>,
    /// The vendor's GEMM and NCCL.
    pub nccl_us: Option<f64>,
}

/// Which path, how, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The path.
    pub path: Path,
    /// Whether an all-reduce goes by one exchange.
    pub one_shot: bool,
    /// Who moves.
    pub exchange: Exchange,
    /// SMs that only communicate where the path is fused.
    pub comm_sms: u32,
    /// What it was weighed by.
    pub predicted: Predicted,
    /// One line for a person.
    pub reason: String,
}

/// NCCL has to be this much faster before the crate steps back: the model is no better than that.
const CLEARLY: f64 = 0.9;

/// The best of our ways, with its time.
type Best = Option<(f64, Transport)>;

fn best(transports: &[Transport], time: impl Fn(Transport) -> Option<f64>) -> Best {
    let timed = transports.iter().filter_map(|by| Some((time(*by)?, *by)));
    timed.min_by(|a, b| a.0.total_cmp(&b.0))
}

/// The ways that work on `machine` for `work`.
fn transports(machine: &Machine, work: &Work, allowed: &Allowed) -> Vec<Transport> {
    let reduces_all = work.op.collective() == crate::op::Op::AllReduce;
    let works = |exchange: &Exchange| match exchange {
        Exchange::Push => true,
        Exchange::Pull => work.op.reduces() && machine.pull.is_some(),
        Exchange::InSwitch => reduces_all && machine.multicast && allowed.numerics == Numerics::InSwitch,
    };
    let exchanges = allowed.exchanges.iter().filter(|exchange| works(exchange));
    let two_shot = exchanges.map(|exchange| Transport {
        exchange: *exchange,
        one_shot: false,
    });
    // Packets are pushed.
    let pushes = allowed.exchanges.contains(&Exchange::Push);
    let small = reduces_all && pushes && work.packet_bytes() <= allowed.one_shot_bytes;
    let packets = small.then_some(Transport {
        exchange: Exchange::Push,
        one_shot: true,
    });
    packets.into_iter().chain(two_shot).collect()
}

/// Decides.
pub fn decide(machine: &Machine, work: &Work, allowed: &Allowed) -> Decision {
    let gemm = work.op.has_gemm();
    let ways = transports(machine, work, allowed);
    let fused = best(&ways, |by| work.fused_us(machine, by).map(|(us, _)| us));
    let unfused = best(&ways, |by| work.unfused_us(machine, by));
    let impossible = impossible(machine, &ways);
    let possible = impossible.is_none();
    let time = |best: Best| best.map(|(us, _)| us).filter(|_| possible);
    let predicted = Predicted {
        gemm_us: work.gemm_us(machine),
        fused_us: time(fused),
        unfused_us: time(unfused),
        nccl_us: work
            .nccl_us(machine)
            .filter(|_| machine.obstacles.iter().all(Obstacle::nccl_goes_around)),
    };
    let of = |path: Path, best: Best, reason: String| Decision {
        path,
        one_shot: best.is_some_and(|(_, by)| by.one_shot),
        exchange: best.map_or(Exchange::Push, |(_, by)| by.exchange),
        comm_sms: fused
            .and_then(|(_, by)| work.fused_us(machine, by))
            .map_or(0, |(_, sms)| sms),
        predicted,
        reason,
    };
    if let Some(reason) = impossible {
        let nccl = allowed.nccl == NcclPolicy::Own && predicted.nccl_us.is_some() && machine.world <= MOST;
        return of(if nccl { Path::Nccl } else { Path::Decline }, None, reason);
    }
    if machine.world == 1 {
        let (path, way) = if gemm {
            (Path::Fused, fused)
        } else {
            (Path::Unfused, unfused)
        };
        return of(path, way, "one rank: nothing travels".into());
    }
    let (path, ours) = match (fused, unfused) {
        (Some(one), Some(two)) if one.0 <= two.0 => (Path::Fused, fused),
        _ => (Path::Unfused, unfused),
    };
    let Some((ours_us, by)) = ours else {
        return of(Path::Decline, None, "these kernels have no way to move it".into());
    };
    let told = Told {
        machine,
        work,
        predicted: &predicted,
    };
    let faster = predicted.nccl_us.filter(|nccl| *nccl < CLEARLY * ours_us);
    let stands_in = match allowed.nccl {
        NcclPolicy::Never => None,
        NcclPolicy::Decline => Some(Path::Decline),
        NcclPolicy::Own => Some(Path::Nccl),
    };
    match (faster, stands_in) {
        (Some(us), Some(path)) => of(path, None, told.nccl(us)),
        (Some(_), None) => of(
            path,
            ours,
            format!("{}; NCCL would be faster", told.ours(path, ours_us, by)),
        ),
        (None, _) => of(path, ours, told.ours(path, ours_us, by)),
    }
}

/// The most ranks.
const MOST: usize = abi::TW_MAX_RANKS as usize;

/// Why nothing of ours runs here.
fn impossible(machine: &Machine, ways: &[Transport]) -> Option<String> {
    if machine.world == 0 || machine.world > MOST {
        return Some(format!("{} ranks: the kernels serve 1 to {MOST}", machine.world));
    }
    if let Some(first) = machine.obstacles.first() {
        return Some(match machine.obstacles.len() {
            1 => first.to_string(),
            2 => format!("{first} (and 1 more reason)"),
            n => format!("{first} (and {} more reasons)", n - 1),
        });
    }
    if machine.link == LinkKind::Nothing {
        return Some("the GPUs do not all reach each other".into());
    }
    ways.is_empty()
        .then(|| "the kernels have no exchange that works on these links".to_string())
}

/// A reason in the making.
struct Told<'a> {
    machine: &'a Machine,
    work: &'a Work,
    predicted: &'a Predicted,
}

/// Microseconds as a person reads them.
fn us(us: f64) -> String {
    if us < 10.0 {
        format!("{us:.1}")
    } else {
        format!("{us:.0}")
    }
}

impl Told<'_> {
    fn ours(&self, path: Path, ours_us: f64, by: Transport) -> String {
        let p = self.predicted;
        let mut others = Vec::new();
        if let (Path::Fused, Some(other)) = (path, p.unfused_us) {
            others.push(format!("{} unfused", us(other)));
        }
        if let (Path::Unfused, Some(other)) = (path, p.fused_us) {
            others.push(format!("{} fused", us(other)));
        }
        others.extend(p.nccl_us.map(|nccl| format!("{} by NCCL", us(nccl))));
        let against = if others.is_empty() {
            String::new()
        } else {
            format!(" against {}", others.join(" and "))
        };
        let not = if path == Path::Unfused && p.fused_us.is_some() {
            "do not fuse: "
        } else {
            ""
        };
        let shot = match (self.work.op.collective(), by.one_shot) {
            (crate::op::Op::AllReduce, true) => "one-shot ",
            (crate::op::Op::AllReduce, false) => "two-shot ",
            _ => "",
        };
        format!(
            "{not}{} us predicted at M = {}{against}; {shot}{}; {}",
            us(ours_us),
            self.work.m,
            by.exchange,
            self.machine_words()
        )
    }

    fn nccl(&self, nccl_us: f64) -> String {
        let p = self.predicted;
        let ours: Vec<String> = [(p.fused_us, "fused"), (p.unfused_us, "unfused")]
            .into_iter()
            .filter_map(|(time, name)| Some(format!("{} {name}", us(time?))))
            .collect();
        let what = if self.work.op.has_gemm() {
            "the vendor's GEMM and NCCL are"
        } else {
            "NCCL is"
        };
        format!(
            "{what} clearly faster: {} us predicted at M = {} against {}; {}",
            us(nccl_us),
            self.work.m,
            ours.join(" and "),
            self.machine_words()
        )
    }

    fn machine_words(&self) -> String {
        let untried = if self.machine.untried { ", links not tried" } else { "" };
        format!("{}{untried}", self.machine)
    }
}
