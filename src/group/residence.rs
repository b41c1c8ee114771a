//! What ranks may be resident side by side. Their kernels wait for each other, so those of all ranks run at once or not at
//! all: places that cannot be had together are refused before anything is allocated.

use std::collections::HashMap;

use super::RankPlace;
use crate::driver::{Driver, Place};
use crate::error::{Error, Result};
use crate::op::Mainloop;
use crate::op::kernel::Kernel;

/// Checks that no two ranks are in each other's way.
pub(super) fn check(driver: &dyn Driver, ranks: &[RankPlace]) -> Result<()> {
    for (b, rank) in ranks.iter().enumerate() {
        for (a, other) in ranks[..b].iter().enumerate() {
            apart(a, other, b, rank)?;
        }
        // Every device is counted at its first rank.
        let on_it = ranks
            .iter()
            .filter(|other| other.place.device == rank.place.device)
            .count();
        if let Some(most) = driver
            .concurrent_kernels(rank.place.device)
            .filter(|most| on_it > *most)
        {
            return Err(Error::bad_argument(
                format!("the number of ranks on device {}", rank.place.device),
                on_it,
                format!(
                    "at most {most}, so that the kernel of each has a hardware queue; set \
                     CUDA_DEVICE_MAX_CONNECTIONS=32 before the program starts"
                ),
            ));
        }
    }
    Ok(())
}

fn apart(a: usize, one: &RankPlace, b: usize, two: &RankPlace) -> Result<()> {
    let (p, q) = (one.place, two.place);
    if let (Some(stream), true) = (one.stream, one.stream == two.stream) {
        return Err(Error::bad_argument(
            format!("rank {b}'s stream"),
            format!("{:#x}, as is rank {a}'s", stream.0),
            "a stream for each: kernels of one stream run one after the other",
        ));
    }
    if p.device != q.device {
        return Ok(());
    }
    let here = format!("share {} of {} of device {}", q.share, q.shares, q.device);
    let (value, expected) = if p.shares != q.shares {
        let value = format!("{here}, where rank {a} has share {} of {}", p.share, p.shares);
        (value, "shares of one division, whose SMs are apart")
    } else if p.share == q.share {
        let value = format!("{here}, as is rank {a}'s");
        (
            value,
            "a share for each: their kernels wait for each other, so both must be resident",
        )
    } else {
        return Ok(());
    };
    Err(Error::bad_argument(format!("rank {b}'s place"), value, expected))
}

/// Whether every rank's device runs Hopper kernels.
pub(super) fn all_hopper(driver: &dyn Driver, places: &[Place]) -> Result<bool> {
    for place in places {
        if !driver.place_info(*place)?.hopper {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How many CTAs of each kernel are resident on every rank at once, by the size of the clusters that they come in; at most
/// `budget` unless that is 0. Each place is asked: equal shares of a device need not have equally many pairs of SMs.
pub(super) fn resident_ctas(driver: &dyn Driver, places: &[Place], budget: u32) -> Result<HashMap<(Kernel, u32), u32>> {
    let mut ctas = HashMap::new();
    for place in places {
        let info = driver.place_info(*place)?;
        for (kernel, cluster) in Kernel::all_clusters() {
            let launch = kernel.launch(cluster, cluster);
            let absent = kernel.mainloop == Mainloop::Hopper && !info.hopper;
            let fits = if absent || launch.shared > info.shared_per_cta {
                0
            } else {
                driver.resident_ctas(kernel.name(), launch, *place)?
            };
            let fits = if budget == 0 { fits } else { fits.min(budget) };
            let fits = fits - fits % cluster;
            ctas.entry((kernel, cluster))
                .and_modify(|least: &mut u32| *least = fits.min(*least))
                .or_insert(fits);
        }
    }
    Ok(ctas)
}
