//! What one launch is, as the hello tells it to the peers: its hash, and its words for a person.

use super::Op;
use crate::abi::{self, TwDescriptor};
use crate::dtype::DType;

/// One step of splitmix64's output function (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The hash that the hello carries; never 0, which a cleared hello holds.
pub(crate) fn hash(descriptor: &TwDescriptor) -> u64 {
    let TwDescriptor {
        op,
        algorithm,
        dtype,
        wire,
        tile,
        grid,
        has_bias,
        world,
        m,
        n,
        k,
        panel,
        tail,
        tail_eps,
        epilogue,
        axis,
    } = *descriptor;
    let pair = |a: u32, b: u32| (a as u64) << 32 | b as u64;
    let words = [
        pair(op, algorithm),
        pair(dtype, wire),
        pair(tile, grid),
        pair(has_bias, world),
        m,
        n,
        k,
        panel,
        pair(tail, tail_eps),
        pair(epilogue, axis),
    ];
    let hash = words.iter().fold(abi::TW_ABI_VERSION as u64, |state, word| {
        mix(mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15)).wrapping_add(*word))
    });
    hash.max(1)
}

/// The operation's name, `gemm` for the first half of an unfused one.
pub(crate) fn op_name(code: u32) -> String {
    match Op::from_code(code) {
        Some(op) => op.name().to_string(),
        None if code == abi::TW_GEMM => "gemm".to_string(),
        None => format!("operation {code}"),
    }
}

/// All that ranks must agree on, in words.
pub(crate) fn describe(descriptor: &TwDescriptor) -> String {
    let d = descriptor;
    let dtype = |code| DType::from_code(code).map_or_else(|| format!("type {code}"), |dtype| dtype.to_string());
    let mut sizes = vec![format!("M {}", d.m)];
    for (name, value) in [("N", d.n), ("K", d.k)] {
        if value != 0 {
            sizes.push(format!("{name} {value}"));
        }
    }
    let algorithm = match d.algorithm {
        abi::TW_TWO_SHOT => "",
        abi::TW_ONE_SHOT => ", one-shot",
        abi::TW_PULL => ", pulled",
        abi::TW_IN_SWITCH => ", in-switch",
        _ => ", of an unknown kind",
    };
    let pairs = if d.tile & abi::TW_TILE_PAIRS != 0 {
        " in pairs"
    } else {
        ""
    };
    let mainloop = if d.tile & abi::TW_TILE_HOPPER != 0 {
        ", Hopper mainloop"
    } else {
        ""
    };
    let reducers = match d.tile / abi::TW_TILE_REDUCER {
        0 => String::new(),
        n => format!(", {n} of them only reduce"),
    };
    let tile = match (d.tile % abi::TW_TILE_REDUCER) & !(abi::TW_TILE_PAIRS | abi::TW_TILE_HOPPER) {
        abi::TW_TILE_64 => "64 x 64 tiles",
        abi::TW_TILE_128 => "128 x 128 tiles",
        abi::TW_TILE_256 => "128 x 256 tiles",
        abi::TW_TILE_F32 => "f32 tiles",
        abi::TW_TILE_MEMORY => "memory tiles",
        _ => "unknown tiles",
    };
    let tail = match d.tail {
        abi::TW_TAIL_NONE if d.tail_eps == 0 => String::new(),
        abi::TW_TAIL_RESIDUAL if d.tail_eps == 0 => ", residual".to_string(),
        abi::TW_TAIL_RMS_NORM => format!(", residual and RMSNorm, eps {:e}", f32::from_bits(d.tail_eps)),
        kind => format!(", tail {kind} of {:#x}", d.tail_eps),
    };
    let epilogue = match d.epilogue {
        abi::TW_EPILOGUE_NONE => String::new(),
        abi::TW_EPILOGUE_GELU => ", GELU".to_string(),
        abi::TW_EPILOGUE_SWIGLU => ", SwiGLU".to_string(),
        kind => format!(", epilogue {kind}"),
    };
    let axis = match d.axis {
        abi::TW_ROWS => String::new(),
        abi::TW_COLUMNS => " side by side".to_string(),
        kind => format!(" along axis {kind}"),
    };
    format!(
        "{} of {}{axis} ({}, wire {}{}{epilogue}{tail}{algorithm}, {tile}{pairs}{mainloop}, {} CTAs{reducers}, panel {}, {} ranks)",
        op_name(d.op),
        sizes.join(", "),
        dtype(d.dtype),
        dtype(d.wire),
        if d.has_bias != 0 { ", bias" } else { "" },
        d.grid,
        d.panel,
        d.world,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> TwDescriptor {
        TwDescriptor {
            op: 2,
            grid: 8,
            world: 4,
            m: 64,
            n: 512,
            panel: 1,
            ..Default::default()
        }
    }

    #[test]
    fn every_field_counts() {
        let base = example();
        let mut all = vec![base];
        for field in 0..16 {
            let mut d = base;
            let narrow = [
                &mut d.op,
                &mut d.algorithm,
                &mut d.dtype,
                &mut d.wire,
                &mut d.tile,
                &mut d.grid,
            ];
            let more = [
                &mut d.has_bias,
                &mut d.world,
                &mut d.tail,
                &mut d.tail_eps,
                &mut d.epilogue,
                &mut d.axis,
            ];
            if let Some(word) = narrow.into_iter().chain(more).nth(field) {
                *word += 1;
            }
            let wide = [&mut d.m, &mut d.n, &mut d.k, &mut d.panel];
            if let Some(word) = field.checked_sub(12).and_then(|i| wide.into_iter().nth(i)) {
                *word += 1;
            }
            all.push(d);
        }
        let hashes: std::collections::HashSet<_> = all.iter().map(hash).collect();
        assert_eq!(hashes.len(), all.len());
        assert!(!hashes.contains(&0));
        let words: std::collections::HashSet<_> = all.iter().map(describe).collect();
        assert_eq!(
            words.len(),
            all.len(),
            "two ranks that disagree must read differently: {words:#?}"
        );
    }

    #[test]
    fn words() {
        assert_eq!(
            describe(&example()),
            "gemm-all-reduce of M 64, N 512 (bf16, wire bf16, 64 x 64 tiles, 8 CTAs, panel 1, 4 ranks)"
        );
        let tile = abi::TW_TILE_256 | abi::TW_TILE_PAIRS | abi::TW_TILE_HOPPER | (4 * abi::TW_TILE_REDUCER);
        assert_eq!(
            describe(&TwDescriptor { tile, ..example() }),
            "gemm-all-reduce of M 64, N 512 (bf16, wire bf16, 128 x 256 tiles in pairs, Hopper mainloop, 8 CTAs, 4 of them only \
             reduce, panel 1, 4 ranks)"
        );
    }
}
