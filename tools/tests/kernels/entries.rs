//! The list of entry points in `csrc/kernels/entries.h`, expanded as the preprocessor does, with the numbers of `abi.h`.

use std::collections::BTreeMap;

const ENTRIES: &str = include_str!("../../../csrc/kernels/entries.h");
const ABI: &str = include_str!("../../../csrc/abi.h");

/// What the names of kernels end with that exist in sm_90a's machine code alone (`TW_HOPPER_KERNEL`).
const HOPPER_SUFFIX: &str = "_sm90";

/// Launch bounds of an entry point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub threads: u32,
    pub ctas_per_sm: u32,
}

/// Every entry point that machine code for `arch` must have.
pub fn of(arch: &str) -> BTreeMap<String, Bounds> {
    let mut entries = BTreeMap::new();
    expand("TW_ENTRIES", None, &mut entries);
    entries.retain(|name, _| arch == "sm_90a" || !is_hopper(name));
    entries
}

/// Whether an entry point is one of Hopper's own.
pub fn is_hopper(name: &str) -> bool {
    name.ends_with(HOPPER_SUFFIX)
}

/// The body of a macro whose parameters are X and perhaps another, which stands for `argument`.
fn body(name: &str, argument: Option<&str>) -> String {
    let start = ENTRIES
        .find(&format!("#define {name}("))
        .unwrap_or_else(|| panic!("no {name} in entries.h"));
    let text = ENTRIES[start..].split("\n\n").next().unwrap();
    let text = text.split("\n#define").next().unwrap().split("\n//").next().unwrap();
    let (head, body) = text.split_once(')').unwrap();
    let body = match (head.split_once(", "), argument) {
        (Some((_, parameter)), Some(argument)) => with(body, parameter, argument),
        _ => body.to_string(),
    };
    body.replace("##", "").replace('\\', " ")
}

/// Puts `argument` where the identifier `parameter` stands.
fn with(body: &str, parameter: &str, argument: &str) -> String {
    let mut out = String::new();
    let mut rest = body;
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| in_name(c) != in_name(first)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        out.push_str(if word == parameter { argument } else { word });
        rest = after;
    }
    out
}

fn expand(name: &str, argument: Option<&str>, entries: &mut BTreeMap<String, Bounds>) {
    let body = body(name, argument);
    for call in body.split_inclusive(')').filter(|call| call.contains('(')) {
        let (callee, arguments) = call.trim().trim_end_matches(')').split_once('(').unwrap();
        let arguments: Vec<_> = arguments.split(',').map(str::trim).collect();
        if callee != "X" {
            expand(callee, arguments.get(1).copied(), entries);
            continue;
        }
        let bounds = Bounds {
            threads: number(arguments[1]),
            ctas_per_sm: number(arguments[2]),
        };
        entries.insert(arguments[0].to_string(), bounds);
    }
}

/// A literal, or a constant of `abi.h`.
fn number(word: &str) -> u32 {
    let defined = || {
        let (_, rest) = ABI.split_once(&format!("#define {word} "))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    word.parse()
        .ok()
        .or_else(defined)
        .unwrap_or_else(|| panic!("{word} is no number and not in abi.h"))
}

#[test]
fn the_list_of_entry_points_is_expanded() {
    let entries = of("sm_90a");
    let bounds = |threads, ctas_per_sm| Bounds { threads, ctas_per_sm };
    assert_eq!(entries["conformance"], bounds(128, 1));
    assert_eq!(
        entries["gemm_rs_bf16_128"],
        bounds(tileweave::abi::TW_TILE_128_THREADS, 1)
    );
    assert_eq!(
        entries["all_reduce1"],
        bounds(tileweave::abi::TW_TILE_MEMORY_THREADS, 2)
    );
    assert!(of("sm_80").keys().all(|name| !is_hopper(name)));
}
