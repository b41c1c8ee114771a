//! Every function of `csrc/machine` against values computed here, bit for bit: on the simulated node, and with
//! `TILEWEAVE_GPU=1` on this machine's GPU. The cases' device side is `csrc/kernels/conformance.h`.

#[path = "../common/mod.rs"]
mod common;
mod expected;
mod run;

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        const CASES: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                expected::$name(&run::Case::of(stringify!($name)));
            }
        )*
    };
}

// In the order of TW_CONFORMANCE_CASES.
cases!(
    identity,
    shared_base,
    barrier,
    votes,
    warp,
    shared_widths,
    global_widths,
    async_copy,
    matrices,
    mma_bf16,
    mma_f16,
    words,
    message,
    atomics,
    packets,
    clock,
    arithmetic,
    conversions,
    hints,
);

const MACHINE: &str = include_str!("../../docs/machine.md");
const KERNEL: &str = include_str!("../../csrc/kernels/conformance.h");

/// Functions that `docs/machine.md` declares.
fn declared() -> Vec<&'static str> {
    let block = MACHINE
        .split("```c++")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("the signatures");
    let code = block
        .lines()
        .map(|line| line.split("//").next().unwrap())
        .filter(|line| !line.starts_with("struct"));
    let mut names: Vec<_> = code
        .flat_map(|line| line.match_indices('(').map(move |(at, _)| &line[..at]))
        .filter_map(|before| before.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next())
        .filter(|name| !name.is_empty())
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn every_function_of_the_machine_has_a_case() {
    let declared = declared();
    assert!(declared.len() > 40 && declared.contains(&"ld_packet"), "{declared:?}");
    let missing: Vec<_> = declared
        .iter()
        .filter(|name| !KERNEL.contains(&format!("mx::{name}(")) && !KERNEL.contains(&format!("mx::{name}<")))
        .collect();
    assert!(missing.is_empty(), "no case calls {missing:?}");
}

#[test]
fn every_case_is_run() {
    assert_eq!(run::listed_cases(), CASES);
}
