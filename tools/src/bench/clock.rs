//! Contenders measured in turns, by events on every rank's stream.
//!
//! A turn: the streams meet, then each contender runs once (a number of launches in a row), and after each the streams
//! meet again. A contender's time is the longest among the ranks, of each from its own start to its own end: the
//! ranks start together, but for what an event takes to travel. Who begins moves on with every turn. Before the
//! first contender long fills keep the first stream busy, so that the host is ahead when the clock starts; the
//! rest is enqueued while GPUs work, each launch on all ranks before the next. The host waits for all at the end of a turn:
//! launch queues never fill up, which would block one rank's launch while another rank waits for it.

use tileweave::driver::{Driver, Event, Kind};
use tileweave::{Buffer, Rank, Result};

/// Those who are measured against each other.
pub trait Contest {
    /// How many there are.
    fn contenders(&self) -> usize;
    /// Enqueues one launch of a contender on every rank, on the operands number `set`.
    fn launch(&mut self, contender: usize, set: usize) -> Result<()>;
    /// Waits for all that was enqueued.
    fn wait(&mut self, ranks: &[Rank]) -> Result<()> {
        ranks.iter().try_for_each(Rank::synchronize)
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    pub samples: usize,
    /// Launches of a sample.
    pub launches: usize,
    /// Sets of operands.
    pub sets: usize,
    /// Long fills that the host enqueues behind.
    pub fills: usize,
}

/// Turns before the first that counts.
const WARMUP: usize = 3;
/// Bytes of a fill that the host enqueues behind: about 0.2 ms of an H200's memory.
const PLUG_BYTES: usize = 512 << 20;

/// The samples of each contender in milliseconds a launch, in turns; `None` where the machine has no clock, after one turn.
pub fn measure(ranks: &[Rank], contest: &mut dyn Contest, effort: Effort) -> Result<Option<Vec<Vec<f64>>>> {
    // First alone, and waited for: libraries load code at a first launch, which must not happen under kernels that wait.
    for contender in 0..contest.contenders() {
        contest.launch(contender, 0)?;
        contest.wait(ranks)?;
    }
    let node = ranks[0].node();
    let clocked = node.driver().kind() == Kind::Cuda;
    let field = Field::new(&**node.driver(), ranks, contest.contenders(), clocked)?;
    let mut samples = vec![Vec::with_capacity(effort.samples); contest.contenders()];
    for turn in 0..WARMUP + effort.samples {
        let times = field.turn(contest, effort, turn)?;
        let Some(times) = times else { return Ok(None) };
        if turn >= WARMUP {
            samples.iter_mut().zip(times).for_each(|(all, time)| all.push(time));
        }
    }
    Ok(Some(samples))
}

/// The milliseconds of each contender a launch, of so many in a row, on a simulated node with a clock: a second turn would
/// take as long.
pub fn once(ranks: &[Rank], contest: &mut dyn Contest, launches: usize) -> Result<Option<Vec<f64>>> {
    let effort = Effort {
        samples: 1,
        launches,
        sets: 1,
        fills: 0,
    };
    let node = ranks[0].node();
    let field = Field::new(&**node.driver(), ranks, contest.contenders(), false)?;
    field.turn(contest, effort, 0)
}

/// Events and memory of a measurement.
struct Field<'a> {
    driver: &'a dyn Driver,
    ranks: &'a [Rank],
    plug: Buffer,
    /// By contender and rank: before and after.
    events: Vec<Vec<[Event; 2]>>,
    /// By contender: the first rank's, when all may start.
    go: Vec<Event>,
}

impl<'a> Field<'a> {
    fn new(driver: &'a dyn Driver, ranks: &'a [Rank], contenders: usize, clocked: bool) -> Result<Field<'a>> {
        let plug = ranks[0].alloc(if clocked { PLUG_BYTES } else { 1024 })?;
        let mut field = Field {
            driver,
            ranks,
            plug,
            events: Vec::new(),
            go: Vec::new(),
        };
        for _ in 0..contenders {
            field.go.push(driver.event_create(ranks[0].place())?);
            field.events.push(Vec::new());
            for rank in ranks {
                let pair = [driver.event_create(rank.place())?, driver.event_create(rank.place())?];
                if let Some(last) = field.events.last_mut() {
                    last.push(pair);
                }
            }
        }
        Ok(field)
    }

    /// No stream goes on before the first one is here.
    fn start(&self, go: Event) -> Result<()> {
        let first = self.ranks[0].stream();
        self.driver.event_record(go, first)?;
        self.ranks[1..]
            .iter()
            .try_for_each(|rank| self.driver.stream_wait_event(rank.stream(), go))
    }

    /// One turn: every contender's time.
    fn turn(&self, contest: &mut dyn Contest, effort: Effort, turn: usize) -> Result<Option<Vec<f64>>> {
        let (driver, count) = (self.driver, self.events.len());
        let first = self.ranks[0].stream();
        for _ in 0..effort.fills {
            driver.fill(self.plug.ptr(), turn as u8, self.plug.len(), first)?;
        }
        for place in 0..count {
            let contender = (turn + place) % count;
            let events = &self.events[contender];
            self.start(self.go[contender])?;
            for (rank, pair) in self.ranks.iter().zip(events) {
                driver.event_record(pair[0], rank.stream())?;
            }
            for launch in 0..effort.launches {
                // Each contender begins elsewhere: none finds in the L2 what the one before it has read.
                let set = turn * effort.launches + launch + contender * effort.sets / count;
                contest.launch(contender, set % effort.sets)?;
            }
            for (rank, pair) in self.ranks.iter().zip(events) {
                driver.event_record(pair[1], rank.stream())?;
            }
            for pair in &events[1..] {
                driver.stream_wait_event(first, pair[1])?;
            }
        }
        contest.wait(self.ranks)?;
        let mut times = Vec::with_capacity(count);
        for events in &self.events {
            let mut longest = 0.0f64;
            for [before, after] in events {
                let Some(ms) = driver.event_elapsed_ms(*before, *after)? else {
                    return Ok(None);
                };
                longest = longest.max(ms);
            }
            times.push(longest / effort.launches as f64);
        }
        Ok(Some(times))
    }
}

impl Drop for Field<'_> {
    fn drop(&mut self) {
        // An event that cannot be ended has nobody to be told to.
        for event in self.events.iter().flatten().flatten().chain(&self.go) {
            let _ = self.driver.event_destroy(*event);
        }
    }
}
