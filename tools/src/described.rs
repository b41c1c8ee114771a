//! `--node`: a described machine, by its name or by a file that describes it as those of `src/machines` do.

use std::fs;

use tileweave::machines::Description;

use crate::failure::Failure;

/// Of the name, or of the file where the word ends in `.json`.
pub fn node(word: &str) -> Result<Description, Failure> {
    if !word.ends_with(".json") {
        let known = Description::names().collect::<Vec<_>>().join(", ");
        return Description::named(word)
            .map_err(|_| Failure::bad_value("--node", word, &format!("one of {known}, or a file that ends in .json")));
    }
    let text = fs::read_to_string(word)
        .map_err(|error| Failure::bad_value("--node", word, &format!("a file that can be read ({error})")))?;
    Description::from_json(&text).map_err(|error| Failure::bad_input(format!("--node {word}: {error}")))
}
