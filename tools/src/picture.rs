//! A drawing's file: SVG as it is drawn, or PNG of the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb::Database};

use crate::failure::Failure;
use crate::run::output::Place;

/// Pixels of a PNG for each unit of a drawing: readable on a screen of twice the density.
const PIXELS: f32 = 2.0;

/// Where a drawing goes.
#[derive(Debug)]
pub struct Picture {
    place: Place,
    png: bool,
}

impl Picture {
    /// What cannot be written is told before anything is measured.
    pub fn new(option: &'static str, path: &Path) -> Result<Picture, Failure> {
        let png = match path.extension().and_then(|kind| kind.to_str()) {
            Some("svg") => false,
            Some("png") => true,
            _ => {
                let expected = "a file that ends in .svg or .png";
                return Err(Failure::bad_value(option, path.display(), expected));
            }
        };
        let place = Place::new(option, path)?;
        Ok(Picture { place, png })
    }

    /// [`Picture::new`] of an option that may be absent.
    pub fn asked(option: &'static str, path: &Option<PathBuf>) -> Result<Option<Picture>, Failure> {
        path.as_deref().map(|path| Picture::new(option, path)).transpose()
    }

    pub fn write(&self, svg: &str) -> Result<(), Failure> {
        if !self.png {
            return self.place.write(svg.as_bytes());
        }
        let png = png(svg).map_err(|what| Failure::unavailable(format!("the drawing makes no PNG: {what}")))?;
        self.place.write(&png)
    }
}

/// A PNG of a drawing. The font comes along, so that the picture is the same on a machine without fonts.
fn png(svg: &str) -> Result<Vec<u8>, String> {
    let mut fonts = Database::new();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    fonts.set_sans_serif_family("Ubuntu");
    let options = Options {
        fontdb: Arc::new(fonts),
        font_family: "Ubuntu".into(),
        ..Options::default()
    };
    let tree = Tree::from_str(svg, &options).map_err(|error| error.to_string())?;
    let size = tree.size();
    let pixels = |units: f32| (units * PIXELS).ceil() as u32;
    let mut pixmap = Pixmap::new(pixels(size.width()), pixels(size.height())).ok_or("it has no size")?;
    resvg::render(&tree, Transform::from_scale(PIXELS, PIXELS), &mut pixmap.as_mut());
    pixmap.encode_png().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use svg::Document;

    use super::*;
    use crate::draw::text;

    fn drawn(words: &str) -> Vec<u8> {
        let drawing = Document::new().set("viewBox", (0, 0, 200, 40));
        let drawing = drawing.add(text(10.0, 20.0, 12.0, "start", words)).to_string();
        png(&drawing).expect("a drawing")
    }

    #[test]
    fn words_are_drawn_without_fonts_of_the_machine() {
        let (words, none) = (drawn("overlap"), drawn(""));
        assert!(words.starts_with(b"\x89PNG") && none.starts_with(b"\x89PNG"));
        assert_ne!(words, none);
        assert_eq!(words, drawn("overlap"));
        // Width and height, each 32 bits behind the header of the first chunk.
        assert_eq!(
            (&words[16..20], &words[20..24]),
            (&400u32.to_be_bytes()[..], &80u32.to_be_bytes()[..])
        );
    }

    #[test]
    fn files_are_svg_or_png() {
        for (path, right) in [
            ("/tmp/a.svg", true),
            ("/tmp/a.png", true),
            ("/tmp/a.jpg", false),
            ("/tmp/png", false),
        ] {
            let made = Picture::new("--plot", Path::new(path));
            assert_eq!(made.is_ok(), right, "{path}");
            if let Err(failure) = made {
                assert!(
                    failure.message.contains("--plot") && failure.message.contains(".svg or .png"),
                    "{}",
                    failure.message
                );
            }
        }
    }
}
