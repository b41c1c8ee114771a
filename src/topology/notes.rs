//! What could not be had, each said once with all that it concerns.

/// Notes in the order in which their texts first came up.
#[derive(Debug, Default)]
pub(super) struct Notes(Vec<(String, Vec<String>)>);

impl Notes {
    /// Says `text`, of nothing in particular.
    pub fn say(&mut self, text: impl Into<String>) {
        self.entry(text.into());
    }

    /// Says `text` of `subject`: a bus id, as a rule.
    pub fn say_of(&mut self, text: impl Into<String>, subject: &str) {
        let subjects = self.entry(text.into());
        if subjects.iter().all(|known| known != subject) {
            subjects.push(subject.to_string());
        }
    }

    fn entry(&mut self, text: String) -> &mut Vec<String> {
        let at = self.0.iter().position(|(known, _)| *known == text).unwrap_or_else(|| {
            self.0.push((text, Vec::new()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    /// `text`, or `text: subject, subject`.
    pub fn finish(self) -> Vec<String> {
        let line = |(text, subjects): (String, Vec<String>)| match subjects.as_slice() {
            [] => text,
            subjects => format!("{text}: {}", subjects.join(", ")),
        };
        self.0.into_iter().map(line).collect()
    }
}
