//! A smoke test of multicast: all devices form a team, each reads the sums of all, and each sends to all.
//!
//! Launches end before the next begins, so a kernel's start stands between accesses by the two names that memory has here.

use std::sync::Arc;

use super::bench::{Area, Bench};
use super::pair::Fault;
use crate::abi::{self, TwGroup, TwParams};
use crate::driver::{DevicePtr, Driver, Multicast, Physical, Place};
use crate::error::Result;

/// A multicast object over one piece of memory of each device; undone on drop, as far as it was made.
struct Team<'a> {
    driver: &'a Arc<dyn Driver>,
    bytes: usize,
    object: Option<Multicast>,
    all: Option<DevicePtr>,
    members: Vec<Member>,
}

struct Member {
    place: Place,
    memory: Physical,
    bound: bool,
    own: Option<DevicePtr>,
}

impl<'a> Team<'a> {
    fn new(driver: &'a Arc<dyn Driver>, benches: &[&Bench], bytes: usize) -> Result<Team<'a>> {
        let places: Vec<Place> = benches.iter().map(|bench| bench.place).collect();
        let mut granularity = driver.multicast_granularity(&places)?.max(1);
        for place in &places {
            granularity = granularity.max(driver.physical_granularity(*place)?);
        }
        let bytes = bytes.next_multiple_of(granularity);
        // Whole before anything else can fail: dropped, it gives back what it has by then.
        let mut team = Team {
            driver,
            bytes,
            object: None,
            all: None,
            members: Vec::new(),
        };
        let object = *team.object.insert(driver.multicast_create(places.len(), bytes)?);
        for place in &places {
            driver.multicast_add_device(object, *place)?;
        }
        for place in &places {
            team.members.push(Member {
                place: *place,
                memory: driver.physical_create(*place, bytes)?,
                bound: false,
                own: None,
            });
        }
        for member in &mut team.members {
            driver.multicast_bind(object, member.place, member.memory, 0, bytes)?;
            member.bound = true;
            member.own = Some(driver.physical_map(member.memory, bytes, &[member.place])?);
        }
        team.all = Some(driver.multicast_map(object, bytes, &places)?);
        Ok(team)
    }
}

impl Drop for Team<'_> {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure. What cannot be undone keeps what it stands on.
        let mut undone = self
            .all
            .is_none_or(|all| self.driver.multicast_unmap(all, self.bytes).is_ok());
        for member in &self.members {
            let driver = self.driver;
            let (own, object) = (member.own, self.object.filter(|_| member.bound));
            let free = own.is_none_or(|own| driver.physical_unmap(own, self.bytes).is_ok());
            let loose = object
                .is_none_or(|object| undone && driver.multicast_unbind(object, member.place, 0, self.bytes).is_ok());
            undone &= loose;
            if free && loose {
                let _ = driver.physical_release(member.memory);
            }
        }
        if let (true, Some(object)) = (undone, self.object) {
            let _ = self.driver.multicast_release(object);
        }
    }
}

/// Tries a team of all `benches`: sums first, then stores by each.
pub(super) fn multicast(driver: &Arc<dyn Driver>, benches: &[&Bench]) -> Result<(), Fault> {
    let zone = benches.iter().map(|bench| bench.sizes.checked).min().unwrap_or(0);
    let team = Team::new(driver, benches, Area::bytes(zone))?;
    let world = benches.len() as u32;
    let all = team.all.unwrap_or(0);
    let own: Vec<DevicePtr> = team.members.iter().map(|member| member.own.unwrap_or(0)).collect();
    let found = |bench: &Bench, what: &str, text: String| {
        Fault::Found(format!("device {}: {what}: {text}", bench.place.device))
    };

    let params = |ptr, rank| TwParams {
        group: TwGroup {
            rank,
            world,
            ..TwGroup::default()
        },
        ..Area { ptr, zone, seed: 1 }.params()
    };
    for ((bench, own), rank) in benches.iter().zip(&own).zip(0..) {
        bench.clear()?;
        bench.enqueue(bench.grid, abi::TW_PROBE_NUMBERS, params(*own, rank))?;
        bench.finish()?;
    }
    for (bench, rank) in benches.iter().zip(0..) {
        bench.clear()?;
        bench.enqueue(bench.grid, abi::TW_PROBE_SUM, params(all, rank))?;
        let area = Area {
            ptr: all,
            zone,
            seed: 1,
        };
        if let Some(text) = area.verdict(&bench.finish()?) {
            return Err(found(bench, "sums through the switch", text));
        }
    }
    for (sender, seed) in benches.iter().zip(2..) {
        let area = |ptr| Area { ptr, zone, seed };
        for (bench, own) in benches.iter().zip(&own) {
            bench.run_on(abi::TW_PROBE_FILL, &area(*own))?;
        }
        sender.run_on(abi::TW_PROBE_CAST, &area(all))?;
        for (bench, own) in benches.iter().zip(&own) {
            if let Some(text) = area(*own).verdict(&bench.run_on(abi::TW_PROBE_CHECK, &area(*own))?) {
                let what = format!("what device {} sent through the switch", sender.place.device);
                return Err(found(bench, &what, text));
            }
        }
    }
    Ok(())
}
