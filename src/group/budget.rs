//! Groups side by side. Group A filling device 0 while B fills device 1 leaves both waiting: so groups that share SMs state
//! budgets ([`GroupConfig::max_ctas`](super::GroupConfig::max_ctas)) that fit together, or order their operations alike on
//! all ranks. Stated budgets are checked here, by occupancy; a group without one may fill its SMs and is not counted.

use std::sync::{Arc, Mutex, PoisonError};

use crate::driver::{Driver, Place};
use crate::error::{Error, Result};
use crate::op::kernel::Kernel;

/// SMs that a live group may occupy at a place.
#[derive(Debug, Clone, Copy)]
struct Claim {
    /// Which driver, by its address: alive as long as the group that claims.
    driver: usize,
    group: u64,
    place: Place,
    sms: u32,
}

static CLAIMS: Mutex<Vec<Claim>> = Mutex::new(Vec::new());

/// What a group claims, until it is dropped.
#[derive(Debug)]
pub(super) struct Budget {
    group: u64,
}

impl Drop for Budget {
    fn drop(&mut self) {
        let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
        claims.retain(|claim| claim.group != self.group);
    }
}

/// The most SMs that `max_ctas` CTAs of one kernel occupy at `place`, whichever kernel it is.
fn sms_of(driver: &dyn Driver, place: Place, max_ctas: u32, all: u32) -> Result<u32> {
    let mut most = 0;
    for kernel in Kernel::all() {
        let per_sm = driver.ctas_per_sm(kernel.name(), kernel.launch(1, 1), place)?;
        if let Some(sms) = max_ctas.checked_div(per_sm) {
            most = most.max(sms + u32::from(!max_ctas.is_multiple_of(per_sm)));
        }
    }
    Ok(most.min(all))
}

/// Claims `max_ctas` CTAs at each place for a group, beside what others have claimed.
pub(super) fn claim(driver: &Arc<dyn Driver>, group: u64, places: &[Place], max_ctas: u32) -> Result<Budget> {
    let budget = Budget { group };
    if max_ctas == 0 {
        return Ok(budget);
    }
    let identity = Arc::as_ptr(driver).cast::<()>() as usize;
    let mut claimed = Vec::with_capacity(places.len());
    for &place in places {
        let all = driver.place_info(place)?.sms;
        claimed.push((place, sms_of(&**driver, place, max_ctas, all)?, all));
    }
    let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
    for &(place, sms, all) in &claimed {
        // Another division of the device cuts through these SMs somewhere: it counts, too.
        let beside = |claim: &&Claim| {
            (claim.driver, claim.place.device) == (identity, place.device)
                && (claim.place.shares != place.shares || claim.place.share == place.share)
        };
        let taken: u32 = claims.iter().filter(beside).map(|claim| claim.sms).sum();
        if taken.saturating_add(sms) > all {
            return Err(Error::bad_argument(
                "max_ctas",
                format!(
                    "{max_ctas}, up to {sms} of the {all} SMs of a rank on device {}",
                    place.device
                ),
                format!(
                    "a budget that fits beside the {taken} SMs of other groups there; or 0, where the groups' operations \
                     are ordered alike on all ranks"
                ),
            ));
        }
    }
    claims.extend(claimed.into_iter().map(|(place, sms, _)| Claim {
        driver: identity,
        group,
        place,
        sms,
    }));
    Ok(budget)
}
