//! Tables for people: aligned by what is seen, safe for a terminal.

/// Columns with a heading each.
pub struct Table {
    rows: Vec<Vec<Cell>>,
}

#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    colour: Option<Colour>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Table {
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|text| Cell::new(*text).coloured(Colour::Bold)).collect()] }
    }

    pub fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.rows[0].len(), "a row has a cell for each heading");
        self.rows.push(cells);
    }

    /// Lines, each with its newline. Columns stand two apart; nothing trails.
    pub fn render(&self, colours: bool) -> String {
        self.lines(colours, usize::MAX).into_iter().map(|line| line + "\n").collect()
    }

    /// The lines, the headings first, none wider than so many columns: what is too much is cut off.
    pub fn lines(&self, colours: bool, columns: usize) -> Vec<String> {
        let mut widths = vec![0; self.rows[0].len()];
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                widths[column] = widths[column].max(width(&cell.text));
            }
        }
        let line = |row: &Vec<Cell>| {
            let (mut text, mut used, mut blanks) = (String::new(), 0, 0);
            for (cell, full) in row.iter().zip(&widths) {
                if !cell.text.is_empty() && used + blanks < columns {
                    text.extend(std::iter::repeat_n(' ', blanks));
                    let shown = cut(&cell.text, columns - used - blanks);
                    used += blanks + width(&shown);
                    blanks = width(&cell.text) - width(&shown);
                    text.push_str(&paint(&shown, cell.colour, colours));
                }
                blanks += full - width(&cell.text) + 2;
            }
            text
        };
        self.rows.iter().map(line).collect()
    }
}

impl Cell {
    /// What others wrote is shown, never obeyed: control characters become visible.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self { text: printable(text.as_ref()), colour: None }
    }

    pub fn coloured(mut self, colour: Colour) -> Self {
        self.colour = Some(colour);
        self
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// `text` in a colour, if there is one and colours are wanted.
pub fn paint(text: &str, colour: Option<Colour>, colours: bool) -> String {
    let code = match colour {
        Some(colour) if colours => match colour {
            Colour::Bold => 1,
            Colour::Dim => 2,
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
        },
        _ => return text.to_owned(),
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// A control or direction character: a terminal obeys it.
pub fn steers(c: char) -> bool {
    let unseen = matches!(c, '\u{200b}' | '\u{2060}' | '\u{feff}');
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || unseen || turns
}

/// On one line and without effect on a terminal: control and direction characters are written as escapes.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// `text` in so many columns: what does not fit gives way to a dot.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut shown = String::new();
    let mut left = columns.saturating_sub(1);
    for c in text.chars() {
        let Some(rest) = left.checked_sub(width(c.encode_utf8(&mut [0; 4]))) else { break };
        left = rest;
        shown.push(c);
    }
    shown.extend((columns > 0).then_some('…'));
    shown
}

/// Columns that `text` takes on a terminal: wide letters and pictures take two, combining marks none.
pub fn width(text: &str) -> usize {
    text.chars()
        .map(|c| match c {
            '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200d}' | '\u{20d0}'..='\u{20ff}' | '\u{fe00}'..='\u{fe0f}' => 0,
            '\u{1100}'..='\u{115f}'
            | '\u{2e80}'..='\u{303e}'
            | '\u{3041}'..='\u{a4cf}'
            | '\u{ac00}'..='\u{d7a3}'
            | '\u{f900}'..='\u{faff}'
            | '\u{fe30}'..='\u{fe6f}'
            | '\u{ff00}'..='\u{ff60}'
            | '\u{ffe0}'..='\u{ffe6}'
            | '\u{1f300}'..='\u{1f64f}'
            | '\u{1f680}'..='\u{1f6ff}'
            | '\u{1f900}'..='\u{1f9ff}'
            | '\u{20000}'..='\u{3fffd}' => 2,
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other_whatever_the_letters() {
        let mut table = Table::new(&["NAME", "STATUS", "REASON"]);
        table.row(vec!["北京".into(), "Active".into(), "".into()]);
        table.row(vec!["zoe\u{308}".into(), "Inactive".into(), "dns".into()]);
        table.row(vec!["a".into(), "".into(), "x".into()]);
        assert_eq!(
            table.render(false),
            "NAME  STATUS    REASON\n北京  Active\nzoe\u{308}   Inactive  dns\na               x\n"
        );
    }

    #[test]
    fn colours_change_no_width() {
        let mut table = Table::new(&["A", "B"]);
        table.row(vec![Cell::new("xyz").coloured(Colour::Red), "b".into()]);
        assert_eq!(table.render(true), "\x1b[1mA\x1b[0m    \x1b[1mB\x1b[0m\n\x1b[31mxyz\x1b[0m  b\n");
        assert_eq!(table.render(false), "A    B\nxyz  b\n");
    }

    #[test]
    fn no_line_is_wider_than_there_is_room_whatever_the_letters() {
        let mut table = Table::new(&["NAME", "REASON"]);
        table.row(vec!["北京北京".into(), "heartbeat_timeout".into()]);
        table.row(vec![Cell::new("a").coloured(Colour::Red), "x".into()]);
        assert_eq!(table.lines(false, 12), ["NAME      R…", "北京北京  h…", "a         x"]);
        assert_eq!(table.lines(true, 6)[1..], ["北京…", "\x1b[31ma\x1b[0m"]);
        for columns in 0..40 {
            let widest = table.lines(false, columns).iter().map(|line| width(line)).max();
            assert!(widest <= Some(columns), "{columns}");
        }
        assert_eq!(table.lines(false, usize::MAX).join("\n") + "\n", table.render(false));
        assert_eq!((cut("abc", 0).as_str(), cut("北京", 2).as_str(), cut("北京", 4).as_str()), ("", "…", "北京"));
    }

    #[test]
    fn what_agents_say_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{202e}d"), "a\\u{1b}[2Jb\\nc\\u{202e}d");
    }
}
