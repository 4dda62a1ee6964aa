//! How the demo looks: sections, and one line for each event.

use crate::tool::{
    table::{Colour, paint, printable},
    wants_colours,
};
use std::{
    io::{self, Write},
    time::Duration,
};

pub struct Screen {
    colours: bool,
    sections: u32,
}

impl Screen {
    pub fn new() -> Self {
        Self { colours: wants_colours(&io::stdout()), sections: 0 }
    }

    pub fn colours(&self) -> bool {
        self.colours
    }

    pub fn section(&mut self, title: &str) {
        self.sections += 1;
        let title = format!("{}. {title}", self.sections);
        self.text(&format!("\n{}\n", paint(&title, Some(Colour::Bold), self.colours)));
    }

    /// What happened `since` the demo's beginning or the death of the master.
    pub fn event(&self, since: Duration, who: &str, what: &str, colour: Option<Colour>) {
        let line = event(since, who, what);
        self.text(&format!("{}\n", paint(&line, colour, self.colours)));
    }

    /// A plain line, or several.
    pub fn text(&self, text: &str) {
        // Whoever closes our output has seen enough; the demo still ends what it began.
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

fn event(since: Duration, who: &str, what: &str) -> String {
    format!("{:>8}  {who:<10}  {}", format!("[+{:.1}s]", since.as_secs_f64()), printable(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_stand_under_each_other() {
        assert_eq!(event(Duration::from_millis(340), "mariguica", "a\nb"), " [+0.3s]  mariguica   a\\nb");
        assert_eq!(event(Duration::from_millis(12_340), "ladyguica", "x"), "[+12.3s]  ladyguica   x");
    }
}
