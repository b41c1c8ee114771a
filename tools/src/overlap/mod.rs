//! What hides what: timelines as traces and as drawings.

pub mod timeline_plot;
pub mod trace;
