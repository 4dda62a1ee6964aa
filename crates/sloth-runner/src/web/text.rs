//! The text format of Prometheus, as far as it is used here. Pure.

use std::fmt::{Display, Write};

/// The format's version that this is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics, one family after another.
#[derive(Default)]
pub struct Text(String);

impl Text {
    /// Begins a family. `kind`: counter, gauge or histogram.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) -> &mut Self {
        let _ = writeln!(self.0, "# HELP {name} {}\n# TYPE {name} {kind}", escape(help, false));
        self
    }

    /// A sample of the family that was begun last.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.0.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", escape(value, true));
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
        self
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help).sample(name, &[], value);
    }

    pub fn finish(self) -> String {
        self.0
    }
}

fn escape(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stands_in_a_label_stays_in_it() {
        let mut text = Text::default();
        text.family("a", "gauge", "of\nb\\").sample("a", &[("x", "q\"\n\\"), ("y", "é")], 1.5);
        text.single("b", "counter", "c", 7);
        assert_eq!(
            text.finish(),
            "# HELP a of\\nb\\\\\n# TYPE a gauge\na{x=\"q\\\"\\n\\\\\",y=\"é\"} 1.5\n# HELP b c\n# TYPE b counter\nb 7\n"
        );
    }
}
