//! The kernels that are embedded in the program, as ptxas reported them and as they disassemble: nothing may spill, use the
//! stack or outgrow its launch bounds, and Hopper's kernels must use what they are written for.
//!
//! Without nvcc there is nothing to look at, and without a disassembler no instructions: a note, or with
//! `TILEWEAVE_REQUIRE_NVCC=1` a failure.

mod entries;
mod report;
mod sass;

use tileweave::abi::TwParams;

#[allow(dead_code)]
mod kernels {
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

const REGISTERS_OF_AN_SM: u32 = 65536;
const MOST_ENTRIES: usize = 60;
const MOST_BYTES: usize = 8 << 20;

/// `thing`, or `None` after saying why it is not there.
fn needed<T>(thing: Option<T>, missing: &str) -> Option<T> {
    if thing.is_none() {
        let required = std::env::var("TILEWEAVE_REQUIRE_NVCC").is_ok_and(|v| v == "1");
        assert!(!required, "TILEWEAVE_REQUIRE_NVCC=1, but {missing}");
        println!("skipped: {missing}");
    }
    thing
}

fn fatbin() -> Option<&'static [u8]> {
    needed(kernels::FATBIN, &format!("no kernels were built: {}", kernels::REASON))
}

#[test]
fn no_kernel_spills_or_outgrows_its_launch_bounds() {
    let Some(fatbin) = fatbin() else { return };
    assert!(fatbin.len() <= MOST_BYTES, "{} bytes", fatbin.len());
    assert!(
        size_of::<TwParams>() < 4096,
        "parameters of {} bytes",
        size_of::<TwParams>()
    );
    let found = report::read(kernels::PTXAS_REPORT).unwrap_or_else(|bad| panic!("{}", bad.join("\n")));
    // Of PTX there is nothing to report: it is compiled where it is loaded.
    let mut archs: Vec<_> = kernels::ARCHS.iter().filter(|arch| arch.starts_with("sm_")).collect();
    archs.sort();
    assert_eq!(found.keys().collect::<Vec<_>>(), archs);
    for (arch, kernels) in found {
        let expected = entries::of(&arch);
        assert!(
            expected.len() <= MOST_ENTRIES,
            "{} entry points of {arch}",
            expected.len()
        );
        assert!(
            kernels.keys().eq(expected.keys()),
            "{arch} has {:?}, entries.h {:?}",
            kernels.keys(),
            expected.keys()
        );
        for (name, registers) in kernels {
            let bounds = expected[&name];
            // Registers are given to warps in blocks of 256: 8 a thread.
            let used = registers.next_multiple_of(8) * bounds.threads * bounds.ctas_per_sm;
            assert!(
                used <= REGISTERS_OF_AN_SM,
                "{name} ({arch}): {registers} registers, {bounds:?}"
            );
        }
    }
}

#[test]
fn the_machine_code_uses_what_it_was_written_for() {
    const HOPPER: &str = "sm_90a";
    let Some(fatbin) = fatbin() else { return };
    if !kernels::ARCHS.contains(&HOPPER) {
        println!("skipped: {HOPPER} was not built, but {:?}", kernels::ARCHS);
        return;
    }
    let missing = "cuobjdump (CUOBJDUMP, CUDA_HOME, PATH) was not found: no machine code was looked at";
    let Some(cuobjdump) = needed(sass::disassembler(), missing) else {
        return;
    };
    let found = sass::disassemble(&cuobjdump, fatbin, HOPPER);
    assert!(
        found.keys().eq(entries::of(HOPPER).keys()),
        "disassembled: {:?}",
        found.keys()
    );
    let mut bad = Vec::new();
    for (name, has) in &found {
        for instruction in ["LDL", "STL"].into_iter().filter(|i| has.contains_key(*i)) {
            bad.push(format!("{name} has {instruction}: it uses local memory"));
        }
        for instruction in wanted(name).iter().filter(|i| !has.contains_key(**i)) {
            bad.push(format!("{name} has no {instruction}"));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// What an entry point's mainloop cannot do without.
fn wanted(name: &str) -> &'static [&'static str] {
    if entries::is_hopper(name) {
        // wgmma, TMA loads, mbarriers, and registers handed from the roles that move data to those that compute.
        &["HGMMA", "UTMALDG", "SYNCS", "USETMAXREG"]
    } else if name == "conformance" {
        &[
            "HGMMA",
            "UTMALDG",
            "UTMASTG",
            "UBLKCP",
            "STSM",
            "USETMAXREG",
            "UCGABAR_ARV",
        ]
    } else if name.contains("gemm") && !name.contains("f32") {
        &["HMMA", "LDGSTS"]
    } else {
        &[]
    }
}
