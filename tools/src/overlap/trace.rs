//! A timeline in Chrome's trace format, which Perfetto (ui.perfetto.dev) and chrome://tracing open: a process for each rank, a
//! thread for each role, a slice for each kernel, and in it one for each span.

use std::io::{self, Write};

use serde::Serialize;
use tileweave::WaitKind;
use tileweave::timeline::{Activity, RankTimeline, Role, Span, Timeline, Track};

/// Which CTAs a trace shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ctas {
    /// Of each rank and kernel the one that tells most (`RankTimeline::telling`): a track for each role.
    Telling,
    /// All: a track for each CTA and role.
    All,
}

/// An event of the format, of the kinds M (what a process or thread is called) and X (a slice).
#[derive(Serialize)]
struct Event<'a, Args> {
    ph: char,
    pid: usize,
    tid: usize,
    name: &'a str,
    #[serde(flatten)]
    slice: Option<Slice<'a>>,
    args: Args,
}

#[derive(Serialize)]
struct Slice<'a> {
    cat: &'a str,
    ts: f64,
    dur: f64,
}

#[derive(Serialize)]
struct Name {
    name: String,
}

#[derive(Serialize)]
struct Order {
    sort_index: usize,
}

#[derive(Serialize)]
struct About {
    tile: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<String>,
    cta: usize,
}

#[derive(Serialize)]
struct Kernel {
    cta: usize,
    dropped: u64,
}

/// What somebody reads on a slice.
pub fn words(span: &Span) -> String {
    match (span.activity, span.peer) {
        (Activity::Wait(WaitKind::Ctas), _) => "wait for own CTAs".to_string(),
        (Activity::Wait(kind), Some(peer)) => format!("wait for rank {peer}: {kind}"),
        (Activity::Wait(kind), None) => format!("wait: {kind}"),
        (Activity::Push, Some(peer)) => format!("push {} to rank {peer}", span.tile),
        (Activity::Collect, Some(peer)) => format!("collect {} of rank {peer}", span.tile),
        (Activity::Tail | Activity::End, _) => span.activity.to_string(),
        (activity, _) => format!("{activity} {}", span.tile),
    }
}

/// Times are microseconds. Perfetto multiplies them by 1000 and cuts the rest off: half a nanosecond more makes it the right one.
fn slice(cat: &str, start_ns: u64, ns: f64) -> Option<Slice<'_>> {
    Some(Slice {
        cat,
        ts: (start_ns as f64 + 0.5) / 1000.0,
        dur: ns / 1000.0,
    })
}

/// The events of a trace, with commas between them.
struct Events<'a, W> {
    out: &'a mut W,
    any: bool,
}

impl<W: Write> Events<'_, W> {
    fn add<Args: Serialize>(&mut self, event: &Event<'_, Args>) -> io::Result<()> {
        self.out.write_all(if self.any { b",\n" } else { b"\n" })?;
        self.any = true;
        serde_json::to_writer(&mut *self.out, event)?;
        Ok(())
    }

    fn called(&mut self, name: &str, (pid, tid): (usize, usize), to: String) -> io::Result<()> {
        let args = Name { name: to };
        let event = Event {
            ph: 'M',
            pid,
            tid,
            name,
            slice: None,
            args,
        };
        self.add(&event)
    }

    fn placed(&mut self, name: &str, (pid, tid): (usize, usize), sort_index: usize) -> io::Result<()> {
        let args = Order { sort_index };
        let event = Event {
            ph: 'M',
            pid,
            tid,
            name,
            slice: None,
            args,
        };
        self.add(&event)
    }

    fn track(&mut self, kernel: &str, (pid, tid): (usize, usize), track: &Track) -> io::Result<()> {
        let lasted = track.end_ns - track.start_ns;
        self.add(&Event {
            ph: 'X',
            pid,
            tid,
            name: kernel,
            // However it is rounded, it does not end before what is in it.
            slice: slice("kernel", track.start_ns, lasted as f64 + 0.4),
            args: Kernel {
                cta: track.cta,
                dropped: track.dropped,
            },
        })?;
        for span in &track.spans {
            let wait = match span.activity {
                Activity::Wait(kind) => Some(kind.to_string()),
                _ => None,
            };
            self.add(&Event {
                ph: 'X',
                pid,
                tid,
                name: &words(span),
                slice: slice(
                    &span.activity.to_string(),
                    span.start_ns,
                    (span.end_ns - span.start_ns) as f64,
                ),
                args: About {
                    tile: span.tile,
                    peer: span.peer,
                    wait,
                    cta: track.cta,
                },
            })?;
        }
        Ok(())
    }

    fn rank(&mut self, rank: &RankTimeline, ctas: Ctas) -> io::Result<()> {
        let pid = rank.rank;
        self.called("process_name", (pid, 0), format!("rank {pid}"))?;
        self.placed("process_sort_index", (pid, 0), pid)?;
        let tracks: Vec<&Track> = match ctas {
            Ctas::Telling => rank.telling(),
            Ctas::All => rank.tracks.iter().collect(),
        };
        // A CTA of one kernel after that of another, on one thread: kernels of a launch follow each other.
        let tid_of = |track: &Track| {
            let role = Role::ALL.iter().position(|role| *role == track.role).unwrap_or(0);
            match ctas {
                Ctas::Telling => role,
                Ctas::All => track.cta * Role::ALL.len() + role,
            }
        };
        let mut threads: Vec<(usize, &Track)> = tracks.iter().map(|track| (tid_of(track), *track)).collect();
        threads.sort_by_key(|(tid, _)| *tid);
        threads.dedup_by_key(|(tid, _)| *tid);
        for (tid, track) in threads {
            let name = match ctas {
                Ctas::Telling => track.role.to_string(),
                Ctas::All => format!("CTA {} {}", track.cta, track.role),
            };
            self.called("thread_name", (pid, tid), name)?;
            self.placed("thread_sort_index", (pid, tid), tid)?;
        }
        for track in tracks {
            let kernel = rank.kernels.get(track.kernel).copied().unwrap_or("kernel");
            self.track(kernel, (pid, tid_of(track)), track)?;
        }
        Ok(())
    }
}

/// Writes the timeline as one JSON object.
///
/// # Errors
/// What `out` says.
pub fn write_chrome(timeline: &Timeline, ctas: Ctas, out: &mut impl Write) -> io::Result<()> {
    let clock = match timeline.one_clock {
        true => "one for all ranks",
        false => "one for each rank: each begins with its own kernel",
    };
    write!(
        out,
        "{{\"displayTimeUnit\":\"ns\",\"otherData\":{{\"clock\":\"{clock}\"}},\"traceEvents\":["
    )?;
    let mut events = Events { out, any: false };
    for rank in &timeline.ranks {
        events.rank(rank, ctas)?;
    }
    out.write_all(b"\n]}\n")
}
