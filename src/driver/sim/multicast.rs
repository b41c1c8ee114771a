//! Multicast objects: one range of addresses, behind the devices' slices, for memory of several devices. No byte lies
//! there: an address stands for the bytes at its place in the memory that each device has bound ([`Arena::members`]).

use std::collections::BTreeMap;

use super::arena::{Allocations, Arena, GRANULARITY, SLICE};
use super::physical::{bad_physical, drop_unused};
use crate::error::{Error, Result};

/// Memory bound at an offset of an object.
#[derive(Debug, Clone, Copy)]
struct Binding {
    bytes: u64,
    physical: u64,
}

/// One multicast object.
#[derive(Debug)]
pub(super) struct Team {
    /// How many devices it is for.
    world: usize,
    bytes: u64,
    /// The devices that joined, and what each has bound, by offset.
    devices: BTreeMap<usize, BTreeMap<u64, Binding>>,
    mapped_at: Option<u64>,
    /// Devices that may use the mapping, a bit each.
    accessors: u32,
    released: bool,
}

/// Where an access through the switch goes: the same place in the memory of each device, in the order of the devices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Members {
    pub count: usize,
    pub at: [(usize, u64); 16],
}

/// Why an access finds no members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoTeam {
    /// No multicast object is mapped there.
    Nothing,
    /// It is not mapped for the device.
    NotMapped,
    /// The device has bound no memory there, or memory that is not mapped.
    Unbound(usize),
}

impl Arena {
    pub fn multicast_create(&self, world: usize, bytes: usize) -> Result<u64> {
        if !(2..=self.layout.devices).contains(&world) {
            let expected = format!("2 to {}, the devices present", self.layout.devices);
            return Err(Error::bad_argument("devices", world, expected));
        }
        check_size("bytes", bytes)?;
        let mut a = self.lock();
        let id = a.next_physical;
        a.next_physical += 1;
        let team = Team {
            world,
            bytes: bytes as u64,
            devices: BTreeMap::new(),
            mapped_at: None,
            accessors: 0,
            released: false,
        };
        a.multicast.insert(id, team);
        Ok(id)
    }

    pub fn multicast_add(&self, id: u64, device: usize) -> Result<()> {
        let mut a = self.lock();
        let team = team(&mut a, id)?;
        if team.devices.contains_key(&device) {
            let expected = "a device that has not joined: ranks that share a device cannot form a multicast team";
            return Err(Error::bad_argument("device", device, expected));
        }
        if team.devices.len() == team.world {
            let expected = format!("at most {} devices, for which the object was made", team.world);
            return Err(Error::bad_argument("device", device, expected));
        }
        team.devices.insert(device, BTreeMap::new());
        Ok(())
    }

    pub fn multicast_bind(&self, id: u64, device: usize, memory: u64, offset: usize, bytes: usize) -> Result<()> {
        check_size("bytes", bytes)?;
        if !offset.is_multiple_of(GRANULARITY) {
            return Err(Error::bad_argument(
                "offset",
                offset,
                format!("a multiple of {GRANULARITY}"),
            ));
        }
        let (offset, bytes) = (offset as u64, bytes as u64);
        let mut a = self.lock();
        let (home, size) = a
            .physical
            .get(&memory)
            .map(|p| (p.device, p.bytes))
            .ok_or_else(|| bad_physical(memory))?;
        let team = team(&mut a, id)?;
        if team.devices.len() < team.world {
            let expected = format!("{} devices added before the first is bound", team.world);
            return Err(Error::bad_argument(
                "the multicast object",
                team.devices.len(),
                expected,
            ));
        }
        if home != device || bytes > size {
            let value = format!("{size} bytes of device {home}");
            return Err(Error::bad_argument(
                "memory",
                value,
                format!("{bytes} bytes of device {device}"),
            ));
        }
        let end = offset.checked_add(bytes).filter(|end| *end <= team.bytes);
        let end = end.ok_or_else(|| Error::bad_argument("bytes", bytes, format!("room in {} bytes", team.bytes)))?;
        let bound = team
            .devices
            .get_mut(&device)
            .ok_or_else(|| Error::bad_argument("device", device, "a device that was added"))?;
        if bound
            .range(..end)
            .next_back()
            .is_some_and(|(at, b)| at + b.bytes > offset)
        {
            return Err(Error::bad_argument(
                "offset",
                offset,
                format!("bytes that device {device} has not bound"),
            ));
        }
        bound.insert(
            offset,
            Binding {
                bytes,
                physical: memory,
            },
        );
        if let Some(p) = a.physical.get_mut(&memory) {
            p.bound += 1;
        }
        Ok(())
    }

