//! All-reduces alone, row by row.

use tileweave::machines::Description;
use tileweave::route::Machine;
use tileweave::route::model::Work;
use tileweave::{DType, Op};

use super::clock::{self, AllReduce};
use super::judge::{Errors, LeftOut};
use super::tables::{Row, number, text};
use super::{in_parallel, machine};

/// The largest message that a one-shot of ours is asked about: it keeps 4 x ranks times as much of every rank's heap.
const MOST_ONE_SHOT: usize = 8 << 20;

/// What stands for a table's algorithm here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counterpart {
    Ours(AllReduce),
    /// A one-shot that sends no tags, which are half of our packets: ours, of half as much.
    WithoutTags,
    Nccl,
}

fn counterpart(algorithm: &str) -> Result<Counterpart, &'static str> {
    match algorithm {
        "ca_1stage" => Ok(Counterpart::WithoutTags),
        "ca_2stage" | "symm_two_shot" => Ok(Counterpart::Ours(AllReduce::TwoShot)),
        "symm_multimem" => Ok(Counterpart::Ours(AllReduce::InSwitch)),
        "pynccl" | "NCCL" => Ok(Counterpart::Nccl),
        "mscclpp best kernel" | "mscclpp kernel 6" => Ok(Counterpart::Ours(AllReduce::AsChosen)),
        "nccl_symm" | "NCCL symm (fallback)" => Err("NCCL's symmetric kernels, which the model does not have"),
        name if name.starts_with("LL packet one-shot") => Ok(Counterpart::Ours(AllReduce::OneShot)),
        name if name.starts_with("LL two-shot") => Err("a two-shot by packets: ours has signals, and fences"),
        name if name.starts_with("one-shot f32") => Err("what the time includes is not told"),
        _ => Err("another algorithm"),
    }
}

struct Case<'a> {
    row: &'a Row,
    machine: Description,
    world: usize,
    bytes: usize,
    us: f64,
    by: Counterpart,
}

fn case(row: &Row) -> Result<Case<'_>, &'static str> {
    let by = counterpart(text(row, "algo"))?;
    // The label is cut off in the source; its one-stage slope fits 8.
    let world = number(row, "world").map_or(8, |world| world as usize);
    let (machine, _) =
        machine(text(row, "hw"), world).ok_or("machine not described, or more ranks than it has GPUs")?;
    let (Some(bytes), Some(us)) = (number(row, "bytes"), number(row, "us")) else {
        return Err("no size or no time");
    };
    if by == Counterpart::WithoutTags && bytes as usize > MOST_ONE_SHOT {
        return Err("one-shots beyond 8 MiB");
    }
    Ok(Case {
        row,
        machine,
        world,
        bytes: bytes as usize,
        us,
        by,
    })
}

fn predict(case: &Case<'_>) -> tileweave::Result<f64> {
    let ours = |bytes, by| clock::all_reduce(&case.machine, case.world, bytes, by);
    match case.by {
        Counterpart::Ours(by) => ours(case.bytes, by),
        Counterpart::WithoutTags => ours(case.bytes / 2, AllReduce::OneShot),
        Counterpart::Nccl => {
            let dtype = DType::Bf16;
            let n = (case.bytes / dtype.size()) as u64;
            let work = Work {
                op: Op::AllReduce,
                m: 1,
                n,
                k: 0,
                dtype,
                wire: dtype,
            };
            Ok(work
                .nccl_collective_us(&Machine::described(&case.machine, case.world))
                .unwrap_or(0.0))
        }
    }
}

pub fn run(rows: &[Row], quick: bool) {
    let mut left_out = LeftOut::default();
    let mut cases = Vec::new();
    for row in rows {
        match case(row) {
            Ok(case) if quick && case.bytes > 1 << 20 => left_out.add("--quick"),
            Ok(case) => cases.push(case),
            Err(why) => left_out.add(why),
        }
    }
    println!("All-reduces alone: published -> predicted, microseconds [predicted]");
    let (mut by_kind, mut by_source) = (Errors::default(), Errors::default());
    in_parallel(&cases, predict, |case, predicted| {
        let (row, us) = (case.row, case.us);
        let name = format!(
            "{} P {} {} {} bytes",
            text(row, "hw"),
            case.world,
            text(row, "algo"),
            case.bytes
        );
        match predicted {
            Ok(predicted) => {
                let kind = match case.by {
                    Counterpart::Nccl => "NCCL",
                    Counterpart::Ours(AllReduce::InSwitch) => "in the switch",
                    Counterpart::Ours(AllReduce::TwoShot) => "two-shot",
                    Counterpart::Ours(AllReduce::AsChosen) => "ours as chosen",
                    Counterpart::Ours(AllReduce::OneShot) | Counterpart::WithoutTags => "one-shot",
                };
                let error = by_kind.add(kind, us, predicted);
                by_source.add(&format!("{}, {}", text(row, "hw"), text(row, "source")), us, predicted);
                println!("{name}: {us} -> {predicted:.1} ({error})");
            }
            Err(error) => {
                println!("{name}: {error}");
                left_out.add("the kernels do not serve it");
            }
        }
    });
    println!();
    by_kind.print("all-reduce alone, by algorithm");
    by_source.print("the same, by source");
    left_out.print();
}
