//! GEMMs with a collective, row by row.

use tileweave::machines::Description;
use tileweave::route::Machine;
use tileweave::route::model::Work;
use tileweave::{DType, Op};

use super::clock::Gemm;
use super::judge::{Errors, LeftOut, Score};
use super::tables::{Row, number, text};
use super::{in_parallel, machine};

/// A row with a machine and sizes.
struct Case<'a> {
    row: &'a Row,
    machine: Description,
    note: &'static str,
    gemm: Gemm,
}

/// Microseconds.
struct Predicted {
    gemm: f64,
    collective: f64,
    fused: f64,
}

fn case(row: &Row) -> Result<Case<'_>, &'static str> {
    let op = match text(row, "op") {
        "GEMM+RS" => Op::GemmReduceScatter,
        "GEMM+AR" => Op::GemmAllReduce,
        "AG+GEMM" => Op::AllGatherGemm,
        _ => return Err("another operation"),
    };
    let dtype = match text(row, "dtype") {
        "bf16" => DType::Bf16,
        "fp16" => DType::F16,
        _ => return Err("a type that the kernels do not have"),
    };
    let size = |name| {
        number(row, name)
            .map(|size| size as usize)
            .ok_or("sizes or ranks not told")
    };
    let (world, m, n, k) = (size("world")?, size("M")?, size("N_local")?, size("K_local")?);
    let (machine, note) = machine(text(row, "hw"), world).ok_or("machine not described")?;
    let gemm = Gemm {
        op,
        world,
        m,
        n,
        k,
        dtype,
    };
    Ok(Case {
        row,
        machine,
        note,
        gemm,
    })
}

fn predict(case: &Case<'_>) -> tileweave::Result<Predicted> {
    let g = case.gemm;
    let machine = Machine::described(&case.machine, g.world);
    let (m, n, k, dtype) = (g.m as u64, g.n as u64, g.k as u64, g.dtype);
    let work = Work {
        op: g.op,
        m,
        n,
        k,
        dtype,
        wire: dtype,
    };
    Ok(Predicted {
        gemm: g.alone(&case.machine)?,
        collective: work.nccl_collective_us(&machine).unwrap_or(0.0),
        // The GEMM + all-reduces of these tables all add in the switch.
        fused: g.fused(&case.machine, g.op == Op::GemmAllReduce && machine.multicast)?,
    })
}

/// The few that a quick run takes: small, and Hopper's, whose kernels have the fewest instructions to simulate.
fn is_quick(case: &Case<'_>) -> bool {
    [128, 1024].contains(&case.gemm.m) || (case.machine.gpu == "H800" && case.gemm.m == 4096)
}

pub fn run(rows: &[Row], quick: bool) {
    let mut left_out = LeftOut::default();
    let mut cases = Vec::new();
    for row in rows {
        match case(row) {
            Ok(case) if quick && !is_quick(&case) => left_out.add("--quick"),
            Ok(case) => cases.push(case),
            Err(why) => left_out.add(why),
        }
    }
    println!("GEMMs with a collective: published -> predicted, microseconds [predicted]");
    println!("bound: min(1, gemm / communication), the most that can be hidden, by the prediction");
    let (mut gemms, mut baselines, mut speedups) = (Errors::default(), Errors::default(), Errors::default());
    let mut fuse = Score::default();
    in_parallel(&cases, predict, |case, predicted| {
        let (row, g) = (case.row, case.gemm);
        let name = format!(
            "{} {} P {} M {} N {} K {}",
            text(row, "op"),
            text(row, "hw"),
            g.world,
            g.m,
            g.n,
            g.k
        );
        let predicted = match predicted {
            Ok(predicted) => predicted,
            Err(error) => {
                println!("{name}: {error}");
                left_out.add("the kernels do not serve it");
                return;
            }
        };
        let group = format!("{}, {}", text(row, "hw"), text(row, "source"));
        let Predicted {
            gemm,
            collective,
            fused,
        } = predicted;
        let baseline = gemm + collective;
        let mut cells = Vec::new();
        let us = |name| number(row, name).map(|ms| 1e3 * ms);
        if let Some(published) = us("gemm_only_ms") {
            let error = gemms.add(&group, published, gemm);
            cells.push(format!("gemm {published:.0} -> {gemm:.0} ({error})"));
        }
        if let Some(published) = us("baseline_ms") {
            let error = baselines.add(&group, published, baseline);
            cells.push(format!("GEMM + NCCL {published:.0} -> {baseline:.0} ({error})"));
        }
        match (us("fused_ms"), us("baseline_ms")) {
            (Some(theirs), Some(unfused)) => {
                let (published, ours) = (unfused / theirs, baseline / fused);
                let error = speedups.add(&group, published, ours);
                let right = (published > 1.0) == (ours > 1.0);
                fuse.add(&group, right);
                let word = if right { "" } else { ", WRONG" };
                cells.push(format!(
                    "fused {theirs:.0} -> {fused:.0}, speedup {published:.2} -> {ours:.2} ({error}{word})"
                ));
            }
            (Some(theirs), None) => cells.push(format!("fused {theirs:.0} -> {fused:.0}, nothing to compare it with")),
            _ => {}
        }
        cells.push(format!("bound {:.2}", (gemm / collective).min(1.0)));
        if !case.note.is_empty() {
            cells.push(case.note.into());
        }
        println!("{name}: {}", cells.join("; "));
    });
    println!();
    gemms.print("GEMM alone");
    baselines.print("GEMM + NCCL");
    speedups.print("speedup of fusing");
    fuse.print("fuse or not");
    left_out.print();
}