    pub fn multicast_unbind(&self, id: u64, device: usize, offset: usize, bytes: usize) -> Result<()> {
        let mut a = self.lock();
        let (offset, bytes) = (offset as u64, bytes as u64);
        let bound = team(&mut a, id)?.devices.get_mut(&device);
        let gone = bound
            .filter(|bound| bound.get(&offset).is_some_and(|b| b.bytes == bytes))
            .and_then(|bound| bound.remove(&offset))
            .ok_or_else(|| Error::bad_argument("offset", offset, format!("what device {device} has bound")))?;
        if let Some(p) = a.physical.get_mut(&gone.physical) {
            p.bound -= 1;
        }
        drop_unused(&mut a, gone.physical);
        Ok(())
    }

    pub fn multicast_map(&self, id: u64, bytes: usize, accessors: u32) -> Result<u64> {
        let mut a = self.lock();
        let free = self.slice(self.layout.devices);
        let team = team(&mut a, id)?;
        if team.bytes != bytes as u64 {
            return Err(Error::bad_argument(
                "bytes",
                bytes,
                format!("the object's size, {}", team.bytes),
            ));
        }
        if let Some(start) = team.mapped_at {
            return Err(Error::bad_argument(
                "memory",
                format!("at {start:#x}"),
                "an object that is not mapped",
            ));
        }
        let start = a.take(free, bytes as u64).ok_or_else(|| {
            let expected = format!("what fits into {} GiB of multicast addresses", SLICE >> 30);
            Error::bad_argument("bytes", bytes, expected)
        })?;
        a.teams.insert(start, id);
        if let Some(team) = a.multicast.get_mut(&id) {
            (team.mapped_at, team.accessors) = (Some(start), accessors);
        }
        Ok(start)
    }

    pub fn multicast_unmap(&self, start: u64, bytes: usize) -> Result<()> {
        let mut a = self.lock();
        let id = a.teams.get(&start).copied();
        let team = id.and_then(|id| a.multicast.get_mut(&id).filter(|team| team.bytes == bytes as u64));
        let Some(team) = team else {
            let value = format!("{bytes} bytes at {start:#x}");
            return Err(Error::bad_argument("ptr", value, "what multicast_map gave"));
        };
        team.mapped_at = None;
        a.teams.remove(&start);
        a.give_back(start, bytes as u64, self.slice(self.layout.devices));
        drop_released(&mut a, id);
        Ok(())
    }

    pub fn multicast_release(&self, id: u64) -> Result<()> {
        let mut a = self.lock();
        team(&mut a, id)?.released = true;
        drop_released(&mut a, Some(id));
        Ok(())
    }

    /// The members of the `bytes` at `addr` for an access by `device`.
    pub fn members(&self, addr: u64, bytes: u64, device: usize) -> Result<Members, NoTeam> {
        let a = self.lock();
        let (start, id) = a.teams.range(..=addr).next_back().ok_or(NoTeam::Nothing)?;
        let team = a.multicast.get(id).ok_or(NoTeam::Nothing)?;
        let offset = addr - start;
        if offset.checked_add(bytes).is_none_or(|end| end > team.bytes) {
            return Err(NoTeam::Nothing);
        }
        if team.accessors >> device & 1 == 0 {
            return Err(NoTeam::NotMapped);
        }
        let mut members = Members {
            count: 0,
            at: [(0, 0); 16],
        };
        for (member, bound) in &team.devices {
            let place = bound.range(..=offset).next_back().and_then(|(at, binding)| {
                let physical = a.physical.get(&binding.physical)?;
                let inside = offset - at;
                let base = physical.mapped_at.filter(|_| inside + bytes <= binding.bytes)?;
                Some(base + inside)
            });
            members.at[members.count] = (*member, place.ok_or(NoTeam::Unbound(*member))?);
            members.count += 1;
        }
        Ok(members)
    }
}

fn team(a: &mut Allocations, id: u64) -> Result<&mut Team> {
    a.multicast
        .get_mut(&id)
        .filter(|team| !team.released)
        .ok_or_else(|| Error::bad_argument("multicast", id, "an object of this node that was not released"))
}

/// An object that was released lives on while it is mapped; what was bound to it is free with it.
fn drop_released(a: &mut Allocations, id: Option<u64>) {
    let gone = |team: &Team| team.released && team.mapped_at.is_none();
    let Some(team) = id
        .filter(|id| a.multicast.get(id).is_some_and(gone))
        .and_then(|id| a.multicast.remove(&id))
    else {
        return;
    };
    for binding in team.devices.values().flat_map(BTreeMap::values) {
        if let Some(p) = a.physical.get_mut(&binding.physical) {
            p.bound -= 1;
        }
        drop_unused(a, binding.physical);
    }
}

fn check_size(name: &str, bytes: usize) -> Result<()> {
    if bytes == 0 || !bytes.is_multiple_of(GRANULARITY) {
        return Err(Error::bad_argument(
            name,
            bytes,
            format!("a multiple of {GRANULARITY}, above 0"),
        ));
    }
    Ok(())
}
