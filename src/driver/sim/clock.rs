//! Who knows of whose writes: vector clocks, shared structurally.
//!
//! A thread has two clocks: one ticks with every release-like action, the other numbers its cp.async groups. A *row* holds
//! both for every thread of one CTA; [`Rows`] hold a row for each CTA slot; a [`View`] is what one or many threads know:
//! the row of their own CTA and the rows of all others. After a CTA barrier all its threads share one view, so the
//! usual join is a pointer comparison. What a thread itself has done since its view was made stands in its fiber.

use std::cell::OnceCell;
use std::rc::Rc;

use super::shadow;

pub(super) type Row = Rc<[u32]>;

/// Rows by CTA slot.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows(pub Vec<Option<Row>>);

impl Rows {
    pub fn get(&self, slot: u16) -> Option<&Row> {
        self.0.get(usize::from(slot))?.as_ref()
    }

    /// True where whoever has these rows knows what thread entry `who` of `slot` did at `clock`.
    pub fn knows(&self, slot: u16, who: u16, clock: u32) -> bool {
        self.get(slot)
            .is_some_and(|row| row.get(usize::from(who)).is_some_and(|c| *c >= clock))
    }

    fn put(&mut self, slot: usize, row: Row) {
        if self.0.len() <= slot {
            self.0.resize(slot + 1, None);
        }
        self.0[slot] = Some(row);
    }
}

/// What two rows know together; the pointer of one of them where that one knows it all.
fn join_row(a: &Row, b: &Row) -> Row {
    if Rc::ptr_eq(a, b) {
        return a.clone();
    }
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if short.iter().zip(long.iter()).all(|(s, l)| s <= l) {
        return long.clone();
    }
    if short.len() == long.len() && short.iter().zip(long.iter()).all(|(s, l)| s >= l) {
        return short.clone();
    }
    let mut row: Vec<u32> = long.to_vec();
    raise(&mut row, short);
    row.into()
}

pub(super) fn raise(row: &mut [u32], by: &[u32]) {
    for (r, b) in row.iter_mut().zip(by) {
        *r = (*r).max(*b);
    }
}

/// Adds one row to `rows`; true if that taught anything.
pub(super) fn join_one(rows: &mut Rc<Rows>, slot: u16, row: &Row) -> bool {
    let joined = match rows.get(slot) {
        None => row.clone(),
        Some(have) => {
            let joined = join_row(have, row);
            if Rc::ptr_eq(&joined, have) {
                return false;
            }
            joined
        }
    };
    Rc::make_mut(rows).put(usize::from(slot), joined);
    true
}

/// Adds `more` to `rows`, and the slots that grew to `gained`.
pub(super) fn join(rows: &mut Rc<Rows>, more: &Rc<Rows>, gained: &mut Vec<u16>) {
    if Rc::ptr_eq(rows, more) {
        return;
    }
    let before = gained.len();
    for (slot, row) in more.0.iter().enumerate() {
        if let Some(row) = row
            && !rows.get(slot as u16).is_some_and(|have| Rc::ptr_eq(have, row))
            && join_one(rows, slot as u16, row)
        {
            gained.push(slot as u16);
        }
    }
    // If nothing but `more` is left, share it: the next join with it is one comparison.
    let same = |(slot, row): (usize, &Option<Row>)| match (row, more.get(slot as u16)) {
        (None, None) => true,
        (Some(a), Some(b)) => Rc::ptr_eq(a, b),
        _ => false,
    };
    if gained.len() > before && rows.0.iter().enumerate().all(same) {
        *rows = more.clone();
    }
}

/// What a thread, or all threads of a CTA since their last barrier, know.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// Of the own CTA: `[2 * thread]` its clock, `[2 * thread + 1]` its newest complete cp.async group.
    pub own: Vec<u32>,
    pub others: Rc<Rows>,
}

/// How far a release or an acquire reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Gpu,
    Sys,
}

/// What a release publishes: its thread's knowledge at that moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub device: u16,
    pub scope: Scope,
    pub slot: u16,
    /// First clock of the CTA that had the slot: tells it from the slot's later users.
    pub start: u32,
    pub view: Rc<View>,
    /// The releasing thread's own entries, newer than the view's; none for a signal raised too early.
    pub newer: Option<(u32, u32, u32)>,
    row: OnceCell<Row>,
}

impl Snapshot {
    pub fn new(
        (device, scope): (u16, Scope),
        (slot, start): (u16, u32),
        view: Rc<View>,
        newer: Option<(u32, u32, u32)>,
    ) -> Self {
        Snapshot {
            device,
            scope,
            slot,
            start,
            view,
            newer,
            row: OnceCell::new(),
        }
    }

    /// The releasing CTA's row as the releasing thread knew it.
    pub fn row(&self) -> &Row {
        self.row.get_or_init(|| {
            let mut row = self.view.own.clone();
            if let Some((thread, clock, group)) = self.newer {
                row[2 * thread as usize] = clock;
                row[2 * thread as usize + 1] = group;
            }
            row.into()
        })
    }

    /// Whether the releasing thread knew what `tag` names.
    pub fn knows(&self, tag: u64) -> bool {
        let w = shadow::writer(tag);
        if w.slot != self.slot || w.clock < self.start {
            return self.view.others.knows(w.slot, w.who, w.clock);
        }
        self.row().get(usize::from(w.who)).is_some_and(|c| *c >= w.clock)
    }

    /// True where an acquire of `scope` on `device` pairs with this release: each must reach the other.
    pub fn reaches(&self, device: u16, scope: Scope) -> bool {
        self.device == device || (self.scope == Scope::Sys && scope == Scope::Sys)
    }
}
