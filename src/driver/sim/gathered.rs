//! What threads that arrive at an mbarrier know, on its way to those that wait there.

use std::rc::Rc;

use super::clock::{Rows, View, join, join_one, raise};

/// What arrivals know, from the first phase on: the word is one atomic object, and later arrivals continue the release
/// sequences of earlier ones.
#[derive(Default)]
pub(super) struct Gathered {
    others: Rc<Rows>,
    rows: Vec<GatheredRow>,
}

/// Of one CTA whose threads have arrived.
struct GatheredRow {
    slot: u16,
    start: u32,
    own: Vec<u32>,
    /// The view that was added last.
    last: Rc<View>,
}

/// An arrival's knowledge, apart from its fiber.
pub(super) struct Arrival {
    pub slot: u16,
    pub start: u32,
    pub thread: usize,
    pub clock: u32,
    pub group: u32,
    pub view: Rc<View>,
}

impl Gathered {
    pub fn add(&mut self, a: &Arrival) {
        let at = match self.rows.iter().position(|r| (r.slot, r.start) == (a.slot, a.start)) {
            Some(at) => at,
            None => {
                join(&mut self.others, &a.view.others, &mut Vec::new());
                self.rows.push(GatheredRow {
                    slot: a.slot,
                    start: a.start,
                    own: a.view.own.clone(),
                    last: a.view.clone(),
                });
                self.rows.len() - 1
            }
        };
        let row = &mut self.rows[at];
        if !Rc::ptr_eq(&row.last, &a.view) {
            raise(&mut row.own, &a.view.own);
            join(&mut self.others, &a.view.others, &mut Vec::new());
            row.last = a.view.clone();
        }
        raise(&mut row.own[2 * a.thread..2 * a.thread + 2], &[a.clock, a.group]);
    }

    /// As one view of the CTA in `slot`, whose threads knew `initial` at least.
    pub fn view(&self, slot: u16, start: u32, initial: &View) -> View {
        let mut view = View {
            own: initial.own.clone(),
            others: self.others.clone(),
        };
        join(&mut view.others, &initial.others, &mut Vec::new());
        for row in &self.rows {
            if (row.slot, row.start) == (slot, start) {
                view.own.clone_from(&row.own);
            } else {
                join_one(&mut view.others, row.slot, &row.own.clone().into());
            }
        }
        view
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(slot: u16, thread: usize, clock: u32, view: &Rc<View>) -> Arrival {
        Arrival {
            slot,
            start: 10,
            thread,
            clock,
            group: 9,
            view: view.clone(),
        }
    }

    #[test]
    fn arrivals_of_two_ctas_add_up() {
        let known = |own: [u32; 6]| {
            Rc::new(View {
                own: own.to_vec(),
                others: Rc::default(),
            })
        };
        let (first, second) = (known([9, 9, 9, 9, 12, 0]), known([9, 9, 20, 9, 9, 0]));
        let mut gathered = Gathered::default();
        gathered.add(&arrival(1, 0, 15, &first));
        gathered.add(&arrival(1, 1, 16, &second));
        gathered.add(&arrival(2, 1, 30, &second));
        let view = gathered.view(1, 10, &known([9, 9, 9, 9, 9, 0]));
        // Each thread's own clock, and the most that anybody knew of the rest.
        assert_eq!(view.own, [15, 9, 20, 9, 12, 0]);
        assert_eq!(**view.others.get(2).unwrap(), [9, 9, 30, 9, 9, 0]);
        assert!(view.others.get(1).is_none());
        // In a CTA none of whose threads came, they are all strangers.
        let view = gathered.view(3, 10, &known([9; 6]));
        assert_eq!(view.own, [9; 6]);
        assert!(view.others.knows(1, 4, 12) && view.others.knows(2, 2, 30));
    }
}
