//! How much of the communication a fused kernel hides, by Flux's definition (arXiv 2406.06858, section 5).

use super::statistics::{Estimate, of_medians};

/// What is hidden of `unfused - gemm`, in percent: 100 where the fused kernel takes as long as the GEMM alone, 0 where it
/// takes as long as both one after the other.
pub fn percent(fused: f64, gemm: f64, unfused: f64) -> f64 {
    100.0 * (1.0 - (fused - gemm) / (unfused - gemm))
}

/// The overlap, or why there is none to tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Overlap {
    Resolved(Estimate),
    /// `unfused - gemm`, in ms, is too near to the width of its own interval.
    NotResolvable {
        communication: Estimate,
    },
}

/// Of so many widths of its interval `unfused - gemm` has to be.
const LEAST_WIDTHS: f64 = 5.0;

/// From samples in ms, taken in turns.
pub fn overlap(fused: &[f64], gemm: &[f64], unfused: &[f64]) -> Overlap {
    let communication = of_medians([gemm, unfused], |[gemm, unfused]| unfused - gemm);
    // Also where it is negative, or not a number.
    if communication.value > LEAST_WIDTHS * communication.width() && communication.value > 0.0 {
        Overlap::Resolved(of_medians([fused, gemm, unfused], |[f, g, u]| percent(f, g, u)))
    } else {
        Overlap::NotResolvable { communication }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(center: f64, spread: f64) -> Vec<f64> {
        (0..21)
            .map(|i| center + spread * (f64::from(i * 8 % 21) / 10.0 - 1.0))
            .collect()
    }

    #[test]
    fn the_definition() {
        assert_eq!(percent(1.0, 1.0, 1.5), 100.0);
        assert_eq!(percent(1.5, 1.0, 1.5), 0.0);
        assert_eq!(percent(1.25, 1.0, 1.5), 50.0);
        assert_eq!(percent(2.0, 1.0, 1.5), -100.0);
    }

    #[test]
    fn what_is_clear_is_resolved() {
        let Overlap::Resolved(e) = overlap(&around(1.1, 0.001), &around(1.0, 0.001), &around(1.5, 0.001)) else {
            panic!()
        };
        assert!(
            (e.value - 80.0).abs() < 1e-9 && e.low <= e.value && e.value <= e.high,
            "{e:?}"
        );
        assert!(e.width() < 2.0, "{e:?}");
    }

    #[test]
    fn what_drowns_in_noise_is_not() {
        for (gemm, unfused) in [
            (around(1.0, 0.3), around(1.1, 0.001)),
            (around(1.5, 0.001), around(1.0, 0.001)),
            (around(1.0, 0.0), around(1.0, 0.0)),
        ] {
            let answer = overlap(&around(1.0, 0.001), &gemm, &unfused);
            assert!(matches!(answer, Overlap::NotResolvable { .. }), "{answer:?}");
        }
    }
}
